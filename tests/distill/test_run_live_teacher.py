"""A run that asks a live teacher, killed over and over: nothing paid for is lost or asked twice."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from tests.distill.run_orders import KILLED, MEMORY, Worker, write_task
from tests.teachers.conftest import Asked, Endpoint

from stillhouse.cli import Exit
from stillhouse.exchanges import read_journal
from stillhouse.exchanges.dataset import read_exchanges

ITEMS = 60
KILLS = 50


@dataclass
class Live:
    """A recipe with a live teacher that never gives one reply twice, and runs of it."""

    worker: Worker
    recipe: Path
    endpoint: Endpoint
    undisturbed: int = 0  # requests
    seconds: float = 0.0
    runs: int = 0
    seen: dict[str, str] = field(default_factory=dict)  # key -> text, as first journaled

    def begin(self) -> Path:
        self.runs += 1
        self.endpoint.asked.clear()
        self.seen.clear()
        return self.recipe.parent / f"run-{self.runs}"

    def go_on(self, run: Path, until: str = "label", **how: Any) -> dict[str, Any]:
        return self.worker.order("distill", self.recipe, "--run", run, "--until", until, **how)

    def in_flight(self, run: Path) -> int:
        """Requests in flight at all kills so far; what is journaled must not change."""
        path = run / "label" / "replies.journal"
        if not path.exists() or not path.stat().st_size:
            return 0
        intents, outcomes = set(), set()
        for record in read_journal(path).records:
            if "intent" in record:
                intents.add(record["intent"])
            else:
                outcomes.add(record.get("reply") or record.get("failure"))
            if "reply" in record:
                text = record["value"]["text"]
                assert self.seen.setdefault(record["key"], text) == text, "asked twice"
        return len(intents - outcomes)

    def problems(self, run: Path) -> list[str]:
        """What a finished labelling must not have done."""
        lost = self.in_flight(run)
        found = []
        if len(self.endpoint.asked) > self.undisturbed + lost:
            found.append(f"{len(self.endpoint.asked)} asked, {self.undisturbed} + {lost} allowed")
        sheets = [run / "label" / f"{split}.jsonl" for split in ("train", "validation", "test")]
        texts = [orjson.loads(line)["text"] for s in sheets for line in s.read_bytes().splitlines()]
        if len(texts) != ITEMS or not set(texts) <= set(self.seen.values()):
            found.append("a reply in use is not the journaled one")
        return found


async def answer(asked: Asked) -> Any:
    await asyncio.sleep(0.003)  # so that kills find requests in flight
    return asked.reply(f"reply number {asked.number}")


@pytest.fixture(scope="module")
def live(tiny_model: Callable[..., Any], tiny_tokenizer: Callable[..., Any]) -> Iterator[Live]:
    endpoint = Endpoint()
    endpoint.handler = answer
    endpoint.start()
    with tempfile.TemporaryDirectory(dir=MEMORY) as name, Worker(Path(name)) as worker:
        folder = Path(name)
        teacher = f"kind: endpoint, model: teacher-1, url: {endpoint.url}, canaries: false"
        recipe = write_task(
            folder, tiny_model(), tiny_tokenizer(), teacher=teacher, items=ITEMS,
            more="budget: {requests: 100000}\n",
        )  # fmt: skip
        live = Live(worker, recipe, endpoint)
        assert live.go_on(live.begin())["code"] == 0
        run = live.begin()
        found = live.go_on(run)
        assert found["code"] == 0, found["output"]
        live.undisturbed, live.seconds = len(endpoint.asked), found["seconds"]
        yield live
    endpoint.stop()


def test_fifty_kills_ask_again_only_what_was_in_flight(live: Live) -> None:
    rng = random.Random(5)
    kills = 0
    while kills < KILLS:
        run = live.begin()
        for _ in range(10):
            found = live.go_on(run, kill_after=rng.uniform(0, live.seconds))
            assert found["code"] in (0, KILLED), found["output"]
            kills += found["code"] == KILLED
            live.in_flight(run)
        found = live.go_on(run)
        assert found["code"] == 0, found["output"]
        assert live.problems(run) == []


def test_each_request_is_one_exchange_of_the_runs_dataset_whatever_was_killed(live: Live) -> None:
    run = live.begin()
    assert live.go_on(run, kill_after=0.6 * live.seconds)["code"] in (0, KILLED)
    assert live.go_on(run, kill=["label", "write:train.jsonl"])["code"] in (0, KILLED)
    part = next((run / "exchanges" / "parquet").rglob("*.parquet"), None)
    assert part is not None, "written before the sheets"
    assert live.go_on(run)["code"] == 0
    exchanges = list(read_exchanges(run / "exchanges"))
    journal = read_journal(run / "label" / "replies.journal").records
    assert len(exchanges) == sum("intent" in record for record in journal)
    assert sum(one.refusal == "no_outcome" for one in exchanges) == live.in_flight(run)
    labelled = [one for one in exchanges if one.skeleton is not None and one.refusal is None]
    assert len(labelled) == ITEMS
    assert (run / "exchanges" / "secret").stat().st_mode & 0o077 == 0
    before = part.read_bytes()
    (run / "label" / "done.json").unlink()
    assert live.go_on(run)["code"] == 0
    assert part.read_bytes() == before, "made of the journal alone"


def test_what_was_in_flight_at_kills_counts_against_the_budget(live: Live) -> None:
    rng = random.Random(7)
    run = live.begin()
    whole = live.recipe.read_text()
    live.recipe.write_text(whole.replace("requests: 100000", f"requests: {live.undisturbed}"))
    try:
        for _ in range(200):
            if live.in_flight(run):
                break
            live.go_on(run, kill_after=rng.uniform(0.3, 1) * live.seconds)
            if (run / "label" / "train.jsonl").exists():
                run = live.begin()
        assert live.in_flight(run), "no kill came while a request was in flight"
        stopped = live.go_on(run)
        assert stopped["code"] == Exit.BUDGET, stopped["output"]
        assert "Raise budget.requests" in stopped["output"]
        assert len(live.endpoint.asked) <= live.undisturbed
        assert list(read_exchanges(run / "exchanges")), "what was asked is recorded all the same"
        room = live.undisturbed + live.in_flight(run)
        live.recipe.write_text(whole.replace("requests: 100000", f"requests: {room}"))
        found = live.go_on(run)
        assert found["code"] == 0, found["output"]
        live.in_flight(run)
        assert len(live.seen) >= ITEMS
    finally:
        live.recipe.write_text(whole)


@pytest.mark.parametrize("mutant", [None, "journal held back"])
def test_a_journal_that_holds_back_what_it_acknowledged_is_caught(
    live: Live, mutant: str | None
) -> None:
    run = live.begin()
    middle = ["label", "write:replies.journal", ITEMS]  # half of the intents and outcomes
    assert live.go_on(run, kill=middle, mutant=mutant)["code"] == KILLED
    live.in_flight(run)
    assert live.go_on(run)["code"] == 0
    assert bool(live.problems(run)) is (mutant is not None)


def page(asked: Asked) -> web.Response:
    return web.Response(text="<!DOCTYPE html><h1>log in</h1>", content_type="text/html")


def cut(asked: Asked) -> web.Response:
    whole = asked.reply("positive").body
    return web.Response(body=whole[: len(whole) // 2], content_type="application/json")


async def slow(asked: Asked) -> web.Response:
    await asyncio.sleep(3)
    return asked.reply("positive")


BAD = {
    "html": (page, "web page"),
    "truncated JSON": (cut, "cut or damaged"),
    "empty choices": (lambda asked: asked.reply(choices=[]), "without a choice"),
    "slow": (slow, "no whole answer"),
    "rate limited": (lambda asked: web.Response(status=429), "429"),
    "down": (None, "no connection"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_endpoint_that_stays_bad_stops_the_run_which_goes_on_when_it_is_well(
    live: Live, name: str
) -> None:
    handler, told = BAD[name]
    run = live.begin()
    whole = live.recipe.read_text()
    changed = whole.replace("canaries: false", "canaries: false, timeout_s: 0.2")
    if handler is None:
        changed = whole.replace(live.endpoint.url, "http://127.0.0.1:9/v1")
    try:
        live.recipe.write_text(changed)
        live.endpoint.handler = handler
        found = live.go_on(run)
    finally:
        live.recipe.write_text(whole)
        live.endpoint.handler = answer
    assert found["code"] == Exit.TEACHER, found["output"]
    assert told in found["output"]
    assert "Run the same command again" in found["output"]
    assert live.in_flight(run) == 0
    assert live.seen == {}, "a failure is no reply"
    assert live.go_on(run)["code"] == Exit.DONE
    assert live.in_flight(run) == 0
    assert len(live.seen) == ITEMS


@pytest.mark.parametrize("name", ["html", "truncated JSON", "empty choices", "rate limited"])
def test_an_endpoint_that_fails_now_and_then_is_asked_again(live: Live, name: str) -> None:
    handler, _ = BAD[name]
    run = live.begin()
    live.endpoint.handler = lambda asked: (
        handler(asked) if asked.number % 4 == 0 else asked.reply(f"reply number {asked.number}")
    )
    try:
        found = live.go_on(run)
    finally:
        live.endpoint.handler = answer
    assert found["code"] == Exit.DONE, found["output"]
    summary = orjson.loads((run / "label" / "summary.json").read_bytes())
    assert (summary["replies"], summary["failures"]) == (ITEMS, {})
    assert live.problems(run)[1:] == []


def test_replies_that_a_filter_stopped_are_counted_and_do_not_train(live: Live) -> None:
    run = live.begin()

    def filtered(asked: Asked) -> web.Response:
        finish = "content_filter" if asked.number % 3 == 0 else "stop"
        message = {"role": "assistant", "content": "positive" if finish == "stop" else ""}
        return asked.reply(choices=[{"index": 0, "message": message, "finish_reason": finish}])

    live.endpoint.handler = filtered
    try:
        found = live.go_on(run, until="curate")
    finally:
        live.endpoint.handler = answer
    assert found["code"] == Exit.DONE, found["output"]
    summary = orjson.loads((run / "label" / "summary.json").read_bytes())
    assert summary["failures"] == {"content_filter": ITEMS // 3}
    assert "dropped: the teacher gave no reply" in found["output"]


def test_another_model_midway_stops_the_run_and_keeps_what_the_first_one_said(live: Live) -> None:
    run = live.begin()
    live.endpoint.handler = lambda asked: asked.reply(
        f"reply number {asked.number}", model="teacher-1" if asked.number <= 25 else "teacher-2"
    )
    try:
        found = live.go_on(run)
    finally:
        live.endpoint.handler = answer
    assert found["code"] == Exit.TEACHER, found["output"]
    assert "'teacher-1'" in found["output"]
    assert "'teacher-2'" in found["output"]
    live.in_flight(run)
    assert len(live.seen) == 25
    assert live.go_on(run)["code"] == Exit.DONE
    live.in_flight(run)
    assert len(live.seen) == ITEMS


def test_ctrl_c_while_asking_finishes_what_is_in_flight_and_the_run_goes_on(live: Live) -> None:
    run = live.begin()
    found = live.go_on(run, interrupt=["label", "write:replies.journal", 30])
    assert found["code"] == Exit.INTERRUPTED, found["output"]
    assert live.in_flight(run) == 0, "what had been sent was waited for"
    assert 0 < len(live.seen) < ITEMS
    assert live.go_on(run)["code"] == Exit.DONE
    assert live.problems(run) == []
