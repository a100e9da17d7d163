"""The command line as a user meets it: exit codes, JSON on stdout, messages that repair."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.distill.test_pipeline import (
    teacher,
    user_files,
    written_recipe,
)
from tests.teachers.conftest import Endpoint

from stillhouse.cli import Exit

__all__ = ["teacher", "user_files"]  # fixtures


def stillhouse(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    program = "from stillhouse.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


def test_a_run_prints_its_verdict_as_json(user_files: Path, teacher: Endpoint) -> None:
    recipe = written_recipe(user_files, teacher.url)
    done = stillhouse("distill", recipe, "--json", "--quiet", cwd=user_files)
    assert done.returncode == Exit.DONE, done.stderr
    result = json.loads(done.stdout)
    assert result["verdict"]["outcome"] in {"non-inferior", "inferior", "not shown"}
    assert (user_files / result["report"]).exists()
    assert (user_files / "runs" / "task" / "student" / "README.md").exists()
    again = stillhouse("distill", recipe, "--require", "non-inferior", cwd=user_files)
    expected = Exit.DONE if result["verdict"]["outcome"] == "non-inferior" else Exit.VERDICT
    assert again.returncode == expected
    assert "skipped" in again.stderr


def test_terms_that_are_not_known_end_with_their_own_code(
    user_files: Path, teacher: Endpoint
) -> None:
    recipe = written_recipe(user_files, teacher.url, extra="")
    done = stillhouse("distill", recipe, "--quiet", cwd=user_files)
    assert done.returncode == Exit.TERMS
    assert "granted_by" in done.stderr


def test_a_wrong_key_names_the_line_and_the_nearest_key(
    user_files: Path, teacher: Endpoint
) -> None:
    recipe = written_recipe(user_files, teacher.url)
    recipe.write_text(recipe.read_text().replace("epochs:", "epoch:"))
    done = stillhouse("distill", recipe, "--quiet", cwd=user_files)
    assert done.returncode == Exit.INPUT
    assert "recipe.yaml:" in done.stderr
    assert "did you mean 'epochs'?" in done.stderr


def test_answer_files_are_judged_without_any_model(tmp_path: Path) -> None:
    rows = [{"id": str(i), "text": f"text {i}", "label": "yes" if i % 2 else "no"}
            for i in range(40)]  # fmt: skip
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, wrong in (("teacher", 4), ("student", 10)):
        answers = [{"id": row["id"], "text": row["label"] if i >= wrong else "yes"}
                   for i, row in enumerate(rows)]  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, answers)))
    (tmp_path / "judge.yaml").write_text(
        "name: pair\ntask: {kind: label, labels: [yes, no]}\n".replace("[yes, no]", "['yes', 'no']")
        + "data: {path: test.jsonl, id: id, prompt: '{text}', gold: label}\njudge: {margin: 5}\n"
    )
    done = stillhouse(
        "judge", "judge.yaml", "--teacher", "teacher.jsonl", "--student", "student.jsonl",
        "--out", "verdict", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == Exit.DONE, done.stderr
    verdict = json.loads(done.stdout)["verdict"]
    assert verdict["interval"]["estimate"] == pytest.approx(-7.5), "2 against 5 of 40 wrong"
    assert (tmp_path / "verdict" / "report.html").exists()


def test_doctor_says_what_a_recipe_opens(user_files: Path, teacher: Endpoint) -> None:
    recipe = written_recipe(user_files, teacher.url)
    done = stillhouse("doctor", recipe, "--json", cwd=user_files)
    assert done.returncode == Exit.DONE, done.stderr
    findings = {finding["subject"]: finding for finding in json.loads(done.stdout)}
    assert findings["teacher.url"]["state"] == "opens"
    assert findings["budget"]["state"] == "opens"


def test_init_never_overwrites(user_files: Path, teacher: Endpoint) -> None:
    recipe = written_recipe(user_files, teacher.url)
    before = recipe.read_text()
    done = stillhouse("init", "task", "--data", "reviews.jsonl", cwd=user_files)
    assert done.returncode == Exit.INPUT
    assert "there is a recipe already" in done.stderr
    assert recipe.read_text() == before


def test_a_wrong_command_line_has_the_usage_code(tmp_path: Path) -> None:
    assert stillhouse("distil", cwd=tmp_path).returncode == Exit.USAGE
