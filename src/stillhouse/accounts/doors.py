"""What the accounts' store lets through that a new one does not: for `stillhouse doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import create_engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from stillhouse.accounts import schema
from stillhouse.accounts.roles import Role
from stillhouse.accounts.tiers import Tier
from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection


def open_doors(database: Path) -> list[tuple[str, str]]:
    """List what stands open in the store of an SQLite file: (setting, what is open).

    Reads only, and needs no secrets. Raises `InputError` where the file cannot be read.
    """
    engine = create_engine(f"sqlite:///file:{database.resolve()}?mode=ro&uri=true")
    try:
        with engine.connect() as connection:
            return [*_tiers(connection), *_operators(connection)]
    except SQLAlchemyError as error:
        raise InputError(
            f"the accounts cannot be read ({type(error).__name__})", place=str(database)
        ) from None
    finally:
        engine.dispose()


def _tiers(connection: Connection) -> list[tuple[str, str]]:
    rows = connection.execute(select(schema.tiers)).all()
    tiers = [Tier.from_row(dict(row._mapping)) for row in rows]
    tiers.sort(key=lambda tier: (tier.level, tier.name))
    found = [
        (f"tiers.{tier.name}.top_logprobs", f"{tier.top_logprobs} alternatives a token are sold")
        for tier in tiers
        if tier.top_logprobs
    ]
    found += [
        (f"tiers.{tier.name}.caps.shadow", f"{cap.measure} for each {cap.scope} refuses nothing")
        for tier in tiers
        for cap in tier.caps
        if cap.shadow
    ]
    for tier in tiers[:1]:  # where new accounts start
        capped = {
            cap.measure
            for cap in tier.caps
            if cap.scope in ("account", "organisation") and not cap.shadow
        }
        missing = sorted({"requests", "output_tokens"} - capped)
        if missing:
            found.append(
                (f"tiers.{tier.name}.caps", f"a new account has no cap on {' and '.join(missing)}")
            )
    return found


def _operators(connection: Connection) -> list[tuple[str, str]]:
    table = schema.operators
    working = (table.c.role == Role.ADMIN) & table.c.removed_us.is_(None)
    admins = connection.execute(select(func.count()).select_from(table).where(working)).scalar_one()
    if admins != 1:
        return []
    return [("operators", "a single admin: the rules of two rest on that person's honesty")]
