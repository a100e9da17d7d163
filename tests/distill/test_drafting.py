"""`stillhouse init` on each kind of a user's file: the recipe it writes reads every item."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stillhouse.distill import draft_recipe, read_recipe
from stillhouse.exchanges import InputError
from stillhouse.parity import read_items

ROWS = [
    {
        "id": f"t{i}",
        "text": f"ticket {i}, {{x}}",
        "label": ("it", "hr")[i % 2],
        "author": f"a{i % 5}",
    }
    for i in range(20)
]
TURNS = [
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": row["text"]},
        {"role": "assistant", "content": row["label"]},
    ]
    for row in ROWS
]
FORMATS = ("jsonl", "csv", "parquet")


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(
                {k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}
                for row in rows
            )
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def draft(folder: Path, data: Path, **given: str) -> Path:
    return draft_recipe(folder / "task", data=data, teacher="endpoint", model="m", **given)


@pytest.mark.parametrize("kind", FORMATS)
def test_columns_of_every_format_are_found_and_read(tmp_path: Path, kind: str) -> None:
    recipe = read_recipe(draft(tmp_path, write(tmp_path / f"tickets.{kind}", ROWS)))
    task = recipe.task.task()
    assert task.labels == ("hr", "it")
    items = read_items(recipe.data, task)
    assert [item.id for item in items] == [row["id"] for row in ROWS]
    assert [item.gold for item in items] == [row["label"] for row in ROWS]
    assert [item.group for item in items] == [row["author"] for row in ROWS]
    for item, row in zip(items, ROWS, strict=True):
        assert item.messages[-1].content == f"{row['text']}\n\nAnswer with one of: hr, it."


@pytest.mark.parametrize("kind", FORMATS)
def test_chats_that_end_with_the_assistant_are_judged_by_what_it_said(
    tmp_path: Path, kind: str
) -> None:
    rows: list[dict[str, object]] = [{"messages": turns} for turns in TURNS]
    recipe = read_recipe(draft(tmp_path, write(tmp_path / f"chats.{kind}", rows)))
    task = recipe.task.task()
    assert task.labels == ("hr", "it")
    items = read_items(recipe.data, task)
    assert [item.gold for item in items] == [row["label"] for row in ROWS]
    assert {item.messages[-1].role for item in items} == {"user"}
    assert recipe.judge.teacher_lead == 5, "there is gold to measure a lead by"


def test_a_column_of_answers_goes_before_what_the_assistant_said(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"messages": turns, "answer": "yes" if i % 2 else "no"} for i, turns in enumerate(TURNS)
    ]
    recipe = read_recipe(draft(tmp_path, write(tmp_path / "chats.jsonl", rows)))
    assert recipe.data.final_reply == "drop"
    items = read_items(recipe.data, recipe.task.task())
    assert [item.gold for item in items] == [row["answer"] for row in rows]


def test_chats_that_end_with_the_user_are_asked_as_they_are(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"messages": turns[:-1]} for turns in TURNS]
    recipe = read_recipe(draft(tmp_path, write(tmp_path / "chats.jsonl", rows)))
    assert recipe.judge.teacher_lead is None, "there is nothing to measure a lead by"
    items = read_items(recipe.data, recipe.task.task())
    assert all(item.gold is None and len(item.messages) == 2 for item in items)


def test_a_turn_that_is_none_is_named_while_drafting(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"messages": TURNS[0]}, {"messages": [{"role": "boss"}]}]
    with pytest.raises(InputError, match="the role 'boss'") as caught:
        draft(tmp_path, write(tmp_path / "chats.jsonl", rows))
    assert caught.value.place == f"{tmp_path / 'chats.jsonl'}:2"
    assert not (tmp_path / "task").exists()


def test_a_model_named_from_here_is_found_from_the_recipes_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "replies.jsonl").write_text("")
    monkeypatch.chdir(tmp_path)
    data = write(tmp_path / "tickets.jsonl", ROWS)
    path = draft_recipe(
        Path("task"), data=data, teacher="recording", model="replies.jsonl", student="small"
    )
    recipe = read_recipe(path)
    assert recipe.student.start == str(tmp_path / "small")
    assert recipe.teacher.model == str(tmp_path / "replies.jsonl")


def with_gold(folder: Path, golds: list[object]) -> Path:
    rows: list[dict[str, object]] = [
        {"text": row["text"], "answer": gold} for row, gold in zip(ROWS, golds, strict=False)
    ]
    return write(folder / "tickets.jsonl", rows)


def test_booleans_and_labels_with_braces_are_drafted_as_they_are_read(tmp_path: Path) -> None:
    for name, golds in (("one", [True, False] * 10), ("other", ["{a}", "b"] * 10)):
        (tmp_path / name).mkdir()
        recipe = read_recipe(draft(tmp_path / name, with_gold(tmp_path / name, list(golds))))
        items = read_items(recipe.data, recipe.task.task())
        assert {item.gold for item in items} == set(recipe.task.labels)
        assert items[0].messages[-1].content.endswith(", ".join(recipe.task.labels) + ".")


def test_documents_are_drafted_as_a_json_task(tmp_path: Path) -> None:
    golds: list[object] = [{"amount": n} for n in range(20)]
    recipe = read_recipe(draft(tmp_path, with_gold(tmp_path, golds)))
    assert recipe.task.kind == "json"
    items = read_items(recipe.data, recipe.task.task())
    assert [json.loads(item.gold or "") for item in items] == golds


def test_what_could_not_be_read_is_not_drafted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not text or a whole number"):
        draft(tmp_path, with_gold(tmp_path, [0.0, 1.0] * 10))
    braced = write(tmp_path / "braced.jsonl", [{"text {x}": row["text"]} for row in ROWS])
    with pytest.raises(InputError, match="has a brace in its name"):
        draft(tmp_path, braced, prompt="text {x}")
    (tmp_path / "task").write_text("")
    with pytest.raises(InputError, match="a file stands here"):
        draft(tmp_path, write(tmp_path / "plain.jsonl", [*ROWS]))
