"""`/v1/terms`: an organisation's admin reads and accepts the terms, with a key for that alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillhouse.accounts import TERMS_SCOPE, accept_by_key, terms_for
from stillhouse.accounts.acts import AcceptTerms
from stillhouse.exchanges import InputError
from stillhouse.gateway.refusals import RefusedError
from stillhouse.gateway.strict_json import parse_object

if TYPE_CHECKING:
    from stillhouse.accounts import KeyFacts, Store

__all__ = ["ACCEPTANCES", "MOST_BYTES", "TERMS", "TERMS_SCOPE", "TermsDesk"]

TERMS = "/v1/terms"
ACCEPTANCES = "/v1/terms/acceptances"
MOST_BYTES = 8192


class _Acceptance(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    representative: Annotated[str, Field(max_length=32)]
    version: int
    digest: Annotated[str, Field(max_length=64)]
    purpose: Annotated[str, Field(max_length=2000)]


class TermsDesk:
    """The two endpoints; one acceptance at a time, as each takes the database's lock."""

    def __init__(self, store: Store):
        self._store = store
        self._turn = asyncio.Lock()

    async def show(self, facts: KeyFacts) -> bytes:
        """Return the body of the reply to GET /v1/terms."""
        async with self._turn:
            return orjson.dumps(await asyncio.to_thread(terms_for, self._store, facts))

    async def accept(self, facts: KeyFacts, body: bytes, address: str) -> bytes:
        """Record an acceptance; return the body of the reply. Raises `RefusedError`."""
        try:
            told = _Acceptance.model_validate(parse_object(body, max_bytes=MOST_BYTES, max_depth=4))
            act = AcceptTerms(organisation=facts.organisation, address=address, **told.model_dump())
        except ValidationError as error:
            # Only names of our own: an unknown one is the client's text.
            wrong = {str(mistake["loc"][0]) for mistake in error.errors() if mistake["loc"]}
            named = sorted(wrong & set(_Acceptance.model_fields))
            raise RefusedError("bad_request", ", ".join(named) or None) from None
        try:
            async with self._turn:
                done = await asyncio.to_thread(accept_by_key, self._store, facts, act)
        except InputError as error:
            raise RefusedError("bad_request", error.message) from None
        accepted = {"organisation": done.subject, "accepted": act.version, "digest": act.digest}
        return orjson.dumps(accepted | {"representative": act.representative})
