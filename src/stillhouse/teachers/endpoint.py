"""Any OpenAI-compatible chat endpoint, over HTTP.

One `attempt` is one request; `reply` repeats it as the answer suggests. Every way in which an
endpoint can fail is a `Failure` with a stable code (docs/failures.md), never an exception.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import random
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import aiohttp

from stillhouse.exchanges.errors import InputError
from stillhouse.teachers.chat import ChatRequest, Failure, Reply
from stillhouse.teachers.pacing import Backoff, parse_retry_after
from stillhouse.teachers.wire import Attempt, read_answer, request_body

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from stillhouse.teachers.secret import Secret

MAX_ANSWER_BYTES = 64 * 2**20
_FIXED = {"model", "messages", "max_tokens", "max_completion_tokens", "stream", "n"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds to wait for a connection, for the next bytes of an answer, and for one whole try."""

    connect_s: float = 10.0
    read_s: float = 120.0
    total_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """How an endpoint is spoken to.

    `url` ends where `/chat/completions` follows (usually in `/v1`). `extra` are a provider's own
    body fields. `max_tokens_name` is "max_completion_tokens" for models that want that.
    """

    url: str
    model: str
    timeouts: Timeouts = field(default_factory=Timeouts)
    max_tokens_name: str = "max_tokens"
    extra: Mapping[str, Any] = field(default_factory=dict)
    max_attempts: int = 6
    backoff: Backoff = field(default_factory=Backoff)
    allow_key_over_plain_http: bool = False


