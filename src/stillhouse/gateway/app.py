"""The gateway's path: one request from its first byte to its last, in order.

Read `Gateway._serve` first. Everything that opens files, sockets or tasks is in `service`.
"""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from stillhouse.accounts import Origin, parse_address
from stillhouse.exchanges import InputError, new_id
from stillhouse.gateway.addresses import client_address, vouched
from stillhouse.gateway.admission import (
    INFERENCE,
    Asking,
    Bound,
    Refuse,
    identify,
    permit,
    price,
)
from stillhouse.gateway.http import ClientGoneError, TooLargeError
from stillhouse.gateway.refusals import REFUSALS, RefusedError, error_body, error_event, shown
from stillhouse.gateway.relay import UNKNOWN
from stillhouse.gateway.surfaces import ReplyRebuilder, model_body, models_body, parse_request
from stillhouse.gateway.terms import ACCEPTANCES, MOST_BYTES, TERMS, TERMS_SCOPE
from stillhouse.gateway.turn import Turn
from stillhouse.limits import ratelimit_lines

if TYPE_CHECKING:
    from stillhouse.accounts import (
        Address,
        FailureThrottle,
        KeyFacts,
        KeyUses,
        Origins,
        Sightings,
        Snapshot,
    )
    from stillhouse.exchanges import KeyedDigests
    from stillhouse.gateway.accounting import Accounting
    from stillhouse.gateway.http import Request
    from stillhouse.gateway.log import Log
    from stillhouse.gateway.metrics import Metrics
    from stillhouse.gateway.offering import Offered, Offering
    from stillhouse.gateway.refusals import Dialect
    from stillhouse.gateway.surfaces import Asked, RequestPolicy, Surface
    from stillhouse.gateway.terms import TermsDesk
    from stillhouse.gateway.tracing import Tracer
    from stillhouse.limits import SteadyClock

    Headers = list[tuple[bytes, bytes]]

_POSTS: dict[str, tuple[Surface, Dialect]] = {
    "/v1/chat/completions": ("chat", "openai"),
    "/v1/completions": ("completions", "openai"),
    "/v1/responses": ("responses", "openai"),
    "/v1/embeddings": ("embeddings", "openai"),
    "/v1/messages": ("messages", "anthropic"),
}
_OTHER: tuple[None, Dialect] = (None, "openai")
_MODELS = "/v1/models"
_JSON = b"content-type: application/json\r\n"
_STREAM = b"content-type: text/event-stream\r\ncache-control: no-cache\r\n"
_ID = {"openai": b"x-request-id: %b\r\n", "anthropic": b"request-id: %b\r\n"}
_SDK_CHARS = 120
_NOTED_US = 600_000_000
_PROMPT_BYTES = 10  # kept of each distinct prompt; any two among a million are one with 4e-13
_READ = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"user-agent",
        b"x-api-key",
        b"x-forwarded-for",
    }
)
_NOWHERE = Origin()
_LARGE_BYTES = 131_072  # of a body: reading one of megabytes takes a good part of a second
# Threads of their own: whatever clients send, the feed of bans and the disk never wait for one.
_READING = ThreadPoolExecutor(1, "reading")
_COUNTING = ThreadPoolExecutor(2, "counting")


