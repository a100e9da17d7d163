import asyncio
import dataclasses
import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys

import pytest

from stillhouse.exchanges import InputError, read_journal
from stillhouse.teachers.budget import Budget, Caps, Price
from stillhouse.teachers.chat import ChatRequest, Failure, Message, Reply, Sampling
from stillhouse.teachers.endpoint import EndpointSettings, EndpointTeacher, Timeouts
from stillhouse.teachers.labelling import label, open_journal
from stillhouse.teachers.pacing import Backoff
from stillhouse.teachers.scheduler import LabelSettings

QUICK = LabelSettings(
    backoff=Backoff(base_us=1_000, highest_us=5_000), max_attempts=4, start_concurrency=8
)
PRICE = Price.per_token(100, 1_000)


def answer(prompt):
    return "answer " + hashlib.sha256(prompt.encode()).hexdigest()[:12]


def ask(prompt, max_tokens=16):
    return ChatRequest(
        messages=(Message("user", prompt),), sampling=Sampling(max_tokens=max_tokens)
    )


def prompts(n):
    return {f"item-{i}": ask(f"prompt {i}") for i in range(n)}


def run(
    endpoint, folder, requests, *, caps=None, price=None, settings=QUICK, timeouts=None, **more
):
    teacher = EndpointTeacher(
        EndpointSettings(url=endpoint.url, model="teacher-1", timeouts=timeouts or Timeouts())
    )
    with open_journal(folder / "labels.journal", teacher) as journal:
        budget = Budget(caps or Caps(), price)
        return label(requests, teacher, journal, budget, settings=settings, **more)


def test_every_item_gets_its_reply_with_price_and_latency(endpoint, tmp_path):
    result = run(endpoint, tmp_path, prompts(50), price=PRICE)
    assert result.stopped is None
    assert list(result.answers) == [f"item-{i}" for i in range(50)]
    reply = result.answers["item-7"]
    assert isinstance(reply, Reply)
    assert reply.text == answer("prompt 7")
    assert reply.price_nano == 20 * 100 + 5 * 1_000
    assert reply.latency_us > 0
    assert result.spent.nano == 50 * reply.price_nano
    assert result.spent.held_requests == 0


def test_identical_requests_are_asked_once(endpoint, tmp_path):
    requests = {f"item-{i}": ask(f"prompt {i % 3}") for i in range(30)}
    result = run(endpoint, tmp_path, requests)
    assert sorted(endpoint.prompts) == ["prompt 0", "prompt 1", "prompt 2"]
    assert len(result.answers) == 30
    assert result.reused == 27
    assert result.answers["item-29"].text == answer("prompt 2")


def test_a_second_run_asks_nothing_and_answers_the_same(endpoint, tmp_path):
    first = run(endpoint, tmp_path, prompts(20), price=PRICE)
    asked = len(endpoint.asked)
    second = run(endpoint, tmp_path, prompts(20), price=PRICE)
    assert len(endpoint.asked) == asked == 20
    assert second.answers == first.answers
    assert second.requests_sent == 0
    assert second.spent == first.spent


def test_failures_are_never_kept_as_replies_and_are_asked_again(endpoint, tmp_path):
    endpoint.handler = lambda asked: (
        asked.reply(choices=[]) if asked.prompt == "prompt 3" else asked.reply()
    )
    first = run(endpoint, tmp_path, prompts(5))
    assert first.stopped is None
    failure = first.answers["item-3"]
    assert isinstance(failure, Failure)
    assert (failure.code, failure.attempts) == ("no_choices", 4)
    endpoint.handler = lambda asked: asked.reply()
    second = run(endpoint, tmp_path, prompts(5))
    assert second.answers["item-3"].text == answer("prompt 3")
    assert endpoint.prompts[8:] == ["prompt 3"]


def test_rate_limits_are_waited_out_and_cost_nothing(endpoint, tmp_path):
    from aiohttp import web

    rng = random.Random(3)
    endpoint.handler = lambda asked: (
        web.json_response({"error": {"message": "slow down"}}, status=429)
        if rng.random() < 0.3
        else asked.reply()
    )
    settings = dataclasses.replace(QUICK, max_attempts=30)
    result = run(endpoint, tmp_path, prompts(60), caps=Caps(requests=60), settings=settings)
    assert result.stopped is None
    assert len(result.answers) == 60
    assert result.spent.requests == 60
    assert result.requests_sent > 60


