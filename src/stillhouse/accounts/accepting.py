"""Terms accepted by the organisation itself, through a key that it holds for this alone.

An operator issues a key with the scope `terms` and hands it to the organisation's admin. Who holds
it reads the terms, and accepts them in the name of a representative whom the operator registered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from stillhouse.accounts import schema
from stillhouse.accounts.acts import AcceptTerms
from stillhouse.accounts.roles import ForbiddenError, Operator, Role
from stillhouse.accounts.store import LOCAL

if TYPE_CHECKING:
    from stillhouse.accounts.desk import Done
    from stillhouse.accounts.snapshot import KeyFacts
    from stillhouse.accounts.store import Store

TERMS_SCOPE = "terms"


def terms_for(store: Store, facts: KeyFacts) -> dict[str, Any]:
    """Return the versions that can be accepted now, with their text, and who may accept them.

    `versions`: the one in effect and those announced; `representatives`: id and name.
    """
    terms, people = schema.terms, schema.representatives
    now_us = store.clock()
    with store.reading() as connection:
        rows = connection.execute(select(terms).order_by(terms.c.version)).all()
        speak = (people.c.organisation == facts.organisation) & people.c.removed_us.is_(None)
        who = connection.execute(select(people.c.id, people.c.name).where(speak)).all()
    in_effect = max((row.version for row in rows if row.effective_us <= now_us), default=0)
    shown = ("version", "digest", "effective_us", "grace_us", "text", "clauses")
    return {
        "versions": [
            {name: getattr(row, name) for name in shown} for row in rows if row.version >= in_effect
        ],
        "representatives": [{"id": row.id, "name": row.name} for row in who],
    }


def accept_by_key(store: Store, facts: KeyFacts, act: AcceptTerms) -> Done:
    """Record an acceptance on the word of a key with the scope `terms`; its id is the recorder.

    Raises `ForbiddenError` where the key may not do this now, `InputError` as `AcceptTerms` does.
    """
    with store.desk(LOCAL.id) as desk:
        # As the database has it now: the snapshot is up to a second old.
        key = desk.get(schema.keys, facts.key_id)
        account = desk.get(schema.accounts, key.account)
        ended = key.revoked_us is not None or (key.expires_us or desk.now_us + 1) <= desk.now_us
        if ended or TERMS_SCOPE not in key.scopes or account.organisation != act.organisation:
            raise ForbiddenError("this key may not accept terms for this organisation")
        desk.actor = Operator(f"key_{key.id}", "the organisation", Role.VIEWER)
        done = act.carry_out(desk)
        desk.record(act.NAME, done.subject, act.for_audit())
        return done
