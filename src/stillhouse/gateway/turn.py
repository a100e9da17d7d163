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
    """An open request. Mutable: it is what the stages hand to each other.

    The defaults stand in the class: making one must cost nothing.
    """

    deadline = 0.0  # monotonic seconds; 0: none
    sending_since = 0.0  # since when the client has read nothing; 0: it reads
    cut_code: str | None = None
    headers_sent = False
    reserved = False
    settled = False  # its outcome is taken down: the last byte goes behind it
    intent: dict[str, Any] | None = None  # as the ledger has it; becomes the outcome
    facts: KeyFacts | None = None
    address: Address | None = None
    client_text = ""
    sdk: str | None = None
    asn: int | None = None
    fingerprint: str | None = None  # of its TLS, as a trusted proxy says
    body = b""
    asked: Asked | None = None
    model: Model | None = None
    end_user: bytes | None = None  # its keyed digest
    bound: Bound | None = None
    rebuilder: ReplyRebuilder | None = None
    connection: Connection | None = None
    first_us: int | None = None
    opened = 0.0  # monotonic seconds: everything is reserved
    refusal: str | None = None  # the true code

    def __init__(self, identity: bytes, arrived_us: int, started: float, dialect: Dialect):
        self.id = identity
        self.arrived_us = arrived_us
        self.started = started  # monotonic seconds
        self.dialect = dialect
        self.task: asyncio.Task[Any] | None = asyncio.current_task()

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
