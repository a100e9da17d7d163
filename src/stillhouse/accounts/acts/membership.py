"""Acts on organisations, their representatives and their accounts."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from sqlalchemy import delete, func, select

from stillhouse.accounts import schema
from stillhouse.accounts.acts.words import Id, Name, Reason, Sentence
from stillhouse.accounts.behind import earlier_measures
from stillhouse.accounts.desk import Act, Desk, Done, named
from stillhouse.accounts.facts import FactKind, fact_digest
from stillhouse.accounts.roles import Right
from stillhouse.exchanges import InputError

NANO = 10**9
PREPAID_DOLLARS = 1_000_000  # what the limits count exactly


class CreateOrganisation(Act):
    """Register an organisation and the purpose it declares."""

    NAME: ClassVar[str] = "create-organisation"
    RIGHT: ClassVar[Right] = Right.ENROL
    EXAMPLE: ClassVar[str] = "--name 'Acme' --purpose 'support chat for our customers'"

    name: Name
    purpose: Sentence = Field(description="What the organisation says it will use outputs for.")

    def carry_out(self, desk: Desk) -> Done:
        """Make the organisation; nothing is served to it before it accepts the terms."""
        identity = named("org")
        desk.put(
            schema.organisations,
            id=identity,
            name=self.name,
            purpose=self.purpose,
            created_us=desk.now_us,
        )
        desk.changed("organisation", identity)
        return Done(self.NAME, identity)


class CloseOrganisation(Act):
    """Close an organisation for good: none of its accounts is served any more."""

    NAME: ClassVar[str] = "close-organisation"
    RIGHT: ClassVar[Right] = Right.ENROL
    EXAMPLE: ClassVar[str] = "--organisation org_4Zq0p9XbT1aK --reason 'contract ended'"

    organisation: Id
    reason: Reason

    def carry_out(self, desk: Desk) -> Done:
        """Set when it was closed."""
        row = desk.get(schema.organisations, self.organisation)
        if row.closed_us is None:
            desk.change(schema.organisations, row.id, closed_us=desk.now_us)
            desk.changed("organisation", row.id)
        return Done(self.NAME, row.id)


class AddRepresentative(Act):
    """Name a person who may accept terms for an organisation."""

    NAME: ClassVar[str] = "add-representative"
    RIGHT: ClassVar[Right] = Right.ENROL
    EXAMPLE: ClassVar[str] = (
        "--organisation org_4Zq0p9XbT1aK --name 'Grace Roe' --contact grace@acme.example"
    )
    PRIVATE: ClassVar[frozenset[str]] = frozenset({"name", "contact"})

    organisation: Id
    name: Name
    contact: Annotated[Name, Field(description="How to reach them.")]

    def carry_out(self, desk: Desk) -> Done:
        """Add the person."""
        desk.get(schema.organisations, self.organisation)
        identity = named("rep")
        desk.put(
            schema.representatives,
            id=identity,
            organisation=self.organisation,
            name=self.name,
            contact=self.contact,
            added_us=desk.now_us,
        )
        return Done(self.NAME, identity)


class RemoveRepresentative(Act):
    """End a person's power to accept terms for their organisation."""

    NAME: ClassVar[str] = "remove-representative"
    RIGHT: ClassVar[Right] = Right.ENROL
    EXAMPLE: ClassVar[str] = "--representative rep_4Zq0p9XbT1aK"

    representative: Id

    def carry_out(self, desk: Desk) -> Done:
        """Set when it ended; what they accepted stays accepted."""
        row = desk.get(schema.representatives, self.representative)
        desk.change(schema.representatives, row.id, removed_us=desk.now_us)
        return Done(self.NAME, row.id)


class CreateAccount(Act):
    """Open an account at the lowest tier."""

    NAME: ClassVar[str] = "create-account"
    RIGHT: ClassVar[Right] = Right.ENROL
    EXAMPLE: ClassVar[str] = "--organisation org_4Zq0p9XbT1aK --name 'production'"

    organisation: Id
    name: Name

    def carry_out(self, desk: Desk) -> Done:
        """Make the account; `change-tier` raises it once it is verified."""
        organisation = desk.get(schema.organisations, self.organisation)
        if organisation.closed_us is not None:
            raise InputError("this organisation is closed", place=organisation.id)
        lowest = select(schema.tiers.c.name).order_by(schema.tiers.c.level, schema.tiers.c.name)
        tier = desk.connection.execute(lowest.limit(1)).scalar_one()
        identity = named("acct")
        desk.put(
            schema.accounts,
            id=identity,
            organisation=organisation.id,
            name=self.name,
            tier=tier,
            created_us=desk.now_us,
        )
        desk.changed("account", identity)
        return Done(self.NAME, identity, {"tier": tier})


class CloseAccount(Act):
    """Close an account for good."""

    NAME: ClassVar[str] = "close-account"
    RIGHT: ClassVar[Right] = Right.ENROL
    EXAMPLE: ClassVar[str] = "--account acct_4Zq0p9XbT1aK --reason 'asked for by its owner'"

    account: Id
    reason: Reason

    def carry_out(self, desk: Desk) -> Done:
        """Set when it was closed."""
        row = desk.get(schema.accounts, self.account)
        if row.closed_us is None:
            desk.change(schema.accounts, row.id, closed_us=desk.now_us)
            desk.changed("account", row.id)
        return Done(self.NAME, row.id)


