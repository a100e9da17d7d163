"""What operators look at: the tables page by page, and who is behind a subject."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Integer, select, tuple_

from stillhouse.accounts import schema
from stillhouse.accounts.behind import Behind, behind, subject_of
from stillhouse.accounts.desk import Desk
from stillhouse.accounts.store import LOCAL
from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Table

    from stillhouse.accounts.measures import Scope
    from stillhouse.accounts.store import Store

LARGEST_PAGE = 500


@dataclass(frozen=True, slots=True)
class Collection:
    """A table as it is shown: never its digests; `filters` are columns to select by."""

    table: Table
    summary: str
    filters: tuple[str, ...] = ()
    hidden: frozenset[str] = frozenset()


COLLECTIONS = {
    "organisations": Collection(schema.organisations, "Organisations."),
    "representatives": Collection(
        schema.representatives, "Who may accept terms for whom.", ("organisation",)
    ),
    "accounts": Collection(schema.accounts, "Accounts.", ("organisation", "campaign", "tier")),
    "keys": Collection(
        schema.keys, "Keys, without what they are checked by.", ("account",), frozenset({"digest"})
    ),
    "tiers": Collection(schema.tiers, "Tiers and their caps."),
    "terms": Collection(schema.terms, "Versions of the terms."),
    "acceptances": Collection(schema.acceptances, "Who accepted which version.", ("organisation",)),
    "measures": Collection(
        schema.measures,
        "Suspensions, bans and blocks, ended ones too.",
        ("scope", "subject", "kind", "appeal"),
        frozenset({"low"}),
    ),
    "proposals": Collection(schema.proposals, "What waits for a second person.", ("state",)),
    "lists": Collection(schema.lists, "Countries, ASNs and hosting ranges.", ("kind",)),
    "operators": Collection(schema.operators, "Operators."),
    "audit": Collection(schema.audit, "Every act, in order.", ("actor", "act", "subject")),
}


def page(
    store: Store,
    name: str,
    *,
    filters: Mapping[str, str] | None = None,
    after: str | None = None,
    limit: int = 100,
) -> tuple[list[dict[str, Any]], str | None]:
    """Return up to `limit` rows of a collection, and what to give as `after` for the next page.

    Raises `InputError` for a filter the collection does not have, or an `after` that is none.
    """
    collection = COLLECTIONS[name]
    table, keys = collection.table, list(collection.table.primary_key.columns)
    columns = [column for column in table.columns if column.name not in collection.hidden]
    statement = select(*columns).order_by(*keys).limit(min(max(limit, 1), LARGEST_PAGE))
    for column, value in (filters or {}).items():
        if column not in collection.filters:
            raise InputError(
                f"{name} cannot be selected by {column}",
                repair=f"by one of these: {', '.join(collection.filters) or 'nothing'}",
            )
        statement = statement.where(table.c[column] == value)
    if after is not None:
        statement = statement.where(tuple_(*keys) > tuple_(*_cursor(keys, after)))
    with store.reading() as connection:
        rows = [dict(row._mapping) for row in connection.execute(statement)]
    last = None
    if len(rows) == limit:
        last = "~".join(str(rows[-1][key.name]) for key in keys)
    return [{str(key): _shown(value) for key, value in row.items()} for row in rows], last


def preview(store: Store, scope: Scope, subject: str) -> Behind:
    """Return who is behind a subject, as `ban` and `block` want it acknowledged."""
    with store.reading() as connection:
        desk = Desk(connection, store.clock(), LOCAL, store.peppers, store.digests, store.policy, 0)
        return behind(desk, scope, subject_of(connection, scope, subject))


def _cursor(keys: list[Any], after: str) -> list[Any]:
    parts = after.split("~")
    try:
        if len(parts) != len(keys):
            raise ValueError
        values = [
            int(part) if isinstance(key.type, (Integer, BigInteger)) else part
            for key, part in zip(keys, parts, strict=True)
        ]
        if any(isinstance(value, int) and abs(value) >= 1 << 31 for value in values):
            raise ValueError
    except ValueError:
        raise InputError(
            "this is not where a page ended", place="after", repair="give `next` of the last page"
        ) from None
    return values


def _shown(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value
