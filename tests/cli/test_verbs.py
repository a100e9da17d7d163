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
from stillhouse.distill import read_recipe
from stillhouse.parity import read_items

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
    done = stillhouse("distill", recipe, "--quiet", "--json", cwd=user_files)
    assert done.returncode == Exit.TERMS
    assert "granted_by" in done.stderr
    told = json.loads(done.stdout)
    assert told["stopped"] == "terms"
    assert told["message"] in done.stderr


def test_a_wrong_key_names_the_line_and_the_nearest_key(
    user_files: Path, teacher: Endpoint
) -> None:
    recipe = written_recipe(user_files, teacher.url)
    recipe.write_text(recipe.read_text().replace("epochs:", "epoch:"))
    done = stillhouse("distill", recipe, "--quiet", cwd=user_files)
    assert done.returncode == Exit.INPUT
    assert "recipe.yaml:" in done.stderr
    assert "did you mean 'epochs'?" in done.stderr


def test_a_check_that_fails_ends_with_its_own_code(user_files: Path, teacher: Endpoint) -> None:
    recipe = written_recipe(user_files, teacher.url)
    recipe.write_text(recipe.read_text().replace("teacher_lead: null", "teacher_lead: 5"))
    teacher.handler = lambda asked: asked.reply("positive")  # no better than the commonest answer
    done = stillhouse("distill", recipe, "--quiet", cwd=user_files)
    assert done.returncode == Exit.CHECK
    assert "this teacher is not worth distilling for this task" in done.stderr
    assert "repair: choose a task it is good at" in done.stderr


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
    report = json.loads((tmp_path / "verdict" / "report.json").read_text())
    assert report["reproduce"] == [
        "stillhouse judge judge.yaml --teacher teacher.jsonl --student student.jsonl --out verdict"
    ]
    assert report["cost"]["teacher"]["speed_note"] == "not measured here: an answer file"
    assert verdict["interval"]["estimate"] == pytest.approx(-7.5), "2 against 5 of 40 wrong"
    page = (tmp_path / "verdict" / "report.html").read_text()
    assert "this judgement names none (`training`)" in page


def test_a_judgement_of_given_answers_has_baselines_where_training_items_are_named(
    tmp_path: Path,
) -> None:
    rows = [{"id": str(i), "text": f"it is {'warm' if i % 3 else 'cold'} {i}",
             "label": "good" if i % 3 else "bad"} for i in range(60)]  # fmt: skip
    for name, part in (("test", rows[:30]), ("more", rows[30:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    answers = [{"id": row["id"], "text": row["label"]} for row in rows[:30]]
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, answers)))
    recipe = (
        "name: pair\ntask: {kind: label, labels: [good, bad]}\njudge: {margin: 5}\n"
        "data: {path: test.jsonl, id: id, prompt: '{text}', gold: label}\n"
        "training: {path: NAME.jsonl, id: id, prompt: '{text}', gold: label}\n"
    )
    sources = ("--teacher", "answers.jsonl", "--student", "answers.jsonl", "--out", "verdict")
    (tmp_path / "judge.yaml").write_text(recipe.replace("NAME", "more"))
    done = stillhouse("judge", "judge.yaml", *sources, cwd=tmp_path)
    assert done.returncode == Exit.DONE, done.stderr
    found = json.loads((tmp_path / "verdict" / "report.json").read_text())
    sheets = {s["name"]: s["scores"][0]["value"] for s in found["judgement"]["sheets"]}
    assert sheets["tfidf_gold"] == pytest.approx(100), "one word tells them apart"
    assert sheets["majority"] == pytest.approx(200 / 3)
    assert found["absent"].keys() == {"tfidf", "untrained", "gold_trained", "plain"}
    (tmp_path / "judge.yaml").write_text(recipe.replace("NAME", "test"))
    done = stillhouse("judge", "judge.yaml", *sources, cwd=tmp_path)
    assert done.returncode == Exit.INPUT
    assert "30 items are among `training` and `data`" in done.stderr


def test_a_recipe_of_the_wrong_verb_and_a_margin_of_nothing_are_explained(
    user_files: Path, teacher: Endpoint
) -> None:
    recipe = written_recipe(user_files, teacher.url)
    sources = ("--teacher", "a.jsonl", "--student", "b.jsonl", "--out", "verdict")
    done = stillhouse("judge", recipe, *sources, cwd=user_files)
    assert done.returncode == Exit.INPUT
    assert "this is a recipe of `stillhouse distill`" in done.stderr
    recipe.write_text(recipe.read_text().replace("margin: 5", "margin: 0"))
    done = stillhouse("distill", recipe, cwd=user_files)
    assert done.returncode == Exit.INPUT
    assert "recipe.yaml:" in done.stderr
    assert "judge.margin is 0; it must be positive" in done.stderr


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


def test_init_takes_named_columns_and_finds_the_delimiter(tmp_path: Path) -> None:
    (tmp_path / "odd.csv").write_text("nr;ticket;team\n1;no wifi;it\n2;pay late;hr\n3;dark;it\n")
    guessed = stillhouse("init", "task", "--data", "odd.csv", cwd=tmp_path)
    assert guessed.returncode == Exit.INPUT
    assert "no column looks like a prompt; there are: nr, ticket, team" in guessed.stderr
    assert "--prompt COLUMN" in guessed.stderr
    named = ("init", "task", "--data", "odd.csv", "--prompt", "ticket", "--gold")
    wrong = stillhouse(*named, "taem", cwd=tmp_path)
    assert wrong.returncode == Exit.INPUT
    assert "did you mean 'team'?" in wrong.stderr
    done = stillhouse(*named, "team", "--json", cwd=tmp_path)
    recipe = read_recipe(tmp_path / json.loads(done.stdout)["recipe"])
    items = read_items(recipe.data, recipe.task.task())
    assert [item.gold for item in items] == ["it", "hr", "it"]
    assert items[1].messages[0].content.startswith("pay late\n")


def test_a_wrong_command_line_has_the_usage_code(tmp_path: Path) -> None:
    assert stillhouse("distil", cwd=tmp_path).returncode == Exit.USAGE
