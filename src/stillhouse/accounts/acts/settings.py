"""Acts on what the operator of the gateway sets: tiers, and lists of origins."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import delete

from stillhouse.accounts import schema
from stillhouse.accounts.acts.staff import admins
from stillhouse.accounts.acts.words import Name, Reason, Subject
from stillhouse.accounts.behind import behind
from stillhouse.accounts.desk import Act, Desk, Done
from stillhouse.accounts.lists import ListKind, Verdict, check_entry
from stillhouse.accounts.roles import Right
from stillhouse.accounts.tiers import Cap, CapMeasure, CapScope, Tier
from stillhouse.limits import Limit

_LARGE = 1 << 53  # JSON readers keep integers exact up to here


class CapFields(BaseModel):
    """A cap, as `stillhouse.accounts.Cap`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scope: CapScope
    measure: CapMeasure
    amount: Annotated[int, Field(ge=0, le=_LARGE)]
    window_us: Annotated[int, Field(ge=0, le=_LARGE)] = 0
    burst: Annotated[int, Field(ge=0, le=_LARGE)] = 0
    shadow: Annotated[bool, Field(description="Refuses nothing, counts what it would.")] = False


class DefineTier(Act):
    """Set what a tier may use; accounts of the tier follow within a second."""

    NAME: ClassVar[str] = "define-tier"
    RIGHT: ClassVar[Right] = Right.CONFIGURE
    EXAMPLE: ClassVar[str] = (
        "--name verified --level 1 --max-output-tokens 8192 "
        '--caps \'{"scope": "account", "measure": "requests", "amount": 1000, '
        '"window_us": 60000000, "burst": 100}\''
    )

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
    level: Annotated[int, Field(ge=0, le=100, description="0 is where new accounts start.")]
    caps: Annotated[list[CapFields], Field(min_length=1, max_length=50)]
    max_output_tokens: Annotated[int, Field(ge=1, le=1_000_000)]
    top_logprobs: Annotated[int, Field(ge=0, le=20, description="0: not sold.")] = 0
    models: Annotated[list[Name], Field(max_length=100, description="None named: every one.")] = (
        Field(default=[])
    )

    def carry_out(self, desk: Desk) -> Done:
        """Keep the tier."""
        caps = tuple(Cap(**cap.model_dump()) for cap in self.caps)
        for cap in caps:
            _check_limit(cap)
        tier = Tier(
            self.name,
            self.level,
            caps,
            self.max_output_tokens,
            self.top_logprobs,
            tuple(self.models),
        )
        if desk.find(schema.tiers, tier.name, "name") is None:
            desk.put(schema.tiers, **tier.as_row())
        else:
            desk.change(schema.tiers, tier.name, "name", **tier.as_row())
        desk.changed("tier", tier.name)
        return Done(self.NAME, tier.name)


class ListOrigin(Act):
    """Refuse a country, an ASN or a hosting range, or demand verification of who comes from it."""

    NAME: ClassVar[str] = "list-origin"
    RIGHT: ClassVar[Right] = Right.CONFIGURE
    EXAMPLE: ClassVar[str] = (
        "--kind hosting --value 198.51.100.0/24 --verdict verify --level 1 "
        "--reason 'rented servers'"
    )

    kind: ListKind
    value: Annotated[Subject, Field(description="FR, 64500 or a CIDR.")]
    verdict: Verdict
    level: Annotated[int, Field(ge=0, le=100, description="For verify: the least level.")] = 0
    reason: Reason

    def why_second(self, desk: Desk) -> str | None:
        """Ask for another admin, once there is one, where a range is refused: a block for ever."""
        value = check_entry(self.kind, self.value, self.verdict)
        if self.kind != "hosting" or self.verdict != "refuse" or admins(desk) < 2:
            return None
        affected = behind(desk, "address", value).affected
        count = "a number of accounts that cannot be told" if affected is None else affected
        return f"a range that is refused is a block without end; behind it: {count}"

    def carry_out(self, desk: Desk) -> Done:
        """Put the entry in, in place of an earlier one on the same value."""
        value = check_entry(self.kind, self.value, self.verdict)
        _unlist(desk, self.kind, value)
        desk.put(
            schema.lists,
            kind=self.kind,
            value=value,
            verdict=self.verdict,
            level=self.level,
            reason=self.reason,
            author=desk.actor.id,
            added_us=desk.now_us,
        )
        desk.changed("list", f"{self.kind} {value}")
        return Done(self.NAME, f"{self.kind} {value}")


class UnlistOrigin(Act):
    """Take an entry off a list."""

    NAME: ClassVar[str] = "unlist-origin"
    RIGHT: ClassVar[Right] = Right.CONFIGURE
    EXAMPLE: ClassVar[str] = "--kind hosting --value 198.51.100.0/24 --reason 'sold to an ISP'"

    kind: ListKind
    value: Subject
    reason: Reason

    def carry_out(self, desk: Desk) -> Done:
        """Remove the entry, if it is there."""
        value = check_entry(self.kind, self.value, "refuse")
        removed = _unlist(desk, self.kind, value)
        desk.changed("list", f"{self.kind} {value}")
        return Done(self.NAME, f"{self.kind} {value}", {"removed": removed})


def _check_limit(cap: Cap) -> None:
    """Raise `InputError` where no gateway could make a limit of it."""
    name = f"{cap.measure} for each {cap.scope}"
    if cap.measure == "concurrency":
        Limit.concurrency(name, cap.amount, 1)
    elif cap.measure == "distinct_prompts":
        Limit.distinct(name, cap.amount, cap.window_us)
    else:
        Limit.rolling(name, cap.measure, cap.amount, cap.window_us, burst=cap.burst or None)


def _unlist(desk: Desk, kind: str, value: str) -> int:
    table = schema.lists
    where = (table.c.kind == kind) & (table.c.value == value)
    return desk.connection.execute(delete(table).where(where)).rowcount
