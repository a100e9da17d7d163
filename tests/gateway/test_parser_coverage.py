"""The parsers' own tests take nearly every branch of them, and fuzzing finds what is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks.gateways.fuzz import BrokenError, fuzz

from stillhouse.gateway import reasoning, sse, strict_json
from stillhouse.gateway.reasoning import ReasoningSplitter
from stillhouse.gateway.sse import EventReader
from stillhouse.gateway.surfaces import chat, fields, listener, readers, reply

HERE = Path(__file__).parent
PARSERS = [Path(str(module.__file__)) for module in (reasoning, sse, strict_json)]
TESTS = ["test_reasoning.py", "test_sse.py", "test_surfaces_json.py"]
LEAST_PERCENT = 95
FUZZ_S = 30  # of processor time


def test_the_parsers_tests_take_their_branches(tmp_path: Path) -> None:
    included = ",".join(map(str, PARSERS))
    run = [sys.executable, "-m", "coverage", "run", "--branch", f"--include={included}"]
    tests = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    tests += [str(HERE / name) for name in TESTS]
    environment = os.environ | {"COVERAGE_FILE": str(tmp_path / "data")}
    root = HERE.parents[1]
    done = subprocess.run([*run, *tests], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    report = tmp_path / "report.json"
    asked = [sys.executable, "-m", "coverage", "json", "-q", "-o", str(report)]
    subprocess.run(asked, cwd=root, env=environment, check=True)
    files = json.loads(report.read_text(encoding="utf-8"))["files"]
    assert len(files) == len(PARSERS)
    for name, found in files.items():
        assert found["summary"]["percent_covered"] >= LEAST_PERCENT, name


def test_thirty_seconds_of_fuzzing_find_nothing() -> None:
    end = time.process_time() + FUZZ_S
    held = fuzz(time.time_ns(), lambda: time.process_time() > end)
    assert min(held[kind] for kind in ("damaged", "said", "refused", "asked")) > 20


class TagsAnywhere(ReasoningSplitter):
    """Takes tags for reasoning wherever they stand."""

    def feed(self, text: str) -> tuple[str, str]:
        answer, thought = super().feed(text)
        for opening, closing in self._tags:
            answer = answer.replace(opening, "").replace(closing, "")
        return answer, thought


class OneEventAChunk(EventReader):
    """Believes that a chunk is an event."""

    def feed(self, chunk: bytes) -> list[bytes]:
        return [chunk.removeprefix(b"data: ").strip()] if chunk else []


def shows_reasoning(said, index, choice, to):  # type: ignore[no-untyped-def]
    shown = said.get("reasoning_content") or said.get("content")
    to.take_start(index)
    if type(shown) is str:
        to.take_text(index, shown, None)


def passes_everything(given, table, extras):  # type: ignore[no-untyped-def]
    known = {name: value for name, value in given.items() if name in table}
    sent, taken = fields.read_fields(known, table, extras)
    return sent | {name: given[name] for name in given.keys() - table.keys()}, taken


@pytest.mark.parametrize(
    ("place", "name", "mutant"),
    [
        (listener, "ReasoningSplitter", TagsAnywhere),
        (reply, "EventReader", OneEventAChunk),
        (readers, "_said", shows_reasoning),
        (chat, "read_fields", passes_everything),
    ],
)
def test_fuzzing_finds_a_broken_parser(
    monkeypatch: pytest.MonkeyPatch, place: object, name: str, mutant: object
) -> None:
    monkeypatch.setattr(place, name, mutant)
    end = time.process_time() + FUZZ_S
    with pytest.raises(BrokenError):
        fuzz(1, lambda: time.process_time() > end)
