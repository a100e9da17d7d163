"""Terms of use: when an organisation may be served under what it has accepted (pure)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillhouse.accounts.measures import DAY_US
from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

MINIMUM_NOTICE_US = 7 * DAY_US
NEVER_US = 1 << 62


@dataclass(frozen=True, slots=True)
class Terms:
    """A version of the terms: announced, effective later, and lenient for `grace_us` after that."""

    version: int
    published_us: int
    effective_us: int
    grace_us: int

    @property
    def lapse_us(self) -> int:
        """From when it must have been accepted by those who accepted an earlier one."""
        return self.effective_us + self.grace_us


def digest_of(text: str) -> str:
    """Return the SHA-256 of a document, which whoever accepts it must name."""
    return hashlib.sha256(text.encode()).hexdigest()


def deadlines(versions: Sequence[Terms]) -> dict[int, int]:
    """Return accepted version -> time from which it no longer suffices.

    That is when the grace of the *first* version beyond it ends: publishing yet another one does
    not put the date off.
    """
    ordered = sorted(versions, key=lambda terms: terms.version)
    result = {}
    deadline_us = NEVER_US
    for terms in reversed(ordered):
        result[terms.version] = deadline_us
        deadline_us = min(deadline_us, terms.lapse_us)
    return result


def check_publication(new: Terms, earlier: Sequence[Terms]) -> None:
    """Raise `InputError` unless publishing `new` leaves everyone their notice.

    The first version may take effect at once. A later one takes effect after every earlier one and
    at the earliest seven days from now.
    """
    if new.grace_us < 0:
        raise InputError("a grace cannot be negative", place=f"terms {new.version}")
    if not earlier:
        return
    last = max(earlier, key=lambda terms: terms.version)
    if new.effective_us < new.published_us + MINIMUM_NOTICE_US:
        raise InputError(
            "a new version needs at least 7 days of notice, so that no traffic is cut unannounced",
            place=f"terms {new.version}",
            repair="give a later effective date",
        )
    if new.effective_us < last.effective_us:
        raise InputError(
            f"version {last.version} takes effect later than this one would",
            place=f"terms {new.version}",
            repair="give a later effective date",
        )


def check_acceptance(version: int, versions: Sequence[Terms], now_us: int) -> None:
    """Raise `InputError` unless accepting `version` now serves: it is in effect, or newer."""
    if version not in {terms.version for terms in versions}:
        raise InputError(f"there are no terms {version}")
    in_effect = max((t.version for t in versions if t.effective_us <= now_us), default=0)
    if version < in_effect:
        raise InputError(
            f"terms {version} were replaced by {in_effect}", repair=f"accept version {in_effect}"
        )
