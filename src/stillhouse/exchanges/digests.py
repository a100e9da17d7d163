"""Keyed digests: the same value gives the same bytes here, and says nothing to anyone else."""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from stillhouse.exchanges.errors import InputError


def derive_key(secret: bytes, purpose: str) -> bytes:
    """Return the 32-byte key of one purpose: HKDF-SHA-256 with the purpose as its label."""
    label = f"stillhouse/1/{purpose}".encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=label).derive(secret)


class KeyedDigests:
    """HMAC-SHA-256 under a deployment secret, with a key of its own for each purpose.

    Plain digests of guessable values (prompts, addresses) can be reversed by guessing; these cannot
    without the secret, and digests of two purposes cannot be compared with each other.
    """

    def __init__(self, secret: bytes):
        if len(secret) < 16:
            raise InputError(
                f"the deployment secret has {len(secret)} bytes, at least 16 are needed",
                repair="make one: python -c 'import secrets; print(secrets.token_hex(32))'",
            )
        self._secret = secret
        self._keys: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return "KeyedDigests(...)"

    def key(self, purpose: str) -> bytes:
        """Return the 32-byte key derived for `purpose`."""
        key = self._keys.get(purpose)
        if key is None:
            if not purpose:
                raise InputError("a digest needs a purpose", repair="name what it is for")
            key = self._keys[purpose] = derive_key(self._secret, purpose)
        return key

    def digest(self, purpose: str, data: bytes) -> bytes:
        """Return the 32-byte digest of `data` for `purpose`."""
        return hmac.digest(self.key(purpose), data, "sha256")
