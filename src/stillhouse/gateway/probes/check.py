"""Takes every probe through a gateway and says which came through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from stillhouse.gateway.probes.benign import BENIGN_REPLIES, BenignReply
from stillhouse.gateway.probes.probe import ReplyProbe, RequestProbe, events_of
from stillhouse.gateway.probes.replies import PROBE_FORMATS, REPLY_PROBES
from stillhouse.gateway.probes.requests import REQUEST_PROBES
from stillhouse.gateway.surfaces import DIALECTS, ServedModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillhouse.gateway.surfaces import Surface

_TURN = [{"role": "user", "content": "What is 6 times 7?"}]


def probe_models(upstream: str) -> dict[str, ServedModel]:
    """Return the models that probes of an upstream ask for, one for each reasoning format."""
    return {
        name: ServedModel(
            name=name,
            upstream_name="upstream",
            dialect=DIALECTS[upstream],
            max_output_tokens=1024,
            reasoning=form,
            images=True,
            surfaces=frozenset({"chat", "completions", "responses", "messages", "embeddings"}),
        )
        for name, form in PROBE_FORMATS.items()
    }


def client_request(surface: Surface, model: str, *, stream: bool) -> bytes:
    """Return the plain request that an honest client would send."""
    body: dict[str, Any] = {"model": model}
    if surface in ("chat", "messages"):
        body["messages"] = _TURN
    if surface == "messages":
        body["max_tokens"] = 64
    if surface == "completions":
        body["prompt"] = "6 times 7 is"
    if surface in ("responses", "embeddings"):
        body["input"] = "What is 6 times 7?"
    if stream:
        body["stream"] = True
    return orjson.dumps(body)


def check_replies(
    serve: Callable[[ReplyProbe, bytes, bool], bytes],
    probes: tuple[ReplyProbe, ...] = REPLY_PROBES,
) -> list[str]:
    """Return the names of the probes whose secret reaches the client, with the form it had.

    `serve(probe, reply, stream)` sends the gateway `client_request(probe.surface, probe.model)`,
    has its upstream answer `reply`, and returns what the client received.
    """
    leaks = []
    for probe in probes:
        for stream, reply in ((False, probe.whole), (True, probe.stream)):
            if reply is not None and probe.secret.is_in(serve(probe, reply, stream)):
                leaks.append(f"{probe.name} ({'streamed' if stream else 'whole'})")
    return leaks


def check_requests(
    send: Callable[[RequestProbe], bytes | None],
    probes: tuple[RequestProbe, ...] = REQUEST_PROBES,
) -> list[str]:
    """Return the names of the probes whose mark reaches the upstream.

    `send(probe)` has the gateway take the request, and returns the body its upstream received, or
    None where the gateway refused.
    """
    return [
        probe.name
        for probe in probes
        if (received := send(probe)) is not None and probe.mark in received
    ]


def check_benign(
    serve: Callable[[BenignReply, bytes, bool], bytes],
    replies: tuple[BenignReply, ...] = BENIGN_REPLIES,
) -> list[str]:
    """Return the names of the honest replies that do not come through as they are."""
    altered = []
    for reply in replies:
        for stream, body in ((False, reply.whole), (True, reply.stream)):
            if served_chat(serve(reply, body, stream)) != (reply.text, reply.arguments):
                altered.append(f"{reply.name} ({'streamed' if stream else 'whole'})")
    return altered


def served_chat(served: bytes) -> tuple[str, str]:
    """Return (content, tool arguments) of a chat completion or of a stream of one, put together."""
    content, arguments = [], []
    for event in events_of(served):
        for choice in (event or {}).get("choices", ()):
            said = choice.get("delta") or choice.get("message") or {}
            content.append(said.get("content") or "")
            for call in said.get("tool_calls") or ():
                arguments.append(call["function"].get("arguments", ""))
    return "".join(content), "".join(arguments)
