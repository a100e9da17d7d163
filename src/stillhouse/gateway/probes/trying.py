"""Takes every probe through a running gateway, of any make: this process is upstream and client.

The gateway under test is sent requests and nothing else. It must have models that ask the upstream
which this process serves: `probe_configuration` has them as Stillhouse's own gateway reads them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson

from stillhouse.exchanges import InputError
from stillhouse.gateway.probes.benign import BENIGN_REPLIES
from stillhouse.gateway.probes.check import (
    check_benign,
    check_replies,
    check_requests,
    client_request,
)
from stillhouse.gateway.probes.replies import PROBE_FORMATS, REPLY_PROBES, chat_reply
from stillhouse.gateway.probes.requests import REQUEST_PROBES
from stillhouse.gateway.serving import bind, server
from stillhouse.gateway.surfaces import PATHS

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillhouse.gateway.surfaces import Surface

_SURFACES = {path: surface for surface, path in PATHS.items()}
_PLAIN = orjson.dumps(chat_reply({"content": "Yes."}))
_LONGEST_WAIT_S = 60


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of it. `asked`: requests that reached the upstream; `refused`: that did not.

    `leaked` are probes that came through, with their form; `altered` honest replies that did not
    come through as they were.
    """

    asked: int
    refused: int
    leaked: tuple[str, ...]
    altered: tuple[str, ...]


def probe_configuration(upstream_url: str) -> dict[str, Any]:
    """Return the models to add to a gateway's configuration while it is tried."""
    models = []
    for name, form in PROBE_FORMATS.items():
        told: dict[str, Any] = {}
        for opening, closing in form.tags:
            told = {"opening": opening, "closing": closing, "implicit_opening": form.starts_open}
        for dialect, surfaces in (
            ("vllm", ["chat", "completions", "responses", "embeddings", "messages"]),
            ("anthropic", ["messages"]),
        ):
            model = {
                "name": _model(name, "messages" if dialect == "anthropic" else "chat"),
                "upstream_name": "upstream",
                "upstreams": [{"url": upstream_url}],
                "dialect": dialect,
                "surfaces": surfaces,
                "images": True,
            }
            models.append(model | ({"reasoning": told} if told else {}))
    return {"models": models}


async def try_gateway(
    url: str, key: str, *, listen: str, every: int = 1, told: Callable[[str], None] = lambda _: None
) -> Tried:
    """Return what every `every`-th probe found. `url` as clients have it, up to and with /v1.

    `listen` is the host:port that the gateway asks for the models of `probe_configuration`. Raises
    `InputError` where the gateway cannot be asked or refuses the first, plain request.
    """
    upstream = _Upstream()
    listening = server(upstream.app, drain_s=1)
    serving = asyncio.ensure_future(listening.serve(sockets=[bind(listen)]))
    timeout = aiohttp.ClientTimeout(total=_LONGEST_WAIT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            trial = _Trial(url.rstrip("/"), key, upstream, session)
            await trial.begin()
            told("replies")
            leaked = await _try_replies(trial, every)
            told("requests")
            leaked += await _try_requests(trial, every)
            told("honest replies")
            altered = await _try_benign(trial, every)
    finally:
        listening.should_exit = True
        await serving
    return Tried(trial.asked, trial.refused, tuple(leaked), tuple(altered))


class _Upstream:
    """Answers what it is told to, and keeps what it was asked."""

    def __init__(self) -> None:
        self.reply = (_PLAIN, False)
        self.surface: Surface | None = None  # what it was asked on, since `expect`
        self.received = b""

    def expect(self, reply: bytes, *, stream: bool) -> None:
        self.reply = (reply, stream)
        self.surface = None
        self.received = b""

    async def app(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        data, stream = self.reply
        surface = _SURFACES.get(scope["path"])
        if scope["method"] != "POST" or surface is None:
            data, stream = b"{}", False  # somebody asks whether it is well
        else:
            self.surface = surface
            self.received = body + repr(scope["headers"]).encode()
        kind = b"text/event-stream" if stream else b"application/json"
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(data))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})


