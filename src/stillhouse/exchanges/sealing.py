"""Texts that can be erased: each account has a key, and without it its texts are noise."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stillhouse.exchanges.errors import InputError
from stillhouse.exchanges.storage import make_folder, remove, write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from stillhouse.exchanges.digests import KeyedDigests

_NONCE_BYTES = 12
_FORMAT = b"\x01"


class ErasedError(InputError):
    """The account has no key (any more): what was sealed for it cannot be read by anyone."""


class KeyStore(Protocol):
    """Where the accounts' wrapped keys are kept: a `KeyFolder`, a table."""

    def find(self, account: str) -> bytes | None:
        """Return the wrapped key of an account, or None."""

    def add(self, account: str, wrapped: bytes) -> bytes:
        """Keep a first key, unless another process was faster; return the one that is kept."""

    def erase(self, account: str) -> None:
        """Delete the key for good."""


class AccountKeys:
    """Seals texts with AES-256-GCM under one random key an account.

    `store` keeps the keys, themselves sealed under the deployment secret. Erasing an account
    deletes its key; digests, chains and proofs rest on other keys and stay valid. Copies of the
    store in backups must expire too.
    """

    def __init__(self, digests: KeyedDigests, store: KeyStore):
        self._wrapping = AESGCM(digests.key("account-keys"))
        self._store = store

    def seal(self, account: str, purpose: str, text: bytes) -> bytes:
        """Encrypt `text`; the account's key is made when it is first needed.

        `purpose` says what the text is and of which exchange (`reply/0192...`): it must be given
        again to open it, so that sealed texts cannot be swapped for each other.
        """
        wrapped = self._store.find(account)
        if wrapped is None:
            key = AESGCM.generate_key(256)
            wrapped = self._store.add(account, _encrypt(self._wrapping, key, f"key/{account}"))
        return _encrypt(self._cipher(account, wrapped), text, f"text/{account}/{purpose}")

    def open(self, account: str, purpose: str, sealed: bytes) -> bytes:
        """Decrypt. Raises `ErasedError` after `erase`, `InputError` for altered or swapped text."""
        wrapped = self._store.find(account)
        if wrapped is None:
            raise ErasedError(f"account {account!r} has no key: its texts were erased")
        return _decrypt(self._cipher(account, wrapped), sealed, f"text/{account}/{purpose}")

    def erase(self, account: str) -> None:
        """Forget the account's key: everything sealed for it is unreadable from now on."""
        self._store.erase(account)

    def _cipher(self, account: str, wrapped: bytes) -> AESGCM:
        # Unwrapped at each use: a key that is kept in memory would outlive its erasure.
        return AESGCM(_decrypt(self._wrapping, wrapped, f"key/{account}"))


class KeyFolder:
    """A `KeyStore` of one file an account. File names are keyed digests, not account names.

    An erased file is unlinked; blocks of a disk may keep its bytes until they are written again,
    which is why they are useless without the deployment secret.
    """

    def __init__(self, folder: Path, digests: KeyedDigests):
        self._folder = folder
        self._digests = digests

    def find(self, account: str) -> bytes | None:
        """Return the wrapped key of an account, or None."""
        try:
            return self._path(account).read_bytes()
        except FileNotFoundError:
            return None

    def add(self, account: str, wrapped: bytes) -> bytes:
        """Keep a first key, unless another process was faster; return the one that is kept."""
        make_folder(self._folder)
        try:
            write_atomic(self._path(account), wrapped, mode=0o600, new=True)
        except FileExistsError:
            return self._path(account).read_bytes()
        return wrapped

    def erase(self, account: str) -> None:
        """Delete the key for good."""
        remove(self._path(account))

    def _path(self, account: str) -> Path:
        name = self._digests.digest("account-key-file", account.encode())[:16].hex()
        return self._folder / f"{name}.key"


def _encrypt(cipher: AESGCM, text: bytes, bound_to: str) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return _FORMAT + nonce + cipher.encrypt(nonce, text, bound_to.encode())


def _decrypt(cipher: AESGCM, sealed: bytes, bound_to: str) -> bytes:
    nonce, encrypted = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
    if sealed[:1] != _FORMAT or len(nonce) < _NONCE_BYTES:
        raise InputError("these bytes are no sealed text")
    try:
        return cipher.decrypt(nonce, encrypted, bound_to.encode())
    except InvalidTag:
        raise InputError(
            "the sealed text was altered, belongs to something else, or the secret is another"
        ) from None
