"""Keyed digests: the same value gives the same bytes here, and says nothing to anyone else."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from typing import TYPE_CHECKING, Self

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from stillhouse.exchanges.errors import InputError
from stillhouse.exchanges.storage import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SECRET_VARIABLE = "STILLHOUSE_SECRET"  # noqa: S105  (a name, not a secret)
_SECRET_BYTES = 32


class KeyedDigests:
    """HMAC-SHA-256 under a deployment secret, with a key of its own for each purpose (HKDF label).

    Plain digests of guessable values (prompts, addresses) can be reversed by guessing; these cannot
    without the secret, and digests of two purposes cannot be compared with each other.
    """

    def __init__(self, secret: bytes):
        if len(secret) < _SECRET_BYTES:
            raise InputError(
                f"the deployment secret has {len(secret)} bytes, at least {_SECRET_BYTES} are "
                "needed",
                repair="make one with create_secret, or: openssl rand -hex 32",
            )
        self._secret = secret
        self._keys: dict[str, bytes] = {}
        self._blocks: dict[str, tuple[hashlib._Hash, hashlib._Hash]] = {}

    @classmethod
    def load(cls, path: Path | None, *, environment: Mapping[str, str] | None = None) -> Self:
        """Take the secret from a file, or with `path` None from the STILLHOUSE_SECRET variable.

        It is written in hexadecimal. Raises `InputError` (which never holds the secret) where it is
        missing or malformed, or where other users of this machine can read or replace the file.
        """
        if path is None:
            values = os.environ if environment is None else environment
            if SECRET_VARIABLE not in values:
                raise InputError(f"{SECRET_VARIABLE} is not set", repair="set it, or name a file")
            return cls(_parse(values[SECRET_VARIABLE], SECRET_VARIABLE))
        return cls(_parse(_read_private(path), str(path)))

    def __repr__(self) -> str:
        return f"KeyedDigests(key_id={self.key_id!r})"

    @property
    def key_id(self) -> str:
        """Eight bytes in hexadecimal that tell two secrets apart and reveal neither."""
        return self.digest("key-id", b"")[:8].hex()

    def key(self, purpose: str) -> bytes:
        """Return the 32-byte key derived for `purpose`."""
        key = self._keys.get(purpose)
        if key is None:
            if not purpose:
                raise InputError("a digest needs a purpose", repair="name what it is for")
            label = f"stillhouse/1/{purpose}".encode()
            derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=label)
            key = self._keys[purpose] = derived.derive(self._secret)
        return key

    def digest(self, purpose: str, data: bytes) -> bytes:
        """Return the 32-byte digest of `data` for `purpose`."""
        blocks = self._blocks.get(purpose)
        if blocks is None:
            # HMAC's two blocks (RFC 2104) are hashed once for each purpose, not at every call:
            # three times as fast as `hmac.digest`, which sets OpenSSL up anew each time.
            block = self.key(purpose).ljust(64, b"\0")
            blocks = self._blocks[purpose] = (
                hashlib.sha256(bytes(byte ^ 0x36 for byte in block)),
                hashlib.sha256(bytes(byte ^ 0x5C for byte in block)),
            )
        inner, outer = blocks[0].copy(), blocks[1].copy()
        inner.update(data)
        outer.update(inner.digest())
        return outer.digest()


def create_secret(path: Path) -> None:
    """Write a new random secret to `path`, readable by its owner alone. Never replaces a file."""
    try:
        write_atomic(path, secrets.token_hex(_SECRET_BYTES).encode() + b"\n", mode=0o600, new=True)
    except FileExistsError:
        raise InputError(
            "this file exists already, and what it protects would be lost with it",
            place=str(path),
            repair="choose another path",
        ) from None


def _read_private(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(
            f"the secret cannot be read ({error.strerror})",
            place=str(path),
            repair="make one with create_secret, or: (umask 077; openssl rand -hex 32 > FILE)",
        ) from error
    with open(descriptor, encoding="ascii", errors="replace") as file:  # noqa: PTH123
        found = os.fstat(descriptor)
        if found.st_mode & 0o077 or not stat.S_ISREG(found.st_mode):
            raise InputError(
                f"others can read or write this secret (mode {stat.S_IMODE(found.st_mode):04o})",
                place=str(path),
                repair=f"chmod 600 {path}, and make a new secret if others may have seen it",
            )
        if found.st_uid not in (os.geteuid(), 0):
            raise InputError(
                f"this secret belongs to another user (uid {found.st_uid})",
                place=str(path),
                repair=f"chown {os.geteuid()} {path}",
            )
        return file.read(4096)


def _parse(text: str, place: str) -> bytes:
    try:
        return bytes.fromhex(text.strip())
    except ValueError:
        # The cause would quote the secret.
        raise InputError(
            "this secret is not hexadecimal", place=place, repair="openssl rand -hex 32"
        ) from None
