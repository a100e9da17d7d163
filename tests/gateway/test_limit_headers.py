"""What replies say of limits: of key, account and organisation only, and never of a link."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.gateway.running import Running, running

BODY = {"model": "small", "messages": [{"role": "user", "content": "Hi"}]}
ROOM = 2


async def ask(session: aiohttp.ClientSession, gateway: Running) -> tuple[int, dict[str, str], Any]:
    headers = {"authorization": f"Bearer {gateway.key}"}
    url = f"{gateway.url}/v1/chat/completions"
    async with session.post(url, json=BODY, headers=headers) as reply:
        found = {name.lower(): value for name, value in reply.headers.items()}
        return reply.status, found, await reply.json()


def asked(folder: Path, limit: dict[str, Any], count: int = ROOM + 1) -> tuple[list[Any], str]:
    async def scenario() -> tuple[list[Any], str]:
        async with (
            running(folder, more_limits=[limit]) as gateway,
            aiohttp.ClientSession() as session,
        ):
            replies = [await ask(session, gateway) for _ in range(count)]
            return replies, gateway.log.getvalue()

    return asyncio.run(scenario())


def limit(scope: str, window_s: float = 3600.0) -> dict[str, Any]:
    return {"scope": scope, "measure": "requests", "amount": 2 * ROOM, "window_s": window_s}


def ratelimits(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if "ratelimit" in name}


@pytest.mark.parametrize("scope", ["key", "account", "organisation"])
def test_a_served_reply_speaks_of_the_clients_own_limit(tmp_path: Path, scope: str) -> None:
    replies, _ = asked(tmp_path, limit(scope))
    assert [status for status, _, _ in replies] == [200, 200, 429]
    first = ratelimits(replies[0][1])
    assert first["x-ratelimit-limit-requests"] == str(2 * ROOM)
    assert first["x-ratelimit-remaining-requests"] == "1"
    refused = replies[-1][1]
    assert not ratelimits(refused)
    assert 0 < int(refused["retry-after"]) <= 3600


@pytest.mark.parametrize("scope", ["address", "model", "global"])
def test_a_refusal_by_another_scope_looks_like_any_other(tmp_path: Path, scope: str) -> None:
    replies, log = asked(tmp_path, limit(scope))
    assert [status for status, _, _ in replies] == [200, 200, 429]
    for _, headers, _ in replies[:-1]:
        assert str(2 * ROOM) not in ratelimits(headers).values()
    _, headers, body = replies[-1]
    assert body["error"]["code"] == "rate_limited"
    assert scope not in json.dumps(body)
    assert not ratelimits(headers)
    # The true code is in the log, under the request's id.
    lines = [json.loads(line) for line in log.splitlines() if "rate_limited_linked" in line]
    lines = [line for line in lines if line["event"] == "limited"]
    assert [line["request"] for line in lines] == [headers["x-request-id"]]
    assert lines[0]["scope"] == scope


def test_how_long_to_wait_does_not_tell_a_short_window_from_a_long_one(tmp_path: Path) -> None:
    told = set()
    for number, window_s in enumerate((60.0, 86_400.0)):
        folder = tmp_path / str(number)
        folder.mkdir()
        replies, _ = asked(folder, limit("global", window_s))
        told.add(replies[-1][1]["retry-after"])
    assert len(told) == 1
