"""A labelling journal becomes exchanges: each request that was sent, once, without its text."""

from __future__ import annotations

from pathlib import Path

import pytest

from stillhouse.exchanges import Journal, KeyedDigests, SkeletonHash, read_journal, skeleton
from stillhouse.teachers import (
    Budget,
    Caps,
    ChatRequest,
    EndpointSettings,
    EndpointTeacher,
    Message,
    Price,
    Sampling,
    exchanges_of,
    label,
    open_journal,
    request_key,
)
from stillhouse.teachers.exchanged import NO_OUTCOME
from stillhouse.teachers.pacing import Backoff
from stillhouse.teachers.scheduler import LabelSettings

DIGESTS = KeyedDigests(b"a secret of thirty-two bytes....")
PRICE = Price.per_token(3, 5)


def ask(text: str) -> ChatRequest:
    return ChatRequest(messages=(Message("user", text),), sampling=Sampling(max_tokens=9))


def exchanges(journal: Path, requests):
    by_key = {request_key(request): request for request in requests.values()}
    records = read_journal(journal).records
    return list(exchanges_of(records, by_key, DIGESTS, account="reviews", model="teacher-1"))


@pytest.fixture
def journal(tmp_path: Path, endpoint):
    """Ask four things; one fails twice before it is answered."""
    endpoint.handler = lambda asked: (
        asked.reply(choices=[]) if asked.number in (2, 3) else asked.reply(text="positive")
    )
    teacher = EndpointTeacher(EndpointSettings(url=endpoint.url, model="teacher-1"))
    requests = {str(i): ask(f"Rate film {i}") for i in range(4)}
    path = tmp_path / "replies.journal"
    settings = LabelSettings(backoff=Backoff(base_us=10, highest_us=20))
    with open_journal(path, teacher) as journal:
        label(requests, teacher, journal, Budget(Caps(), PRICE), settings=settings)
    return path, requests


def test_every_request_that_was_sent_is_one_exchange(journal) -> None:
    path, requests = journal
    found = exchanges(path, requests)
    assert len(found) == 6, "four replies, two failed tries"
    assert sum(one.refusal == "no_choices" for one in found) == 2
    replied = [one for one in found if one.refusal is None]
    assert {one.finish_reason for one in replied} == {"stop"}
    assert {(one.tokens_in, one.tokens_out, one.price_nano) for one in replied} == {
        (20, 5, 20 * 3 + 5 * 5)
    }
    assert len({one.id for one in found}) == 6
    asked = {DIGESTS.digest("request", request_key(r).encode()) for r in requests.values()}
    assert {one.request_digest for one in found} == asked
    assert {one.skeleton for one in found} == {
        SkeletonHash(DIGESTS).signature(skeleton("Rate film 1"))
    }
    assert {(one.account, one.model, one.max_tokens, one.turns) for one in found} == {
        ("reviews", "teacher-1", 9, 1)
    }


def test_they_are_the_same_whenever_they_are_read(journal) -> None:
    path, requests = journal
    assert exchanges(path, requests) == exchanges(path, requests)


def test_what_was_in_flight_at_a_kill_has_no_outcome_and_its_whole_price(journal) -> None:
    path, requests = journal
    whole = read_journal(path)
    header, records = whole.header, whole.records
    last = max(record["reply"] for record in records if "reply" in record)
    path.unlink()
    with Journal.open(path, header=header) as cut:
        cut.append_all([record for record in records if record.get("reply") != last])
    lost = [one for one in exchanges(path, requests) if one.refusal == NO_OUTCOME]
    (intent,) = [record for record in records if record.get("intent") == last]
    assert [(one.price_nano, one.status) for one in lost] == [(intent["nano"], None)]


def test_a_request_of_another_recipe_has_a_digest_and_no_skeleton(journal) -> None:
    path, _ = journal
    found = exchanges(path, {})
    assert all(one.skeleton is None and one.request_digest for one in found)
