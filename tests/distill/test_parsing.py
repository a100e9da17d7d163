"""A recipe is read strictly: every mistake names its line, its key and the repair."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from stillhouse.distill import read_recipe
from stillhouse.distill.parsing import keys_of, parse_yaml
from stillhouse.distill.recipe import TaskSpec
from stillhouse.exchanges import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    rate: float = 0.1
    mode: Literal["a", "b"] = "a"
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    name: str
    file: Path | None = None
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None


def parse(tmp_path: Path, text: str) -> Outer:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return parse_yaml(path, Outer)


def test_a_whole_recipe_is_read_with_defaults_and_nested_parts(tmp_path: Path) -> None:
    text = "name: x\nfile: a/b\ninner: {rate: 1, words: [p, q]}\nmaybe:\n  mode: b\n"
    assert parse(tmp_path, text) == Outer(
        name="x", file=Path("a/b"), inner=Inner(rate=1.0, words=("p", "q")), maybe=Inner(mode="b")
    )


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("name: x\ninner:\n  rats: 1\n", 3, "did you mean 'rate'?"),
        ("name: x\nzzz: 1\n", 2, "known here: name, file, inner, maybe"),
        ("name: x\ninner: {rate: fast}\n", 2, "inner.rate"),
        ("name: x\ninner:\n  mode: c\n", 3, "inner.mode"),
        ("name: x\ninner: 3\n", 2, "inner must be a mapping"),
        ("name: x\nname: y\n", 2, "given twice"),
        ("name: 3\n", 1, "name"),
        ("inner: {}\n", 1, "add name"),
        ("name: x\ninner:\n  words: [1]\n", 3, "inner.words"),
        ("name: x\ninner:\n  words: [yes, no]\n", 3, "put it in quotes"),
        ("name: x\n\tfile: y\n", 2, "never by tabs"),
        ("name: x\n  file: y: z\n", 2, "not YAML: mapping values are not allowed here"),
        ('{"name": "x"}\n{"name": "y"}\n', 2, "not YAML"),
    ],
)
def test_a_mistake_names_its_line_and_repair(
    tmp_path: Path, text: str, line: int, says: str
) -> None:
    with pytest.raises(InputError) as caught:
        parse(tmp_path, text)
    assert f"recipe.yaml:{line}" in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize("text", ["{", "a: [", "\t"])
def test_a_file_that_is_not_yaml_is_an_input_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="not YAML"):
        parse(tmp_path, text)


def test_an_empty_file_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'name' is missing"):
        parse(tmp_path, "")


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        parse_yaml(tmp_path / "none.yaml", Outer)
    (tmp_path / "latin.yaml").write_bytes("name: caf\u00e9".encode("latin-1"))
    with pytest.raises(InputError, match="it is not UTF-8"):
        parse_yaml(tmp_path / "latin.yaml", Outer)


def test_yaml_tags_cannot_make_objects(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        parse(tmp_path, "name: !!python/object/apply:os.getcwd []\n")


def test_every_key_is_listed_with_its_parents() -> None:
    assert keys_of(Outer) == [
        "name", "file",
        "inner", "inner.rate", "inner.mode", "inner.words",
        "maybe", "maybe.rate", "maybe.mode", "maybe.words",
    ]  # fmt: skip


@pytest.mark.parametrize("labels", [("Yes", "yes"), ("a", "b", "a"), ("no", " no")])
def test_labels_that_read_alike_are_refused(labels: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="read alike") as caught:
        TaskSpec(kind="label", labels=labels).task()
    assert repr(labels[-1]) in caught.value.message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1), ("seeds", 0), ("teacher.max_tokens", 0), ("teacher.temperature", -1),
        ("teacher.batch_size", 0), ("teacher.concurrency", 0), ("teacher.timeout_s", 0),
        ("teacher.price_in_nano", -5), ("student.layers", 0), ("student.lora_rank", 0),
        ("judge.batch_size", 0), ("judge.latency_items", 0), ("judge.min_parseable", 95),
        ("judge.machine_usd_per_hour", -1), ("budget.minutes", 0), ("budget.requests", -1),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_named_with_its_line(tmp_path: Path, key: str, value: int) -> None:
    recipe: dict[str, Any] = {
        "name": "small",
        "task": {"kind": "text"},
        "data": {"path": "data.jsonl", "prompt": "{text}"},
        "teacher": {"kind": "recording", "model": "replies.jsonl"},
        "judge": {"margin": 5},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    read_recipe(path)
    section, _, name = key.rpartition(".")
    (recipe.setdefault(section, {}) if section else recipe)[name] = value
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(InputError, match=rf"{key} is {value}, which is out of range") as caught:
        read_recipe(path)
    assert str(caught.value).startswith(f"{path}:")
