"""Account facts: what the provider's systems know of an account, kept as keyed digests (pure).

Each kind has an HKDF label of its own, so digests of two kinds cannot be compared, and none of them
can be turned back without the deployment secret. Every fact is optional and can be erased.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stillhouse.accounts.networks import parse_address

if TYPE_CHECKING:
    from stillhouse.exchanges import KeyedDigests

FactKind = Literal[
    "payment", "email-domain", "sign-up-address", "sign-up-time", "device", "verification"
]


def fact_digest(digests: KeyedDigests, kind: str, value: str) -> bytes:
    """Return 32 bytes that are the same for the same fact, however it is spelled.

    Domains are compared in lower case, addresses in canonical form. Raises `InputError` where a
    sign-up address is none.
    """
    if kind == "sign-up-address":
        version, number = parse_address(value.strip()).canonical
        value = f"{version}/{number:x}"
    elif kind == "email-domain":
        value = value.strip().lower().rstrip(".")
    return digests.digest(f"account-facts/{kind}", value.encode())
