"""Limits: exact reserve-and-settle limits over many scopes at once.

Start from `Limit` (what is allowed), `Demand` (what one request could cost at most) and a back end:
`Memory` (one process, durable with a folder) or `Shared` (many processes on one Redis or Valkey).
`reserve` charges every scope or none; `settle` corrects that to what was really used. What was
used, dated at its admission, is at most the limit's amount in *every* interval of its window.

Refused here: windows that begin at a clock tick, bursts of the whole limit, refunds of what has
drained, refunds for missing usage, local clocks, and serving anything while the state is not known.
"""

from stillhouse.limits.binding import Binding
from stillhouse.limits.clock import SteadyClock
from stillhouse.limits.ledger import Ledger
from stillhouse.limits.limit import PUBLIC_SCOPES, SCOPES, Demand, Limit, Scope
from stillhouse.limits.memory import Memory
from stillhouse.limits.results import (
    Exceeded,
    Limiter,
    Reading,
    Reserved,
    Settled,
    Unavailable,
    Unknown,
    ratelimit_headers,
    ratelimit_lines,
)
from stillhouse.limits.shared import Shared

__all__ = [
    "PUBLIC_SCOPES",
    "SCOPES",
    "Binding",
    "Demand",
    "Exceeded",
    "Ledger",
    "Limit",
    "Limiter",
    "Memory",
    "Reading",
    "Reserved",
    "Scope",
    "Settled",
    "Shared",
    "SteadyClock",
    "Unavailable",
    "Unknown",
    "ratelimit_headers",
    "ratelimit_lines",
]
