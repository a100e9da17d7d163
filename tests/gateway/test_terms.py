"""An organisation's admin reads the terms and accepts them over the data port."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
from sqlalchemy import select
from tests.gateway.running import Running, running

from stillhouse.accounts import acts, poll, schema

BODY = {"model": "small", "messages": [{"role": "user", "content": "Hi"}]}


def newcomer(gateway: Running) -> dict[str, str]:
    """An organisation that has accepted nothing: a key for inference, one for the terms."""
    perform, operator = gateway.store.perform, gateway.furnished.operator
    made: dict[str, str] = {}
    act: Any = acts.CreateOrganisation(name="New", purpose="unknown")
    made["organisation"] = perform(operator, act).subject
    act = acts.AddRepresentative(organisation=made["organisation"], name="Grace", contact="g@x")
    made["representative"] = perform(operator, act).subject
    act = acts.CreateAccount(organisation=made["organisation"], name="production")
    account = perform(operator, act).subject
    for scope in ("inference", "terms"):
        done = perform(operator, acts.IssueKey(account=account, scopes=[scope]))
        made[scope] = done.secret or ""
    poll(gateway.store, gateway.service.app.snapshot)
    return made


def test_an_organisation_accepts_the_terms_by_its_own_key(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as gateway, aiohttp.ClientSession() as session:
            new = newcomer(gateway)

            async def ask(path: str, key: str, body: Any = None) -> tuple[int, Any]:
                method = "GET" if body is None else "POST"
                headers = {"authorization": f"Bearer {key}"}
                url = gateway.url + path
                async with session.request(method, url, json=body, headers=headers) as reply:
                    return reply.status, await reply.json()

            chat, terms, accept = "/v1/chat/completions", "/v1/terms", "/v1/terms/acceptances"
            status, told = await ask(chat, new["inference"], BODY)
            assert (status, told["error"]["code"]) == (403, "terms_required")

            # Each key for its own purpose.
            assert (await ask(terms, new["inference"]))[1]["error"]["code"] == "scope_missing"
            assert (await ask(chat, new["terms"], BODY))[0] == 403
            assert (await ask(terms, "still_nothing"))[0] == 401

            status, shown = await ask(terms, new["terms"])
            assert status == 200
            version = shown["versions"][-1]
            assert "compete" in version["text"]
            assert shown["representatives"] == [{"id": new["representative"], "name": "Grace"}]
            good = {
                "representative": new["representative"],
                "version": version["version"],
                "digest": version["digest"],
                "purpose": "support chat",
            }
            other = gateway.store.perform(
                gateway.furnished.operator,
                acts.AddRepresentative(
                    organisation=gateway.furnished.organisation, name="Eve", contact="e@x"
                ),
            ).subject
            for wrong in (
                {"digest": "0" * 64},
                {"version": 9},
                {"representative": other},
                {"representative": "nobody"},
                {"purpose": ""},
                {"organisation": gateway.furnished.organisation},
            ):
                status, told = await ask(accept, new["terms"], {**good, **wrong})
                assert (status, told["error"]["code"]) == (400, "bad_request"), wrong
            assert (await ask(chat, new["inference"], BODY))[0] == 403

            status, told = await ask(accept, new["terms"], good)
            assert (status, told["accepted"]) == (200, version["version"])
            async with asyncio.timeout(60):
                while (await ask(chat, new["inference"], BODY))[0] != 200:
                    await asyncio.sleep(0.02)
            with gateway.store.reading() as connection:
                table = schema.acceptances
                mine = table.c.organisation == new["organisation"]
                row = connection.execute(select(table).where(mine)).one()
                audit = select(schema.audit.c.actor).where(
                    schema.audit.c.subject == new["organisation"],
                    schema.audit.c.act == "accept-terms",
                )
                actors = connection.execute(audit).scalars().all()
            key_id = new["terms"].split("_")[1]
            assert (row.representative, row.digest) == (new["representative"], version["digest"])
            assert (row.address, row.purpose) == ("127.0.0.1", "support chat")
            assert row.recorder == f"key_{key_id}"
            assert row.at_us > 0
            assert actors == [f"key_{key_id}"]
            assert gateway.store.check_audit() > 0

    asyncio.run(scenario())


def test_a_revoked_key_accepts_nothing_even_where_the_snapshot_is_behind(tmp_path: Path) -> None:
    import pytest

    from stillhouse.accounts import ForbiddenError, accept_by_key, terms_for

    async def scenario() -> None:
        async with running(tmp_path) as gateway:
            new = newcomer(gateway)
            store = gateway.store
            facts = gateway.service.app.snapshot.authenticate(new["terms"], store.clock())
            told = terms_for(store, facts)["versions"][-1]
            act = acts.AcceptTerms(
                organisation=new["organisation"],
                representative=new["representative"],
                version=told["version"],
                digest=told["digest"],
                address="203.0.113.7",
                purpose="p",
            )
            revoke = acts.RevokeKey(key=facts.key_id, reason="lost")
            store.perform(gateway.furnished.operator, revoke)
            with pytest.raises(ForbiddenError):
                accept_by_key(store, facts, act)

    asyncio.run(scenario())
