"""A store made ready to serve: for demonstrations, tests and benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stillhouse.accounts.acts import (
    AcceptTerms,
    AddRepresentative,
    CreateAccount,
    CreateOrganisation,
    IssueKey,
    PublishTerms,
)
from stillhouse.accounts.store import first_admin

if TYPE_CHECKING:
    from stillhouse.accounts.store import Store

DEMO_TERMS = """Terms of use of this demonstration

1. Outputs may not be used to train models that compete with the one that made them.
2. One person or organisation, one account.
"""


@dataclass(frozen=True, slots=True)
class Furnished:
    """What `furnish` made; `token` and `keys` are secrets."""

    token: str = field(repr=False)
    operator: str
    organisation: str
    accounts: tuple[str, ...]
    keys: tuple[str, ...] = field(repr=False)


def furnish(store: Store, *, accounts: int = 1, keys: int = 1) -> Furnished:
    """Fill an empty store: an admin, an organisation that accepted the terms, accounts with keys.

    Raises `InputError` where the store has operators already.
    """
    token = first_admin(store, "admin")
    operator = store.operator_of(token.text)
    if operator is None:
        raise AssertionError("a token just made is not known")
    who = operator.id
    organisation = store.perform(
        who, CreateOrganisation(name="Demonstration", purpose="trying the gateway")
    ).subject
    published = store.perform(
        who,
        PublishTerms(
            text=DEMO_TERMS,
            clauses={"no-training": "Outputs may not train competing models."},
            notice_days=0,
        ),
    )
    person = AddRepresentative(organisation=organisation, name="demo", contact="demo@example")
    representative = store.perform(who, person).subject
    store.perform(
        who,
        AcceptTerms(
            organisation=organisation,
            representative=representative,
            version=published.result["version"],
            digest=published.result["digest"],
            address="127.0.0.1",
            purpose="trying the gateway",
        ),
    )
    opened = store.perform_all(
        who,
        [CreateAccount(organisation=organisation, name=f"demo {n}") for n in range(accounts)],
    )
    names = tuple(done.subject for done in opened)
    issued = store.perform_all(
        who, [IssueKey(account=account, label="demo") for account in names for _ in range(keys)]
    )
    secrets = tuple(done.secret for done in issued if done.secret is not None)
    return Furnished(token.text, who, organisation, names, secrets)
