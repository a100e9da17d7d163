"""Holes that were found in other gateways' accounts, each tried on ours (docs/holes.md)."""

from __future__ import annotations

import ast
import asyncio
import builtins
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from starlette.testclient import TestClient
from tests.accounts.conftest import Clock, Office

import stillhouse
from stillhouse.accounts import KeyFacts, acts, mint, schema
from stillhouse.accounts.admin import admin_app
from stillhouse.accounts.credentials import _checksum
from stillhouse.exchanges import InputError
from stillhouse.limits import Shared

ROOT = Path(__file__).parents[2]
INJECTION = "' OR '1'='1' -- "


@pytest.fixture
def statements(office: Office) -> Iterator[list[str]]:
    """Every statement that the store runs."""
    seen: list[str] = []

    def note(_c: Any, _k: Any, statement: str, _p: Any, _x: Any, _m: Any) -> None:
        seen.append(statement)

    engine = office.store.engine
    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


def shaped_like_a_key(body: str, prefix: str = "still") -> str:
    head = f"{prefix}_{body:0<12.12}_{body:0<33.33}"
    return head + _checksum(head)


def test_no_statement_is_run_for_a_key_that_may_be_anybodys(
    office: Office, clock: Clock, statements: list[str]
) -> None:
    snapshot = office.store.load_snapshot()
    assert statements
    statements.clear()
    for text in (INJECTION, INJECTION * 3, shaped_like_a_key(INJECTION), office.made.keys[0]):
        snapshot.authenticate(text, clock())
    assert statements == []


def test_what_a_client_sends_is_never_part_of_a_statement(
    office: Office, statements: list[str]
) -> None:
    with TestClient(admin_app(office.store), raise_server_exceptions=False) as client:
        for token in (INJECTION, shaped_like_a_key("Injected", "stilladmin")):
            answer = client.get("/v1/accounts", headers={"authorization": f"Bearer {token}"})
            assert answer.status_code == 401
        headers = {"authorization": f"Bearer {office.tokens['ann']}"}
        for name in ("organisation", "campaign", "tier"):
            answer = client.get("/v1/accounts", headers=headers, params={name: INJECTION})
            assert (answer.status_code, answer.json()["items"]) == (200, [])
        for parameters in ({INJECTION: "x"}, {"after": INJECTION}, {"limit": INJECTION}):
            answer = client.get("/v1/accounts", headers=headers, params=parameters)
            assert answer.status_code in (200, 422)
        where = {"scope": "account", "subject": INJECTION}
        assert client.get("/v1/behind", headers=headers, params=where).status_code == 404
        body = {"scope": "account", "subject": INJECTION, "reason": INJECTION}
        assert client.post("/v1/acts/suspend", headers=headers, json=body).status_code == 404
    assert statements
    for statement in statements:
        assert "'1'='1'" not in statement
        assert "Injected" not in statement


def test_no_part_of_a_key_stands_for_the_whole(office: Office, clock: Clock) -> None:
    """Whatever is remembered of a key that was seen is found by nothing less than all of it."""
    snapshot = office.store.load_snapshot()
    key = office.made.keys[0]
    assert isinstance(snapshot.authenticate(key, clock()), KeyFacts)
    for place in range(len(key)):
        other = "a" if key[place] != "a" else "b"
        wrong = key[:place] + other + key[place + 1 :]
        if not wrong.startswith("still_"):
            continue  # the prefix says nothing about whose it is, and is hashed with the rest
        assert not isinstance(snapshot.authenticate(wrong, clock()), KeyFacts), place
    assert isinstance(snapshot.authenticate(key, clock()), KeyFacts)
    for prefix in ("Still_", "sXill_"):
        assert not isinstance(snapshot.authenticate(prefix + key[6:], clock()), KeyFacts)


