"""A user's own small file, from `stillhouse init` to a verdict, through a loopback endpoint."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.teachers.conftest import Asked, Endpoint

from stillhouse.distill import Recipe, Stopped, draft_recipe, read_recipe, run_recipe
from stillhouse.exchanges import InputError
from stillhouse.students import save_student

PERMISSION = """
  permission:
    granted_by: the owner of teacher-1
    date: 2026-01-31
    purpose: this test
    document: this file
"""


def sentiment(asked: Asked) -> Any:
    return asked.reply("positive" if "good" in asked.prompt else "negative")


@pytest.fixture
def teacher() -> Iterator[Endpoint]:
    server = Endpoint()
    server.handler = sentiment
    server.start()
    yield server
    server.stop()


@pytest.fixture
def user_files(tmp_path: Path, tiny_model: Callable[..., Any], tiny_tokenizer: Any) -> Path:
    """What a user has: 20 lines of JSON and a small model."""
    lines = [
        {"id": f"r{i}", "text": f"the film number {i} was {'good' if i % 2 else 'bad'}",
         "label": "positive" if i % 2 else "negative"}
        for i in range(20)
    ]  # fmt: skip
    (tmp_path / "reviews.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    save_student(tiny_model(), tiny_tokenizer(), tmp_path / "small-model")
    return tmp_path


def written_recipe(folder: Path, url: str, *, extra: str = PERMISSION) -> Path:
    """The recipe that `init` drafts, with what only the user can add."""
    path = draft_recipe(
        folder / "task",
        data=folder / "reviews.jsonl",
        teacher="endpoint",
        model="teacher-1",
        url=url,
        student=str(folder / "small-model"),
    )
    text = path.read_text()
    text = text.replace("\nstudent:", f"{extra}\nstudent:")
    text = text.replace("margin: 5", "teacher_lead: null\n  latency_items: 6\n  margin: 5")
    text += "\ntrain: {epochs: 2, batch_size: 4, dtype: float32}\n"
    text += "\ncurate: {near_duplicates: null, contamination: drop}\n"
    path.write_text(text)
    return path


def small(recipe: Recipe, **parts: Any) -> Recipe:
    return dataclasses.replace(recipe, **parts)


def test_twenty_lines_become_a_student_a_verdict_and_a_report(
    user_files: Path, teacher: Endpoint
) -> None:
    recipe = read_recipe(written_recipe(user_files, teacher.url))
    result = run_recipe(recipe, folder=user_files / "run")
    assert result.verdict in {"non-inferior", "inferior", "not shown"}
    assert list(result.records) == ["plan", "label", "curate", "train", "judge", "report"]
    page = (user_files / "run" / "report" / "report.html").read_text()
    assert "teacher-1" in page or "teacher" in page
    assert "granted by the owner of teacher-1" in page
    card = (user_files / "run" / "student" / "README.md").read_text()
    assert "accuracy" in card.lower()
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(user_files / "run" / "student")
    assert model.config.num_hidden_layers == 2


def test_a_finished_run_is_not_repeated_and_asks_nothing(
    user_files: Path, teacher: Endpoint
) -> None:
    recipe = read_recipe(written_recipe(user_files, teacher.url))
    run_recipe(recipe, folder=user_files / "run", until="label")
    asked = len(teacher.asked)
    before = (user_files / "run" / "label" / "train.jsonl").read_bytes()
    run_recipe(recipe, folder=user_files / "run", until="label")
    assert len(teacher.asked) == asked
    assert (user_files / "run" / "label" / "train.jsonl").read_bytes() == before


def test_planning_spends_nothing(user_files: Path, teacher: Endpoint) -> None:
    recipe = read_recipe(written_recipe(user_files, teacher.url))
    run_recipe(recipe, folder=user_files / "run", until="plan")
    assert teacher.asked == []
    plan = orjson.loads((user_files / "run" / "plan" / "plan.json").read_bytes())
    assert plan["teacher"]["requests"] == 20 + 5 * 20, "items and canaries"
    assert plan["teacher"]["nano_at_most"] is None, "an unknown price is not zero"


def test_unknown_terms_stop_the_run_before_anything_is_asked(
    user_files: Path, teacher: Endpoint
) -> None:
    recipe = read_recipe(written_recipe(user_files, teacher.url, extra=""))
    with pytest.raises(Stopped, match="granted_by") as stopped:
        run_recipe(recipe, folder=user_files / "run")
    assert stopped.value.reason == "terms"
    assert teacher.asked == []


def test_a_budget_that_runs_out_stops_and_goes_on_when_raised(
    user_files: Path, teacher: Endpoint
) -> None:
    recipe = read_recipe(written_recipe(user_files, teacher.url))
    canaries_off = dataclasses.replace(recipe.teacher, canaries=False)
    capped = small(recipe, teacher=canaries_off,
                   budget=dataclasses.replace(recipe.budget, requests=7))  # fmt: skip
    with pytest.raises(Stopped) as stopped:
        run_recipe(capped, folder=user_files / "run", until="label")
    assert stopped.value.reason == "budget"
    assert len(teacher.asked) == 7
    raised = small(capped, budget=dataclasses.replace(recipe.budget, requests=20))
    run_recipe(raised, folder=user_files / "run", until="label")
    assert len(teacher.asked) == 20, "what was answered before is not asked again"


def test_as_many_requests_as_the_plan_says_are_enough(user_files: Path, teacher: Endpoint) -> None:
    recipe = read_recipe(written_recipe(user_files, teacher.url))
    run_recipe(recipe, folder=user_files / "run", until="plan")
    planned = orjson.loads((user_files / "run" / "plan" / "plan.json").read_bytes())["teacher"]
    budget = dataclasses.replace(
        recipe.budget, requests=planned["requests"], tokens=planned["tokens_at_most"]
    )
    run_recipe(small(recipe, budget=budget), folder=user_files / "run", until="label")


def test_a_money_cap_without_a_price_is_refused_while_planning(
    user_files: Path, teacher: Endpoint
) -> None:
    recipe = read_recipe(written_recipe(user_files, teacher.url))
    capped = small(recipe, budget=dataclasses.replace(recipe.budget, usd=1.0))
    with pytest.raises(InputError, match="price is unknown"):
        run_recipe(capped, folder=user_files / "run", until="plan")


def test_an_endpoint_that_cannot_be_asked_is_refused_while_planning(
    user_files: Path, teacher: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    recipe = read_recipe(written_recipe(user_files, teacher.url))
    for changed, says in (
        ({"api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY is not set"),
        ({"url": "localhost:8000"}, "is not a web address"),
        ({"url": "https://user:password@localhost/v1"}, "keep keys out of URLs"),
    ):
        asked = dataclasses.replace(recipe.teacher, **changed)
        with pytest.raises(InputError, match=says):
            run_recipe(small(recipe, teacher=asked), folder=user_files / "run", until="plan")


def test_a_corrected_recipe_is_planned_again_without_asking(
    user_files: Path, teacher: Endpoint
) -> None:
    path = written_recipe(user_files, teacher.url, extra="")
    with pytest.raises(Stopped):
        run_recipe(read_recipe(path), folder=user_files / "run", until="plan")
    text = path.read_text().replace("\nstudent:", f"{PERMISSION}\nstudent:")
    path.write_text(text.replace("margin: 5", "margin: 50"))
    run_recipe(read_recipe(path), folder=user_files / "run", until="plan")
    plan = orjson.loads((user_files / "run" / "plan" / "plan.json").read_bytes())
    assert plan["margin"] == 50
    manifest = orjson.loads((user_files / "run" / "manifest.json").read_bytes())
    assert manifest["values"]["judge"]["margin"] == 50


def test_a_teacher_that_trivial_methods_match_is_not_distilled(
    user_files: Path, teacher: Endpoint
) -> None:
    recipe = read_recipe(written_recipe(user_files, teacher.url))
    teacher.handler = lambda asked: asked.reply("positive")
    strict = small(recipe, judge=dataclasses.replace(recipe.judge, teacher_lead=5.0))
    with pytest.raises(Stopped, match="not worth distilling") as stopped:
        run_recipe(strict, folder=user_files / "run", until="curate")
    assert stopped.value.reason == "check"


def test_a_test_item_among_the_training_items_fails_the_run(
    user_files: Path, teacher: Endpoint
) -> None:
    recipe = read_recipe(written_recipe(user_files, teacher.url))
    strict = small(recipe, curate=dataclasses.replace(recipe.curate, contamination="fail"))
    lines = (user_files / "reviews.jsonl").read_text().splitlines()
    copies = [json.dumps(json.loads(line) | {"id": f"copy-{i}"}) for i, line in enumerate(lines)]
    (user_files / "reviews.jsonl").write_text("\n".join(lines + copies))
    with pytest.raises(Stopped) as stopped:
        run_recipe(strict, folder=user_files / "run", until="curate")
    assert stopped.value.reason == "check"
    assert (user_files / "run" / "curate" / "contamination.json").exists()


def test_two_runs_in_one_folder_are_refused(user_files: Path, teacher: Endpoint) -> None:
    from stillhouse.exchanges import RunLock

    recipe = read_recipe(written_recipe(user_files, teacher.url))
    with RunLock(user_files / "run"), pytest.raises(InputError, match="is using this"):
        run_recipe(recipe, folder=user_files / "run")


def test_a_changed_recipe_is_noticed_before_paid_work_is_thrown_away(
    user_files: Path, teacher: Endpoint
) -> None:
    recipe = read_recipe(written_recipe(user_files, teacher.url))
    run_recipe(recipe, folder=user_files / "run", until="label")
    changed = small(recipe, teacher=dataclasses.replace(recipe.teacher, max_tokens=17))
    with pytest.raises(InputError, match=r"teacher\.max_tokens"):
        run_recipe(changed, folder=user_files / "run", until="label")


def test_an_endpoint_that_is_down_says_so(user_files: Path, teacher: Endpoint) -> None:
    recipe = read_recipe(written_recipe(user_files, "http://127.0.0.1:9/v1"))
    with pytest.raises(Stopped, match="no connection to 127") as stopped:
        run_recipe(recipe, folder=user_files / "run", until="label")
    assert stopped.value.reason == "teacher"
