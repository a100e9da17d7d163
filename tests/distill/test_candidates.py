"""Which parts a student keeps: candidates are trained a little, ranked by that, and told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.distill import candidates as room
from stillhouse.distill import fitting, loop, read_recipe, run_recipe
from stillhouse.distill.run import Run
from stillhouse.distill.surgery import PARTS
from stillhouse.exchanges import InputError
from stillhouse.parity import Item, TrainSplit
from stillhouse.students import AGGREGATIONS

Task = Callable[..., Path]
EVERY_KIND = "layers: 2, choose: data, cut: {heads: 2, feed_forward: 24, hidden: 16}"


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize("more", ["", ", layers: 2, try_steps: 1"])
def test_what_is_kept_hangs_on_training_items_alone(
    cut_task: Task, tmp_path: Path, more: str
) -> None:
    path = cut_task(f"cut: {{heads: 2, hidden: 16, vocabulary: 280}}{more}")
    recipe = read_recipe(path)
    data, replies = path.parent / "reviews.jsonl", path.parent / "replies.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    training = {item.id for item in Run(recipe, tmp_path / "x").splits.train.items}
    assert 0 < len(training) < len(rows)
    found = []
    # Only test and validation texts differ between the two runs.
    for name, words in (("first", "zzzz qqqq ÿÿÿÿ"), ("second", "xxxx wwww þþþþ")):
        changed = [
            row if row["id"] in training else dict(row, text=f"{words} {row['text']} {words}")
            for row in rows
        ]
        data.write_text("".join(json.dumps(row) + "\n" for row in changed))
        said = [
            {"prompt": row["text"], "reply": row["label"], "finish_reason": "stop"}
            for row in changed
        ]
        replies.write_text("".join(json.dumps(line) + "\n" for line in said))
        run_recipe(recipe, folder=tmp_path / name, until="train")
        found.append(read(tmp_path / name, f"train/{PARTS}"))
    assert found[0] == found[1]
    assert found[0]["vocabulary"]["kept"]
    assert bool(found[0]["tried"]) == bool(more)


def test_candidates_are_ranked_again_after_a_short_training_and_told(
    cut_task: Task, tmp_path: Path
) -> None:
    recipe = read_recipe(cut_task(f"{EVERY_KIND}, try_steps: 3", layers=5))
    run = tmp_path / "run"
    run_recipe(recipe, folder=run)
    layers, parts = read(run, "train/layers.json"), read(run, f"train/{PARTS}")
    tried = parts["tried"]
    choices = [one for one in tried if one["aggregation"] == AGGREGATIONS[0]]
    assert len({tuple(one["layers"]) for one in choices}) == len(choices) >= 2
    assert {one["aggregation"] for one in tried} > {AGGREGATIONS[0]}, "widths are tried too"
    first = min(choices, key=lambda one: one["loss"])
    for one in tried:
        assert one in choices or one["rule"] == first["rule"]
        assert one["candidate"] == f"{one['rule']}-{one['aggregation']}"
        assert (one["divergence"] > 0, one["steps"]) == (True, 3)
    best = min(tried, key=lambda one: one["loss"])
    assert (layers["layers"], layers["rule"]) == (best["layers"], best["rule"])
    assert parts["aggregation"] == best["aggregation"]
    assert not (run / "train" / room.TRIES).exists()
    page = (run / "report" / "report.html").read_text()
    assert f"scored by {best['aggregation']}" in page
    assert "choices of parts after 3 steps" in page
    for key in ("divergence", "loss"):
        ranked = sorted(tried, key=lambda one: one[key])
        assert ", ".join(f"{one['candidate']} {one[key]:.3f}" for one in ranked) in page


@pytest.mark.parametrize(
    ("student", "kinds"),
    [
        ("cut: {feed_forward: 24, hidden: 16}", {"aggregation"}),
        ("layers: 2, choose: even, cut: {feed_forward: 24}", {"aggregation"}),
        ("layers: 2, choose: data", {"rule"}),
        (EVERY_KIND, {"aggregation", "rule"}),
    ],
)
def test_what_is_best_after_training_is_kept_whatever_was_best_before(
    student: str,
    kinds: set[str],
    cut_task: Task,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = read_recipe(cut_task(f"{student}, try_steps: 1", layers=5))
    real, seen = room._try, []

    def flipped(*what: Any) -> dict[str, Any]:
        one = real(*what)
        one["loss"] = -one["divergence"]
        seen.append(one)
        return one

    monkeypatch.setattr(room, "_try", flipped)
    monkeypatch.setattr(room, "remove_tries", lambda _folder: None)
    run = tmp_path / "run"
    run_recipe(recipe, folder=run, until="train")
    found = read(run, f"train/{room.TRIES}/{room.CANDIDATES}")
    layers, parts = read(run, "train/layers.json"), read(run, f"train/{PARTS}")
    assert parts["tried"] == seen
    worst_before = max(seen, key=lambda one: one["divergence"])
    best_before = min(seen, key=lambda one: one["divergence"])
    assert layers["layers"] == worst_before["layers"]
    assert parts["units"] == found["units"][worst_before["aggregation"]]
    assert {kind for kind in ("aggregation", "rule") if len({one[kind] for one in seen}) > 1} == (
        kinds
    )
    kept = [(found["layers"][o["rule"]], found["units"][o["aggregation"]]) for o in seen]
    assert all(kept.count(one) == 1 for one in kept), "no two candidates are the same student"
    assert (layers["layers"], parts["units"]) != (
        found["layers"][best_before["rule"]],
        found["units"][best_before["aggregation"]],
    )


def test_without_tries_layers_go_by_the_distribution_and_units_by_rms(
    cut_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_try", lambda *_: pytest.fail("tried"))
    run_recipe(read_recipe(cut_task(EVERY_KIND)), folder=tmp_path / "run", until="train")
    layers = read(tmp_path / "run", "train/layers.json")
    assert layers["divergence"][layers["rule"]] == min(layers["divergence"].values())
    parts = read(tmp_path / "run", f"train/{PARTS}")
    assert (parts["aggregation"], parts["tried"]) == ("rms", [])


def test_a_single_candidate_is_not_trained(
    cut_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_try", lambda *_: pytest.fail("tried"))
    recipe = read_recipe(cut_task("cut: {heads: 4}, try_steps: 2"))  # all four: no score matters
    run_recipe(recipe, folder=tmp_path / "run", until="train")
    assert read(tmp_path / "run", f"train/{PARTS}")["tried"] == []


def test_a_killed_choice_is_not_made_twice(
    cut_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read_recipe(cut_task(f"{EVERY_KIND}, try_steps: 2"))
    run = tmp_path / "run"
    real, asked = room.remove_tries, []

    def stop(folder: Path) -> None:
        asked.append(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "remove_tries", stop)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, folder=run)
    chosen = (run / "train" / PARTS).read_bytes()
    monkeypatch.setattr(room, "remove_tries", real)
    monkeypatch.setattr(room, "_rank", lambda *_: pytest.fail("chosen again"))
    run_recipe(recipe, folder=run)
    assert (run / "train" / PARTS).read_bytes() == chosen
    assert not (run / "train" / room.TRIES).exists()


@pytest.mark.parametrize("stopped_at", [1, 3, 4])  # before, between and within candidates
def test_a_killed_try_takes_no_step_twice(
    cut_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    recipe = read_recipe(cut_task("cut: {feed_forward: 24, hidden: 16}, try_steps: 2"))
    whole, run = tmp_path / "whole", tmp_path / "run"
    run_recipe(recipe, folder=whole, until="train")
    real_step, real_measure = loop._Loop._step, room._units_and_vocabulary
    steps: Counter[tuple[str, int]] = Counter()
    measured = []

    def step(self: Any, rate: float) -> float:
        folder = self.checkpoints._folder
        if folder.parent.name == room.TRIES:
            if steps.total() == stopped_at - 1 and not steps["stopped", 0]:
                steps["stopped", 0] = 1
                raise KeyboardInterrupt
            steps[folder.name, self.state.step] += 1
        return real_step(self, rate)

    def measure(run: Run) -> Any:
        measured.append(run)
        return real_measure(run)

    monkeypatch.setattr(loop._Loop, "_step", step)
    monkeypatch.setattr(room, "_units_and_vocabulary", measure)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, folder=run, until="train")
    run_recipe(recipe, folder=run, until="train")
    assert len(measured) == 1
    del steps["stopped", 0]
    tried = read(run, f"train/{PARTS}")["tried"]
    assert steps == Counter((one["candidate"], place) for one in tried for place in range(2))
    for name in ("layers.json", PARTS):
        assert (run / "train" / name).read_bytes() == (whole / "train" / name).read_bytes()


def test_the_plan_foresees_the_tries(
    cut_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_speeds", lambda *_, **__: {"float32": 1000.0})
    path = cut_task(f"{EVERY_KIND}, try_steps: 3", layers=5)
    plans = []
    for name in ("tried", "untried"):
        run_recipe(read_recipe(path), folder=tmp_path / name, until="plan")
        plans.append(read(tmp_path / name, "plan/plan.json"))
        path.write_text(path.read_text().replace(", try_steps: 3", ""))
    tried, untried = plans
    told = "at most 6 candidates are trained for 3 steps each"
    assert any(told in note for note in tried["notes"])
    assert not any("candidates" in note for note in untried["notes"])
    per_item = tried["tokens"]["example"] / 1000
    expected = 6 * (3 * 4 * per_item + room.HELD_OUT * tried["train_items"] * per_item)
    found = tried["seconds"]["train"] - untried["seconds"]["train"]
    assert found == pytest.approx(expected)
    student = 4 * tried["parameters"]["student"]
    assert tried["disk_bytes"] - untried["disk_bytes"] == 6 * student


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ("layers: 2, try_steps: -1", r"(?s)try_steps is -1.*0 trains no"),
        ("layers: 2, choose: even, try_steps: 3", r"(?s)has only one.*choose: data"),
        ("cut: {vocabulary: 290}, try_steps: 3", r"(?s)has only one.*student\.cut"),
    ],
)
def test_tries_of_nothing_are_refused(student: str, message: str, cut_task: Task) -> None:
    with pytest.raises(InputError, match=message):
        read_recipe(cut_task(student))


def items(*groups: str) -> TrainSplit:
    return TrainSplit(
        tuple(
            Item(id=str(place), messages=(), variable="", group=group)
            for place, group in enumerate(groups)
        )
    )


@given(groups=st.lists(st.sampled_from("abcdefghij"), min_size=2), seed=st.integers(0, 3))
def test_whole_groups_are_held_out_and_some_are_left(groups: list[str], seed: int) -> None:
    train = items(*groups)
    if len(set(groups)) == 1:
        with pytest.raises(InputError, match=r"(?s)of one group.*leave student\.try_steps out"):
            room.hold_out(train, seed)
        return
    left, held = room.hold_out(train, seed)
    assert {*left.items} | {*held.items} == {*train.items}
    assert not {item.group for item in left.items} & {item.group for item in held.items}
    smallest = min(Counter(groups).values())
    assert left.items
    assert 1 <= len(held.items) <= max(smallest, room.HELD_OUT * len(groups))
