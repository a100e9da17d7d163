"""The bypass suite against a running gateway, and its rebuilding at every byte split of a stream.

Each reply probe is what a gateway's upstream answers, whole and streamed; each request probe is
what a client sends to gateways over every kind of upstream. Then every stream is fed to the
rebuilding code in two pieces, cut at every byte. `bypass_leaks` counts the probes of which
anything came through anywhere; `benign_replies_altered` the honest replies that quote tags and did
not come through as they were. With hardening off, the replies and requests as they are, every
probe must be found leaking: asserted first.

    python -m benchmarks.gateways.bypass [--smoke]
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from tests.gateway.running import Running, running
from tests.gateway.scripted import Asked, Script, Upstream, completion

from benchmarks.gateways.part import Part, part, wide
from stillhouse.accounts.acts.settings import DefineTier
from stillhouse.gateway.probes import (
    BENIGN_REPLIES,
    PROBE_FORMATS,
    REPLY_PROBES,
    REQUEST_PROBES,
    check_benign,
    check_replies,
    check_requests,
    client_request,
    probe_models,
)
from stillhouse.gateway.surfaces import (
    DIALECTS,
    ReplyRebuilder,
    RequestPolicy,
    TierPolicy,
    parse_request,
)
from stillhouse.gateway.surfaces.policy import PATHS

NATIVE = {"responses": "openai", "messages": "anthropic"}
FORMS = ("whole", "stream")
# Sent upstream by the gateway itself, with its own value: the mark is its name.
OURS = {"request/chat/timings_per_token", "request/completions/timings_per_token"}


class Gateways:
    """A running gateway over each kind of upstream; `reply` is what the upstream answers next."""

    def __init__(self) -> None:
        self.reply: tuple[bytes, bool] = (completion(), False)
        self.asked: Asked | None = None
        self.runs: dict[str, Running] = {}

    def answer(self, asked: Asked) -> Script:
        """Answer with what is set."""
        self.asked = asked
        data, stream = self.reply
        return Script(chunks=[data]) if stream else Script(body=data)

    async def ask(
        self, session: aiohttp.ClientSession, dialect: str, surface: Any, body: bytes
    ) -> bytes:
        """Send a request through a gateway; return what the client received."""
        gateway = self.runs[dialect]
        headers = {
            "authorization": f"Bearer {gateway.key}",
            "content-type": "application/json",
        }
        self.asked = None
        async with session.post(gateway.url + PATHS[surface], data=body, headers=headers) as got:
            return await got.read()


def models(dialect: str, url: str) -> list[dict[str, Any]]:
    """One model for each way to mark reasoning, on every surface the dialect can offer."""
    surfaces = ["chat", "completions", "responses", "embeddings", "messages"]
    found = []
    for name, form in PROBE_FORMATS.items():
        model: dict[str, Any] = {
            "name": name,
            "upstreams": [{"url": url}],
            "dialect": dialect,
            "images": True,
            "surfaces": ["messages"] if dialect == "anthropic" else surfaces,
        }
        for opening, closing in form.tags:
            model["reasoning"] = {
                "opening": opening,
                "closing": closing,
                "implicit_opening": form.starts_open,
            }
        found.append(model)
    return found


async def through_gateways(folder: Path, every: int) -> tuple[list[str], list[str], list[str]]:
    """Take every probe through running gateways; what leaked of replies, of requests, altered."""
    gateways = Gateways()
    upstream = Upstream(gateways.answer)
    await upstream.start()
    async with aiohttp.ClientSession() as session:
        stack = []
        for dialect in DIALECTS:
            place = folder / dialect
            place.mkdir(parents=True)
            context = running(place, gateways.answer, models=models(dialect, upstream.url))
            gateways.runs[dialect] = run = await context.__aenter__()
            stack.append(context)
            tier = DefineTier(name="new", level=0, caps=wide(), max_output_tokens=10**6)
            await asyncio.to_thread(run.store.perform, run.furnished.operator, tier)
        await asyncio.sleep(0.5)  # the gateways learn of the wide tier
        try:
            replies = await _replies(gateways, session, REPLY_PROBES[::every])
            requests = await _requests(gateways, session, REQUEST_PROBES[::every])
            benign = await _benign(gateways, session, BENIGN_REPLIES[::every])
        finally:
            for context in stack:
                await context.__aexit__(None, None, None)
            await upstream.stop()
    return replies, requests, benign


async def _replies(
    gateways: Gateways, session: aiohttp.ClientSession, probes: tuple[Any, ...]
) -> list[str]:
    """Also chat replies of a server that answers chat alone, to clients of other surfaces."""
    leaked = []
    for translated in (None, "messages", "responses"):
        served: dict[tuple[str, bool], bytes] = {}
        taken = probes if translated is None else tuple(p for p in probes if p.surface == "chat")
        for probe in taken:
            for stream, reply in ((False, probe.whole), (True, probe.stream)):
                if reply is None:
                    continue
                gateways.reply = (reply, stream)
                surface = translated or probe.surface
                body = client_request(surface, probe.model, stream=stream)
                dialect = "sglang" if translated else probe.upstream
                got = await gateways.ask(session, dialect, surface, body)
                if gateways.asked is None:
                    raise SystemExit(f"{probe.name}: the upstream was not asked: {got!r}")
                served[probe.name, stream] = got
        leaked += check_replies(_lookup(served), taken)
    return leaked


def _lookup(served: dict[tuple[str, bool], bytes]) -> Callable[[Any, bytes, bool], bytes]:
    return lambda probe, _, stream: served[probe.name, stream]


async def _requests(
    gateways: Gateways, session: aiohttp.ClientSession, probes: tuple[Any, ...]
) -> list[str]:
    gateways.reply = (completion(), False)
    received: dict[str, bytes] = {}
    for probe in probes:
        for dialect in {"vllm", "sglang", "llamacpp", NATIVE.get(probe.surface, "openai")}:
            await gateways.ask(session, dialect, probe.surface, probe.body)
            if gateways.asked is not None:
                asked = gateways.asked
                sent = repr(asked.headers).encode() + orjson.dumps(asked.body)
                received[probe.name] = received.get(probe.name, b"") + sent
    leaked = check_requests(lambda probe: received.get(probe.name), probes)
    return [name for name in leaked if name not in OURS]


async def _benign(
    gateways: Gateways, session: aiohttp.ClientSession, replies: tuple[Any, ...]
) -> list[str]:
    served: dict[tuple[str, bool], bytes] = {}
    for reply in replies:
        for stream, data in ((False, reply.whole), (True, reply.stream)):
            gateways.reply = (data, stream)
            body = client_request("chat", reply.model, stream=stream)
            served[reply.name, stream] = await gateways.ask(session, "vllm", "chat", body)
    return check_benign(_lookup(served), replies)


def at_every_split(step: int) -> tuple[list[str], list[str], int]:
    """Feed every stream in two pieces, cut at every `step`-th byte; what leaked, was altered."""
    policies = {
        name: RequestPolicy(account="acct", models=probe_models(name), tier=TierPolicy())
        for name in DIALECTS
    }
    count = 0

    def pieces(upstream: str, surface: Any, model: str, stream: bytes) -> Iterable[bytes]:
        nonlocal count
        body = client_request(surface, model, stream=True)
        asked = parse_request(surface, body, policies[upstream], 1_700_000_000_000_000)
        for cut in range(1, len(stream), step):
            count += 1
            rebuild = ReplyRebuilder(asked, reply_id="r1", created_s=1)
            yield rebuild.feed(stream[:cut]) + rebuild.feed(stream[cut:]) + rebuild.finish()

    def worst(found: Iterable[bytes], is_bad: Callable[[bytes], bool]) -> bytes:
        """The first reply that is bad, else any. Most cuts give the same bytes: looked at once."""
        seen: set[bytes] = set()
        for served in found:
            if served not in seen and is_bad(served):
                return served
            seen.add(served)
        return b""

    leaked = [
        probe.name
        for probe in REPLY_PROBES
        if probe.stream is not None
        and worst(
            pieces(probe.upstream, probe.surface, probe.model, probe.stream), probe.secret.is_in
        )
    ]
    altered = []
    for reply in BENIGN_REPLIES:

        def is_altered(served: bytes, reply: Any = reply) -> bool:
            return bool(check_benign(lambda *_: served, (reply,)))

        if worst(pieces("vllm", "chat", reply.model, reply.stream), is_altered):
            altered.append(reply.name)
    return leaked, altered, count


def everything_leaks_unguarded() -> None:
    """With hardening off, every probe is found leaking in each of its forms."""
    forms = sum(getattr(probe, form) is not None for probe in REPLY_PROBES for form in FORMS)
    if len(check_replies(lambda _, reply, __: reply)) != forms:
        raise SystemExit("a reply probe does not leak when its reply is handed on")
    if len(check_requests(lambda probe: probe.body)) != len(REQUEST_PROBES):
        raise SystemExit("a request probe does not leak when it is handed on")


def measure(run: Part) -> None:
    """Run the suite."""
    everything_leaks_unguarded()
    replies, requests, benign = asyncio.run(through_gateways(run.folder, 9 if run.smoke else 1))
    leaked, altered, cuts = at_every_split(199 if run.smoke else 1)
    for name in (*replies, *requests, *leaked):
        print(f"leaked: {name}")
    for name in (*benign, *altered):
        print(f"altered: {name}")
    print(
        f"{len(REPLY_PROBES)} reply probes, {len(REQUEST_PROBES)} request probes, "
        f"{len(BENIGN_REPLIES)} honest replies, {cuts} splits",
        flush=True,
    )
    run.tell("bypass_leaks", len({*replies, *requests, *leaked}), "count")
    run.tell("benign_replies_altered", len({*benign, *altered}), "count")


if __name__ == "__main__":
    with part(__doc__) as found:
        measure(found)
