"""Traces of requests, as a collector on the loopback gets them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.gateway.running import Running, running
from tests.gateway.scripted import Script, chunks, completion

from stillhouse.exchanges import InputError
from stillhouse.gateway.addresses import TrustedHops

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs stillhouse[tracing]")

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = bytes.fromhex("0af7651916cd43dd8448eb211c80319c")


class Collector:
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []

    async def __aenter__(self) -> Collector:
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1/traces"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        self.raw.append(await request.read())
        return web.Response(content_type="application/x-protobuf")

    def spans(self) -> list[Any]:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        found = []
        for data in self.raw:
            asked = ExportTraceServiceRequest.FromString(data)
            found += [s for r in asked.resource_spans for one in r.scope_spans for s in one.spans]
        return found


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


async def ask(gateway: Running, **more: Any) -> None:
    body = {"model": "small", "messages": [{"role": "user", "content": "UNIQUEPROMPT"}]}
    headers = {"authorization": f"Bearer {gateway.key}", **more.pop("headers", {})}
    url = f"{gateway.url}/v1/{more.pop('path', 'chat/completions')}"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json={**body, **more}, headers=headers) as reply,
    ):
        await reply.read()


async def flush(gateway: Running) -> None:
    tracer = gateway.service.app._tracer
    assert tracer is not None
    await asyncio.to_thread(tracer._provider.force_flush)


def test_a_request_is_a_trace_of_four_spans_without_anything_private(tmp_path: Path) -> None:
    def answer(asked: Any) -> Script:
        if asked.body.get("stream"):
            return Script(chunks=chunks(["UNIQUE", "REPLY"]))
        return Script(body=completion("UNIQUEREPLY"))

    async def scenario() -> None:
        async with (
            Collector() as collector,
            running(tmp_path, answer, tracing={"url": collector.url}) as gateway,
        ):
            await ask(gateway)
            await ask(gateway, stream=True)
            await ask(gateway, model="UNIQUEMODEL")
            await ask(gateway, path="UNIQUEPATH")
            await flush(gateway)
            roots = [span for span in collector.spans() if span.name == "request"]
            told = [attributes(span) for span in roots]
            assert [one["http.response.status_code"] for one in told] == [200, 200, 404, 404]
            assert told[0]["gen_ai.request.model"] == "small"
            assert told[0]["gen_ai.usage.output_tokens"] == 3
            assert told[0]["http.route"] == "/v1/chat/completions"
            assert told[1]["stillhouse.streamed"] is True
            assert told[2]["error.type"] == "unknown_model"
            assert "http.route" not in told[3]
            whole = [s for s in collector.spans() if s.trace_id == roots[0].trace_id]
            parts = {span.name: span for span in whole}
            assert set(parts) == {"request", "admission", "upstream", "settle"}
            order = [parts[name] for name in ("admission", "upstream", "settle")]
            for span in order:
                assert span.parent_span_id == parts["request"].span_id
                assert span.start_time_unix_nano <= span.end_time_unix_nano
            assert order[0].end_time_unix_nano == order[1].start_time_unix_nano
            refused = [s.name for s in collector.spans() if s.trace_id == roots[2].trace_id]
            assert sorted(refused) == ["admission", "request"]
            for secret in (
                "UNIQUE",
                gateway.key,
                gateway.key.split("_")[1],
                gateway.furnished.accounts[0],
                gateway.furnished.organisation,
                "127.0.0.1",
            ):
                assert all(secret.encode() not in data for data in collector.raw), secret

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("hops", "expected"),
    [
        ({}, False),
        ({"count": 1, "networks": ["127.0.0.0/8"]}, False),
        ({"count": 1, "networks": ["10.0.0.0/8"], "trace_context": True}, False),
        ({"count": 1, "networks": ["127.0.0.0/8"], "trace_context": True}, True),
    ],
)
def test_a_trace_is_gone_on_with_from_trusted_proxies_alone(
    tmp_path: Path, hops: dict[str, Any], expected: bool
) -> None:
    async def scenario() -> None:
        async with (
            Collector() as collector,
            running(tmp_path, tracing={"url": collector.url}, trusted_hops=hops) as gateway,
        ):
            await ask(gateway, headers={"traceparent": PARENT})
            await ask(gateway, headers={"traceparent": "nonsense"})
            await flush(gateway)
            roots = [span for span in collector.spans() if span.name == "request"]
            assert [span.trace_id == TRACE for span in roots] == [expected, False]

    asyncio.run(scenario())


def test_only_the_share_is_traced_and_a_proxys_own_decision_holds(tmp_path: Path) -> None:
    async def scenario() -> None:
        hops = {"count": 1, "networks": ["127.0.0.0/8"], "trace_context": True}
        async with (
            Collector() as collector,
            running(
                tmp_path, tracing={"url": collector.url, "share": 0.0}, trusted_hops=hops
            ) as gateway,
        ):
            await ask(gateway)
            await ask(gateway, headers={"traceparent": PARENT[:-2] + "00"})
            await ask(gateway, headers={"traceparent": PARENT})
            await flush(gateway)
            roots = [span for span in collector.spans() if span.name == "request"]
            assert [span.trace_id for span in roots] == [TRACE]

    asyncio.run(scenario())


def test_without_the_setting_nothing_is_traced(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            await ask(gateway)
            assert gateway.service.app._tracer is None

    asyncio.run(scenario())


def test_without_the_package_the_gateway_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)

    async def scenario() -> None:
        async with running(tmp_path, tracing={"url": "http://127.0.0.1:9/v1/traces"}):
            pass

    with pytest.raises(InputError, match=r"stillhouse\[tracing\]"):
        asyncio.run(scenario())


def test_a_trace_context_needs_a_trusted_proxy() -> None:
    with pytest.raises(InputError, match="trace_context"):
        TrustedHops.of(0, [], trace=True)
