"""Accounts: who may ask, under which terms, with what caps, and who is kept out.

Start from `open_store` and `Store.perform` (every change is an act, see `acts`), and for the data
path from `Snapshot.authenticate` and `Snapshot.standing`, kept fresh by `follow`. `parse_address`
and `Snapshot.blocks` match addresses in every disguise; `admin.admin_app` is the HTTP API.

Refused here: keys in clear text anywhere but in the answer that issues them, traffic before the
terms are accepted, a ban by one person, self-approval, rights raised by their owner, and serving
from a snapshot that was not confirmed for a second.
"""

from stillhouse.accounts.accepting import TERMS_SCOPE, accept_by_key, terms_for
from stillhouse.accounts.acts import ACTS, Act
from stillhouse.accounts.credentials import (
    KEY_PREFIX,
    SCANNER_PATTERN,
    TOKEN_PREFIX,
    Credential,
    Peppers,
    is_well_formed,
    mint,
    redact,
)
from stillhouse.accounts.desk import Done
from stillhouse.accounts.feed import follow, poll
from stillhouse.accounts.furnish import Furnished, furnish
from stillhouse.accounts.lists import ListEntry, Origin, Origins
from stillhouse.accounts.measures import Measure, Policy
from stillhouse.accounts.networks import Address, Network, parse_address, parse_network
from stillhouse.accounts.roles import ForbiddenError, Operator, Right, Role
from stillhouse.accounts.sightings import Sighting, Sightings
from stillhouse.accounts.snapshot import (
    AccountRow,
    Delta,
    Denied,
    KeyFacts,
    KeyRow,
    OrganisationRow,
    Snapshot,
)
from stillhouse.accounts.store import ConflictError, Store, first_admin, load_secrets, open_store
from stillhouse.accounts.terms import Terms
from stillhouse.accounts.throttle import FailureThrottle
from stillhouse.accounts.tiers import DEFAULT_TIERS, Cap, Tier
from stillhouse.accounts.uses import KeyUse, KeyUses

__all__ = [
    "ACTS",
    "DEFAULT_TIERS",
    "KEY_PREFIX",
    "SCANNER_PATTERN",
    "TERMS_SCOPE",
    "TOKEN_PREFIX",
    "AccountRow",
    "Act",
    "Address",
    "Cap",
    "ConflictError",
    "Credential",
    "Delta",
    "Denied",
    "Done",
    "FailureThrottle",
    "ForbiddenError",
    "Furnished",
    "KeyFacts",
    "KeyRow",
    "KeyUse",
    "KeyUses",
    "ListEntry",
    "Measure",
    "Network",
    "Operator",
    "OrganisationRow",
    "Origin",
    "Origins",
    "Peppers",
    "Policy",
    "Right",
    "Role",
    "Sighting",
    "Sightings",
    "Snapshot",
    "Store",
    "Terms",
    "Tier",
    "accept_by_key",
    "first_admin",
    "follow",
    "furnish",
    "is_well_formed",
    "load_secrets",
    "mint",
    "open_store",
    "parse_address",
    "parse_network",
    "poll",
    "redact",
    "terms_for",
]
