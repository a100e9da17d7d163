"""A run's stages: done once, skipped when unchanged, never redone behind the user's back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stillhouse.distill.stages import DONE, Stage, check_unchanged, run_stages
from stillhouse.exchanges import InputError


@dataclass
class Calls:
    value: int = 1
    made: list[str] = field(default_factory=list)
    fail_in: str | None = None


def stage(name: str, depends: bool) -> Stage[Calls]:
    def run(calls: Calls, folder: Path) -> None:
        calls.made.append(name)
        (folder / "out.txt").write_text(f"{name} {calls.value if depends else 0}")
        (folder / "work.journal").write_text("scratch")
        if calls.fail_in == name:
            raise RuntimeError(name)

    return Stage(name, lambda calls: {"value": calls.value} if depends else {}, run)


STAGES = [stage("one", depends=True), stage("two", depends=False)]


def test_finished_stages_are_skipped(tmp_path: Path) -> None:
    run_stages(tmp_path, STAGES, Calls())
    again = Calls()
    seen: list[tuple[str, str]] = []
    run_stages(tmp_path, STAGES, again, on_stage=lambda name, state, _: seen.append((name, state)))
    assert again.made == []
    assert seen == [("one", "skipped"), ("two", "skipped")]


def test_a_stage_that_failed_runs_again_and_those_before_it_do_not(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        run_stages(tmp_path, STAGES, Calls(fail_in="two"))
    again = Calls()
    run_stages(tmp_path, STAGES, again)
    assert again.made == ["two"]


def test_a_changed_input_is_refused_until_accepted(tmp_path: Path) -> None:
    run_stages(tmp_path, STAGES, Calls(value=1))
    changed = Calls(value=2)
    with pytest.raises(InputError, match="'one' was begun with other values of: value"):
        run_stages(tmp_path, STAGES, changed)
    assert changed.made == []
    run_stages(tmp_path, STAGES, changed, accept_changes=True)
    assert changed.made == ["one", "two"], "what follows a redone stage is redone too"


def test_a_cheap_stage_is_redone_without_asking_until_a_later_one_has_begun(
    tmp_path: Path,
) -> None:
    stages = [dataclasses.replace(STAGES[0], cheap=True), STAGES[1]]
    run_stages(tmp_path, stages, Calls(value=1), until="one")
    check_unchanged(tmp_path, stages, Calls(value=2))
    with pytest.raises(RuntimeError):
        run_stages(tmp_path, stages, Calls(value=2, fail_in="two"))
    assert (tmp_path / "one" / "out.txt").read_text() == "one 2"
    with pytest.raises(InputError, match="'one' was begun with other values of: value"):
        check_unchanged(tmp_path, stages, Calls(value=3))
    with pytest.raises(InputError, match="'one' was begun with other values of: value"):
        run_stages(tmp_path, stages, Calls(value=3))
    assert (tmp_path / "one" / "out.txt").read_text() == "one 2"


def test_a_lost_or_altered_result_is_made_again(tmp_path: Path) -> None:
    run_stages(tmp_path, STAGES, Calls())
    (tmp_path / "one" / "out.txt").write_text("tampered")
    again = Calls()
    run_stages(tmp_path, STAGES, again)
    assert again.made == ["one"], "the same bytes came out, so the second stage still holds"


def test_journals_and_checkpoints_are_not_results(tmp_path: Path) -> None:
    records = run_stages(tmp_path, STAGES, Calls())
    assert list(records["one"].files) == ["out.txt"]
    (tmp_path / "one" / "work.journal").unlink()
    again = Calls()
    run_stages(tmp_path, STAGES, again)
    assert again.made == []


def test_until_stops_after_the_named_stage(tmp_path: Path) -> None:
    calls = Calls()
    run_stages(tmp_path, STAGES, calls, until="one")
    assert calls.made == ["one"]


def test_a_damaged_record_says_how_to_go_on(tmp_path: Path) -> None:
    run_stages(tmp_path, STAGES, Calls())
    (tmp_path / "one" / DONE).write_text("{")
    with pytest.raises(InputError, match="delete this file"):
        run_stages(tmp_path, STAGES, Calls())


def test_what_an_attempt_with_other_inputs_left_is_removed_unless_the_stage_keeps_it(
    tmp_path: Path,
) -> None:
    for keeps, left in ((False, False), (True, True)):
        one = dataclasses.replace(STAGES[0], keeps_work=keeps)
        folder = tmp_path / str(keeps)
        with pytest.raises(RuntimeError):
            run_stages(folder, [one], Calls(value=1, fail_in="one"))
        (folder / "one" / "old.journal").write_text("paid for")
        with pytest.raises(InputError, match="begun with other values"):
            run_stages(folder, [one], Calls(value=2))
        run_stages(folder, [one], Calls(value=2), accept_changes=True)
        assert (folder / "one" / "old.journal").exists() == left
