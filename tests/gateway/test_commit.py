"""Group commit: nothing goes out before what it rests on is written, and a failure lets none go."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest

from stillhouse.gateway.commit import Commit
from stillhouse.gateway.log import Log


class Books:
    """A ledger and a limiter that note what is written, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.works = True
        self.failing = False
        self.reason: str | None = None

    def flush(self, *, intents: bool = True) -> bool:
        self.events.append("intents and outcomes" if intents else "outcomes")
        return self.works

    def write_reserved(self) -> str | None:
        self.events.append("reserved")
        return self.reason

    def write_settled(self) -> str | None:
        self.events.append("settled")
        return None


class Held:
    def __init__(self, books: Books):
        self.books = books

    def send(self, request: bytes) -> None:
        self.books.events.append(f"sent {request.decode()}")

    def withhold(self, code: str) -> None:
        self.books.events.append(f"withheld {code}")


def committing(books: Any, turns: int) -> Commit:
    return Commit(books, books, range(turns), Log(io.StringIO()))


def test_what_came_together_is_written_once_and_goes_out_behind() -> None:
    async def scenario() -> None:
        books = Books()
        commit = committing(books, turns=3)
        commit.before_upstream(Held(books), b"one")
        commit.before_client(lambda: books.events.append("reply"))
        commit.before_upstream(Held(books), b"two")
        commit.afterwards(lambda: books.events.append("afterwards"))
        assert books.events == []
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert books.events == [
            *("reserved", "intents and outcomes", "sent one", "sent two"),
            *("reply", "afterwards", "settled"),
        ]

    asyncio.run(scenario())


def test_a_request_that_is_alone_does_not_wait() -> None:
    async def scenario() -> None:
        books = Books()
        commit = committing(books, turns=1)
        commit.before_upstream(Held(books), b"one")
        assert books.events == ["reserved", "intents and outcomes", "sent one", "settled"]
        commit.afterwards(lambda: books.events.append("afterwards"))
        assert "afterwards" not in books.events
        commit.before_client(lambda: books.events.append("reply"))
        assert books.events[-3:] == ["reply", "afterwards", "settled"]

    asyncio.run(scenario())


@pytest.mark.parametrize("what", ["journal_failing", "limits_unavailable"])
def test_what_cannot_be_written_is_not_sent_but_replies_are(what: str) -> None:
    async def scenario() -> None:
        books = Books()
        books.works = what != "journal_failing"
        books.reason = "full" if what == "limits_unavailable" else None
        commit = committing(books, turns=2)
        commit.before_upstream(Held(books), b"one")
        commit.before_client(lambda: books.events.append("reply"))
        commit.now()
        assert f"withheld {what}" in books.events
        assert "sent one" not in books.events
        assert "reply" in books.events
        assert ("intents and outcomes" in books.events) == (books.reason is None)
        assert books.failing == (books.reason is not None)

    asyncio.run(scenario())


def test_a_reply_that_fails_holds_back_no_other() -> None:
    async def scenario() -> None:
        books = Books()
        commit = committing(books, turns=2)
        commit.before_client(lambda: books.events.append(str(1 // 0)))
        commit.before_client(lambda: books.events.append("reply"))
        commit.afterwards(lambda: books.events.append("afterwards"))
        commit.now()
        assert books.events[-3:] == ["reply", "afterwards", "settled"]

    asyncio.run(scenario())
