"""Acts on the terms of use: publish a version, record an acceptance."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, StringConstraints
from sqlalchemy import select

from stillhouse.accounts import schema
from stillhouse.accounts.acts.words import Id, Sentence
from stillhouse.accounts.desk import Act, Desk, Done
from stillhouse.accounts.measures import DAY_US
from stillhouse.accounts.networks import parse_address
from stillhouse.accounts.roles import Right
from stillhouse.accounts.terms import Terms, check_acceptance, check_publication, digest_of
from stillhouse.exchanges import InputError

ClauseName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]


class PublishTerms(Act):
    """Publish a version of the terms; live traffic goes on during notice and grace."""

    NAME: ClassVar[str] = "publish-terms"
    RIGHT: ClassVar[Right] = Right.CONFIGURE
    EXAMPLE: ClassVar[str] = (
        "--text @terms.md --notice-days 30 --grace-days 14 "
        "--clauses no-training='Outputs may not train competing models.'"
    )

    text: Annotated[
        str,
        Field(min_length=1, max_length=500_000, pattern=r"^[^\x00]+$", description="The document."),
    ]
    clauses: Annotated[
        dict[ClauseName, Sentence],
        Field(max_length=200, description="Clauses by name, for cases and measures to cite."),
    ] = Field(default={})
    notice_days: Annotated[int, Field(ge=0, le=365, description="Days until it is effective.")] = 30
    grace_days: Annotated[
        int, Field(ge=0, le=365, description="Days after that in which the old one suffices.")
    ] = 14

    def carry_out(self, desk: Desk) -> Done:
        """Keep the document under the next number."""
        earlier = all_terms(desk)
        new = Terms(
            max((terms.version for terms in earlier), default=0) + 1,
            desk.now_us,
            desk.now_us + self.notice_days * DAY_US,
            self.grace_days * DAY_US,
        )
        check_publication(new, earlier)
        digest = digest_of(self.text)
        desk.put(
            schema.terms,
            version=new.version,
            text=self.text,
            digest=digest,
            clauses=dict(self.clauses),
            author=desk.actor.id,
            published_us=new.published_us,
            effective_us=new.effective_us,
            grace_us=new.grace_us,
        )
        desk.changed("terms", str(new.version))
        result = {"version": new.version, "digest": digest, "effective_us": new.effective_us}
        return Done(self.NAME, str(new.version), result)

    def for_audit(self) -> str:
        """Name the document by its digest: its text is in its own table."""
        short = self.model_copy(update={"text": f"sha256:{digest_of(self.text)}"})
        return super(PublishTerms, short).for_audit()


class AcceptTerms(Act):
    """Record that a representative accepted a version for their organisation."""

    NAME: ClassVar[str] = "accept-terms"
    RIGHT: ClassVar[Right] = Right.ENROL
    EXAMPLE: ClassVar[str] = (
        "--organisation org_4Zq0p9XbT1aK --representative rep_0aB1cD2eF3gH --version 1 "
        "--digest SHA256 --address 203.0.113.7 --purpose 'support chat'"
    )
    PRIVATE: ClassVar[frozenset[str]] = frozenset({"address"})

    organisation: Id
    representative: Id
    version: Annotated[int, Field(ge=1, le=1_000_000)]
    digest: Annotated[
        str,
        StringConstraints(pattern=r"^[0-9a-f]{64}$"),
        Field(description="SHA-256 of the document that was shown to them."),
    ]
    address: Annotated[str, Field(max_length=64, description="Address they accepted it from.")]
    purpose: Sentence = Field(description="The purpose they declared with it.")

    def carry_out(self, desk: Desk) -> Done:
        """Keep who accepted which document, when and from where."""
        person = desk.get(schema.representatives, self.representative)
        if person.organisation != self.organisation or person.removed_us is not None:
            raise InputError(
                "this person does not speak for the organisation", place=self.representative
            )
        document = desk.get(schema.terms, self.version, "version")
        if document.digest != self.digest:
            raise InputError(
                "what was accepted is not this document",
                place=f"terms {self.version}",
                repair=f"show the document whose SHA-256 is {document.digest}",
            )
        check_acceptance(self.version, all_terms(desk), desk.now_us)
        table = schema.acceptances
        known = select(table.c.version).where(
            table.c.organisation == self.organisation, table.c.version == self.version
        )
        if desk.connection.execute(known).first() is None:
            values: dict[str, Any] = self.model_dump()
            values["address"] = str(parse_address(self.address))
            desk.put(table, **values, recorder=desk.actor.id, at_us=desk.now_us)
            desk.changed("organisation", self.organisation)
        return Done(self.NAME, self.organisation, {"version": self.version})


def all_terms(desk: Desk) -> list[Terms]:
    """Return every version."""
    table = schema.terms
    columns = (table.c.version, table.c.published_us, table.c.effective_us, table.c.grace_us)
    return [Terms(*row) for row in desk.connection.execute(select(*columns))]
