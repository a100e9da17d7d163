"""A run that meets a full disk, Ctrl-C, another run, another recipe: said clearly, nothing lost."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.distill.run_orders import KILLED, STAGES, Undisturbed, results

from stillhouse.cli import Exit
from stillhouse.exchanges import RunLock

# A step of each stage at which the disk fills up, or Ctrl-C comes.
WRITES = [
    ("plan", "write:plan.json"),
    ("label", "write:train.jsonl"),
    ("curate", "write:targets.jsonl"),
    ("train", "write:checkpoint.pt"),
    ("train", "remove:best-2.pt:done"),  # the next thing written is the student's own folder
    ("judge", "write:untrained.jsonl"),
    ("report", "write:report.html"),
]


@pytest.mark.parametrize(("stage", "step"), WRITES)
def test_a_file_that_cannot_grow_stops_each_stage_and_loses_nothing(
    undisturbed: Undisturbed, stage: str, step: str
) -> None:
    run = undisturbed.begin(stage)
    found = undisturbed.go_on(run, stage, limit=[stage, step])
    assert found["code"] == Exit.INPUT, found["output"]
    assert "the file would exceed the size limit" in found["output"]
    assert "repair: raise `ulimit -f`" in found["output"]
    assert str(run / stage) in found["output"]
    assert "Traceback" not in found["output"]
    assert undisturbed.go_on(run, stage)["code"] == Exit.DONE
    assert undisturbed.difference(run, stage) == []


@pytest.mark.parametrize(("stage", "step"), WRITES)
def test_a_full_disk_stops_each_stage_and_the_run_goes_on_when_there_is_room(
    undisturbed: Undisturbed, stage: str, step: str, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small disk of one's own can be mounted by root alone")
    try:
        run = disk / "run"
        begun = undisturbed.begin(stage)
        if begun.exists():
            shutil.copytree(begun, run)
        found = undisturbed.go_on(run, stage, fill=[stage, step])
        assert found["code"] == Exit.INPUT, found["output"]
        assert "the disk is full" in found["output"]
        assert "repair: free some space" in found["output"]
        (disk / "filler").unlink()
        assert undisturbed.go_on(run, stage)["code"] == Exit.DONE
        assert undisturbed.difference(run, stage) == []
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(("stage", "step"), WRITES)
def test_ctrl_c_ends_each_stage_with_its_own_code_and_the_same_command_goes_on(
    undisturbed: Undisturbed, stage: str, step: str
) -> None:
    run = undisturbed.begin(stage)
    found = undisturbed.go_on(run, stage, interrupt=[stage, step])
    assert found["code"] == Exit.INTERRUPTED, found["output"]
    assert "the same command goes on from here" in found["output"]
    assert undisturbed.go_on(run, stage)["code"] == Exit.DONE
    assert undisturbed.difference(run, stage) == []


def test_a_second_run_in_one_folder_is_refused_and_changes_nothing(
    undisturbed: Undisturbed,
) -> None:
    run = undisturbed.begin("judge")
    before = results(run)
    with RunLock(run):
        found = undisturbed.go_on(run, "judge")
    assert found["code"] == Exit.INPUT
    assert "is using this" in found["output"]
    assert "repair: wait until it has ended" in found["output"]
    assert results(run) == before


def test_a_changed_recipe_on_resume_is_refused_before_anything_is_written(
    undisturbed: Undisturbed,
) -> None:
    run = undisturbed.begin("report")
    assert undisturbed.go_on(run, "report")["code"] == Exit.DONE
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    recipe = undisturbed.recipe.read_text()
    try:
        undisturbed.recipe.write_text(recipe.replace("margin: 5", "margin: 8"))
        found = undisturbed.go_on(run, "report")
        assert found["code"] == Exit.INPUT
        assert "judge.margin" in found["output"]
        assert "--accept-changes" in found["output"]
        now = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        del before[run / ".lock"], now[run / ".lock"]
        assert now == before, "not even the time at which the margin was fixed"
    finally:
        undisturbed.recipe.write_text(recipe)
    assert undisturbed.go_on(run, "report")["output"].count("unchanged, skipped") == len(STAGES)


@pytest.mark.parametrize("step", ["rename:judge", "rename:judge:done", "write:started.json"])
def test_no_answers_of_another_recipe_survive_a_kill_while_they_are_removed(
    undisturbed: Undisturbed, step: str
) -> None:
    run = undisturbed.begin("report")
    recipe = undisturbed.recipe.read_text()
    sheet = run / "judge" / "student-1.jsonl"
    sheet.write_bytes(sheet.read_bytes().replace(b'"text":"', b'"text":"stale '))
    try:
        undisturbed.recipe.write_text(recipe.replace("batch_size: 4,", "batch_size: 4, epochs: 9,"))
        command = ("distill", undisturbed.recipe, "--run", run, "--until", "judge")
        killed = undisturbed.worker.order(*command, "--accept-changes", kill=["judge", step])
        assert killed["code"] == KILLED, killed["output"]
        done = undisturbed.worker.order(*command, "--accept-changes")
        assert done["code"] == Exit.DONE, done["output"]
    finally:
        undisturbed.recipe.write_text(recipe)
    assert b"stale" not in sheet.read_bytes()
    assert not list(run.rglob("*stillhouse-tmp"))
