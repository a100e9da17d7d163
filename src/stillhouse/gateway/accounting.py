"""Reserve, promise, settle, record: what every served request owes, exactly once."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from stillhouse.gateway.addresses import address_prefix
from stillhouse.gateway.admission import price, refusal_of, used_units
from stillhouse.gateway.commit import WITHHELD
from stillhouse.gateway.recorder import Served
from stillhouse.gateway.refusals import RefusedError
from stillhouse.limits import Exceeded, Memory, Reserved, Settled, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillhouse.gateway.admission import Claim
    from stillhouse.gateway.commit import Commit
    from stillhouse.gateway.config import Model
    from stillhouse.gateway.ledger import Ledger
    from stillhouse.gateway.log import Log
    from stillhouse.gateway.metrics import Metrics
    from stillhouse.gateway.recorder import Recorder
    from stillhouse.gateway.tokens import Used
    from stillhouse.gateway.turn import Turn
    from stillhouse.limits import Limiter, SteadyClock, Unknown

_FREE = {"requests": 0, "prompts": 0, "input_tokens": 0, "output_tokens": 0, "money": 0}


class Accounting:
    """The books of one process. `open` before the upstream is asked, `settle` before the end."""

    def __init__(
        self,
        limiter: Limiter,
        ledger: Ledger,
        recorder: Recorder,
        commit: Commit,
        clock: SteadyClock,
        metrics: Metrics,
        log: Log,
    ):
        self.ledger = ledger
        self.commit = commit
        self.recorder = recorder
        self._limiter = limiter
        # The same limiter, where it can be asked without waiting.
        self._memory = limiter if isinstance(limiter, Memory) else None
        self._clock = clock
        self._metrics = metrics
        self._log = log

    async def open(self, turn: Turn, claim: Claim) -> Reserved:
        """Reserve over every scope and take down the intent. Raises `RefusedError`.

        `turn` is identified, its request read and bounded. The upstream is asked through
        `commit.before_upstream`, so that the intent is written first.
        """
        now_us = self._clock.now_us()
        if self._memory is not None:
            found = self._memory.reserve_bound(turn.id, *claim, now_us)
        else:
            found = await self._limiter.reserve(turn.id, claim.demands, now_us)
        if isinstance(found, Exceeded):
            limit = found.demand.limit
            code = refusal_of(limit, public=found.public, ever=found.retry_after_us is not None)
            self._log.limited(turn.request_id, code, found.demand.scope.kind, limit.name)
            wait_s = found.retry_after_s
            raise RefusedError(code, retry_after_us=None if wait_s is None else wait_s * 1_000_000)
        if isinstance(found, Unavailable):
            self._log.trouble("limits", found.reason)
            raise RefusedError("limits_unavailable")
        for demand in found.would_refuse:
            self._metrics.would_refuse[demand.limit.name] += 1
        turn.reserved = True
        turn.opened = time.monotonic()
        turn.intent = _intent(turn)
        self.ledger.intend(turn.intent)
        return found

    async def settle(
        self, turn: Turn, used: Used, *, status: int, refusal: str | None, free: bool = False
    ) -> None:
        """Settle by what was used; what is not known is paid at its reservation.

        The outcome is taken down when this returns: what must come after it goes through
        `commit.before_client`; limits in memory are settled behind that. `free` waives money, not
        tokens.
        """
        turn.reserved = False
        if refusal in WITHHELD:  # nobody was asked, and nothing is written
            self.ledger.withdraw(turn.id.hex())
            await self._settle_limits(turn, _FREE)
            return
        turn.settled = True
        bound, asked, rebuilder, model = turn.bound, turn.asked, turn.rebuilder, turn.model
        if bound is None or asked is None or model is None:
            raise RuntimeError("settled before it was bounded")
        tokens_in = bound.input_tokens if used.input_tokens is None else used.input_tokens
        tokens_out = bound.output_tokens if used.output_tokens is None else used.output_tokens
        money = 0 if free else _price(model, tokens_in, tokens_out)
        columns = turn.intent
        if columns is None:
            raise RuntimeError("settled before it was promised")
        _outcome(turn, columns, status, refusal)
        columns["tokens_in"] = tokens_in
        columns["tokens_out"] = tokens_out
        columns["price_nano"] = money
        if rebuilder is not None:
            usage = rebuilder.usage
            if usage is not None and usage.tokens_reasoning:
                columns["tokens_reasoning"] = usage.tokens_reasoning
            if rebuilder.finish_reason is not None:
                columns["finish_reason"] = rebuilder.finish_reason
            columns["tool_calls"] = rebuilder.tool_calls
        written = self.ledger.settle(columns)
        self.commit.afterwards(partial(self._record, turn, columns, written))
        await self._settle_limits(turn, used_units(tokens_in, tokens_out, money))

    def _record(self, turn: Turn, columns: dict[str, Any], written: bytes) -> None:
        """Count and record what is in the ledger now."""
        asked, metrics = turn.asked, self._metrics
        if asked is None:
            raise RuntimeError("recorded before it was read")
        metrics.tokens["input"] += columns["tokens_in"]
        metrics.tokens["output"] += columns["tokens_out"]
        if "refusal" not in columns:
            metrics.served[asked.model] += 1
        metrics.latency.add(columns["latency_us"])
        if turn.first_us is not None:
            metrics.first_byte.add(turn.first_us)
        self.recorder.add(
            Served(turn.arrived_us, written, asked.texts, turn.body, asked.schema, turn.end_user)
        )

    async def _settle_limits(self, turn: Turn, units: Mapping[str, int]) -> None:
        if self._memory is not None:
            # After the client has its last byte; nothing else of it can be read before.
            self.commit.afterwards(partial(self._settle_memory, self._memory, turn, units))
            return
        self.commit.now()  # the store must not know of what the ledger does not
        now_us = self._clock.now_us()
        # Shielded: a client that goes away in this moment must not keep its reservation open.
        self._note(turn, await asyncio.shield(self._limiter.settle(turn.id, units, now_us)))

    def _settle_memory(self, memory: Memory, turn: Turn, units: Mapping[str, int]) -> None:
        self._note(turn, memory.settle_now(turn.id, units, self._clock.now_us()))

    def _note(self, turn: Turn, found: Settled | Unknown | Unavailable) -> None:
        if isinstance(found, Unavailable):
            self._log.trouble("limits", found.reason)
        elif isinstance(found, Settled) and found.excess:
            self._metrics.excess += 1
            self._log.excess(turn.request_id, found.excess)


def _price(model: Model, tokens_in: int, tokens_out: int) -> int:
    return price(tokens_in, tokens_out, model.price_in_nano, model.price_out_nano)


def _intent(turn: Turn) -> dict[str, Any]:
    facts, bound, asked = turn.facts, turn.bound, turn.asked
    if facts is None or bound is None or asked is None:
        raise RuntimeError("reserved before it was identified")
    return {
        "id": turn.id.hex(),
        "time_us": turn.arrived_us,
        "account": facts.account,
        "organisation": facts.organisation,
        "key": facts.key_id,
        "model": asked.model,
        "streamed": asked.stream,
        "max_tokens": asked.max_tokens,
        "tokens_in": bound.input_tokens,
        "tokens_out": bound.output_tokens,
        "price_nano": bound.money,
    }


def _outcome(turn: Turn, intent: dict[str, Any], status: int, refusal: str | None) -> None:
    """Make an intent the outcome of its request. Unknown columns are left out, not null."""
    asked = turn.asked
    if asked is None:
        raise RuntimeError("settled before it was identified")
    intent["choices"] = asked.choices
    intent["turns"] = asked.turns
    intent["tools_offered"] = len(asked.tools)
    intent["status"] = status
    intent["latency_us"] = int((time.monotonic() - turn.started) * 1_000_000)
    if refusal is not None:
        intent["refusal"] = refusal
    if turn.first_us is not None:
        intent["first_token_us"] = turn.first_us
    prefix = address_prefix(turn.client_text)
    if prefix is not None:
        intent["address_prefix"] = prefix
    if turn.sdk is not None:
        intent["sdk"] = turn.sdk
    for name, value in (
        ("asn", turn.asn),
        ("client_fingerprint", turn.fingerprint),
        ("seed", asked.seed),
        ("top_logprobs", asked.top_logprobs),
    ):
        if value is not None:
            intent[name] = value
    if asked.temperature is not None:
        intent["temperature"] = float(asked.temperature)
    if asked.top_p is not None:
        intent["top_p"] = float(asked.top_p)
