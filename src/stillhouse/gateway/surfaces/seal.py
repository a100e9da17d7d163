"""Reasoning that a client carries along: sealed, so that it is of use here and to it alone."""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import TYPE_CHECKING, Any

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stillhouse.gateway.refusals import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillhouse.exchanges import KeyedDigests

_PREFIX = "shr1_"
_NONCE_BYTES = 12
_DAY_US = 86_400_000_000


class ReasoningSeal:
    """Seals and opens reasoning blobs with AES-256-GCM, bound to account, session and model.

    A blob opens only for the account, session and model it was issued for, and for `ttl_us` after
    that. Replaying blobs elsewhere is how encrypted reasoning was read (arXiv 2608.09867).
    """

    def __init__(self, digests: KeyedDigests, *, ttl_us: int = _DAY_US):
        self._digests = digests
        self._cipher = AESGCM(digests.key("reasoning-blobs"))
        self._ttl_us = ttl_us

    def session(self, first_turn: bytes) -> bytes:
        """Return what a conversation is bound by: the digest of how it began."""
        return self._digests.digest("reasoning-session", first_turn)

    def seal(
        self,
        blob: dict[str, Any],
        *,
        account: str,
        session: bytes,
        model: str,
        now_us: int,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> str:
        """Return `blob` as text for the client. `random(n)` gives n random bytes."""
        expires = (now_us + self._ttl_us).to_bytes(8)
        nonce = random(_NONCE_BYTES)
        bound = _bound(account, session, model, expires)
        sealed = self._cipher.encrypt(nonce, orjson.dumps(blob), bound)
        return _PREFIX + base64.urlsafe_b64encode(expires + nonce + sealed).decode()

    def open(
        self, text: str, *, account: str, session: bytes, model: str, now_us: int
    ) -> dict[str, Any]:
        """Return the blob. Raises `RefusedError` (foreign_reasoning) for every other one."""
        try:
            if not text.startswith(_PREFIX):
                raise ValueError
            raw = base64.b64decode(text[len(_PREFIX) :], altchars=b"-_", validate=True)
            expires, nonce = raw[:8], raw[8 : 8 + _NONCE_BYTES]
            if len(nonce) < _NONCE_BYTES or int.from_bytes(expires) <= now_us:
                raise ValueError
            bound = _bound(account, session, model, expires)
            blob: dict[str, Any] = orjson.loads(
                self._cipher.decrypt(nonce, raw[8 + _NONCE_BYTES :], bound)
            )
        except (ValueError, binascii.Error, InvalidTag):
            raise RefusedError("foreign_reasoning") from None
        return blob


def _bound(account: str, session: bytes, model: str, expires: bytes) -> bytes:
    return orjson.dumps([account, session.hex(), model, expires.hex()])
