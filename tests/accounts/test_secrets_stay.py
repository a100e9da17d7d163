"""No key, token, pepper or fact is in anything that was written: files, logs, answers, errors."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from stillhouse.accounts import KeyFacts, KeyUses, Sightings, mint, open_store, parse_address
from stillhouse.accounts.admin import admin_app
from stillhouse.accounts.furnish import furnish

SCRIPT = """
import sys
from stillhouse.cli import main
sys.argv[0] = "stillhouse"
main()
"""


def test_nothing_that_was_written_holds_a_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url, secrets = str(tmp_path / "state" / "accounts.sqlite"), tmp_path / "secrets"
    store = open_store(url, secrets=secrets)
    made = furnish(store)
    key, fact = made.keys[0], "card-fingerprint-4711"
    shown: list[str] = []
    client = TestClient(admin_app(store), raise_server_exceptions=False)
    bearer = {"authorization": f"Bearer {made.token}", "idempotency-key": "once"}
    body = {"account": made.accounts[0], "kind": "payment", "value": fact}
    shown.append(client.post("/v1/acts/record-facts", json=body, headers=bearer).text)
    issued = client.post(
        "/v1/acts/issue-key", json={"account": made.accounts[0]}, headers=bearer | {
            "idempotency-key": "twice"
        }
    ).json()["secret"]  # fmt: skip
    wrong = mint().text
    for path in ("/v1/keys", "/v1/operators", "/v1/audit", "/v1/nothing", "/openapi.json"):
        shown.append(client.get(path, headers=bearer).text)
        shown.append(client.get(path, headers={"authorization": f"Bearer {key}"}).text)
    bad = body | {"kind": "nothing"}
    shown.append(client.post("/v1/acts/record-facts", json=bad, headers=bearer).text)
    snapshot = store.load_snapshot()
    facts = snapshot.authenticate(key, store.clock())
    assert isinstance(facts, KeyFacts)
    uses, sightings = KeyUses(store.peppers), Sightings()
    uses.note(facts, key, store.clock())
    sightings.note(parse_address("203.0.113.77"), facts.account, store.clock())
    store.record_uses(uses.drain())
    store.record_sightings(sightings.drain())
    shown += [repr(snapshot.authenticate(wrong, 0)), repr(facts), repr(store.peppers), repr(made)]
    shown.append(caplog.text)
    environment = os.environ | {"STILLHOUSE_ADMIN_TOKEN": made.token}
    for arguments in (["list", "keys"], ["revoke-key", "--key", key, "--reason", "x"]):
        command = [sys.executable, "-c", SCRIPT, "accounts", "--store", url,
                   "--secrets", str(secrets), *arguments]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        shown += [done.stdout, done.stderr]
    written = {
        path: path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file()
    }
    public = key.split("_")[1].encode()
    assert any(public in data for data in written.values()), "the search finds what is there"
    assert any(path.name.endswith("-wal") for path in written), "the write-ahead log counts too"
    assert {oct(path.stat().st_mode & 0o777) for path in written} == {"0o600"}
    store.close()
    peppers = [path.read_text().strip() for path in secrets.iterdir()]
    secret_parts = [text.split("_")[2] for text in (key, issued, wrong, made.token)]
    for part in [*secret_parts, *peppers, *(bytes.fromhex(p).decode("latin-1") for p in peppers),
                 fact, "203.0.113.77"]:  # fmt: skip
        for path, data in written.items():
            assert part.encode() not in data, path.name
            assert part.encode("latin-1") not in data, path.name
        assert not any(part in text for text in shown)
