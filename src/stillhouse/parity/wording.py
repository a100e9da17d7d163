"""Numbers and sentences for a reader: the words of the report, the model card and the terminal."""

from __future__ import annotations

import datetime
import difflib
import re
import unicodedata
from dataclasses import dataclass

from stillhouse.parity.comparisons import Comparison
from stillhouse.parity.cost import CostReport
from stillhouse.parity.judgement import Judgement
from stillhouse.statistics import Interval

UNKNOWN = "unknown"
_CLIP = 1500  # characters of a reply that a page shows
_MINUS = "\u2212"


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of a text; `marked` where it differs from the text it is compared with."""

    text: str
    marked: bool


def value(number: float | None, unit: str) -> str:
    """A metric's value, such as `92.0`."""
    if number is None:
        return "\u2013"
    return f"{number:.1f}" if unit == "points" else f"{number:.3f}"


def signed(number: float, unit: str) -> str:
    """A difference with its sign, such as `+1.2`."""
    text = value(abs(number), unit)
    if float(text) == 0:
        return text
    return ("+" if number > 0 else _MINUS) + text


def span(interval: Interval, unit: str, *, sign: bool = False) -> str:
    """Both ends of an interval."""
    write = signed if sign else value
    return f"{write(interval.low, unit)} to {write(interval.high, unit)}"


def count(number: float | None) -> str:
    """A large number with a prefix, such as `134.5 M`."""
    if number is None:
        return UNKNOWN
    for size, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(number) >= size:
            return f"{number / size:.4g}{prefix}"
    return f"{number:.4g}"


def rate(per_second: float) -> str:
    """A rate without an exponent, such as `47.3` or `1,590`."""
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"


def size(n_bytes: int | None) -> str:
    """Bytes with a prefix, such as `519 MB`."""
    return (
        UNKNOWN if n_bytes is None else f"{count(n_bytes)}B" if n_bytes >= 1e3 else f"{n_bytes} B"
    )


def duration(us: int | None) -> str:
    """A span of time, such as `12.3 ms` or `7 min 5 s`."""
    if us is None:
        return UNKNOWN
    if us < 1_000:
        return f"{us} \u00b5s"
    if us < 1_000_000:
        return f"{us / 1e3:.3g} ms"
    seconds = round(us / 1e6)
    if seconds < 60:
        return f"{us / 1e6:.3g} s"
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def pays_off(cost: CostReport, requests: int | None) -> str:
    """After how many requests, `never` where the student is not cheaper, or that it is unknown."""
    if requests is not None:
        return f"{requests:,} requests"
    prices = cost.teacher.price.nano_per_thousand, cost.student.price.nano_per_thousand
    if prices[0] is not None and prices[1] is not None and prices[0] <= prices[1]:
        return "never: the student is not cheaper"
    return UNKNOWN


def clean(text: str) -> str:
    """A text without control, format, private and lone surrogate characters (line ends stay)."""
    return "".join(
        "\ufffd"
        if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co") and c not in "\n\t\u200d"
        else c
        for c in text
    )


def shown(text: str) -> str:
    """A reply made safe to look at: cleaned, and clipped with a note."""
    rest = len(text) - _CLIP
    return clean(text) if rest <= 0 else f"{clean(text[:_CLIP])}\u2026 ({rest:,} more characters)"


def label(text: str, longest: int = 30) -> str:
    """A name for an axis: one line, clipped."""
    line = " ".join(clean(text).split())
    return line if len(line) <= longest else line[: longest - 1] + "\u2026"


def compared(text: str, other: str) -> list[Segment]:
    """`text` cut into runs of words that stand in `other` too and runs that do not."""
    mine, theirs = (re.findall(r"\w+|\s+|[^\w\s]", shown(side)) for side in (text, other))
    matcher = difflib.SequenceMatcher(None, mine, theirs, autojunk=False)
    return [
        Segment("".join(mine[start:end]), kind != "equal")
        for kind, start, end, _, _ in matcher.get_opcodes()
        if end > start
    ]


def heading(outcome: str) -> str:
    """The verdict in two or three words."""
    return {
        "non-inferior": "Non-inferior",
        "inferior": "Inferior",
        "not shown": "Not shown",
    }[outcome]


def in_short(judgement: Judgement, cost: CostReport | None) -> list[str]:
    """The findings beside the verdict, one sentence each, each at its unfavourable bound."""
    own = judgement.config.student_name
    found = [
        _against(comparison, judgement.verdict.unit)
        for comparison in judgement.comparisons[1:]
        if comparison.left == own
    ]
    if cost is not None and cost.speedup is not None:
        fast = cost.speedup
        known = f"at least {fast.low:.1f} times"
        if fast.low < 1:
            known = f"not shown to be faster: {fast.low:.1f} to {fast.high:.1f} times"
        found.append(
            f"It answers {fast.estimate:.1f} times as fast as the teacher ({known}): same runtime, "
            "precision, batch and threads."
        )
    if cost is not None and cost.break_even is not None:
        found.append(f"It pays for itself after {cost.break_even:,} requests.")
    return found


def _against(comparison: Comparison, unit: str) -> str:
    interval, other = comparison.interval, in_words(comparison.right)
    if interval.low > 0:
        return f"It beats {other} by at least {value(interval.low, unit)} {unit}."
    told = f"{signed(interval.estimate, unit)} {unit}, {span(interval, unit, sign=True)}"
    if interval.high < 0:
        return f"It is below {other} ({told})."
    return f"It is not shown to differ from {other} ({told})."


def in_words(name: str) -> str:
    """A baseline's usual name in words; any other name as it is."""
    return {
        "majority": "always giving the commonest answer",
        "tfidf": "TF-IDF with logistic regression on the same labels",
        "tfidf_gold": "TF-IDF with logistic regression on gold labels",
        "nearest": "repeating the answer to the nearest training prompt",
        "regex": "taking each field from what stands before it in training documents",
        "ngram": "byte n-grams of the training replies",
        "untrained": "the untrained student",
        "gold_trained": "the same student trained on gold answers",
        "plain": "the same student by plain training on replies",
        "student_writing": "itself where it writes its answers",
    }.get(name, name)


def short(name: str) -> str:
    """A baseline's name for a table or an axis; any other name as it is."""
    return {
        "tfidf": "TF-IDF",
        "tfidf_gold": "TF-IDF on gold",
        "gold_trained": "gold-trained",
        "ngram": "byte n-grams",
        "plain": "plain training",
        "student_writing": "student, writing",
    }.get(name, name)


def moment(text: str) -> str:
    """A time stamp for a reader: `2026-11-23 20:58 UTC`; other texts as they are."""
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    if at.tzinfo is None:
        return text
    return f"{at.astimezone(datetime.UTC):%Y-%m-%d %H:%M} UTC"


def metric_title(judgement: Judgement) -> str:
    """The primary metric's title."""
    name = judgement.verdict.metric
    return next((note.title for note in judgement.metrics if note.metric == name), name)
