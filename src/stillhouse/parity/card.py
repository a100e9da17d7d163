"""The student's model card, written only from a report that was measured and saved."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

from stillhouse.exchanges.errors import InputError
from stillhouse.exchanges.storage import sha256_file, write_atomic
from stillhouse.parity import wording
from stillhouse.parity.cost import dollars
from stillhouse.parity.report import FORMAT, TEMPLATES


def write_model_card(folder: Path, report: Path) -> Path:
    """Write `README.md` into the student's folder from a `report.json`; returns its path.

    No figure comes from anywhere else, and the card names the report's SHA-256. Raises InputError
    when the report cannot be read or is of another format.
    """
    card = folder / "README.md"
    text = render_card(_read(report), report_name=report.name, report_sha256=sha256_file(report))
    write_atomic(card, text.encode("utf-8", "replace"))
    return card


def render_card(report: SimpleNamespace, *, report_name: str, report_sha256: str) -> str:
    """The card's Markdown from a parsed report."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(  # noqa: S701 - Markdown; every foreign text goes through `plain`
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = _in_markdown
    environment.globals.update(words=wording, dollars=dollars, vars=vars)
    judgement = report.judgement
    return environment.get_template("card.md.jinja").render(
        report=report,
        judgement=judgement,
        verdict=judgement.verdict,
        teacher=judgement.sheets[0],
        student=judgement.sheets[1],
        cost=report.cost,
        report_name=report_name,
        report_sha256=report_sha256,
    )


def _read(path: Path) -> SimpleNamespace:
    try:
        report = json.loads(path.read_bytes(), object_hook=lambda fields: SimpleNamespace(**fields))
    except OSError as error:
        raise InputError(
            f"cannot read the report: {error.strerror or error}",
            place=str(path),
            repair="judge the student first: the card holds measured figures only",
        ) from error
    except ValueError as error:
        raise InputError(f"the report is not JSON: {error}", place=str(path)) from error
    if not isinstance(report, SimpleNamespace) or getattr(report, "format", None) != FORMAT:
        raise InputError(f"not a report of format {FORMAT}", place=str(path))
    return report


def _in_markdown(text: str) -> str:
    """One line of plain text: nothing in it is Markdown or HTML."""
    line = " ".join(wording.shown(str(text)).split())
    return re.sub(r"([\\`*_{}\[\]<>|#!~$&])", r"\\\1", line)
