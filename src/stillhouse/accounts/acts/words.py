"""The kinds of fields that acts share, with their bounds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

_PRINTABLE = r"^[^\x00-\x1f\x7f]+$"

Id = Annotated[
    str,
    StringConstraints(pattern=r"^(?:(?:acct|org|rep|op|msr|prop)_)?[0-9A-Za-z]{12}$"),
    Field(description="An id as the store gave it, such as acct_4Zq0p9XbT1aK."),
]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_PRINTABLE)]
Sentence = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=_PRINTABLE)]
Subject = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=_PRINTABLE)]
Reason = Annotated[
    str,
    StringConstraints(min_length=1, max_length=2000, pattern=_PRINTABLE),
    Field(description="Why; kept in the audit."),
]
