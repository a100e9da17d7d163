"""Stores on both databases, with a clock that stands still and operators of every role."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy
from tests.ports import free_port

from stillhouse.accounts import (
    TOKEN_PREFIX,
    Done,
    Furnished,
    Peppers,
    Policy,
    Store,
    database,
    furnish,
    mint,
)
from stillhouse.accounts.acts import AddOperator, Approve
from stillhouse.exchanges import KeyedDigests

START_US = 1_767_225_600_000_000  # 1 January 2026
SECRETS = {name: bytes([number]) * 32 for number, name in enumerate(("secret", "first", "second"))}


class Clock:
    """Microseconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_us = START_US

    def __call__(self) -> int:
        return self.now_us

    def step(self, *, us: int = 0, hours: float = 0, days: float = 0) -> None:
        self.now_us += us + int(hours * 3_600_000_000) + int(days * 86_400_000_000)


def peppers(*names: str) -> Peppers:
    return Peppers({n: KeyedDigests(SECRETS[name]) for n, name in enumerate(names, 1)})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A PostgreSQL server of this session's own, as the URL of its first database."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    programs = found[-1].parent if found else None
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="stillhouse-pg-"))
    # The server refuses to run as root.
    user: dict[str, int] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("postgres")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    data = folder / "data"
    init = [programs / "initdb", "-D", data, "-A", "trust", "-U", "stillhouse", "--no-sync"]
    subprocess.run(init, check=True, **quiet, **user)
    port = free_port()
    settings = ["fsync=off", f"unix_socket_directories={folder}", "listen_addresses=127.0.0.1"]
    options = [part for setting in settings for part in ("-c", setting)]
    command = [programs / "postgres", "-D", data, "-p", str(port), *options]
    server = subprocess.Popen(command, **quiet, **user)
    url = f"postgresql+psycopg://stillhouse@127.0.0.1:{port}/postgres"
    try:
        _wait_until_it_answers(url)
        yield url
    finally:
        server.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_it_answers(url: str) -> None:
    engine = sqlalchemy.create_engine(url)
    for _ in range(600):
        try:
            engine.connect().close()
            break
        except sqlalchemy.exc.OperationalError:
            time.sleep(0.1)
    engine.dispose()


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], str]:
    """Return a maker of databases: a copy of one that was migrated once."""
    made: dict[str, str] = {}
    folder = tmp_path_factory.mktemp("databases")

    def copy(kind: str, server: str) -> str:
        number = len(list(folder.iterdir()))
        if kind == "sqlite":
            if kind not in made:
                made[kind] = str(folder / "template.sqlite")
                database.connect(made[kind]).dispose()
            path = folder / f"{number}.sqlite"
            shutil.copy(made[kind], path)
            return str(path)
        (folder / f"{number}.postgresql").touch()
        name = f"test_{number}"
        engine = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            if kind not in made:
                made[kind] = "template_of_tests"
                connection.exec_driver_sql(f"CREATE DATABASE {made[kind]}")
                database.connect(server.replace("/postgres", f"/{made[kind]}")).dispose()
            connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {made[kind]}")
        engine.dispose()
        return server.replace("/postgres", f"/{name}")

    return copy


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, templates: Callable[[str, str], str]) -> str:
    server = request.getfixturevalue("postgresql") if request.param == "postgresql" else ""
    return templates(request.param, server)


@pytest.fixture
def opened(clock: Clock) -> Iterator[Callable[..., Store]]:
    """Return an opener of stores on the same clock, each closed at the end."""
    stores: list[Store] = []

    def opener(url: str, *names: str) -> Store:
        made = peppers(*(names or ("first",)))
        digests = KeyedDigests(SECRETS["secret"])
        stores.append(
            Store(database.connect(url), made, digests, Policy(), clock=clock, monotonic=clock)
        )
        return stores[-1]

    yield opener
    for store in stores:
        store.close()


@pytest.fixture
def store(database_url: str, opened: Callable[..., Store]) -> Store:
    return opened(database_url)


@dataclass
class Office:
    """A furnished store: one organisation, and operators by name."""

    store: Store
    made: Furnished
    operators: dict[str, str]
    tokens: dict[str, str]

    def perform(self, who: str, act: object, **options: str) -> Done:
        return self.store.perform(self.operators[who], act, **options)  # type: ignore[arg-type]

    def agreed(self, who: str, second: str, act: object) -> Done:
        proposal = self.perform(who, act).proposal
        assert proposal is not None
        return self.perform(second, Approve(proposal=proposal, reason="checked"))


def office_of(store: Store) -> Office:
    made = furnish(store, accounts=3)
    office = Office(store, made, {"ada": made.operator}, {"ada": made.token})
    for name, role in (
        ("bob", "admin"),
        ("ann", "moderator"),
        ("ben", "moderator"),
        ("sue", "support"),
        ("vic", "viewer"),
    ):
        token = mint(TOKEN_PREFIX)
        act = AddOperator(name=name, role=role, enrolment=token.enrolment)  # type: ignore[arg-type]
        done = office.perform("ada", act) if name == "bob" else office.agreed("ada", "bob", act)
        office.operators[name], office.tokens[name] = done.subject, token.text
    return office


@pytest.fixture
def office(store: Store) -> Office:
    return office_of(store)
