import re
from pathlib import Path

import stillhouse.teachers

SOURCES = sorted(Path(stillhouse.teachers.__file__).parent.glob("*.py"))
PAGE = Path(__file__).parent.parent.parent / "docs" / "failures.md"
CODE = re.compile(
    r"(?:code=|code = |code: str = |\"code\": |return "
    r"|_stop\(|_give_up\(|_refused\(|fail\(|Stop\(|Rejected\()"
    r'\s*"([a-z]+_?[a-z_]*)"'
)
FINISH = {"finish_length", "finish_content_filter", "finish_unknown"}


def codes_in_the_source() -> set[str]:
    found = set()
    for path in SOURCES:
        if not path.name.startswith("local"):
            found |= set(CODE.findall(path.read_text(encoding="utf-8")))
    return found


def codes_in_the_docs() -> set[str]:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    return {code for row in rows for code in re.findall(r"`([a-z_]+)`", row.split("|")[1])}


def test_every_code_is_documented_and_no_other():
    source = codes_in_the_source()
    assert len(source) > 30
    assert source | FINISH == codes_in_the_docs()
