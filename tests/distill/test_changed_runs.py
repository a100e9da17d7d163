"""What of a run is done again when something changed, and what is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.conftest import CHATML
from tests.distill.run_orders import RECORDED, write_task
from tests.teachers.conftest import Asked, Endpoint

from stillhouse.distill import fitting, read_recipe, run_recipe
from stillhouse.distill.progress import Silent
from stillhouse.exchanges import InputError
from stillhouse.students import save_student

Build = Callable[..., Any]


class Seen(Silent):
    """The stages that were worked on, and what was said."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.said: list[str] = []

    def stage(self, name: str, state: str, seconds: float) -> None:
        if state == "started":
            self.started.append(name)

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(autouse=True)
def _quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "PROBE_S", 0.0)


@pytest.fixture
def task(tmp_path: Path, tiny_model: Build, tiny_tokenizer: Build) -> Callable[..., Path]:
    def write(teacher: str = RECORDED, more: str = "") -> Path:
        return write_task(tmp_path, tiny_model(), tiny_tokenizer(), teacher=teacher, more=more)

    return write


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    server.handler = lambda asked: asked.reply("positive")
    server.start()
    yield server
    server.stop()


def go_on(recipe: Path, until: str, *, accept: bool = False) -> Seen:
    """One attempt in the folder beside the recipe."""
    seen, folder = Seen(), recipe.parent / "run"
    run_recipe(
        read_recipe(recipe), folder=folder, until=until, accept_changes=accept, progress=seen
    )
    return seen


def change(recipe: Path, old: str, new: str) -> None:
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new))


def endpoint_of(server: Endpoint, more: str = "") -> str:
    return f"kind: endpoint, model: one, canaries: false, url: {server.url}{more}"


def read(recipe: Path, name: str) -> Any:
    return json.loads((recipe.parent / "run" / name).read_text())


def test_a_price_in_the_cost_table_costs_no_training(task: Callable[..., Path]) -> None:
    recipe = task()
    go_on(recipe, "judge")
    change(recipe, "judge: {", "judge: {machine_usd_per_hour: 2.0, ")
    assert go_on(recipe, "judge", accept=True).started == ["judge"]


def test_prices_that_are_added_cost_no_training(
    task: Callable[..., Path], endpoint: Endpoint
) -> None:
    recipe = task(endpoint_of(endpoint))
    go_on(recipe, "train")
    change(recipe, "canaries: false", "canaries: false, price_in_nano: 100, price_out_nano: 200")
    asked = len(endpoint.asked)
    assert go_on(recipe, "train", accept=True).started == ["label"]
    assert len(endpoint.asked) == asked, "replies are paid once"


def test_other_minutes_are_planned_for(task: Callable[..., Path]) -> None:
    recipe = task(more="budget: {minutes: 60}\n")
    go_on(recipe, "plan")
    change(recipe, "minutes: 60", "minutes: 0.001")
    with pytest.raises(InputError, match="minutes leave time"):
        go_on(recipe, "plan")


def test_an_edited_check_is_run_again(task: Callable[..., Path]) -> None:
    recipe = task()
    change(recipe, "curate: {", 'curate: {function: "checks:good", ')
    checks = recipe.parent / "checks.py"
    checks.write_text("def good(reply, item):\n    return True\n")
    go_on(recipe, "curate")
    kept = read(recipe, "curate/report.json")["kept"]
    checks.write_text("def good(reply, item):\n    return reply == 'positive'\n")
    with pytest.raises(InputError, match=r"curate\.function"):
        go_on(recipe, "curate")
    go_on(recipe, "curate", accept=True)
    assert read(recipe, "curate/report.json")["kept"] < kept


def test_by_another_label_rule_it_is_judged_again(task: Callable[..., Path]) -> None:
    recipe = task()
    go_on(recipe, "judge")
    change(recipe, "curate: {", "curate: {label_rule: first_word, ")
    assert go_on(recipe, "judge", accept=True).started == ["curate", "judge"]


def test_other_weights_in_a_folder_are_noticed(
    task: Callable[..., Path], tiny_model: Build, tiny_tokenizer: Build
) -> None:
    recipe = task("kind: local, model: small-model, answer: score")
    go_on(recipe, "label")
    save_student(tiny_model(seed=2), tiny_tokenizer(), recipe.parent / "other")
    shutil.rmtree(recipe.parent / "small-model")
    (recipe.parent / "other").rename(recipe.parent / "small-model")
    with pytest.raises(InputError, match=r"student\.start, teacher\.model"):
        go_on(recipe, "label")


def test_a_task_that_is_moved_goes_on(task: Callable[..., Path], tmp_path: Path) -> None:
    recipe = task("kind: local, model: small-model, answer: score")
    (tmp_path / "one").mkdir()
    for path in [*tmp_path.iterdir()]:
        if path.name != "one":
            path.rename(tmp_path / "one" / path.name)
    go_on(tmp_path / "one" / recipe.name, "label")
    (tmp_path / "one").rename(tmp_path / "two")
    assert go_on(tmp_path / "two" / recipe.name, "label").started == []


@pytest.mark.parametrize("changed", ["batch_size: 8", "template: other.jinja"])
def test_a_local_teacher_is_asked_anew_when_changes_are_accepted(
    task: Callable[..., Path], changed: str
) -> None:
    recipe = task("kind: local, model: small-model, answer: score")
    (recipe.parent / "other.jinja").write_text(CHATML + "{# another #}")
    go_on(recipe, "label")
    change(recipe, "answer: score", f"answer: score, {changed}")
    seen = go_on(recipe, "label", accept=True)
    kept = recipe.parent / "run" / "label" / "replies-1.journal"
    assert [line for line in seen.said if str(kept) in line]
    assert kept.exists()


def test_another_model_of_an_endpoint_is_asked_when_changes_are_accepted(
    task: Callable[..., Path], endpoint: Endpoint
) -> None:
    recipe = task(endpoint_of(endpoint))
    go_on(recipe, "label")
    asked = len(endpoint.asked)
    change(recipe, "model: one", "model: two")
    go_on(recipe, "label", accept=True)
    assert [one.body["model"] for one in endpoint.asked[asked:]] == ["two"] * asked


def test_what_failed_is_asked_again_until_curation_has_begun(
    task: Callable[..., Path], endpoint: Endpoint
) -> None:
    def refuse(asked: Asked) -> Any:
        if "number 7 " in asked.prompt:
            return web.json_response({"error": {"message": "odd"}}, status=400)
        return asked.reply("positive")

    endpoint.handler = refuse
    recipe = task(endpoint_of(endpoint))
    assert go_on(recipe, "label").started == ["plan", "label"]
    assert go_on(recipe, "curate").started == ["label", "curate"]
    asked = len(endpoint.asked)
    assert go_on(recipe, "curate").started == []
    endpoint.handler = lambda asked: asked.reply("positive")
    assert go_on(recipe, "curate", accept=True).started == ["label", "curate"]
    assert len(endpoint.asked) == asked + 1
    assert read(recipe, "label/summary.json")["failures"] == {}


def test_a_student_that_was_moved_away_is_placed_again(task: Callable[..., Path]) -> None:
    recipe = task()
    go_on(recipe, "report")
    (recipe.parent / "run" / "student").rename(recipe.parent / "mine")
    assert go_on(recipe, "report").started == ["report"]
    assert (recipe.parent / "run" / "student" / "model.safetensors").exists()
    assert go_on(recipe, "report").started == []
