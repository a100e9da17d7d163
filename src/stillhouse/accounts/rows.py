"""Rows of the store read into what a snapshot holds (the feed's reading side)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from stillhouse.accounts import schema
from stillhouse.accounts.behind import measure_of_row
from stillhouse.accounts.lists import ListEntry
from stillhouse.accounts.snapshot import AccountRow, KeyRow, OrganisationRow
from stillhouse.accounts.terms import Terms
from stillhouse.accounts.tiers import Tier

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection, Table

_IN_ONE_QUERY = 500


def read(connection: Connection, since: int | None) -> dict[str, tuple[Any, ...]]:
    """Return the rows that changed after `since`, or all of them, as fields of `Delta`."""
    names = None if since is None else _changed(connection, since)

    def changed(kind: str, table: Table, column: str = "id") -> Iterator[Any]:
        wanted = None if names is None else sorted(names.get(kind, ()))
        return _select(connection, table, table.c[column], wanted)

    # Closed and undone rows are needed where they close what is open; a full reading has none open.
    lists = tuple(_lists(connection, names))
    found = {
        "tiers": tuple(
            Tier.from_row(row._mapping) for row in changed("tier", schema.tiers, "name")
        ),
        "terms": tuple(
            Terms(row.version, row.published_us, row.effective_us, row.grace_us)
            for row in _terms(connection, names)
        ),
        "organisations": tuple(_organisations(connection, names)),
        "accounts": tuple(
            AccountRow(
                row.id, row.organisation, row.tier, row.campaign, row.closed_us, row.prepaid_nano
            )
            for row in changed("account", schema.accounts)
        ),
        "keys": tuple(
            KeyRow(
                row.id,
                row.account,
                row.pepper,
                row.digest,
                tuple(row.scopes),
                row.expires_us,
                row.revoked_us,
            )
            for row in changed("key", schema.keys)
        ),
        "measures": tuple(measure_of_row(row) for row in changed("measure", schema.measures)),
        "lists": lists,
    }
    if names is not None:
        kept = {f"{entry.kind} {entry.value}" for entry in lists}
        gone = sorted(names.get("list", set()) - kept)
        found["gone_lists"] = tuple(tuple(name.split(" ", 1)) for name in gone)
    return found


def _changed(connection: Connection, since: int) -> dict[str, set[str]]:
    table = schema.changes
    names: dict[str, set[str]] = {}
    columns = select(table.c.kind, table.c.subject).where(table.c.sequence > since)
    for kind, subject in connection.execute(columns):
        names.setdefault(kind, set()).add(subject)
    return names


def _select(
    connection: Connection, table: Table, column: Any, wanted: Sequence[Any] | None
) -> Iterator[Any]:
    if wanted is None:
        yield from connection.execute(select(table))
        return
    for start in range(0, len(wanted), _IN_ONE_QUERY):
        part = wanted[start : start + _IN_ONE_QUERY]
        yield from connection.execute(select(table).where(column.in_(part)))


def _terms(connection: Connection, names: dict[str, set[str]] | None) -> Iterator[Any]:
    wanted = None if names is None else sorted(int(name) for name in names.get("terms", ()))
    return _select(connection, schema.terms, schema.terms.c.version, wanted)


def _organisations(
    connection: Connection, names: dict[str, set[str]] | None
) -> Iterator[OrganisationRow]:
    table, accepted = schema.organisations, schema.acceptances
    newest = func.coalesce(func.max(accepted.c.version), 0)
    statement = (
        select(table.c.id, newest, table.c.closed_us)
        .outerjoin(accepted, accepted.c.organisation == table.c.id)
        .group_by(table.c.id, table.c.closed_us)
    )
    if names is None:
        parts: list[Any] = [statement]
    else:
        wanted = sorted(names.get("organisation", ()))
        parts = [
            statement.where(table.c.id.in_(wanted[start : start + _IN_ONE_QUERY]))
            for start in range(0, len(wanted), _IN_ONE_QUERY)
        ]
    for part in parts:
        for row in connection.execute(part):
            yield OrganisationRow(*row)


def _lists(connection: Connection, names: dict[str, set[str]] | None) -> Iterator[ListEntry]:
    table = schema.lists
    wanted = None if names is None else names.get("list", set())
    values = None if wanted is None else sorted(name.split(" ", 1)[1] for name in wanted)
    for row in _select(connection, table, table.c.value, values):
        if wanted is None or f"{row.kind} {row.value}" in wanted:
            yield ListEntry(row.kind, row.value, row.verdict, row.level)
