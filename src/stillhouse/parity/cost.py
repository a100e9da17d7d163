"""What both models cost to run, what the student cost to make, and when it has paid for itself.

Pure functions over measured values. Speed is measured on both in one run, under the same runtime,
precision, batch and threads (`teachers.latency.measure_latency`); a teacher behind an API or a
recording has a price and a source, and its speed is "not measured here". What is unknown stays
None and is written as unknown, never as zero. Money is in nano-dollars, time in microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from stillhouse.exchanges.errors import InputError
from stillhouse.parity.answers import Answers
from stillhouse.statistics import Interval
from stillhouse.teachers.chat import Reply

NOT_MEASURED = "not measured here"
_HOUR_US = 3_600_000_000
_NANO = 1_000_000_000


class Timed(Protocol):
    """What `measure_latency` returns for one model; batches (B,) timed R times (R, B)."""

    @property
    def batch_us(self) -> NDArray[np.int64]: ...  # noqa: D102
    @property
    def requests(self) -> NDArray[np.int64]: ...  # noqa: D102
    @property
    def tokens_in(self) -> int: ...  # noqa: D102
    @property
    def tokens_out(self) -> int: ...  # noqa: D102
    @property
    def dtype(self) -> str: ...  # noqa: D102
    @property
    def threads(self) -> int: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Measured speed of one model. Latency is that of a batch; at batch size 1, of a request."""

    runtime: str
    dtype: str
    threads: int
    batch_size: int
    requests: int
    batch_p50_us: int
    batch_p95_us: int
    us_per_request: int
    requests_per_second: float
    tokens_per_second: float | None  # prompt and reply tokens together
    peak_memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What running costs: per thousand requests, and how that is known."""

    nano_per_thousand: int | None
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCost:
    """One model's size, speed and price. None means unknown."""

    name: str
    parameters: int | None
    flops_per_token: int | None
    disk_bytes: int | None
    speed: Speed | None
    speed_note: str
    price: Price


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCost:
    """What making the student took: the teacher's part (labelling) and the student's own."""

    labelling_us: int | None
    labelling_nano: int | None
    teacher_tokens: int | None
    training_us: int | None
    training_nano: int | None
    training_flops: int | None = None

    @property
    def total_nano(self) -> int | None:
        """Money for both parts; None where either is unknown."""
        if self.labelling_nano is None or self.training_nano is None:
            return None
        return self.labelling_nano + self.training_nano


@dataclass(frozen=True, slots=True, kw_only=True)
class CostReport:
    """Both models side by side. `break_even_*`: requests after which the student has paid off.

    None where a price is unknown, or the student is not the cheaper one. `..._without_teacher`
    leaves the teacher's part of the training cost out.
    """

    teacher: ModelCost
    student: ModelCost
    training: TrainingCost | None
    speedup: Interval | None
    break_even: int | None
    break_even_without_teacher: int | None
    notes: tuple[str, ...]


def speed_of(timed: Timed, *, runtime: str, peak_memory_bytes: int | None = None) -> Speed:
    """Summarise the batches of one model."""
    total_us = int(timed.batch_us.sum())
    repeats, requests = timed.batch_us.shape[0], int(timed.requests.sum())
    if total_us <= 0 or requests <= 0:
        raise InputError("nothing was timed", repair="time at least one batch")
    tokens = timed.tokens_in + timed.tokens_out
    p50, p95 = np.quantile(timed.batch_us, [0.5, 0.95])
    return Speed(
        runtime=runtime,
        dtype=timed.dtype,
        threads=timed.threads,
        batch_size=timed.batch_size,
        requests=requests,
        batch_p50_us=round(p50),
        batch_p95_us=round(p95),
        us_per_request=round(total_us / (repeats * requests)),
        requests_per_second=repeats * requests * 1e6 / total_us,
        tokens_per_second=repeats * tokens * 1e6 / total_us if tokens else None,
        peak_memory_bytes=peak_memory_bytes,
    )


def speedup_of(teacher: Timed, student: Timed, *, alpha: float = 0.05) -> Interval | None:
    """How many times faster the student is: geometric mean over batches timed back to back.

    Two-sided at 1 - 2 alpha: the t interval of the log ratio over batches, each averaged over its
    repeats (over repeats where there is one batch). None for a single timing. Raises InputError
    when the two were not timed under the same conditions.
    """
    for name in ("dtype", "threads", "batch_size"):
        pair = getattr(teacher, name), getattr(student, name)
        if pair[0] != pair[1]:
            raise InputError(
                f"teacher and student were timed under different {name}: {pair[0]} and {pair[1]}",
                repair="time both in one call of measure_latency",
            )
    if teacher.batch_us.shape != student.batch_us.shape:
        raise InputError("teacher and student were timed on different batches")
    log_RB = np.log(teacher.batch_us / student.batch_us)
    units = log_RB.mean(axis=0) if log_RB.shape[1] > 1 else log_RB[:, 0]
    if len(units) < 2:
        return None
    df = len(units) - 1
    middle = float(units.mean())
    reach = float(student_t.ppf(1 - alpha, df) * units.std(ddof=1) / math.sqrt(len(units)))
    return Interval(
        estimate=math.exp(middle),
        low=math.exp(middle - reach),
        high=math.exp(middle + reach),
        level=1 - 2 * alpha,
        method="t",
        n=len(units),
        clusters=None,
        df=float(df),
        note=f"t({df}) of the log ratio over {len(units)} batches timed back to back",
    )


