"""A user's file becomes items, or an error that names the line and the repair."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.exchanges import InputError
from stillhouse.parity.items import Task
from stillhouse.parity.reading import DataSpec, read_items
from stillhouse.teachers.chat import Message

TEXT = Task(kind="text")
LABEL = Task(kind="label", labels=("positive", "negative"))


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def refusal(spec: DataSpec, task: Task = TEXT) -> InputError:
    with pytest.raises(InputError) as caught:
        read_items(spec, task)
    return caught.value


def test_columns_become_a_prompt_with_a_system_turn(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.jsonl",
        {"n": 7, "text": "good", "doc": "d1", "stars": "5", "lang": "en", "product": "kettle"},
    )
    spec = DataSpec(
        path=path,
        id="n",
        prompt="Of a {product}: {text}. {{One word}}",
        system="Be {brief}.",
        gold="stars",
        gold_map={"5": "positive"},
        group="doc",
        slice="lang",
        variable=("text",),
    )
    (item,) = read_items(spec, LABEL)
    assert item.messages == (
        Message("system", "Be {brief}."),
        Message("user", "Of a kettle: good. {One word}"),
    )
    assert (item.id, item.group, item.gold, item.slice) == ("7", "d1", "positive", "en")
    assert item.variable == "good"


def test_by_default_the_prompts_columns_are_the_variable_part(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"a": "one", "b": "two", "c": "three"})
    (item,) = read_items(DataSpec(path=path, prompt="{b} {a} {b}"), TEXT)
    assert item.variable == "two\none"


def test_chat_turns_are_read_from_json_lines_csv_and_parquet(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u, {x}"}]
    jsonl = lines(tmp_path / "a.jsonl", {"messages": turns})
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["messages"], [json.dumps(turns)]])
    parquet = tmp_path / "a.parquet"
    pq.write_table(pa.table({"messages": [turns]}), parquet)
    read = [read_items(DataSpec(path=p), TEXT) for p in (jsonl, tmp_path / "a.csv", parquet)]
    assert read[0] == read[1] == read[2]
    assert read[0][0].messages == (Message("system", "s"), Message("user", "u, {x}"))
    assert read[0][0].variable == "u, {x}"


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1))
def test_braces_and_anything_else_in_the_data_are_never_interpreted(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = lines(tmp_path_factory.mktemp("braces") / "a.jsonl", {"x": text, "y": "."})
    (item,) = read_items(DataSpec(path=path, prompt="a {x} {{x}} {y}"), TEXT)
    assert item.messages[0].content == f"a {text} {{x}} ."


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0")).map(
            lambda t: f"x{t}"
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_text_survives_csv(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    buffer = io.StringIO()
    csv.writer(buffer).writerows([["text"], *([text] for text in texts)])
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(buffer.getvalue().encode())
    items = read_items(DataSpec(path=path, prompt="{text}"), TEXT)
    assert [item.variable for item in items] == texts


def test_ids_from_content_are_stable_and_repeats_share_a_group(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"t": "a"}, {"t": "b"}, {"t": "a"})
    first, other, again = read_items(DataSpec(path=path, prompt="{t}"), TEXT)
    assert again.id == f"{first.id}-2"
    assert again.group == first.group != other.group
    shorter = lines(tmp_path / "b.jsonl", {"t": "b"})
    assert read_items(DataSpec(path=shorter, prompt="{t}"), TEXT)[0].id == other.id


def test_gold_may_be_missing_on_some_rows_and_json_gold_keeps_its_order(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"t": "a", "gold": {"b": 1, "a": None}}, {"t": "b"})
    items = read_items(DataSpec(path=path, prompt="{t}", gold="gold"), Task(kind="json"))
    assert [item.gold for item in items] == ['{"b":1,"a":null}', None]


def test_a_last_assistant_turn_is_gold_dropped_or_refused_as_the_recipe_says(
    tmp_path: Path,
) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path = lines(tmp_path / "a.jsonl", {"messages": turns})
    (kept,) = read_items(DataSpec(path=path, final_reply="gold"), TEXT)
    (dropped,) = read_items(DataSpec(path=path, final_reply="drop"), TEXT)
    assert (kept.gold, dropped.gold) == ("a", None)
    assert kept.messages == dropped.messages == (Message("user", "q"),)
    assert "data.final_reply" in str(refusal(DataSpec(path=path)))


def test_a_byte_order_mark_and_blank_lines_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"t": "a"}\r\n\n{"t": "b"}')
    assert len(read_items(DataSpec(path=path, prompt="{t}"), TEXT)) == 2
    sheet = tmp_path / "a.csv"
    sheet.write_bytes(b"\xef\xbb\xbft\na\n")
    assert len(read_items(DataSpec(path=sheet, prompt="{t}"), TEXT)) == 1


def test_a_hundred_thousand_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"t": "text {i}"}}\n' for i in range(100_000)))
    items = read_items(DataSpec(path=path, prompt="Say {t}"), TEXT)
    assert len({item.id for item in items}) == 100_000


BAD_LINES = {
    "malformed": (b'{"t": "a"}\n{"t": "b"\n', ":2: not JSON"),
    "torn": (b'{"t": "a"}\n{"t": "b', ":2: not JSON"),
    "an array": (b'[{"t": "a"}]\n', "jq -c '.[]'"),
    "an indented document": (b'{\n "t": "a"}\n', "jq -c '.[]'"),
    "not an object": (b'{"t": "a"}\n"b"\n', ":2: a line must hold one JSON object, not text"),
    "Latin-1": (b'{"t": "a"}\n{"t": "caf\xe9"}\n', ":2: byte 11 of the line is not UTF-8 (0xe9)"),
    "UTF-16": ('{"t": "a"}\n'.encode("utf-16"), "iconv -f UTF-16"),
    "gzip": (b"\x1f\x8b\x08\x00", "gunzip"),
    "empty": (b"", "the file is empty"),
    "blank": (b"\n \n", "the file is empty"),
    "blank at length": (b"\n" * 5000, "the file is empty"),
    "missing column": (b'{"t": "a"}\n{"tt": "b"}\n', ":2: the row has no 't'\n"),
    "a number": (b'{"t": 5}\n', ":1: 't' is a number (5), not text"),
    "null": (b'{"t": null}\n', ":1: 't' is nothing (null), not text"),
    "a list": (b'{"t": ["a"]}\n', ":1: 't' is a list, not text"),
    "an empty prompt": (b'{"t": "a"}\n{"t": " \\n"}\n', ":2: the prompt is empty"),
}


@pytest.mark.parametrize("case", sorted(BAD_LINES))
def test_a_bad_file_of_lines_is_refused_with_its_line(tmp_path: Path, case: str) -> None:
    content, message = BAD_LINES[case]
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    assert message in str(refusal(DataSpec(path=path, prompt="Say {t}")))


BAD_CSV = {
    "no rows": ("t\n", "holds no rows"),
    "a cell too many": ("t,u\na,b\nc,d,e\n", ":3: 3 cells under 2 columns"),
    "the right line after a long cell": ('t,u\n"a\nb",c\nd\n', ":4: 1 cells under 2 columns"),
    "an open quote": ('t,u\n"a,b\n', ":2: not CSV: unexpected end of data"),
    "a column twice": ("t,t\na,b\n", ":1: the header names the column 't' twice"),
    "an unnamed column": ("t,\na,b\n", ":1: the header has a column without a name"),
    "semicolons": ("t;u\na;b\n", "separated by ';': set data.delimiter"),
}


@pytest.mark.parametrize("case", sorted(BAD_CSV))
def test_a_bad_csv_file_is_refused_with_its_line(tmp_path: Path, case: str) -> None:
    content, message = BAD_CSV[case]
    path = tmp_path / "a.csv"
    path.write_text(content)
    assert message in str(refusal(DataSpec(path=path, prompt="{t}")))


BAD_TURNS = {
    "not a list": ("hello", "is text, not a list of turns"),
    "an unknown role": ([{"role": "human", "content": "a"}], "role 'human'"),
    "an unhashable role": ([{"role": [], "content": "a"}], "role []"),
    "a picture": ([{"role": "user", "content": [{"type": "image"}]}], "is a list, not text"),
    "a tool call": ([{"role": "user", "content": "a", "tool_calls": [1]}], "would be lost"),
    "nothing asked": ([{"role": "system", "content": "a"}], "the prompt in 'messages' is empty"),
    "system last": (
        [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}],
        "the prompt in 'messages' is empty",
    ),
    "no turns": ([], "the prompt in 'messages' is empty"),
    "a blank turn": ([{"role": "user", "content": " "}], "the prompt in 'messages' is empty"),
    "a turn of text": (["hello"], "messages[0] is text, not a turn"),
}


@pytest.mark.parametrize("case", sorted(BAD_TURNS))
def test_bad_chat_turns_are_refused_with_their_line(tmp_path: Path, case: str) -> None:
    turns, message = BAD_TURNS[case]
    good = [{"role": "user", "content": "a"}]
    path = lines(tmp_path / "a.jsonl", {"messages": good}, {"messages": turns})
    error = refusal(DataSpec(path=path))
    assert message in str(error)
    assert error.place == f"{path}:2"


def test_two_system_turns_are_refused(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    path = lines(tmp_path / "a.jsonl", {"messages": turns})
    assert "data.system gives another" in str(refusal(DataSpec(path=path, system="t")))


def test_a_doubled_id_names_both_lines(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.jsonl", {"n": "x", "t": "a"}, {"n": 2, "t": "b"}, {"n": "x", "t": "c"}
    )
    error = refusal(DataSpec(path=path, id="n", prompt="{t}"))
    assert error.place == f"{path}:3"
    assert f"'x' is given twice, first at {path}:1" in error.message


@pytest.mark.parametrize(
    ("spec", "nearest"),
    [
        ({"prompt": "{txet}"}, "text"),
        ({"prompt": "{text}", "id": "nmae"}, "name"),
        ({"prompt": "{text}", "group": "documnet"}, "document"),
        ({"prompt": "{text}", "variable": ("texts",)}, "text"),
        ({"prompt": "{text}", "slice": "langs"}, "lang"),
        ({"messages": "mesages"}, "messages"),
    ],
)
def test_a_column_that_is_not_there_brings_the_nearest(
    tmp_path: Path, spec: dict[str, object], nearest: str
) -> None:
    row = {"text": "a", "name": "n", "document": "d", "lang": "en", "messages": []}
    path = lines(tmp_path / "a.jsonl", row)
    error = refusal(DataSpec(path=path, **spec))  # type: ignore[arg-type]
    assert f"did you mean {nearest!r}?" in str(error.repair)


def test_plain_columns_without_a_prompt_are_told_of_it(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"text": "a"})
    assert "data.prompt" in str(refusal(DataSpec(path=path)).repair)


def test_a_gold_answer_outside_the_labels_is_refused(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"t": "a", "g": "positive"}, {"t": "b", "g": "Negative"})
    error = refusal(DataSpec(path=path, prompt="{t}", gold="g"), LABEL)
    assert error.place == f"{path}:2"
    assert "did you mean 'negative'?" in str(error.repair)
    mapped = DataSpec(path=path, prompt="{t}", gold="g", gold_map={"positive": "positive"})
    assert "not in data.gold_map" in str(refusal(mapped, LABEL))


def test_gold_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"t": "a"}, {"t": "b", "g": ""})
    spec = DataSpec(path=path, prompt="{t}", gold="g")
    assert "no row has a gold answer in 'g'" in str(refusal(spec))
    assert len(read_items(spec, TEXT, require_gold=False)) == 2
    mistyped = DataSpec(path=lines(tmp_path / "b.jsonl", {"t": "a", "label": "x"}), prompt="{t}",
                        gold="lable")  # fmt: skip
    assert "did you mean 'label'?" in str(refusal(mistyped))


@pytest.mark.parametrize("gold", ["{a: 1}", [1, 2], '{"a": 1, "a": 2}', "NaN"])
def test_gold_that_is_no_document_is_refused_in_a_json_task(tmp_path: Path, gold: Any) -> None:
    path = lines(tmp_path / "a.jsonl", {"t": "a", "g": gold})
    spec = DataSpec(path=path, prompt="{t}", gold="g")
    error = refusal(spec, Task(kind="json"))
    assert "the gold answer is not one JSON object" in str(error)
    assert "a.jsonl:1" in str(error)


@pytest.mark.parametrize("prompt", ["no column", "{t} and {", "{t} }", "{}", "{{t}}"])
def test_a_template_that_cannot_be_meant_is_refused(prompt: str) -> None:
    with pytest.raises(InputError):
        DataSpec(path=Path("a.jsonl"), prompt=prompt)


def test_settings_that_contradict_each_other_are_refused() -> None:
    for more in (
        {"messages": "m", "prompt": "{t}"},
        {"messages": "m", "variable": ("t",)},
        {"gold": "g", "final_reply": "gold"},
    ):
        with pytest.raises(InputError):
            DataSpec(path=Path("a.jsonl"), **more)  # type: ignore[arg-type]


def test_a_missing_file_and_an_unknown_kind_of_file_are_refused(tmp_path: Path) -> None:
    assert "cannot be read" in str(refusal(DataSpec(path=tmp_path / "none.jsonl")))
    assert "cannot be read" in str(refusal(DataSpec(path=tmp_path)))
    odd = tmp_path / "a.txt"
    odd.write_text("hello")
    assert "set data.format" in str(refusal(DataSpec(path=odd)))


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"t": ["a"] * 100}), path)
    path.write_bytes(path.read_bytes()[:-20])
    assert "not a Parquet file" in str(refusal(DataSpec(path=path, prompt="{t}")))


def test_a_parquet_row_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"t": ["a", None]}), path)
    assert refusal(DataSpec(path=path, prompt="{t}")).place == f"{path}:row 2"