class ChangeTier(Act):
    """Move an account to another tier."""

    NAME: ClassVar[str] = "change-tier"
    RIGHT: ClassVar[Right] = Right.ENROL
    EXAMPLE: ClassVar[str] = "--account acct_4Zq0p9XbT1aK --tier verified --reason 'ID checked'"

    account: Id
    tier: Name
    reason: Reason

    def carry_out(self, desk: Desk) -> Done:
        """Set the tier; it holds within a second."""
        row = desk.get(schema.accounts, self.account)
        tier = desk.get(schema.tiers, self.tier, "name")
        desk.change(schema.accounts, row.id, tier=tier.name)
        desk.changed("account", row.id)
        return Done(self.NAME, row.id, {"before": row.tier, "tier": tier.name})


class CreditAccount(Act):
    """Pay in for an account; from the first time on it is served only while its balance lasts."""

    NAME: ClassVar[str] = "credit-account"
    RIGHT: ClassVar[Right] = Right.ENROL
    EXAMPLE: ClassVar[str] = "--account acct_4Zq0p9XbT1aK --dollars 50 --reason 'invoice 17'"

    account: Id
    dollars: Annotated[int, Field(ge=1, le=PREPAID_DOLLARS)]
    reason: Reason

    def carry_out(self, desk: Desk) -> Done:
        """Add to what was ever paid in; what was used of it is the limits' to know."""
        row = desk.get(schema.accounts, self.account)
        paid = (row.prepaid_nano or 0) + self.dollars * NANO
        if paid > PREPAID_DOLLARS * NANO:
            raise InputError(
                f"at most {PREPAID_DOLLARS} dollars can be paid in for one account", place=row.id
            )
        desk.change(schema.accounts, row.id, prepaid_nano=paid)
        desk.changed("account", row.id)
        return Done(self.NAME, row.id, {"prepaid_nano": paid})


class AssignCampaign(Act):
    """Say which accounts act together; an empty campaign sets them free of one."""

    NAME: ClassVar[str] = "assign-campaign"
    RIGHT: ClassVar[Right] = Right.MODERATE
    EXAMPLE: ClassVar[str] = (
        "--campaign c-2026-11 --accounts acct_4Zq0p9XbT1aK --accounts acct_0aB1cD2eF3gH "
        "--reason 'case 12'"
    )

    campaign: Annotated[
        str, Field(pattern=r"^[0-9A-Za-z._:-]{0,64}$", description="A name; empty for none.")
    ]
    accounts: Annotated[list[Id], Field(min_length=1, max_length=1000)]
    reason: Reason

    def why_second(self, desk: Desk) -> str | None:
        """Ask for one where a measure would reach those who join, or many would act together."""
        table = schema.accounts
        rows = [desk.get(table, identity) for identity in set(self.accounts)]
        joining = [row for row in rows if row.campaign != self.campaign]
        if not self.campaign or not joining:
            return None
        for measure in earlier_measures(desk, "campaign", self.campaign, exact=True):
            if measure.holds(desk.now_us):
                return f"{measure.id} stops this campaign, and would stop them too"
        inside = select(func.count()).where(
            table.c.campaign == self.campaign, table.c.closed_us.is_(None)
        )
        together = desk.connection.execute(inside).scalar_one() + len(joining)
        cap = desk.policy.cap_accounts
        if together > cap:
            return f"{together} accounts would act together, and one person decides on {cap}"
        return None

    def carry_out(self, desk: Desk) -> Done:
        """Set the campaign of every account named; limits and bans of the campaign reach them."""
        for identity in self.accounts:
            row = desk.get(schema.accounts, identity)
            if row.campaign is not None and row.campaign != self.campaign:
                _leave(desk, row.id, row.campaign)
            desk.change(schema.accounts, row.id, campaign=self.campaign or None)
            desk.changed("account", row.id)
        return Done(self.NAME, self.campaign or self.accounts[0], {"accounts": len(self.accounts)})


def _leave(desk: Desk, account: str, campaign: str) -> None:
    table = schema.left_campaigns
    before = (table.c.account == account) & (table.c.campaign == campaign)
    desk.connection.execute(delete(table).where(before))
    desk.put(table, account=account, campaign=campaign, left_us=desk.now_us)


class RecordFacts(Act):
    """Record what the provider's own systems know of an account; kept as keyed digests only."""

    NAME: ClassVar[str] = "record-facts"
    RIGHT: ClassVar[Right] = Right.ENROL
    EXAMPLE: ClassVar[str] = "--account acct_4Zq0p9XbT1aK --kind email-domain --value acme.example"
    PRIVATE: ClassVar[frozenset[str]] = frozenset({"value"})

    account: Id
    kind: FactKind
    value: Annotated[str, Field(min_length=1, max_length=400, description="Kept as a digest.")]

    def carry_out(self, desk: Desk) -> Done:
        """Keep the digest; how many other accounts share the value is told, not which."""
        account = desk.get(schema.accounts, self.account)
        digest = fact_digest(desk.digests, self.kind, self.value)
        table = schema.facts
        same = (table.c.kind == self.kind) & (table.c.digest == digest)
        holders = set(desk.connection.execute(select(table.c.account).where(same)).scalars())
        if account.id not in holders:
            desk.put(table, account=account.id, kind=self.kind, digest=digest, at_us=desk.now_us)
        return Done(self.NAME, account.id, {"shared_with": len(holders - {account.id})})


class EraseFacts(Act):
    """Delete every fact recorded of an account."""

    NAME: ClassVar[str] = "erase-facts"
    RIGHT: ClassVar[Right] = Right.ENROL
    EXAMPLE: ClassVar[str] = "--account acct_4Zq0p9XbT1aK --reason 'request of 3 May'"

    account: Id
    reason: Reason

    def carry_out(self, desk: Desk) -> Done:
        """Delete the digests, and where the account was seen."""
        account = desk.get(schema.accounts, self.account)
        erased = 0
        for table in (schema.facts, schema.sightings):
            done = desk.connection.execute(delete(table).where(table.c.account == account.id))
            erased += done.rowcount
        return Done(self.NAME, account.id, {"erased": erased})