class Gateway:
    """Serves clients. `offering` is what the configuration offers, swapped whole at a reload."""

    def __init__(
        self,
        *,
        offering: Offering,
        snapshot: Snapshot,
        turns: set[Turn],
        books: Accounting,
        digests: KeyedDigests,
        throttle: FailureThrottle,
        sightings: Sightings,
        uses: KeyUses,
        origins: Origins | None,
        clock: SteadyClock,
        metrics: Metrics,
        log: Log,
        desk: TermsDesk | None = None,
        tracer: Tracer | None = None,
    ):
        self.offering = offering
        self.snapshot = snapshot
        self.turns = turns
        self.draining = False
        self._books = books
        self._digest = digests.digest
        self._throttle = throttle
        self._sightings = sightings
        self._uses = uses
        self._origins = origins
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._desk = desk
        self._tracer = tracer
        self._random = _Random().take
        self._noted: dict[str, Address] = {}
        self._noted_until_us = 0

    async def serve(self, request: Request) -> None:
        """Serve one request. What fails is answered, logged and counted, never raised."""
        path = request.path
        surface, dialect = _POSTS.get(path, _OTHER)
        if surface is None:
            if path in ("/healthz", "/readyz"):
                self._health(request)
                return
            dialect = _dialect_of(request.headers)
        arrived_us = self._clock.now_us()
        turn = Turn(new_id(arrived_us, self._random), arrived_us, time.monotonic(), dialect)
        self.turns.add(turn)
        try:
            if surface is None:
                if path.startswith(TERMS):
                    await self._terms(turn, request)
                else:
                    self._models(turn, request)
            elif request.method != b"POST":
                raise RefusedError("method_not_allowed")
            else:
                await self._serve(turn, surface, request)
        except RefusedError as error:
            self._refuse(turn, error, request)
        except asyncio.CancelledError:
            self._cut(turn, request)
        except Exception as error:  # noqa: BLE001 (the last resort: no trace may reach a client)
            self._log.failure(turn.request_id, error)
            self._refuse(turn, RefusedError("internal_error"), request)
        finally:
            self.turns.discard(turn)
            if self._tracer is not None:
                self._tracer.finish(turn, request, self.offering.hops)

    async def _serve(self, turn: Turn, surface: Surface, request: Request) -> None:
        offering = self.offering
        facts = self._enter(turn, request)
        body = turn.body = await _read(turn, request, offering.bounds.body_bytes)
        now_us = self._clock.now_us()
        tier = self.snapshot.tier(facts)
        policy = offering.policy(facts, tier)
        if len(body) > _LARGE_BYTES:
            loop = asyncio.get_running_loop()
            asked = await loop.run_in_executor(
                _READING, _parse_slowly, surface, body, policy, now_us
            )
        else:
            asked = parse_request(surface, body, policy, now_us)
        turn.asked = asked
        offered = offering.models[asked.model]
        turn.model = offered.model
        if offered.tokens.is_slow(asked):  # nobody else waits for it
            loop = asyncio.get_running_loop()
            turn.bound = await loop.run_in_executor(_COUNTING, _bound, turn, offered)
        else:
            turn.bound = _bound(turn, offered)
        admitted = permit(self.snapshot, offering.rules, facts, self._asking(turn))
        if isinstance(admitted, Refuse):
            raise RefusedError(admitted.code)
        turn.deadline = turn.started + offering.timeouts.total_s
        reserved = await self._books.open(turn, admitted.claim)
        try:
            rebuilder = turn.rebuilder = ReplyRebuilder(
                asked, reply_id=turn.id.hex(), created_s=now_us // 1_000_000
            )
            if asked.stream:
                await offered.relay.begin(turn, asked)
                turn.headers_sent = True
                request.begin(200, _STREAM + _request_id(turn) + ratelimit_lines(reserved.readings))
                await offered.relay.stream(turn, rebuilder, turn.bound.output_tokens, request)
            else:
                data = await offered.relay.whole(turn, asked, rebuilder)
                turn.headers_sent = True
                lines = _JSON + _request_id(turn) + ratelimit_lines(reserved.readings)
                self._books.commit.before_client(partial(request.respond, 200, lines, data))
        finally:
            if turn.reserved:  # ended from outside, or a mistake of our own: paid as reserved
                await self._books.settle(turn, UNKNOWN, status=499, refusal=turn.cut_code)

    def _enter(self, turn: Turn, request: Request, scope: str = INFERENCE) -> KeyFacts:
        """Identify the client by its headers alone. Raises `RefusedError`."""
        offering, snapshot = self.offering, self.snapshot
        bounds = offering.bounds
        size = length = 0
        json = request.method == b"GET"
        bearer = key = None
        twice = False
        forwarded: list[str] = []
        for name, value in request.headers:
            size += len(name) + len(value)
            if name not in _READ:
                continue
            if name == b"authorization":
                twice = twice or bearer is not None
                bearer = value
            elif name == b"content-type":
                json = value[:16].lower() == b"application/json"
            elif name == b"content-length":
                length = int(value)
            elif name == b"user-agent":
                turn.sdk = value[:_SDK_CHARS].decode("latin-1")
            elif name == b"x-api-key":
                twice = twice or key is not None
                key = value
            elif name == b"x-forwarded-for":
                forwarded.append(value.decode("latin-1"))
            else:
                raise RefusedError("content_type")  # encoded content is not read
        if twice:  # what stands in front may have looked at the other one
            raise RefusedError("bad_request", "more than one key")
        if self.draining:
            raise RefusedError("draining")
        if snapshot.is_stale(time.monotonic_ns() // 1000):
            raise RefusedError("stale_feed")
        if self._books.ledger.failing:
            raise RefusedError("journal_failing")
        if len(self.turns) > bounds.in_flight:
            raise RefusedError("overloaded")
        if size > bounds.header_bytes:
            raise RefusedError("request_too_large", "headers")
        turn.client_text = client_address(request.peer, forwarded, offering.hops)
        try:
            address = turn.address = parse_address(turn.client_text)
        except InputError:
            raise RefusedError("address_blocked") from None
        now_us = turn.arrived_us
        origin = _NOWHERE if self._origins is None else self._origins.find(address)
        if offering.hops.vouching:
            origin, turn.fingerprint = vouched(request.peer, request.headers, offering.hops, origin)
        turn.asn = origin.asn
        key_text = _key_text(bearer, key)
        facts = identify(snapshot, address, origin, key_text, now_us, scope)
        if isinstance(facts, Refuse):
            wait_us = 0
            if REFUSALS[facts.code].status == 401:
                wait_us = self._throttle.fail(address, now_us)
            self._log.refused(turn.request_id, facts.code, None, facts.measure)
            if wait_us > 0:
                raise RefusedError("auth_throttled", retry_after_us=wait_us)
            raise RefusedError(facts.code)
        turn.facts = facts
        if not json:
            raise RefusedError("content_type")
        if length > bounds.body_bytes:
            raise RefusedError("request_too_large")
        self._note(facts, key_text or "", address, now_us)
        turn.deadline = turn.started + offering.timeouts.body_s
        return facts

    def _note(self, facts: KeyFacts, key_text: str, address: Address, now_us: int) -> None:
        """Note who was seen where and that the key was used: once in ten minutes is enough."""
        if now_us >= self._noted_until_us:
            self._noted_until_us = now_us + _NOTED_US
            self._noted.clear()
        if self._noted.get(facts.key_id) is not address:
            self._noted[facts.key_id] = address
            self._sightings.note(address, facts.account, now_us)
            self._uses.note(facts, key_text, now_us)

    def _asking(self, turn: Turn) -> Asking:
        asked, facts = turn.asked, turn.facts
        if asked is None or facts is None or turn.address is None or turn.bound is None:
            raise RuntimeError("asked before it was identified and bounded")
        if asked.end_user is not None:
            text = f"{facts.account}/{asked.end_user}"
            turn.end_user = self._digest("end-user", text.encode("utf-8", "replace"))
        prompt = self._digest("prompt", asked.whole_prompt)[:_PROMPT_BYTES]
        return Asking(turn.address, _NOWHERE, None, asked.model, turn.bound, prompt, turn.end_user)

    def _models(self, turn: Turn, request: Request) -> None:
        path = request.path
        if path != _MODELS and not path.startswith(_MODELS + "/"):
            raise RefusedError("unknown_path")
        if request.method != b"GET":
            raise RefusedError("method_not_allowed")
        facts = self._enter(turn, request)
        models = self.offering.policy(facts, self.snapshot.tier(facts)).models
        created_s = turn.arrived_us // 1_000_000
        if path == _MODELS:
            data = models_body(models.values(), turn.dialect, created_s)
        else:
            found = models.get(path[len(_MODELS) + 1 :])
            if found is None:
                raise RefusedError("unknown_model")
            data = model_body(found, turn.dialect, created_s)
        request.respond(200, _JSON + _request_id(turn), data)

    async def _terms(self, turn: Turn, request: Request) -> None:
        """Let an organisation's admin read the terms (GET) and accept them (POST)."""
        method = {TERMS: b"GET", ACCEPTANCES: b"POST"}.get(request.path)
        if method is None or self._desk is None:
            raise RefusedError("unknown_path")
        if request.method != method:
            raise RefusedError("method_not_allowed")
        facts = self._enter(turn, request, TERMS_SCOPE)
        turn.address = None  # what has not accepted yet is not cut for that (`recheck`)
        if method == b"GET":
            data = await self._desk.show(facts)
        else:
            body = await _read(turn, request, MOST_BYTES)
            data = await self._desk.accept(facts, body, turn.client_text)
        request.respond(200, _JSON + _request_id(turn), data)

    def _health(self, request: Request) -> None:
        ready = request.path == "/healthz" or self.is_ready()
        data = b"ok\n" if ready else b"not ready\n"
        request.respond(200 if ready else 503, b"content-type: text/plain\r\n", data)

    def is_ready(self) -> bool:
        """Say whether requests would be served now."""
        now = time.monotonic()
        return (
            not self.draining
            and not self._books.ledger.failing
            and not self.snapshot.is_stale(time.monotonic_ns() // 1000)
            and any(o.relay.route.is_open(now) for o in self.offering.models.values())
        )

    def recheck(self) -> None:
        """Cut every open request whose key, account or address may not be served any more."""
        now_us = self._clock.now_us()
        for turn in list(self.turns):
            if turn.facts is None or turn.address is None:
                continue
            denied = self.snapshot.standing(turn.facts, now_us)
            denied = denied or self.snapshot.blocks.match(turn.address, now_us)
            if denied is not None:
                turn.cut(denied.code)

    def watch(self) -> None:
        """Cut what has taken too long, and everything while the feed is stale."""
        now = time.monotonic()
        stale = self.snapshot.is_stale(time.monotonic_ns() // 1000)
        slow_s = self.offering.timeouts.slow_client_s
        for turn in list(self.turns):
            code = "stale_feed" if stale else turn.overdue(now, slow_s)
            if code is not None:
                turn.cut(code)

    def _refuse(self, turn: Turn, error: RefusedError, request: Request) -> None:
        code = turn.refusal = error.code
        self._metrics.refused[code] += 1
        if turn.facts is not None:
            self._log.refused(turn.request_id, code, turn.facts.account)
        if turn.headers_sent:
            data = error_event(code, error.detail, turn.dialect, turn.request_id)
            reply = partial(request.end, data)
        else:
            row = shown(code)
            data = error_body(code, error.detail, turn.dialect, turn.request_id)
            lines = _JSON + _request_id(turn)
            if error.retry_after_us is not None and row.status in (429, 503):
                wait_s = max(1, -(-error.retry_after_us // 1_000_000))
                lines += b"retry-after: %d\r\n" % wait_s
            if not row.retry:
                lines += b"x-should-retry: false\r\n"
            turn.headers_sent = True
            reply = partial(request.respond, row.status, lines, data)
        if turn.settled:
            self._books.commit.before_client(reply)
        else:
            reply()

    def _cut(self, turn: Turn, request: Request) -> None:
        if turn.task is not None:
            turn.task.uncancel()
        code = turn.cut_code or "draining"
        if code == "client_gone":
            self._metrics.aborted += 1
            request.abort()
            return
        self._metrics.cut += 1
        turn.sending_since = 0.0
        if code == "slow_request" and turn.headers_sent:
            self._log.refused(turn.request_id, code, None)
            request.abort()  # it does not read: there is no telling it
            return
        self._refuse(turn, RefusedError(code), request)


class _Random:
    """Random bytes of the system, fetched in blocks: a call for eight bytes costs as much."""

    def __init__(self) -> None:
        self._block = b""
        self._used = 0

    def take(self, count: int) -> bytes:
        end = self._used + count
        if end > len(self._block):
            self._block, self._used, end = os.urandom(4096), 0, count
        start, self._used = self._used, end
        return self._block[start:end]


def _parse_slowly(surface: Surface, body: bytes, policy: RequestPolicy, now_us: int) -> Asked:
    """Read a large body. Rests as long as it worked: all that time it held the interpreter."""
    began = time.thread_time()
    try:
        return parse_request(surface, body, policy, now_us)
    finally:
        time.sleep(time.thread_time() - began)


def _bound(turn: Turn, offered: Offered) -> Bound:
    asked, model = turn.asked, offered.model
    if asked is None:
        raise RuntimeError("bounded before it was read")
    tokens_in = offered.tokens.input_tokens(asked)
    if tokens_in > model.context_tokens:
        raise RefusedError("too_many_tokens", f"at most {model.context_tokens}")
    tokens_out = asked.most_output_tokens
    money = price(tokens_in, tokens_out, model.price_in_nano, model.price_out_nano)
    return Bound(tokens_in, tokens_out, money)


async def _read(turn: Turn, request: Request, most_bytes: int) -> bytes:
    try:
        return await request.body(most_bytes)
    except TooLargeError:
        raise RefusedError("request_too_large") from None
    except ClientGoneError:
        turn.cut_code = "client_gone"
        raise asyncio.CancelledError from None


def _request_id(turn: Turn) -> bytes:
    return _ID[turn.dialect] % turn.request_id.encode()


def _key_text(bearer: bytes | None, key: bytes | None) -> str | None:
    if bearer is not None:
        kind, _, text = bearer.partition(b" ")
        if kind.lower() == b"bearer" and text:
            return text.strip().decode("latin-1")
    return None if key is None else key.strip().decode("latin-1")


def _dialect_of(headers: Headers) -> Dialect:
    return "anthropic" if any(name == b"anthropic-version" for name, _ in headers) else "openai"
