"""An open transaction in which an act is carried out, and the base of every act.

An act is a request of an operator: its fields, the right it needs, when it needs a second person,
and what it does stand together in one class under `acts`. The HTTP API, the command line and the
docs are made from these classes; rights are checked in `Store.perform` and nowhere else.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import insert, select, update

from stillhouse.accounts import schema
from stillhouse.accounts.credentials import random_id
from stillhouse.accounts.roles import Operator, Right, Role
from stillhouse.exchanges import InputError, canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection, Table

    from stillhouse.accounts.credentials import Peppers
    from stillhouse.accounts.measures import Policy
    from stillhouse.exchanges import KeyedDigests

ACTS: dict[str, type[Act]] = {}
"""Every act by its name, in the order in which the docs list them."""


@dataclass(frozen=True, slots=True)
class Done:
    """What came of an act.

    result: what was made or changed. secret: the text of a new key, here once and kept nowhere.
    proposal: set where a second person must approve first; nothing else has happened then.
    """

    act: str
    subject: str
    result: Mapping[str, Any] = field(default_factory=dict)
    secret: str | None = field(default=None, repr=False)
    proposal: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what is shown to whoever performed it."""
        shown: dict[str, Any] = {"act": self.act, "subject": self.subject}
        shown |= {"result": dict(self.result), "proposal": self.proposal}
        return shown | {"secret": self.secret}


class MissingError(InputError):
    """What the request names is not in the store."""


class Act(BaseModel, abc.ABC):
    """A request of an operator; subclasses register themselves under `NAME`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    NAME: ClassVar[str]
    RIGHT: ClassVar[Right]
    EXAMPLE: ClassVar[str]
    PRIVATE: ClassVar[frozenset[str]] = frozenset()  # fields that the audit does not keep

    @classmethod
    def __pydantic_init_subclass__(cls, **_options: Any) -> None:
        """Make the act known to the API and the command line."""
        if cls.NAME:
            ACTS[cls.NAME] = cls

    def why_second(self, desk: Desk) -> str | None:  # noqa: ARG002
        """Return why one person is not enough; None where one is."""
        return None

    def target(self) -> str | None:
        """Return the operator whose rights the act is about, if it is about any."""
        return None

    @abc.abstractmethod
    def carry_out(self, desk: Desk) -> Done:
        """Do it, inside the desk's transaction."""

    def for_audit(self) -> str:
        """Return what the audit keeps of the request."""
        kept = self.model_dump(mode="json", exclude=set(self.PRIVATE))
        return canonical_json(kept).decode()


def explained(error: ValidationError) -> InputError:
    """Return what is wrong with the fields of an act, without the values: they may be private."""
    parts = [
        f"{'.'.join(str(part) for part in mistake['loc']) or 'request'}: {mistake['msg']}"
        for mistake in error.errors(include_input=False, include_url=False, include_context=False)
    ]
    return InputError("; ".join(parts[:10]))


@dataclass(slots=True)
class Desk:
    """One transaction of one operator (and, for what was approved, of a second one)."""

    connection: Connection
    now_us: int
    actor: Operator
    peppers: Peppers
    digests: KeyedDigests
    policy: Policy
    sequence: int
    approver: Operator | None = None

    @classmethod
    def open(
        cls,
        connection: Connection,
        now_us: int,
        actor: Operator,
        peppers: Peppers,
        digests: KeyedDigests,
        policy: Policy,
    ) -> Desk:
        """Take the lock of the feed, which every act holds until it commits."""
        bump = update(schema.feed).values(sequence=schema.feed.c.sequence + 0)
        sequence = connection.execute(bump.returning(schema.feed.c.sequence)).scalar_one()
        return cls(connection, now_us, actor, peppers, digests, policy, sequence)

    def close(self) -> None:
        """Write the number that was reached."""
        self.connection.execute(update(schema.feed).values(sequence=self.sequence))

    def next(self) -> int:
        """Return the next number of the feed."""
        self.sequence += 1
        return self.sequence

    def changed(self, kind: str, subject: str) -> None:
        """Tell every follower to read a row again."""
        self.put(
            schema.changes, sequence=self.next(), kind=kind, subject=subject, at_us=self.now_us
        )

    def put(self, table: Table, **values: Any) -> None:
        """Insert a row."""
        self.connection.execute(insert(table).values(**values))

    def find(self, table: Table, value: Any, column: str = "id") -> Any | None:
        """Return the row with this id, or None."""
        statement = select(table).where(table.c[column] == value)
        return self.connection.execute(statement).one_or_none()

    def get(self, table: Table, value: Any, column: str = "id") -> Any:
        """Return the row with this id. Raises `MissingError` where there is none."""
        row = self.find(table, value, column)
        if row is None:
            raise MissingError(f"there is no such row in {table.name}", place=str(value)[:80])
        return row

    def change(self, table: Table, value: Any, column: str = "id", **values: Any) -> None:
        """Change the row with this id."""
        self.connection.execute(update(table).where(table.c[column] == value).values(**values))

    def operator(self, identity: str) -> Operator:
        """Return an operator as they stand. Raises `InputError` where there is none."""
        return operator_of_row(self.get(schema.operators, identity))

    def record(self, act: str, subject: str, detail: str) -> None:
        """Append to the audit; each row is linked to the one before by a keyed digest."""
        newest = select(schema.audit.c.link).order_by(schema.audit.c.sequence.desc()).limit(1)
        before = self.connection.execute(newest).scalar_one_or_none() or b""
        row: dict[str, Any] = {
            "sequence": self.next(),
            "at_us": self.now_us,
            "actor": self.actor.id,
            "approver": self.approver.id if self.approver else None,
            "act": act,
            "subject": subject,
            "detail": detail,
        }
        self.put(schema.audit, **row, link=link_of(self.digests, before, row))


def link_of(digests: KeyedDigests, before: bytes, row: Mapping[str, Any]) -> bytes:
    """Return the keyed digest that ties an audit row to the one before it."""
    return digests.digest("audit-chain", before + canonical_json(dict(row)))


def operator_of_row(row: Any) -> Operator:
    """Read a row of the table of operators."""
    return Operator(row.id, row.name, Role(row.role), row.paused, row.removed_us is not None)


def named(prefix: str) -> str:
    """Return a new random id such as `acct_3kQ...`."""
    return f"{prefix}_{random_id()}"