@dataclass
class _Trial:
    url: str
    key: str
    upstream: _Upstream
    session: aiohttp.ClientSession
    asked: int = 0
    refused: int = 0

    async def begin(self) -> None:
        """See that a plain request comes through."""
        self.upstream.expect(_PLAIN, stream=False)
        got = await self.ask("chat", client_request("chat", _model("plain", "chat"), stream=False))
        if self.upstream.surface is None:
            said = got[:300].decode("utf-8", "replace")
            raise InputError(
                f"a plain request for the model {_model('plain', 'chat')!r} did not reach the "
                f"upstream of the probes; the gateway said {said!r}",
                place=self.url,
                repair="add the models that `stillhouse probe` without a URL prints, and use a key "
                "whose limits allow a few thousand small requests",
            )

    async def ask(self, surface: Surface, body: bytes) -> bytes:
        """Send a request; return what came back, whatever it is."""
        headers = {
            "authorization": f"Bearer {self.key}",
            "content-type": "application/json",
        }
        if surface == "messages":
            headers |= {"x-api-key": self.key, "anthropic-version": "2023-06-01"}
        path = self.url + PATHS[surface].removeprefix("/v1")
        for last in (False, False, True):
            try:
                async with self.session.post(path, data=body, headers=headers) as reply:
                    data = await reply.read()
            except aiohttp.ClientError as error:
                raise InputError(f"cannot be asked ({type(error).__name__})", place=path) from None
            if reply.status != 429 or last:
                break
            wait = reply.headers.get("retry-after", "1")
            await asyncio.sleep(min(_LONGEST_WAIT_S, int(wait) if wait.isdecimal() else 1))
        if self.upstream.surface is None:
            self.refused += 1
        else:
            self.asked += 1
        return data


async def _try_replies(trial: _Trial, every: int) -> list[str]:
    leaked = []
    probes = REPLY_PROBES[::every]
    for client in (None, "messages"):  # chat replies also to clients of messages
        served: dict[tuple[str, bool], bytes] = {}
        taken = tuple(probe for probe in probes if client is None or probe.surface == "chat")
        for probe in taken:
            surface: Any = client or probe.surface
            model = _model(probe.model, probe.surface)
            for stream, reply in ((False, probe.whole), (True, probe.stream)):
                if reply is not None:
                    trial.upstream.expect(reply, stream=stream)
                    body = client_request(surface, model, stream=stream)
                    served[probe.name, stream] = await trial.ask(surface, body)
        found = check_replies(lambda probe, _, stream: served[probe.name, stream], taken)  # noqa: B023
        leaked += [f"{name} to {client}" if client else name for name in found]
    return leaked


async def _try_requests(trial: _Trial, every: int) -> list[str]:
    probes = REQUEST_PROBES[::every]
    received: dict[str, bytes | None] = {}
    for probe in probes:
        trial.upstream.expect(_PLAIN, stream=False)
        model = orjson.dumps(_model("plain", probe.surface))
        await trial.ask(probe.surface, probe.body.replace(b'"plain"', model))
        sent = trial.upstream.received
        received[probe.name] = sent if trial.upstream.surface is not None else None
    return check_requests(lambda probe: received[probe.name], probes)


async def _try_benign(trial: _Trial, every: int) -> list[str]:
    served: dict[tuple[str, bool], bytes] = {}
    replies = BENIGN_REPLIES[::every]
    for reply in replies:
        for stream, body in ((False, reply.whole), (True, reply.stream)):
            trial.upstream.expect(body, stream=stream)
            asked = client_request("chat", _model(reply.model, "chat"), stream=stream)
            served[reply.name, stream] = await trial.ask("chat", asked)
    return check_benign(lambda reply, _, stream: served[reply.name, stream], replies)


def _model(form: str, surface: str) -> str:
    """Return the name of a model: messages of their own kind have another one than the rest."""
    return f"probe-{form}-messages" if surface == "messages" else f"probe-{form}"
