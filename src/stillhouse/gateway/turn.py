"""One request on its way through the gateway: what it is, and how it can be ended from outside."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stillhouse.accounts import Address, KeyFacts
    from stillhouse.gateway.admission import Bound
    from stillhouse.gateway.config import Model
    from stillhouse.gateway.refusals import Dialect
    from stillhouse.gateway.surfaces import Asked, ReplyRebuilder
    from stillhouse.gateway.upstream import Connection


class Turn:
    """An open request. Mutable: it is what the stages hand to each other."""

    __slots__ = (
        "address",
        "arrived_us",
        "asked",
        "body",
        "bound",
        "client_text",
        "connection",
        "cut_code",
        "deadline",
        "dialect",
        "end_user",
        "facts",
        "first_us",
        "headers_sent",
        "id",
        "intent",
        "model",
        "rebuilder",
        "reserved",
        "sdk",
        "sending_since",
        "started",
        "task",
    )

    def __init__(self, identity: bytes, arrived_us: int, started: float, dialect: Dialect):
        self.id = identity
        self.arrived_us = arrived_us
        self.started = started  # monotonic seconds
        self.dialect = dialect
        self.task: asyncio.Task[object] | None = asyncio.current_task()
        self.deadline = 0.0  # monotonic seconds; 0: none
        self.sending_since = 0.0  # since when the client has read nothing; 0: it reads
        self.cut_code: str | None = None
        self.headers_sent = False
        self.reserved = False
        self.intent: dict[str, Any] | None = None  # as the ledger has it; becomes the outcome
        self.facts: KeyFacts | None = None
        self.address: Address | None = None
        self.client_text = ""
        self.sdk: str | None = None
        self.body = b""
        self.asked: Asked | None = None
        self.model: Model | None = None
        self.end_user: bytes | None = None  # its keyed digest
        self.bound: Bound | None = None
        self.rebuilder: ReplyRebuilder | None = None
        self.connection: Connection | None = None
        self.first_us: int | None = None

    @property
    def request_id(self) -> str:
        """What the client is told to quote, and what the log says."""
        return f"req_{self.id.hex()}"

    def cut(self, code: str) -> None:
        """End the request wherever it is; the first reason counts."""
        if self.cut_code is None and self.task is not None:
            self.cut_code = code
            self.task.cancel()

    def overdue(self, now: float, slow_client_s: float) -> str | None:
        """Return why the request must end now, if it must."""
        if 0.0 < self.deadline < now:
            return "slow_request" if self.asked is None else "upstream_timeout"
        if 0.0 < self.sending_since < now - slow_client_s:
            return "slow_request"
        return None
