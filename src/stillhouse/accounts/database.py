"""The database behind the store: SQLite in one file by default, PostgreSQL by URL."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, OperationalError

from stillhouse.exchanges import InputError, make_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

_WRITES = "stillhouse_writes"
# Seconds and milliseconds after which an unanswering server counts as gone.
_POSTGRES = {"connect_timeout": 5, "tcp_user_timeout": 5000}
_MIGRATION_LOCK = 0x5354494C


def connect(url: str) -> Engine:
    """Open the database of a URL, or of a path as SQLite; build or check its tables.

    An empty database gets the tables; one of an older release is refused until `upgrade` ran.
    Raises `InputError`, which never holds the URL's password.
    """
    engine = _engine(url)
    try:
        with writing(engine) as connection:
            found, newest = _revision(connection), _scripts().get_current_head()
            if found is None:
                _migrate(connection)
            elif found != newest:
                raise InputError(
                    f"the tables are of revision {found}, this release needs {newest}",
                    place=_shown(engine),
                    repair="make a backup, stop every process, then: stillhouse accounts upgrade",
                )
    except OperationalError as error:
        engine.dispose()
        raise InputError(
            f"the database cannot be opened ({type(error.orig).__name__})",
            place=_shown(engine),
            repair="check that it runs, and the path or URL",
        ) from None
    except InputError:
        engine.dispose()
        raise
    return engine


def upgrade(url: str) -> None:
    """Bring the tables of an older release to this one, in one transaction."""
    engine = _engine(url)
    try:
        with writing(engine) as connection:
            _migrate(connection)
    finally:
        engine.dispose()


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Give a connection in a transaction that writes; committed when the block ends well."""
    with engine.connect() as connection:
        # SQLite takes its write lock now: a transaction that turns from reading to writing can
        # fail, one that waits here cannot.
        connection.execution_options(**{_WRITES: True})
        with connection.begin():
            yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Give a connection whose statements all see the database as of one moment."""
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


def _engine(url: str) -> Engine:
    if "://" not in url:
        url = f"sqlite:///{url}"
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise InputError("this is not a database URL") from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "postgresql":
        return create_engine(parsed, pool_pre_ping=True, connect_args=_POSTGRES)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        raise InputError(
            f"accounts are kept in SQLite or PostgreSQL, not in {parsed.drivername}",
            repair="give a path, or a URL that starts with postgresql://",
        )
    path = Path(parsed.database)
    make_folder(path.parent)
    if not path.exists():
        # SQLite gives its side files the mode of this one.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    engine = create_engine(parsed, connect_args={"timeout": 10})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",  # a ban that was answered must survive a power cut
        "foreign_keys=ON",
        "secure_delete=ON",  # erased means overwritten
        "busy_timeout=10000",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _MIGRATION_LOCK})
        if _revision(connection) == _scripts().get_current_head():
            return
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _shown(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)
