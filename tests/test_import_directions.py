"""Imports go one way only (docs/architecture.md); the base install never imports torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import stillhouse

PACKAGE = Path(stillhouse.__file__).parent

# room -> the rooms it may import
MAY_IMPORT = {
    "exchanges": set(),
    "statistics": {"exchanges"},
    "teachers": {"exchanges", "statistics"},
    "students": {"exchanges", "statistics", "teachers"},
    "parity": {"exchanges", "statistics", "teachers", "students"},
    "distill": {"exchanges", "statistics", "teachers", "students", "parity"},
    "limits": {"exchanges", "statistics"},
    "accounts": {"exchanges", "statistics", "limits"},
    "gateway": {"exchanges", "statistics", "accounts", "limits"},
}
MAY_IMPORT["cli"] = set(MAY_IMPORT)
BASE_ROOMS = ["exchanges", "statistics", "accounts", "limits", "gateway"]
DISTILL_ONLY = {"torch", "transformers", "peft", "sklearn", "matplotlib", "gguf"}


def imported_modules(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms_imported_by(source_files: list[Path]) -> set[str]:
    modules = set().union(*(imported_modules(file) for file in source_files))
    return {name.split(".")[1] for name in modules if name.startswith("stillhouse.")}


def test_every_room_is_known_here() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(MAY_IMPORT)


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    files = sorted((PACKAGE / room).rglob("*.py"))
    imported = rooms_imported_by(files) - {"__version__"}
    assert imported <= MAY_IMPORT[room] | {room}


def test_the_check_sees_a_forbidden_import(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from stillhouse.distill import recipe\n")
    assert rooms_imported_by([bad]) == {"distill"}


@pytest.mark.parametrize("module", [*BASE_ROOMS, "teachers", "parity", "distill", "cli"])
def test_the_base_install_imports_without_the_distill_extra(module: str) -> None:
    program = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {sorted(DISTILL_ONLY)!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"import stillhouse.{module}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
