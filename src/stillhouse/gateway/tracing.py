"""OpenTelemetry traces of requests, where the operator asks for them (extra `tracing`).

A request's spans are made when it has ended, out of the times that it noted: `request`, and in it
`admission` (until everything is reserved), `upstream` (until the outcome is known) and `settle`.
They hold names of endpoints and models, status, code and token counts; never a body, a key, an
account or an address.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from stillhouse.exchanges import InputError
from stillhouse.gateway.addresses import is_trusted
from stillhouse.gateway.refusals import REFUSALS

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from stillhouse.gateway.addresses import TrustedHops
    from stillhouse.gateway.config import Tracing
    from stillhouse.gateway.http import Request
    from stillhouse.gateway.turn import Turn

_TRACEPARENT = b"traceparent"
_ENDPOINTS = frozenset(
    f"/v1/{name}"
    for name in (
        "chat/completions",
        "completions",
        "embeddings",
        "messages",
        "models",
        "responses",
        "terms",
        "terms/acceptances",
    )
)


class Tracer:
    """Makes spans of ended requests and hands them to `exporter`, from a thread of its own.

    share: of the requests that come without a trace, those that get one.
    """

    def __init__(self, exporter: SpanExporter, share: float):
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource({"service.name": "stillhouse"})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("stillhouse.gateway")
        self._below = int(share * (1 << 32))
        self._parents = TraceContextTextMapPropagator()
        self._api = trace

    @classmethod
    def open(cls, settings: Tracing) -> Self:
        """Send to the collector of the settings, by OTLP over HTTP. Raises `InputError`.

        Headers for the collector come from OTEL_EXPORTER_OTLP_HEADERS, as OpenTelemetry has it.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ModuleNotFoundError:
            raise InputError(
                "OpenTelemetry is not installed",
                place="tracing",
                repair="pip install 'stillhouse[tracing]'",
            ) from None
        return cls(OTLPSpanExporter(endpoint=settings.url), settings.share)

    def finish(self, turn: Turn, request: Request, hops: TrustedHops) -> None:
        """Make the spans of a request that has ended, if it is one that is traced."""
        context = self._parent(request, hops) if hops.trace else None
        if context is None and int.from_bytes(turn.id[-4:]) >= self._below:
            return
        if context is not None:
            parent = self._api.get_current_span(context).get_span_context()
            if not parent.trace_flags.sampled:
                return
        began_ns = turn.arrived_us * 1000
        root = self._tracer.start_span(
            "request",
            context=context,
            kind=self._api.SpanKind.SERVER,
            attributes=_attributes(turn, request),
            start_time=began_ns,
        )
        inside = self._api.set_span_in_context(root)
        now_ns = began_ns + int((time.monotonic() - turn.started) * 1e9)
        marks = [("admission", now_ns)]
        if turn.opened:
            opened_ns = began_ns + int((turn.opened - turn.started) * 1e9)
            latency_us = (turn.intent or {}).get("latency_us")
            known_ns = now_ns if latency_us is None else began_ns + latency_us * 1000
            marks = [("admission", opened_ns), ("upstream", known_ns), ("settle", now_ns)]
        start_ns = began_ns
        for name, end_ns in marks:
            end_ns = max(start_ns, end_ns)
            self._tracer.start_span(name, context=inside, start_time=start_ns).end(end_ns)
            start_ns = end_ns
        root.end(max(start_ns, now_ns))

    def close(self) -> None:
        """Send what waits; an unanswering collector holds it up for some seconds at most."""
        self._provider.shutdown()

    def _parent(self, request: Request, hops: TrustedHops) -> Any:
        """Return the context of the proxy's own span, or None."""
        if not is_trusted(request.peer, hops):
            return None
        found = [value for name, value in request.headers if name == _TRACEPARENT]
        if len(found) != 1:
            return None  # none, or one of them is the client's own
        context = self._parents.extract({"traceparent": found[0].decode("latin-1")})
        span = self._api.get_current_span(context)
        return context if span.get_span_context().is_valid else None


def _attributes(turn: Turn, request: Request) -> dict[str, Any]:
    columns = turn.intent or {}
    status = columns.get("status")
    if status is None:
        status = 200 if turn.refusal is None else REFUSALS[turn.refusal].status
    found: dict[str, Any] = {
        "http.response.status_code": status,
        "stillhouse.request_id": turn.request_id,
    }
    if request.path in _ENDPOINTS:  # what else a client asks for is its own text
        found["http.route"] = request.path
    if turn.refusal is not None:
        found["error.type"] = turn.refusal
    if turn.model is not None:
        found["gen_ai.request.model"] = turn.model.name
    if turn.asked is not None:
        found["stillhouse.streamed"] = turn.asked.stream
    if turn.settled:
        found["gen_ai.usage.input_tokens"] = columns["tokens_in"]
        found["gen_ai.usage.output_tokens"] = columns["tokens_out"]
    if turn.first_us is not None:
        found["stillhouse.first_byte_us"] = turn.first_us
    return found