class EndpointTeacher:
    """A teacher behind a URL. Use it as an async context manager, in one event loop."""

    def __init__(self, settings: EndpointSettings, key: Secret | None = None, *, seed: int = 0):
        self.settings = settings
        self._url = _checked_url(settings, has_key=key is not None)
        self._key = key
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        self._rng = random.Random(seed)
        self._session: aiohttp.ClientSession | None = None

    @property
    def model(self) -> str:
        """The model that is asked for (not the one that the endpoint says it served)."""
        return self.settings.model

    def describe(self) -> dict[str, Any]:
        """Return what the replies depend on, for a journal's header. The address is no part of it.

        (A server on another port is the same teacher; canaries tell whether it really is.)
        """
        return {"model": self.settings.model, "extra": dict(self.settings.extra)}

    async def attempt(self, request: ChatRequest) -> Attempt:
        """Send one request, once."""
        body = request_body(
            request,
            self.settings.model,
            max_tokens_name=self.settings.max_tokens_name,
            extra=self.settings.extra,
        )
        try:
            attempt = await self._post(body)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            attempt = _read_exception(error, self.settings)
        if self._key is not None and isinstance(attempt.outcome, Failure):
            masked = self._key.mask(attempt.outcome.message)
            return replace(attempt, outcome=replace(attempt.outcome, message=masked))
        return attempt

    async def reply(self, request: ChatRequest) -> Reply | Failure:
        """Ask until there is a reply, a final failure, or no try left."""
        for number in range(1, self.settings.max_attempts + 1):
            began_ns = time.monotonic_ns()
            attempt = await self.attempt(request)
            if isinstance(attempt.outcome, Reply):
                latency_us = (time.monotonic_ns() - began_ns) // 1000
                return replace(attempt.outcome, latency_us=latency_us)
            failure = replace(attempt.outcome, attempts=number)
            if attempt.next != "retry" or number == self.settings.max_attempts:
                break
            wait_us = self.settings.backoff.wait_us(number, attempt.retry_after_us, self._rng)
            await asyncio.sleep(wait_us / 1e6)
        return failure

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"EndpointTeacher({self.settings.model!r} at {self._url})"

    async def _post(self, body: bytes) -> Attempt:
        session = self._session or self._open()
        # The key goes into the one request, not into the session, whose headers are shown in repr.
        sent = self._headers
        if self._key is not None:
            sent = sent | {"Authorization": f"Bearer {self._key.reveal()}"}
        async with session.post(
            self._url, data=body, headers=sent, allow_redirects=False
        ) as response:
            data = await _read_capped(response)
            if data is None:
                message = f"the answer is longer than {MAX_ANSWER_BYTES} bytes"
                return Attempt(Failure(code="answer_too_long", message=message), "bound", "give_up")
            headers = response.headers
            attempt = read_answer(
                response.status, data, headers.get("Content-Type", ""), headers.get("Location")
            )
            if attempt.next == "retry":
                now = datetime.datetime.now(datetime.UTC)
                wait_us = parse_retry_after(headers.get("Retry-After"), now)
                return replace(attempt, retry_after_us=wait_us)
            return attempt

    def _open(self) -> aiohttp.ClientSession:
        limits = self.settings.timeouts
        self._session = aiohttp.ClientSession(
            # Concurrency is bounded by the caller; a second bound here would only hide its queue.
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(
                total=limits.total_s, sock_connect=limits.connect_s, sock_read=limits.read_s
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        return self._session


async def _read_capped(response: aiohttp.ClientResponse) -> bytes | None:
    plain = "Content-Encoding" not in response.headers
    if plain and response.content_length and response.content_length <= MAX_ANSWER_BYTES:
        return await response.read()
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            response.close()
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _read_exception(error: Exception, settings: EndpointSettings) -> Attempt:
    limits = settings.timeouts
    host = urlsplit(settings.url).hostname
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        failure = Failure(
            code="tls",
            message=f"no trusted TLS connection to {host}: {error}; check teacher.url and the"
            " certificates of this machine",
        )
        return Attempt(failure, "nothing", "stop")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        failure = Failure(
            code="unreachable",
            message=f"no connection to {host} within {limits.connect_s:g} s; check teacher.url and"
            " that the server runs",
        )
        return Attempt(failure, "nothing", "retry")
    if isinstance(error, aiohttp.ClientConnectorError):
        failure = Failure(
            code="unreachable",
            message=f"no connection to {host}: {error.os_error.strerror or error.os_error}; check"
            " teacher.url and that the server runs",
        )
        return Attempt(failure, "nothing", "retry")
    if isinstance(error, TimeoutError):
        waited_s = (
            limits.read_s if isinstance(error, aiohttp.SocketTimeoutError) else limits.total_s
        )
        failure = Failure(
            code="timeout",
            message=f"no whole answer within {waited_s:g} s; it is charged in full; raise"
            " teacher.timeout_s or lower teacher.concurrency",
        )
        return Attempt(failure, "bound", "retry")
    failure = Failure(
        code="connection_lost",
        message=f"the connection broke before the answer was whole ({type(error).__name__}); it is"
        " charged in full",
    )
    return Attempt(failure, "bound", "retry")


def _checked_url(settings: EndpointSettings, *, has_key: bool) -> str:
    place = "teacher.url"
    repair = "write it as https://host/v1"
    try:
        parts = urlsplit(settings.url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"not a URL: {error}", place=place, repair=repair) from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InputError(
            "the URL holds a user, a password, a query or a fragment",
            place=place,
            repair="keep keys out of URLs: set teacher.api_key_env",
        )
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"{settings.url!r} is not a web address", place=place, repair=repair)
    if (
        has_key
        and parts.scheme == "http"
        and not _is_loopback(host)
        and not settings.allow_key_over_plain_http
    ):
        raise InputError(
            f"the key would cross the network to {host} unencrypted",
            place=place,
            repair="use https",
        )
    taken = _FIXED & settings.extra.keys()
    if taken:
        raise InputError(
            f"these fields are set by stillhouse itself: {', '.join(sorted(taken))}",
            place="teacher.extra",
            repair="remove them there; max_tokens is teacher.max_tokens",
        )
    return settings.url.rstrip("/") + "/chat/completions"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
