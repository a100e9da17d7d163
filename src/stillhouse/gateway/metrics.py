"""Counters of one process, kept as plain numbers and told to Prometheus when it asks.

No label holds a key, an account or an address: their number has no bound, and who reads metrics is
not who may read those.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import Metric

_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_BOUNDS_US = tuple(int(bound * 1_000_000) for bound in _BOUNDS_S)


class Histogram:
    """Durations in buckets."""

    __slots__ = ("buckets", "sum_us")

    def __init__(self) -> None:
        self.buckets = [0] * (len(_BOUNDS_US) + 1)
        self.sum_us = 0

    def add(self, duration_us: int) -> None:
        """Count one."""
        self.buckets[bisect_left(_BOUNDS_US, duration_us)] += 1
        self.sum_us += duration_us

    def family(self, name: str, text: str) -> HistogramMetricFamily:
        """Return the metric."""
        total, rows = 0, []
        for bound, count in zip((*map(str, _BOUNDS_S), "+Inf"), self.buckets, strict=True):
            total += count
            rows.append((bound, total))
        return HistogramMetricFamily(name, text, buckets=rows, sum_value=self.sum_us / 1e6)


class Metrics:
    """What a gateway counts. `gauges`: name -> (what it is, how to read it now)."""

    def __init__(self) -> None:
        self.served: Counter[str] = Counter()  # by model
        self.refused: Counter[str] = Counter()  # by true code
        self.would_refuse: Counter[str] = Counter()  # by shadow limit
        self.tokens: Counter[str] = Counter()  # input, output
        self.aborted = 0
        self.cut = 0
        self.excess = 0
        self.latency = Histogram()
        self.first_byte = Histogram()
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families, as `prometheus_client` collectors do."""
        for name, text, label, counts in (
            ("served", "Requests that were served", "model", self.served),
            ("refused", "Requests that were refused", "code", self.refused),
            (
                "would_refuse",
                "Requests that a shadow limit would refuse",
                "limit",
                self.would_refuse,
            ),
            ("tokens", "Tokens settled", "direction", self.tokens),
        ):
            family = CounterMetricFamily(f"stillhouse_{name}", text, labels=[label])
            for value, count in list(counts.items()):
                family.add_metric([value], count)
            yield family
        for name, text, number in (
            ("aborted", "Streams whose client went away", self.aborted),
            ("cut", "Requests ended by a ban, a stale feed or a time-out", self.cut),
            ("excess", "Requests that cost more than their reservation", self.excess),
        ):
            yield CounterMetricFamily(f"stillhouse_{name}", text, value=number)
        yield self.latency.family("stillhouse_request_seconds", "Request to last byte")
        yield self.first_byte.family("stillhouse_first_byte_seconds", "Request to first byte")
        for name, (text, read) in self.gauges.items():
            yield GaugeMetricFamily(f"stillhouse_{name}", text, value=read())

    def render(self) -> bytes:
        """Return the Prometheus text format."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)