def test_a_budget_that_runs_out_stops_cleanly_and_goes_on_when_it_is_raised(endpoint, tmp_path):
    first = run(endpoint, tmp_path, prompts(40), caps=Caps(requests=15))
    assert first.stopped is not None
    assert first.stopped.code == "budget_exhausted"
    assert "budget.requests" in first.stopped.message
    assert len(first.answers) == len(endpoint.asked) == 15
    second = run(endpoint, tmp_path, prompts(40), caps=Caps(requests=40))
    assert second.stopped is None
    assert len(second.answers) == len(endpoint.asked) == 40
    assert {k: second.answers[k] for k in first.answers} == first.answers


def test_the_budget_is_used_up_to_its_last_full_reservation(endpoint, tmp_path):
    # 25 tokens are used and about 300 are reserved: settling must make room again.
    caps = Caps(tokens=25 * 30 + 400)
    result = run(endpoint, tmp_path, prompts(100), caps=caps)
    assert result.stopped.code == "budget_exhausted"
    assert len(result.answers) >= 30
    assert result.spent.tokens <= caps.tokens


def test_a_time_out_is_charged_in_full(endpoint, tmp_path):
    async def slow(asked):
        await asyncio.sleep(5)
        return asked.reply()

    endpoint.handler = slow
    settings = dataclasses.replace(QUICK, max_attempts=1)
    result = run(
        endpoint,
        tmp_path,
        prompts(1),
        price=PRICE,
        settings=settings,
        timeouts=Timeouts(read_s=0.05),
    )
    failure = result.answers["item-0"]
    assert isinstance(failure, Failure)
    assert failure.code == "timeout"
    bound_in = len(b"prompt 0") + 16 + 256
    assert failure.charged_nano == result.spent.nano == bound_in * 100 + 16 * 1_000


def test_usage_above_its_reserve_stops_the_run_and_is_reported(endpoint, tmp_path):
    greedy = {"prompt_tokens": 20, "completion_tokens": 900}
    endpoint.handler = lambda asked: (
        asked.reply(usage=greedy) if asked.number == 5 else asked.reply()
    )
    result = run(endpoint, tmp_path, prompts(300))
    assert result.stopped.code == "usage_above_reserve"
    assert "900 out" in result.stopped.message
    assert len(endpoint.asked) < 100


def test_a_fatal_answer_stops_the_run_at_once(endpoint, tmp_path):
    from aiohttp import web

    endpoint.handler = lambda asked: web.json_response({"error": {"message": "no"}}, status=401)
    result = run(endpoint, tmp_path, prompts(500))
    assert result.stopped.code == "not_authorised"
    assert len(endpoint.asked) <= QUICK.start_concurrency


def test_an_endpoint_that_is_down_stops_the_run_and_keeps_the_rest_for_later(endpoint, tmp_path):
    url, endpoint.url = endpoint.url, "http://127.0.0.1:9/v1"
    first = run(endpoint, tmp_path, prompts(200))
    assert first.stopped.code == "endpoint_down"
    assert first.spent.requests == 0
    assert not any(isinstance(a, Reply) for a in first.answers.values())
    endpoint.url = url
    second = run(endpoint, tmp_path, prompts(200))
    assert second.stopped is None
    assert len(endpoint.asked) == 200


def test_another_model_midway_stops_the_run_and_its_reply_is_not_kept(endpoint, tmp_path):
    endpoint.handler = lambda asked: asked.reply(
        model="teacher-2" if asked.number > 20 else "teacher-1"
    )
    result = run(endpoint, tmp_path, prompts(200))
    assert result.stopped.code == "teacher_changed"
    assert "teacher-2" in result.stopped.message
    kept = [a for a in result.answers.values() if isinstance(a, Reply)]
    assert len(kept) == 20
    assert {reply.model for reply in kept} == {"teacher-1"}


def test_the_journal_holds_no_prompt_and_no_failure_as_a_reply(endpoint, tmp_path):
    endpoint.handler = lambda asked: asked.reply(choices=[]) if asked.number % 2 else asked.reply()
    run(endpoint, tmp_path, prompts(10), settings=dataclasses.replace(QUICK, max_attempts=30))
    contents = read_journal(tmp_path / "labels.journal")
    assert "prompt 1" not in json.dumps(contents.records)
    replies = [r for r in contents.records if "reply" in r]
    assert len(replies) == 10
    assert all(r["value"]["text"].startswith("answer") for r in replies)


