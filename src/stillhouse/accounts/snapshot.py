"""The accounts in memory: what a request is checked against, kept fresh by the change feed (pure).

One thread owns a snapshot: the one that authenticates applies the deltas too, so a decision never
sees half a change. Nothing here reads or writes; `store` makes deltas, `feed` brings them.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from stillhouse.accounts.credentials import KeyedHash
from stillhouse.accounts.lists import ListEntry, OriginRules
from stillhouse.accounts.measures import Measure
from stillhouse.accounts.networks import Address, PrefixTable, parse_network
from stillhouse.accounts.terms import NEVER_US, Terms, deadlines
from stillhouse.accounts.tiers import Tier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillhouse.accounts.lists import Origin

STALE_AFTER_US = 1_000_000
_KEY_CHARS = len("still_") + 12 + 1 + 39
_ID = slice(len("still_"), len("still_") + 12)


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """Who a key speaks for. `key_id` is public; `campaign` is never shown to a client.

    prepaid_nano: nano-dollars that were ever paid in for the account; None where it is not prepaid.
    """

    key_id: str
    account: str
    organisation: str
    campaign: str | None
    tier: str
    scopes: frozenset[str]
    pepper: int
    prepaid_nano: int | None = None


@dataclass(frozen=True, slots=True)
class Denied:
    """Why not: `code` is stable; the rest is for the log, as it may tell what is linked."""

    code: str
    measure: str | None = None
    scope: str | None = None
    until_us: int | None = None


INVALID_KEY = Denied("invalid_key")
EXPIRED_KEY = Denied("expired_key")
REVOKED_KEY = Denied("revoked_key")
ACCOUNT_CLOSED = Denied("account_closed")
TERMS_REQUIRED = Denied("terms_required")
TERMS_LAPSED = Denied("terms_lapsed")


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as the store keeps it."""

    id: str
    account: str
    pepper: int
    digest: bytes
    scopes: tuple[str, ...]
    expires_us: int | None = None
    revoked_us: int | None = None


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account as the store keeps it."""

    id: str
    organisation: str
    tier: str
    campaign: str | None = None
    closed_us: int | None = None
    prepaid_nano: int | None = None


@dataclass(frozen=True, slots=True)
class OrganisationRow:
    """An organisation; `accepted` is the newest version of the terms it accepted, 0 for none."""

    id: str
    accepted: int = 0
    closed_us: int | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """What changed up to `sequence`; with `full` set everything there is.

    asked_us: monotonic time of this process *before* it asked: what was committed earlier is in it.
    gone_lists: (kind, value) of the list entries that were removed.
    """

    epoch: str
    sequence: int
    asked_us: int
    full: bool = False
    keys: tuple[KeyRow, ...] = ()
    accounts: tuple[AccountRow, ...] = ()
    organisations: tuple[OrganisationRow, ...] = ()
    tiers: tuple[Tier, ...] = ()
    terms: tuple[Terms, ...] = ()
    measures: tuple[Measure, ...] = ()
    lists: tuple[ListEntry, ...] = ()
    gone_lists: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class _Kept:
    """A key, ready to be checked."""

    pepper: KeyedHash
    digest: bytes
    expires_us: int
    revoked: bool  # from the moment it is told: the clock that says when may be ahead
    facts: KeyFacts


@dataclass(slots=True)
class Blocks:
    """Address blocks by network."""

    table: PrefixTable[Measure] = field(default_factory=PrefixTable)

    def match(self, address: Address, now_us: int) -> Denied | None:
        """Return `address_blocked` where a block in force covers the address in any form."""
        for measure in self.table.find(address):
            if measure.holds(now_us):
                return Denied("address_blocked", measure.id, "address", measure.expires_us)
        return None


class Snapshot:
    """Everything the data path asks about accounts, in memory.

    Start from `authenticate` and `standing`. `is_stale` says that the feed was not confirmed for a
    second: then nothing may be admitted and open streams must be cut, as a ban may be missing.
    """

    def __init__(self, peppers: Mapping[int, bytes], delta: Delta) -> None:
        self._peppers = {version: KeyedHash(key) for version, key in peppers.items()}
        self._nobody = KeyedHash(secrets.token_bytes(32))
        self._clear()
        self.apply(delta)

    def _clear(self) -> None:
        self.sequence = 0
        self.epoch = ""
        self.confirmed_at_us = 0
        self.blocks = Blocks()
        self._keys: dict[str, _Kept] = {}
        self._keys_of: dict[str, set[str]] = {}
        self._accounts: dict[str, AccountRow] = {}
        self._organisations: dict[str, OrganisationRow] = {}
        self._tiers: dict[str, Tier] = {}
        self._terms: dict[int, Terms] = {}
        self._deadlines: dict[int, int] = {}
        self._measures: dict[str, Measure] = {}
        self._bans: dict[tuple[str, str | None], list[Measure]] = {}
        self._ends: list[tuple[int, str]] = []
        self._origins = OriginRules()

    def __len__(self) -> int:
        return len(self._accounts)

    def is_stale(self, monotonic_us: int) -> bool:
        """Tell whether the feed was last confirmed a second ago or more (monotonic time)."""
        return monotonic_us - self.confirmed_at_us >= STALE_AFTER_US

    def authenticate(self, key_text: str, now_us: int) -> KeyFacts | Denied:
        """Return whose key this is, or `invalid_key`, `expired_key`, `revoked_key`.

        An unknown public id costs the same HMAC as a known one. That a key is expired or revoked is
        told only to whoever holds it.
        """
        if len(key_text) != _KEY_CHARS:
            return INVALID_KEY
        kept = self._keys.get(key_text[_ID])
        pepper = self._nobody if kept is None else kept.pepper
        digest = pepper.digest(key_text.encode("ascii", "replace"))
        if kept is None or not hmac.compare_digest(digest, kept.digest):
            return INVALID_KEY
        if kept.revoked:
            return REVOKED_KEY
        if kept.expires_us <= now_us:
            return EXPIRED_KEY
        return kept.facts

    def standing(self, facts: KeyFacts, now_us: int) -> Denied | None:
        """Return what stands against serving this key now, also in the middle of a stream.

        `revoked_key`, `expired_key`, `account_closed`, `banned`, `suspended`, `terms_required`,
        `terms_lapsed`; None when nothing does. Looks up the present state, not the one of `facts`.
        """
        kept = self._keys.get(facts.key_id)
        if kept is None or kept.revoked:
            return REVOKED_KEY
        if kept.expires_us <= now_us:
            return EXPIRED_KEY
        account = self._accounts[kept.facts.account]
        organisation = self._organisations[kept.facts.organisation]
        if account.closed_us is not None or organisation.closed_us is not None:
            return ACCOUNT_CLOSED
        if self._bans and (denied := self.bans(kept.facts, now_us)) is not None:
            return denied
        return self.terms(organisation.id, now_us)

    def bans(self, facts: KeyFacts, now_us: int) -> Denied | None:
        """Return the ban (first) or suspension in force on the key or on what is above it."""
        found: Denied | None = None
        for scope, subject in (
            ("key", facts.key_id),
            ("account", facts.account),
            ("organisation", facts.organisation),
            ("campaign", facts.campaign),
        ):
            for measure in self._bans.get((scope, subject), ()):
                if measure.holds(now_us):
                    if measure.kind == "ban":
                        return Denied("banned", measure.id, scope, measure.expires_us)
                    found = found or Denied("suspended", measure.id, scope, measure.expires_us)
        return found

    def terms(self, organisation: str, now_us: int) -> Denied | None:
        """Return `terms_required` before the first acceptance, `terms_lapsed` after the grace."""
        accepted = self._organisations[organisation].accepted
        if accepted == 0:
            return TERMS_REQUIRED
        return None if now_us < self._deadlines.get(accepted, 0) else TERMS_LAPSED

    def origin_denial(self, address: Address, origin: Origin, level: int | None) -> Denied | None:
        """Return what the operator's lists say against this origin.

        `country_refused` or `network_refused` for everyone; `verification_required` where a tier
        below the listed level (`level`, None before the key is known) may not come from there.
        """
        code = self._origins.judge(address, origin, level)
        return None if code is None else Denied(code)

    def tier(self, facts: KeyFacts) -> Tier:
        """Return the tier of the key's account as it is now."""
        return self._tiers[self._accounts[facts.account].tier]

    def apply(self, delta: Delta) -> bool:
        """Take a delta in; return whether it changed anything. Costs what it holds, not all."""
        if delta.full:
            self._clear()
        for tier in delta.tiers:
            self._tiers[tier.name] = tier
        if delta.terms:
            self._terms |= {terms.version: terms for terms in delta.terms}
            self._deadlines = deadlines(list(self._terms.values()))
        for organisation in delta.organisations:
            self._organisations[organisation.id] = organisation
        for account in delta.accounts:
            self._accounts[account.id] = account
            for key_id in self._keys_of.get(account.id, ()):
                kept = self._keys[key_id]
                kept.facts = _facts(key_id, account, kept.facts.scopes, pepper=kept.facts.pepper)
        for key in delta.keys:
            self._put_key(key)
        for measure in delta.measures:
            self._put_measure(measure)
        for kind, value in delta.gone_lists:
            self._origins.discard(kind, value)
        for entry in delta.lists:
            self._origins.add(entry)
        changed = delta.full or delta.sequence != self.sequence
        self.epoch, self.sequence = delta.epoch, delta.sequence
        self.confirmed_at_us = max(self.confirmed_at_us, delta.asked_us)
        return changed

    def forget_ended(self, now_us: int) -> None:
        """Let go of measures that ended before `now_us`, by the clock that `standing` is asked by.

        Never by the store's: a step of it would end measures that still hold here.
        """
        while self._ends and self._ends[0][0] <= now_us:
            _, identity = heappop(self._ends)
            known = self._measures.get(identity)
            # An extended measure has a later entry in the heap.
            if known is not None and not known.holds(now_us):
                self._drop_measure(known)

    def _put_key(self, row: KeyRow) -> None:
        account = self._accounts[row.account]
        self._keys_of.setdefault(row.account, set()).add(row.id)
        self._keys[row.id] = _Kept(
            # A pepper that this process was not given: nothing matches, so the key is refused.
            self._peppers.get(row.pepper, self._nobody),
            row.digest,
            NEVER_US if row.expires_us is None else row.expires_us,
            row.revoked_us is not None,
            _facts(row.id, account, frozenset(row.scopes), pepper=row.pepper),
        )

    def _put_measure(self, measure: Measure) -> None:
        known = self._measures.get(measure.id)
        if known is not None:
            self._drop_measure(known)
        if measure.undone_us is not None:
            return
        if measure.expires_us is not None:
            heappush(self._ends, (measure.expires_us, measure.id))
        self._measures[measure.id] = measure
        if measure.scope == "address":
            self.blocks.table.add(parse_network(measure.subject), measure)
        else:
            self._bans.setdefault((measure.scope, measure.subject), []).append(measure)

    def _drop_measure(self, measure: Measure) -> None:
        del self._measures[measure.id]
        if measure.scope == "address":
            self.blocks.table.discard(parse_network(measure.subject), measure)
            return
        others = self._bans[measure.scope, measure.subject]
        others.remove(measure)
        if not others:
            del self._bans[measure.scope, measure.subject]


def _facts(key_id: str, account: AccountRow, scopes: frozenset[str], *, pepper: int) -> KeyFacts:
    return KeyFacts(
        key_id,
        account.id,
        account.organisation,
        account.campaign,
        account.tier,
        scopes,
        pepper,
        account.prepaid_nano,
    )
