"""The tables: one schema on both databases, built once, never half, never of the wrong release."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.exc import SQLAlchemyError
from tests.accounts.conftest import Clock, Office

from stillhouse.accounts import KeyFacts, Store, database, open_store, poll, schema
from stillhouse.accounts.acts import Suspend
from stillhouse.accounts.snapshot import STALE_AFTER_US
from stillhouse.exchanges import InputError


def test_the_migrations_build_the_schema(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []


def test_tables_of_another_release_are_refused_until_upgraded(database_url: str) -> None:
    engine = database.connect(database_url)
    version = "UPDATE alembic_version SET version_num = '{}'"
    with engine.begin() as connection:
        connection.exec_driver_sql(version.format("0000"))
    with pytest.raises(InputError, match="revision 0000") as raised:
        database.connect(database_url)
    assert "upgrade" in str(raised.value)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE left_campaigns")
        connection.exec_driver_sql("ALTER TABLE accounts DROP COLUMN prepaid_nano")
        connection.exec_driver_sql(version.format("0001"))
    with pytest.raises(InputError, match="revision 0001"):
        database.connect(database_url)
    database.upgrade(database_url)
    database.connect(database_url).dispose()
    engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_processes_that_start_at_once_build_one_store(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = str(tmp_path / "a.sqlite")
    if kind == "postgresql":
        server = request.getfixturevalue("postgresql")
        engine = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql("CREATE DATABASE at_once")
        engine.dispose()
        url = server.replace("/postgres", "/at_once")
    program = (
        "import sys; from stillhouse.accounts import database; "
        "sys.stdin.readline(); database.connect(sys.argv[1]).dispose()"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program, url],
            stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    errors = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], errors


def test_two_stores_see_each_other(
    office: Office, database_url: str, opened: Callable[..., Store], clock: Clock
) -> None:
    other = opened(database_url)
    snapshot = other.load_snapshot()
    office.perform("ann", Suspend(scope="account", subject=office.made.accounts[0], reason="x"))
    facts = snapshot.authenticate(office.made.keys[0], clock())
    assert isinstance(facts, KeyFacts)
    assert snapshot.standing(facts, clock()) is None
    assert poll(other, snapshot)
    denied = snapshot.standing(facts, clock())
    assert denied is not None
    assert denied.code == "suspended"


def test_without_its_database_a_snapshot_goes_stale_and_comes_back(
    postgresql: str, templates: Callable[[str, str], str], opened: Callable[..., Store],
    clock: Clock,
) -> None:  # fmt: skip
    url = templates("postgresql", postgresql)
    store = opened(url)
    snapshot = store.load_snapshot()
    name = url.rsplit("/", 1)[1]
    admin = sqlalchemy.create_engine(postgresql, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
        connection.execute(sqlalchemy.text(ended), {"name": name})
        clock.step(us=STALE_AFTER_US - 1)
        with pytest.raises(SQLAlchemyError):
            poll(store, snapshot)
        assert not snapshot.is_stale(clock())
        clock.step(us=1)
        assert snapshot.is_stale(clock())
        connection.exec_driver_sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        poll(store, snapshot)
        assert not snapshot.is_stale(clock())
    admin.dispose()


def test_what_cannot_be_opened_is_explained_without_the_password(tmp_path: Path) -> None:
    wrong = {
        "mysql://u:hunter2@127.0.0.1/x": "SQLite or PostgreSQL",
        "postgresql://u:hunter2@127.0.0.1:1/x": "cannot be opened",
        str(tmp_path): "cannot be opened",
        "sqlite://": "SQLite or PostgreSQL",
        "://": "not a database URL",
    }
    for url, message in wrong.items():
        with pytest.raises(InputError, match=message) as raised:
            open_store(url, secrets=tmp_path / "secrets")
        assert "hunter2" not in f"{raised.value}{raised.value.__cause__}{raised.value.repair}"
