"""Who is behind a key, an account, a campaign or a network of addresses, seen in 30 days."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, and_, exists, func, or_, select

from stillhouse.accounts import schema
from stillhouse.accounts.desk import MissingError
from stillhouse.accounts.measures import DAY_US, Measure, Scope
from stillhouse.accounts.networks import SCOPE_LENGTHS, Network, parse_network, subnetworks
from stillhouse.accounts.sightings import prefix_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from stillhouse.accounts.desk import Desk

_ENUMERATED = 1 << 12
_SHOWN = 200
_IN_ONE_QUERY = 500


@dataclass(frozen=True, slots=True)
class Behind:
    """What an operator sees before a measure.

    affected: how many accounts it would stop; None where that cannot be told of a network.
    accounts: those, and neighbours: others seen on the same addresses; each at most 200 ids.
    organisations: to how many organisations the affected ones belong.
    """

    affected: int | None
    accounts: tuple[str, ...]
    neighbours: tuple[str, ...]
    organisations: int


def subject_of(connection: Connection, scope: Scope, subject: str) -> str:
    """Return the subject in canonical form. Raises `MissingError` where there is no such one."""
    if scope == "address":
        return str(parse_network(subject))
    if scope == "campaign":
        known = select(schema.accounts.c.id).where(schema.accounts.c.campaign == subject).limit(1)
    else:
        tables = {
            "key": schema.keys,
            "account": schema.accounts,
            "organisation": schema.organisations,
        }
        known = select(tables[scope].c.id).where(tables[scope].c.id == subject)
    if connection.execute(known).first() is None:
        raise MissingError(f"there is no {scope} of this name", place=subject[:80])
    return subject


def behind(desk: Desk, scope: Scope, subject: str) -> Behind:
    """Return who is behind `subject` (canonical), by the sightings of the last 30 days."""
    since_day = desk.now_us // DAY_US - desk.policy.seen_days
    if scope == "address":
        network = parse_network(subject)
        prefixes = _prefixes(desk, network)
        if prefixes is None:
            return Behind(None, (), (), 0)
        found = _seen_on(desk.connection, prefixes, since_day)
        return Behind(
            len(found), tuple(sorted(found)[:_SHOWN]), (), _organisations(desk.connection, found)
        )
    accounts = set(
        desk.connection.execute(
            select(schema.accounts.c.id).where(
                _members(scope, subject), schema.accounts.c.closed_us.is_(None)
            )
        ).scalars()
    )
    table = schema.sightings
    prefixes = []
    for part in _parts(sorted(accounts)):
        where = table.c.account.in_(part) & (table.c.last_day >= since_day)
        narrow = func.substr(table.c.prefix, 1, 1) == b"\x00"
        statement = select(table.c.prefix).where(where & narrow).distinct()
        prefixes += desk.connection.execute(statement).scalars().all()
    neighbours = _seen_on(desk.connection, prefixes, since_day) - accounts
    return Behind(
        len(accounts),
        tuple(sorted(accounts)[:_SHOWN]),
        tuple(sorted(neighbours)[:_SHOWN]),
        _organisations(desk.connection, accounts),
    )


def earlier_measures(
    desk: Desk, scope: Scope, subject: str, *, exact: bool = False
) -> list[Measure]:
    """Return measures on the same people, or with `exact` on this very subject.

    The same people: the key, its account, its organisation, its campaign, those that it left under
    a measure or after one, and all that these hold; for a network every network that overlaps it.
    """
    table = schema.measures
    where: ColumnElement[bool]
    if exact:
        where = (table.c.scope == scope) & (table.c.subject == subject)
    elif scope == "address":
        network = parse_network(subject)
        low, high = network.span
        inside = (table.c.low >= low) & (table.c.low <= high)
        where = (table.c.scope == "address") & or_(inside, table.c.subject.in_(network.around))
    else:
        where = or_(*_related(desk.connection, scope, subject))
    ended_us = desk.now_us - desk.policy.memory_days * DAY_US
    recent = or_(table.c.expires_us.is_(None), table.c.expires_us > ended_us)
    rows = desk.connection.execute(
        select(table).where(where if exact else and_(where, recent))
    ).all()
    return [measure_of_row(row) for row in rows]


def measure_of_row(row: Any) -> Measure:
    """Read a row of the table of measures."""
    return Measure(
        row.id, row.kind, row.scope, row.subject, row.start_us, row.expires_us, row.undone_us
    )


def _prefixes(desk: Desk, network: Network) -> list[bytes] | None:
    if network.holds_ipv4:
        return None
    lengths = SCOPE_LENGTHS[network.version]
    if network.length > lengths[0]:
        # Narrower than what is counted as one client: who is in the /64 is meant.
        shift = network.length - lengths[0]
        network = Network(network.version, network.prefix >> shift, lengths[0])
    length = min(n for n in lengths if n >= network.length)
    if 1 << (length - network.length) > _ENUMERATED:
        return None
    return [prefix_digest(desk.digests, part) for part in subnetworks(network, length)]


def _seen_on(connection: Connection, prefixes: Sequence[bytes], since_day: int) -> set[str]:
    table = schema.sightings
    found: set[str] = set()
    for part in _parts(prefixes):
        where = table.c.prefix.in_(part) & (table.c.last_day >= since_day)
        found |= set(connection.execute(select(table.c.account).where(where).distinct()).scalars())
    return found


def _organisations(connection: Connection, accounts: set[str]) -> int:
    table = schema.accounts
    found: set[str] = set()
    for part in _parts(sorted(accounts)):
        rows = connection.execute(select(table.c.organisation).where(table.c.id.in_(part)))
        found |= set(rows.scalars())
    return len(found)


def _members(scope: Scope, subject: str) -> ColumnElement[bool]:
    table = schema.accounts
    if scope == "key":
        holder = select(schema.keys.c.account).where(schema.keys.c.id == subject)
        return table.c.id == holder.scalar_subquery()
    column = {"account": table.c.id, "organisation": table.c.organisation}
    return column.get(scope, table.c.campaign) == subject


def _related(connection: Connection, scope: Scope, subject: str) -> list[ColumnElement[bool]]:
    accounts, keys, measures = schema.accounts, schema.keys, schema.measures
    members = select(accounts.c.id).where(_members(scope, subject))
    rows = connection.execute(
        select(accounts.c.organisation, accounts.c.campaign).where(_members(scope, subject))
    ).all()
    above = {
        "organisation": {row.organisation for row in rows},
        "campaign": {row.campaign for row in rows if row.campaign},
        scope: {subject},
    }
    held = select(keys.c.id).where(keys.c.account.in_(members))
    left = schema.left_campaigns
    was_in = exists().where(
        left.c.account.in_(members),
        left.c.campaign == measures.c.subject,
        left.c.left_us >= measures.c.start_us,
    )
    clauses = [
        (measures.c.scope == kind) & measures.c.subject.in_(sorted(part))
        for kind, names in above.items()
        for part in _parts(sorted(names))
    ]
    return [
        *clauses,
        (measures.c.scope == "campaign") & was_in,
        (measures.c.scope == "account") & measures.c.subject.in_(members),
        (measures.c.scope == "key") & measures.c.subject.in_(held),
    ]


def _parts(values: Sequence[Any]) -> list[Sequence[Any]]:
    return [values[i : i + _IN_ONE_QUERY] for i in range(0, len(values), _IN_ONE_QUERY)]
