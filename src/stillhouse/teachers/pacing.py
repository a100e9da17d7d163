"""How many requests to keep in flight, and how long to wait before the next try."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

MAX_RETRY_AFTER_US = 3_600_000_000

# Providers that shed load refuse 1 - capacity / offered: a tenth refused is the edge of capacity.
_REFUSED_SHARE = 0.10
_CUT = 0.7
_LEAST_ANSWERS = 20
_LEAST_EPOCH_US = 100_000
# Doubling what is in flight must buy a tenth more replies a second; smaller steps could not be
# told from noise, since replies differ in length. Even so one epoch can mislead: two trials.
_WORTH_IT = 1.10
_TRIALS = 2
_PROBE_EPOCHS = 10


@dataclass(slots=True)
class AdaptiveLimit:
    """Additive increase, multiplicative decrease of the requests in flight, by goodput.

    Time is an argument (microseconds of a monotonic clock). What was in flight when the limit
    changed is not counted; then an epoch lasts for twice `limit` answers, at least 20 and at least
    100 ms. If significantly more than a tenth of them were refused, the limit is cut to 0.7 of
    itself, and what it was becomes the ceiling. Below the ceiling it grows by a twentieth (at
    least one) an epoch. At the ceiling (at first there is none) it is doubled on trial: what does
    not bring a tenth more replies a second is taken back, and after two such trials in a row only
    every tenth epoch tries again. A refusal here and there cuts nothing: a provider that refuses a
    twentieth at random would otherwise drive the limit to a handful.
    """

    start: int = 16
    highest: int = 64
    limit: int = field(init=False)
    _unsettled: int = field(init=False, default=0)
    _from_us: int | None = field(init=False, default=None)
    _good: int = field(init=False, default=0)
    _refused: int = field(init=False, default=0)
    _ceiling: int | None = field(init=False, default=None)
    _before_trial: tuple[int, float] | None = field(init=False, default=None)
    _failed_trials: int = field(init=False, default=0)
    _held: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.limit = max(1, min(self.start, self.highest))

    def note(self, *, refused: bool, now_us: int) -> None:
        """Count one answer (`refused`: 429, 503) and adapt at the end of an epoch."""
        if self._unsettled > 0:
            self._unsettled -= 1
            return
        if self._from_us is None:
            self._from_us = now_us
            return
        if refused:
            self._refused += 1
        else:
            self._good += 1
        answers = self._good + self._refused
        elapsed_us = now_us - self._from_us
        if answers >= max(2 * self.limit, _LEAST_ANSWERS) and elapsed_us >= _LEAST_EPOCH_US:
            self._from_us = now_us
            self._adapt(self._good * 1e6 / elapsed_us, answers)
            self._good = self._refused = 0

    def _adapt(self, good_per_s: float, answers: int) -> None:
        expected = _REFUSED_SHARE * answers
        if self._refused > expected + 3 * math.sqrt(expected * (1 - _REFUSED_SHARE)):
            self._before_trial = None
            self._failed_trials = _TRIALS
            self._ceiling = self.limit
            self._set(int(self.limit * _CUT))
        elif self._before_trial is not None:
            before, goodput_before = self._before_trial
            self._before_trial = None
            if good_per_s < goodput_before * _WORTH_IT:
                self._failed_trials += 1
                self._held = 0
                self._ceiling = before
                self._set(before)
            else:
                self._failed_trials = 0
                self._ceiling = None
                self._try(good_per_s)
        elif self._ceiling is not None and self.limit < self._ceiling:
            self._set(min(self.limit + max(1, self.limit // 20), self._ceiling))
        else:
            self._held += 1
            if self._failed_trials < _TRIALS or self._held % _PROBE_EPOCHS == 0:
                self._try(good_per_s)

    def _try(self, good_per_s: float) -> None:
        before = self.limit
        self._set(before * 2)
        if self.limit > before:
            self._before_trial = (before, good_per_s)

    def _set(self, limit: int) -> None:
        limit = max(1, min(limit, self.highest))
        if limit != self.limit:
            self._unsettled = min(limit, self.limit)
            self._from_us = None
            self.limit = limit


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off with full jitter; a Retry-After is a floor, never shortened."""

    base_us: int = 100_000
    highest_us: int = 60_000_000

    def wait_us(self, attempt: int, retry_after_us: int | None, rng: random.Random) -> int:
        """Return the wait before try `attempt` + 1 (attempts count from 1)."""
        ceiling = min(self.highest_us, self.base_us << min(attempt - 1, 30))
        jittered = rng.randrange(ceiling + 1)
        return jittered if retry_after_us is None else retry_after_us + jittered // 4


def parse_retry_after(value: str | None, now: datetime.datetime) -> int | None:
    """Return the microseconds that a Retry-After header asks for (seconds or an HTTP date).

    None when there is no header or it cannot be read; at most one hour.
    """
    if value is None:
        return None
    text = value.strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            when = parsedate_to_datetime(text)
        except ValueError:
            return None
        if when.tzinfo is None:
            when = when.replace(tzinfo=datetime.UTC)
        seconds = (when - now).total_seconds()
    if not seconds > 0:  # NaN too
        return 0
    return int(min(seconds * 1e6, MAX_RETRY_AFTER_US))
