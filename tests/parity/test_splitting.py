"""Items are divided by group, the same way for ever, or the split is refused."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.exchanges import InputError
from stillhouse.parity.items import Item, Task
from stillhouse.parity.reading import DataSpec
from stillhouse.parity.splitting import Split, Splits, divide, find_seed, place_of, read_splits

TEXT = Task(kind="text")


def items(count: int, per_group: int = 1) -> list[Item]:
    return [
        Item(id=str(i), messages=(), variable=str(i), group=f"g{i // per_group}")
        for i in range(count)
    ]


def members(splits: Splits) -> dict[str, set[str]]:
    return {
        "train": {item.id for item in splits.train.items},
        "validation": {item.id for item in splits.validation.items},
        "test": {item.id for item in splits.test.items},
    }


@given(st.integers(200, 400), st.integers(1, 7), st.integers(0, 10**6))
def test_every_item_is_in_one_split_and_no_group_is_cut(
    count: int, per_group: int, seed: int
) -> None:
    everything = items(count, per_group)
    seed = find_seed([item.group for item in everything], Split(seed=seed)) or 0
    found = members(divide(everything, Split(seed=seed)))
    assert sorted(i for ids in found.values() for i in ids) == sorted(i.id for i in everything)
    groups = [{everything[int(i)].group for i in ids} for ids in found.values()]
    assert not groups[0] & groups[1]
    assert not groups[0] & groups[2]
    assert not groups[1] & groups[2]


def test_adding_items_moves_none() -> None:
    before = members(divide(items(300), Split()))
    after = members(divide(items(900), Split()))
    assert all(before[name] <= after[name] for name in before)


def test_the_order_of_items_does_not_matter() -> None:
    assert members(divide(items(300), Split())) == members(divide(items(300)[::-1], Split()))


def test_shares_come_out_as_asked() -> None:
    found = members(divide(items(20_000), Split(validation=0.1, test=0.25)))
    assert abs(len(found["test"]) / 20_000 - 0.25) < 0.015
    assert abs(len(found["validation"]) / 20_000 - 0.10) < 0.015


def test_another_seed_divides_otherwise() -> None:
    one, two = (members(divide(items(300), Split(seed=seed))) for seed in (1, 2))
    assert one["test"] != two["test"]


def test_twenty_lines_are_divided_with_the_seed_that_the_refusal_names() -> None:
    twenty = items(20)
    refused = 0
    for start in range(50):
        split = Split(seed=start, validation=0.1, test=0.1)
        if len({place_of(item.group, split) for item in twenty}) == 3:
            continue
        refused += 1
        with pytest.raises(InputError) as caught:
            divide(twenty, split)
        seed = find_seed([item.group for item in twenty], split)
        assert f"split.seed to {seed}" in str(caught.value.repair)
        assert seed is not None
        assert all(members(divide(twenty, Split(seed=seed, validation=0.1, test=0.1))).values())
    assert refused > 5


def test_too_few_groups_are_refused_with_the_repair() -> None:
    with pytest.raises(InputError, match="no group falls into") as caught:
        divide(items(100, per_group=50), Split())
    assert "at least 3 groups" in str(caught.value.repair)


@pytest.mark.parametrize(
    "shares", [{"test": 0.0}, {"validation": 1.0}, {"validation": 0.6, "test": 0.4}]
)
def test_impossible_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Split(**shares)  # type: ignore[arg-type]


def write(path: Path, names: list[str], gold: bool = True) -> Path:
    rows = [{"n": n, "t": f"text {n}", "doc": n[0], **({"g": n} if gold else {})} for n in names]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_named_files_are_taken_whole(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", ["a1", "a2", "b1"], gold=False)
    validation = write(tmp_path / "validation.jsonl", ["c1"])
    test = write(tmp_path / "test.jsonl", ["d1", "d2"])
    data = DataSpec(path=train, id="n", prompt="{t}", gold="g", group="doc")
    splits = read_splits(data, Split(validation_file=validation, test_file=test), TEXT)
    assert members(splits) == {
        "train": {"a1", "a2", "b1"},
        "validation": {"c1"},
        "test": {"d1", "d2"},
    }
    assert [item.gold for item in splits.test.items] == ["d1", "d2"]


def test_with_a_named_test_file_validation_is_still_drawn_from_the_rest(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [f"{c}1" for c in "abcdefghijklmnopqrstuvw"])
    test = write(tmp_path / "test.jsonl", ["x1"])
    data = DataSpec(path=train, id="n", prompt="{t}", group="doc")
    found = members(read_splits(data, Split(test_file=test, validation=0.3), TEXT))
    assert found["test"] == {"x1"}
    assert len(found["train"]) + len(found["validation"]) == 23
    assert found["validation"]


@pytest.mark.parametrize(("names", "what"), [(["a1"], "id 'a1'"), (["a9"], "group 'a'")])
def test_an_id_or_a_group_in_two_files_is_refused(
    tmp_path: Path, names: list[str], what: str
) -> None:
    train = write(tmp_path / "train.jsonl", ["a1", "b1"])
    test = write(tmp_path / "test.jsonl", names)
    data = DataSpec(path=train, id="n", prompt="{t}", group="doc")
    with pytest.raises(InputError, match=what):
        read_splits(data, Split(test_file=test), TEXT)


@pytest.mark.parametrize(
    ("validation", "test"), [("held", "held"), ("held", "train"), ("train", "held")]
)
def test_one_file_cannot_be_two_splits(tmp_path: Path, validation: str, test: str) -> None:
    files = {"train": ["a1", "b1"], "held": ["c1", "d1"]}
    paths = {name: write(tmp_path / f"{name}.jsonl", ids) for name, ids in files.items()}
    data = DataSpec(path=paths["train"], id="n", prompt="{t}", gold="g")
    split = Split(validation_file=paths[validation], test_file=paths[test])
    with pytest.raises(InputError, match="is also in"):
        read_splits(data, split, TEXT)


def test_a_test_file_without_gold_is_refused_where_gold_is_named(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", ["a1", "b1"])
    test = write(tmp_path / "test.jsonl", ["c1"], gold=False)
    data = DataSpec(path=train, id="n", prompt="{t}", gold="g")
    with pytest.raises(InputError, match="no row has a gold answer"):
        read_splits(data, Split(test_file=test), TEXT)
