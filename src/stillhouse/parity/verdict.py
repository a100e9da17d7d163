"""The verdict: is the student as good as its teacher, by which margin, at which confidence.

One metric and one margin, both fixed before the run. `non-inferior`: the one-sided 95 % lower bound
of student minus teacher lies above minus the margin. `inferior`: the upper bound lies below it.
`not shown`: the margin lies inside the interval, so this test says neither. A verdict is never
read off the point estimate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from scipy.stats import norm

from stillhouse.exchanges.errors import InputError
from stillhouse.parity.comparisons import Compared
from stillhouse.parity.scores import Measure
from stillhouse.statistics import Interval, noninferiority, required_n

Outcome = Literal["non-inferior", "inferior", "not shown"]

LEAD = 5.0  # points; a teacher that leads trivial baselines by less is not worth distilling
PARSEABLE = 0.95  # share


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginRecord:
    """When and where the margin was fixed: the digest of the recipe that holds it.

    Where margin or metric were changed with answers to the test items there, `changed_at` says
    when, and `margin` and `metric` what was claimed before.
    """

    recipe_digest: str
    recorded_at: str  # ISO 8601, UTC
    margin: float | None = None
    metric: str | None = None
    changed_at: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer and what it rests on. Differences are student minus teacher, positive is better.

    Margin, bound and interval are in `unit`: points of 100, or bits per byte.

    `smallest_margin_shown`: these answers show non-inferiority for every margin above it.
    `smallest_margin_possible`: the same, had the two models scored alike. `items_needed`: items,
    drawn as these were, to show the margin with 80 % power if the two are in truth equally good;
    None where the spread between training seeds stands in the way of any number.
    """

    outcome: Outcome
    sentence: str
    metric: str
    unit: str
    margin: float
    confidence: float  # one-sided
    interval: Interval
    bound: float
    smallest_margin_shown: float
    smallest_margin_possible: float
    items_needed: int | None
    items: int
    groups: int
    seeds: int
    margin_record: MarginRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherGate:
    """Whether a teacher is worth distilling: it must lead trivial baselines, and be readable."""

    passes: bool
    lead_over: dict[str, float]  # baseline -> points
    parseable: float
    reasons: tuple[str, ...]


def decide(
    compared: Compared,
    margin: float,
    measure: Measure,
    *,
    alpha: float,
    items: int,
    groups: int,
    seeds: int,
    margin_record: MarginRecord | None,
    names: tuple[str, str] = ("the student", "the teacher"),
) -> Verdict:
    """Turn the difference of student minus teacher into a verdict and a sentence.

    Its interval is two-sided at 1 - 2 alpha. Raises InputError for a margin that is not positive.
    """
    if not 0 < margin < float("inf"):
        raise InputError(
            f"a margin of {margin!r} decides nothing",
            repair="give the loss you would accept, for example 5 for five points",
        )
    interval = compared.interval
    test = noninferiority(interval, margin)
    return Verdict(
        outcome=test.verdict,
        sentence=_sentence(
            test.verdict,
            interval,
            names,
            measure.unit,
            one_group=groups == 1 < items,
            sure=f"{100 * (1 - alpha):g} % confidence",
            allowed=f"{_the_margin(margin_record)} allows {amount(margin, measure.unit)}",
        ),
        metric=measure.name,
        unit=measure.unit,
        margin=margin,
        confidence=1 - alpha,
        interval=interval,
        bound=interval.low,
        smallest_margin_shown=test.smallest_margin_shown,
        smallest_margin_possible=test.smallest_margin_if_equal,
        items_needed=_items_needed(compared, margin, items, alpha),
        items=items,
        groups=groups,
        seeds=seeds,
        margin_record=margin_record,
    )


def teacher_gate(
    teacher: float,
    baselines: Mapping[str, float],
    parseable: float,
    *,
    lead: float | None = LEAD,
    least_parseable: float = PARSEABLE,
) -> TeacherGate:
    """Judge a teacher by its validation items: its lead over each baseline, replies that parse.

    Scores and `lead` are in points (higher is better); a `lead` of None asks for none. `parseable`
    and `least_parseable` are shares.
    """
    leads = {name: teacher - value for name, value in baselines.items()}
    reasons = [
        f"the teacher leads {name} by {value:.1f} points, and {lead:.1f} are needed"
        for name, value in leads.items()
        if lead is not None and value < lead
    ]
    if parseable < least_parseable:
        reasons.append(
            f"{100 * parseable:.1f} % of the teacher's answers parse, "
            f"and {100 * least_parseable:.0f} % are needed"
        )
    return TeacherGate(
        passes=not reasons, lead_over=leads, parseable=parseable, reasons=tuple(reasons)
    )


def _items_needed(compared: Compared, margin: float, items: int, alpha: float) -> int | None:
    """Items at 80 % power: independent right or wrong by the score test, others by their reach.

    The reach is what `items` of them put below the estimate; what seeds add does not shrink with
    items. None where that alone is too much.
    """
    if compared.discordance is not None and margin < 100:
        return required_n(margin / 100, compared.discordance, alpha=alpha)
    z_alpha, z_power = float(norm.isf(alpha)), float(norm.isf(0.2))
    allowed = (margin / (1 + z_power / z_alpha)) ** 2 - compared.seeds**2
    if allowed <= 0:
        return None
    return math.ceil(items * (compared.of_items.estimate - compared.of_items.low) ** 2 / allowed)


def amount(value: float, unit: str) -> str:
    """A difference in the words of its unit: `2.1 points`, `0.031 bits/byte`."""
    return f"{value:.1f} points" if unit == "points" else f"{value:.3f} {unit}"


def _the_margin(record: MarginRecord | None) -> str:
    if record is None:
        return "the margin"
    if record.changed_at is None:
        return "the margin fixed before the run"
    before = f"{record.margin:g} by {record.metric}"
    return f"the margin, changed after results were there (before: {before}),"


def _sentence(
    outcome: Outcome,
    interval: Interval,
    names: tuple[str, str],
    unit: str,
    *,
    one_group: bool,
    sure: str,
    allowed: str,
) -> str:
    student, teacher = names
    lost = amount(abs(interval.low), unit)
    if outcome == "non-inferior" and interval.low >= 0:
        found = f"{student} is better than {teacher} by at least {lost} ({sure}); {allowed}."
    elif outcome == "non-inferior":
        found = f"{student} loses at most {lost} against {teacher} ({sure}); {allowed}."
    elif outcome == "inferior":
        worse = amount(abs(interval.high), unit)
        found = f"{student} loses at least {worse} against {teacher} ({sure}); {allowed}."
    else:
        found = (
            f"{student} may lose up to {lost} against {teacher} ({sure}), and {allowed}: "
            "these items do not settle it."
        )
    return f"Within the one group tested, {found}" if one_group else _capital(found)


def _capital(text: str) -> str:
    """A capital for an article; a model's name is left as it is."""
    return f"The {text[4:]}" if text.startswith("the ") else text