def test_a_journal_of_another_teacher_is_refused(endpoint, tmp_path):
    run(endpoint, tmp_path, prompts(2))
    other = EndpointTeacher(EndpointSettings(url=endpoint.url, model="teacher-9"))
    with pytest.raises(InputError, match="teacher"):
        open_journal(tmp_path / "labels.journal", other)


def test_progress_counts_items_and_money_and_ends_at_the_total(endpoint, tmp_path):
    requests = prompts(30) | {"again": ask("prompt 0")}
    run(endpoint, tmp_path, prompts(10))
    seen = []
    settings = dataclasses.replace(QUICK, progress_every_s=0.0)
    run(endpoint, tmp_path, requests, price=PRICE, progress=seen.append, settings=settings)
    last = seen[-1]
    assert (last.done, last.total, last.failed, last.reused) == (31, 31, 0, 11)
    assert last.requests_sent == 20
    assert last.spent.nano == 30 * 7_000
    assert all(a.done <= b.done for a, b in itertools.pairwise(seen))
    assert any(p.eta_s is not None and p.rate_per_s > 0 for p in seen)


def test_ctrl_c_finishes_what_is_in_flight_and_the_next_run_goes_on(endpoint, tmp_path):
    all_waiting = asyncio.Event()

    async def holds_the_first_eight(asked):
        if asked.number == 8:
            os.kill(os.getpid(), signal.SIGINT)
            asyncio.get_running_loop().call_later(0.1, all_waiting.set)
        await all_waiting.wait()
        return asked.reply()

    endpoint.handler = holds_the_first_eight
    first = run(endpoint, tmp_path, prompts(100))
    assert first.stopped.code == "interrupted"
    assert len(first.answers) == len(endpoint.asked) == 8
    assert first.spent.requests == len(endpoint.asked)
    endpoint.handler = lambda asked: asked.reply()
    second = run(endpoint, tmp_path, prompts(100))
    assert second.stopped is None
    assert len(endpoint.asked) == 100


def test_a_second_ctrl_c_abandons_what_is_in_flight_charged_in_full(endpoint, tmp_path):
    async def hangs(asked):
        if asked.number == 8:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(5)
        return asked.reply()

    endpoint.handler = hangs
    result = run(endpoint, tmp_path, prompts(20))
    assert result.stopped.code == "interrupted"
    assert result.answers == {}
    assert result.spent.requests == 8
    assert result.spent.tokens == 8 * (8 + 16 + 256 + 16)
    again = run(endpoint, tmp_path, {})
    assert again.spent == result.spent


def test_a_full_disk_ends_the_run_with_an_error_and_loses_nothing(endpoint, tmp_path, monkeypatch):
    from stillhouse.exchanges.journal import Journal

    append = Journal.append
    count = 0

    def full(self, record):
        nonlocal count
        count += 1
        if count > 40:
            raise InputError("the disk is full", place=str(self.path))
        return append(self, record)

    monkeypatch.setattr(Journal, "append", full)
    with pytest.raises(InputError, match="disk is full"):
        run(endpoint, tmp_path, prompts(100))
    monkeypatch.setattr(Journal, "append", append)
    kept = sum("reply" in r for r in read_journal(tmp_path / "labels.journal").records)
    before = len(endpoint.asked)
    result = run(endpoint, tmp_path, prompts(100))
    assert result.stopped is None
    assert len(result.answers) == 100
    assert len(endpoint.asked) - before == 100 - kept
    assert result.spent.requests == len(endpoint.asked)


def test_no_more_than_the_highest_concurrency_is_in_flight(endpoint, tmp_path):
    async def slow(asked):
        await asyncio.sleep(0.002)
        return asked.reply()

    endpoint.handler = slow
    settings = dataclasses.replace(QUICK, concurrency=5)
    run(endpoint, tmp_path, prompts(200), settings=settings)
    assert 1 < endpoint.most_in_flight <= 5


def test_a_torn_last_line_is_reported_and_only_that_request_is_asked_again(endpoint, tmp_path):
    run(endpoint, tmp_path, prompts(5))
    path = tmp_path / "labels.journal"
    path.write_bytes(path.read_bytes()[:-3])
    result = run(endpoint, tmp_path, prompts(5))
    assert result.stopped is None
    assert len(endpoint.asked) == 6
    assert any("cut off" in note for note in result.notes)
    assert any("in flight" in note for note in result.notes)


def test_the_room_is_imported_without_torch():
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'gguf'): sys.modules[name] = None\n"
        "import stillhouse.teachers"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