def labels_of(source: str) -> list[str]:
    """The purposes, written in the code, that digests and keys are made for."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute | ast.Name)
            and (node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id)
            in ("digest", "_digest", "key")
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
        ):
            found.append(node.args[0].value)
    return found


def test_every_purpose_of_a_secret_has_a_label_of_its_own() -> None:
    """One secret in two domains made the holder of one token an admin elsewhere."""
    places = defaultdict(set)
    package = Path(stillhouse.__file__).parent
    for path in package.rglob("*.py"):
        for label in labels_of(path.read_text(encoding="utf-8")):
            places[label].add(path.relative_to(package).parts[0])
    assert {"prompt", "end-user", "cache-salt", "audit-chain", "reasoning-blobs"} <= set(places)
    # A request's digest is the same thing to whoever labels it and to whoever serves it.
    shared = {"request", "schema"}
    assert {label for label, rooms in places.items() if len(rooms) > 1} <= shared


def test_a_key_is_no_token_and_a_token_is_no_key(office: Office, clock: Clock) -> None:
    """Also where both hold the same secret characters."""
    snapshot, peppers = office.store.load_snapshot(), office.store.peppers
    key, token = office.made.keys[0], office.tokens["ada"]
    assert not isinstance(snapshot.authenticate(token, clock()), KeyFacts)
    as_key = shaped_like_a_key(token.split("_")[1])[:18] + "_" + token.split("_")[2]
    assert not isinstance(snapshot.authenticate(as_key, clock()), KeyFacts)
    with TestClient(admin_app(office.store)) as client:
        for text in (key, f"stilladmin_{key.split('_', 1)[1]}", as_key):
            answer = client.get("/v1/accounts", headers={"authorization": f"Bearer {text}"})
            assert answer.status_code == 401
    assert peppers.digest_key("x" * 32) != peppers.digest_token(b"x" * 32)


def test_every_key_of_an_account_works_until_that_one_is_revoked(
    office: Office, clock: Clock
) -> None:
    account = office.made.accounts[0]
    issued = [
        office.perform("sue", acts.IssueKey(account=account, label=f"service {n}")).secret or ""
        for n in range(3)
    ]
    keys = [office.made.keys[0], *issued]
    snapshot = office.store.load_snapshot()
    found = [snapshot.authenticate(key, clock()) for key in keys]
    assert all(isinstance(facts, KeyFacts) and facts.account == account for facts in found)
    assert len({facts.key_id for facts in found if isinstance(facts, KeyFacts)}) == 4
    office.perform("sue", acts.RevokeKey(key=keys[2].split("_")[1], reason="misuse"))
    snapshot = office.store.load_snapshot()
    works = [isinstance(snapshot.authenticate(key, clock()), KeyFacts) for key in keys]
    assert works == [True, True, False, True]


def test_a_measure_cites_only_clauses_that_were_published(office: Office) -> None:
    def suspend(*clauses: str) -> acts.Suspend:
        return acts.Suspend(
            scope="account",
            subject=office.made.accounts[0],
            hours=1,
            reason="case 12",
            clauses=list(clauses),
        )

    with pytest.raises(InputError, match="'no-sharing'"):
        office.perform("ann", suspend("no-training", "no-sharing"))
    done = office.perform("ann", suspend("no-training"))
    with office.store.desk(office.operators["ann"]) as desk:
        assert desk.get(schema.measures, done.subject).clauses == ["no-training"]


def test_what_is_missing_is_never_worked_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the package that shared limits need nothing else takes their place."""
    right = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name.split(".")[0] == "redis":
            raise ImportError(name)
        return right(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    connecting = Shared.connect("redis://127.0.0.1:1/0", folder=tmp_path, process="p")
    with pytest.raises(InputError, match=r"need the package redis"):
        asyncio.run(connecting)


def test_what_is_installed_is_pinned_and_nothing_runs_when_python_starts() -> None:
    pins = [
        line
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert len(pins) > 50
    pinned = {re.split(r"==", line)[0].lower().replace("_", "-") for line in pins}
    assert all(re.match(r"[A-Za-z0-9._-]+==[0-9][^ ,*]*( *;.*)?$", line) for line in pins)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[<>=\[; ]", one)[0].lower() for one in project["dependencies"]}
    assert needed <= pinned
    assert not list((ROOT / "src").rglob("*.pth"))
    assert not list((ROOT / "src").rglob("sitecustomize.py"))


def test_a_made_up_key_is_nobody_and_makes_no_account(office: Office, clock: Clock) -> None:
    snapshot = office.store.load_snapshot()
    before = len(snapshot)
    for _ in range(50):
        assert not isinstance(snapshot.authenticate(mint().text, clock()), KeyFacts)
    assert len(snapshot) == before
