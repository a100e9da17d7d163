"""Values written the way a document writes its own: dates, amounts and codes."""

from __future__ import annotations

import re
from datetime import date
from random import Random

MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


def render_date(value: date, like: str) -> str | None:
    """`value` in the form of the written date `like`; None for a form that is not known here.

    An all-number form is taken to be day first unless its second number can only be a day.
    """
    day, month, year = value.day, value.month, value.year
    if re.fullmatch(r"\d{4}([-/.])\d\d\1\d\d", like):
        mark = like[4]
        return f"{year:04}{mark}{month:02}{mark}{day:02}"
    numeric = re.fullmatch(r"(\d\d)([-/.])(\d\d)\2\d{4}", like)
    if numeric:
        mark = numeric[2]
        return f"{day:02}{mark}{month:02}{mark}{year}"
    named = re.search(r"[^\W\d_]{3,}", like)
    if named is None or named[0].lower() not in {
        m[:n].lower() for m in MONTHS for n in (3, len(m))
    }:
        return None
    name = MONTHS[month - 1][:3] if len(named[0]) == 3 else MONTHS[month - 1]
    parts = re.fullmatch(r"(\d{1,2})([ -])[^\W\d_]+\2(\d{4})", like)
    if parts:
        written = f"{day:02}" if like[0] == "0" or len(named[0]) == 3 else str(day)
        return f"{written}{parts[2]}{name}{parts[2]}{year}"
    if re.fullmatch(r"[^\W\d_]+ \d{1,2}, \d{4}", like):
        return f"{name} {day}, {year}"
    return None


def render_amount(value: float, like: str) -> str | None:
    """`value` with the separators, currency mark and decimals of the written amount `like`."""
    number = re.search(r"\d[\d.,\u00a0' ]*", like)
    if number is None:
        return None
    raw = number[0].rstrip(" .,")
    decimals = re.search(r"([.,])\d\d$", raw)
    whole = raw[: decimals.start()] if decimals else raw
    separators = re.sub(r"\d", "", whole)
    mark = separators[:1]
    if value >= 1000 and not mark and len(whole) < 4:
        return None
    text = f"{value:,.2f}" if decimals else f"{value:,.0f}"
    text = text.replace(",", "\0").replace(".", decimals[1] if decimals else "")
    return like[: number.start()] + text.replace("\0", mark) + like[number.start() + len(raw) :]


def random_code(pattern: str, random: Random) -> str:
    """A code of the same shape: each digit and letter is drawn anew."""
    return "".join(
        random.choice("0123456789")
        if c.isdigit()
        else random.choice("ABCDEFGHJKLMNPQRSTUVWXYZ")
        if c.isupper()
        else random.choice("abcdefghjkmnpqrstuvwxyz")
        if c.islower()
        else c
        for c in pattern
    )


def code_shape(code: str) -> str:
    """A regular expression for codes of the same shape."""
    parts = []
    for c in code:
        kind = r"\d" if c.isdigit() else "[A-Z]" if c.isupper() else "[a-z]" if c.islower() else ""
        parts.append(kind or re.escape(c))
    return "".join(parts)