def machine_price(speed: Speed, nano_per_hour: int | None) -> Price:
    """Price per thousand requests on a machine of known price, fully used at the measured speed."""
    if nano_per_hour is None:
        return Price(nano_per_thousand=None, basis="unknown: no price of this machine was given")
    thousand_us = 1000 * speed.us_per_request
    return Price(
        nano_per_thousand=-(-nano_per_hour * thousand_us // _HOUR_US),
        basis=f"this machine at {dollars(nano_per_hour)} an hour, fully used, "
        f"batches of {speed.batch_size}",
    )


def answers_price(answers: Answers, source: str) -> Price:
    """Price per thousand requests from the prices that came with a teacher's answers.

    Failed requests count with what they were charged. Unknown as soon as one price is.
    """
    prices = [a.price_nano if isinstance(a, Reply) else a.charged_nano for a in answers.values()]
    known = [price for price in prices if price is not None]
    if not prices or len(known) < len(prices):
        return Price(
            nano_per_thousand=None,
            basis=f"unknown: {len(prices) - len(known)} of {len(prices)} answers have no price",
        )
    return Price(
        nano_per_thousand=-(-1000 * sum(known) // len(known)),
        basis=f"mean over {len(known)} answers; {source}",
    )


def break_even(
    spent_nano: int | None, teacher_nano: int | None, student_nano: int | None
) -> int | None:
    """Requests after which making the student has paid off, rounded up.

    `spent_nano` made the student; the others are per thousand requests. None where one is unknown
    or the student is not cheaper.
    """
    if spent_nano is None or teacher_nano is None or student_nano is None:
        return None
    saved = teacher_nano - student_nano
    return None if saved <= 0 else -(-1000 * spent_nano // saved)


def cost_report(
    teacher: ModelCost,
    student: ModelCost,
    training: TrainingCost | None,
    *,
    timed: Mapping[str, Timed] | None = None,
    alpha: float = 0.05,
) -> CostReport:
    """Put both models side by side. `timed` holds "teacher" and "student" where both were timed."""
    pair = (timed or {}).get("teacher"), (timed or {}).get("student")
    speedup = None
    if pair[0] is not None and pair[1] is not None:
        speedup = speedup_of(pair[0], pair[1], alpha=alpha)
    prices = teacher.price.nano_per_thousand, student.price.nano_per_thousand
    return CostReport(
        teacher=teacher,
        student=student,
        training=training,
        speedup=speedup,
        break_even=break_even(training.total_nano if training else None, *prices),
        break_even_without_teacher=break_even(
            training.training_nano if training else None, *prices
        ),
        notes=_notes(teacher, student, training),
    )


def _notes(
    teacher: ModelCost, student: ModelCost, training: TrainingCost | None
) -> tuple[str, ...]:
    notes = []
    prices = teacher.price.nano_per_thousand, student.price.nano_per_thousand
    if None in prices:
        notes.append("break-even is unknown, because a price is")
    elif prices[0] is not None and prices[1] is not None and prices[1] >= prices[0]:
        notes.append("the student never pays off: it is not the cheaper one")
    if training is not None and training.labelling_nano is None:
        notes.append("what labelling cost is unknown")
    if training is not None and training.training_nano is None:
        notes.append("what training cost is unknown")
    for model in (teacher, student):
        if model.speed is None:
            notes.append(f"speed of {model.name}: {model.speed_note}")
    return tuple(notes)


def time_price(us: int | None, nano_per_hour: int | None) -> int | None:
    """What a span of machine time costs, rounded up; None where either is unknown."""
    if us is None or nano_per_hour is None:
        return None
    return -(-us * nano_per_hour // _HOUR_US)


def dollars(nano: int) -> str:
    """Nano-dollars for a reader: two decimals, or two significant digits below ten cents."""
    value = nano / _NANO
    if value == 0 or abs(value) >= 0.1:
        return f"${value:,.2f}"
    places = 1 - math.floor(math.log10(abs(value)))
    return f"${value:.{places}f}"
