"""The recipes' data scripts read what the packages hold, and refuse what does not fit."""

import gzip
import hashlib
import importlib.util
import io
import json
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from stillhouse.exchanges import InputError
from stillhouse.parity.items import Task
from stillhouse.parity.reading import DataSpec
from stillhouse.parity.splitting import Split, read_splits
from stillhouse.teachers.chat import ChatRequest, Reply, Sampling
from stillhouse.teachers.recording import RecordedTeacher

RECIPES = Path(__file__).parent.parent.parent / "recipes"

# Stand-ins for the package's two modules, with the same surface.
GENERATOR = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Doc:
    id: str
    template: str
    split: str
    text: str
    gold: dict

def generate():
    layouts = {"a": "train", "b": "train", "c": "valid", "d": "test"}
    return [
        Doc(f"{t}-{i}", t, split, f"invoice {i} of {t}", {"total": i})
        for i in range(3) for t, split in layouts.items()
    ]
"""
KEYS = """
import hashlib, json

def request_key(body):
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
"""


def recipe(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"prepare_{name}", RECIPES / name / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


reviews, invoices = recipe("reviews"), recipe("invoices")


def archive(path: Path | io.BytesIO, files: dict[str, bytes]) -> None:
    name = path if isinstance(path, Path) else None
    with tarfile.open(name, "w:gz", fileobj=None if name else path) as tar:
        for member, content in files.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_snippets_of_one_review_share_their_document() -> None:
    rows = list(reviews.parse_snippets("1_1\t-0.9\tno picture .\n1_2\t2\tgood\n12\t0\tso\n", "s"))
    assert [row["document"] for row in rows] == ["s-1", "s-1", "s-12"]
    assert rows[0] == {
        "id": "s-1_1",
        "document": "s-1",
        "text": "no picture .",
        "rating": -0.9,
        "source": "s",
    }


def test_only_clear_ratings_get_a_sentiment() -> None:
    rows = [{"rating": r} for r in (-3.0, -0.5, 0.0, 0.5, 0.51)]
    found = [(row["rating"], row.get("sentiment")) for row in reviews.label(rows, beyond=0.5)]
    unclear = [(r, None) for r in (-0.5, 0.0, 0.5)]
    assert found == [(-3.0, "Negative"), *unclear, (0.51, "Positive")]


def test_a_document_is_in_one_file_and_stays_there() -> None:
    rows = [{"document": f"d-{n // 3}", "id": n} for n in range(3000)]
    divided = reviews.divide(rows)
    documents = {name: {row["document"] for row in part} for name, part in divided.items()}
    assert sum(map(len, documents.values())) == 1000, "none is cut"
    assert 80 < len(documents["test"]) < 160
    assert reviews.divide(rows[:30])["test"] == [r for r in divided["test"] if r["id"] < 30]


def test_the_source_package_is_read_and_a_short_file_refused(tmp_path: Path) -> None:
    def sdist(lines: int) -> Path:
        inner = io.BytesIO()
        text = "".join(f"{n}\t1.5\tsnippet {n}\r\n" for n in range(lines))
        archive(inner, {"h/tweets_GroundTruth.txt": text.encode()})
        path = tmp_path / f"{lines}.tar.gz"
        archive(path, {f"vader/{reviews.INNER}": inner.getvalue()})
        return path

    rows = reviews.read_sdist(sdist(4200), ["tweets"])
    assert (len(rows), rows[-1]["text"]) == (4200, "snippet 4199")
    with pytest.raises(InputError, match="holds 4199 snippets, not 4200"):
        reviews.read_sdist(sdist(4199), ["tweets"])
    with pytest.raises(InputError, match="holds no movieReview"):
        reviews.read_sdist(sdist(4200), ["movies"])


def test_a_line_that_is_not_a_rated_snippet_is_refused() -> None:
    with pytest.raises(InputError, match="line 2"):
        list(reviews.parse_snippets("1\t0\ta\n2\t0\n", "s"))


def unpacked(folder: Path, *, leave_out: int = 0) -> Path:
    generation = {"temperature": 0.0, "max_tokens": 9, "response_format": {"type": "json_object"}}
    for name, content in (
        (invoices.GENERATOR, GENERATOR),
        (invoices.KEYS, KEYS),
        (invoices.PROMPT, "Extract.\n"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    lines = [{"type": "manifest", "teacher_model": "big", "generation": generation}]
    for index in range(3):
        for layout in "abcd":
            body = {
                "model": "big",
                "messages": [
                    {"role": "system", "content": "Extract.\n"},
                    {"role": "user", "content": f"invoice {index} of {layout}"},
                ],
                **generation,
            }
            key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
            usage = {"prompt_tokens": 5, "completion_tokens": 3}
            lines.append(
                {
                    "key": key,
                    "output": f'{{"total": {index}}}',
                    "finish_reason": "stop",
                    "usage": usage,
                }
            )
    kept = lines[: len(lines) - leave_out]
    path = folder / invoices.RECORDING
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in kept).encode()))
    return folder


def test_training_sees_inputs_and_replies_and_never_gold(tmp_path: Path) -> None:
    found, teacher = invoices.rebuild(unpacked(tmp_path))
    assert teacher == "big"
    assert b"gold" not in invoices.item_lines(found, "train")
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_bytes(invoices.item_lines(found, split))
    (tmp_path / "recording.jsonl").write_bytes(invoices.recording_lines(found, teacher))

    data = DataSpec(
        path=tmp_path / "train.jsonl",
        id="id",
        prompt="{text}",
        system=invoices.SYSTEM,
        gold="gold",
        group="layout",
    )
    split = Split(validation_file=tmp_path / "validation.jsonl", test_file=tmp_path / "test.jsonl")
    splits = read_splits(data, split, Task(kind="json"))
    assert [i.gold for i in splits.train.items] == [None] * 6
    assert [i.gold for i in splits.test.items] == ['{"total":0}', '{"total":1}', '{"total":2}']
    assert {i.group for i in splits.train.items} == {"a", "b"}

    recorded = RecordedTeacher.open(tmp_path / "recording.jsonl")
    everything = (*splits.train.items, *splits.validation.items, *splits.test.items)
    for item in everything:
        reply = recorded.find(ChatRequest(messages=item.messages, sampling=Sampling(max_tokens=9)))
        assert isinstance(reply, Reply)
        assert reply.text == f'{{"total": {item.id[-1]}}}'
        assert reply.finish_reason == "stop"


def test_an_input_without_its_recorded_reply_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 inputs have no recorded reply"):
        invoices.rebuild(unpacked(tmp_path, leave_out=2))
