"""Keys and admin tokens: how they look, how they are made, how they are kept.

`PREFIX` `_` 12 characters of public id `_` 33 of secret and 6 of checksum, all base 62:
`still_4Zq0p9XbT1aK_...`. The prefix lets secret scanners find a leaked one, the checksum lets them
(and us) tell it from a look-alike without asking anybody, the public id may appear in logs. Kept
is HMAC-SHA-256 under a pepper that is not in the database.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from stillhouse.exchanges import InputError, KeyedDigests, create_secret, make_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY_PREFIX = "still"
TOKEN_PREFIX = "stilladmin"  # noqa: S105  (how a token starts, not one)
ID_CHARS = 12
SECRET_CHARS = 33  # 33 x log2(62) = 196.5 bits
_CHECK_CHARS = 6
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SHAPE = re.compile(r"(still|stilladmin)_([0-9A-Za-z]{12})_([0-9A-Za-z]{39})", re.ASCII)
SCANNER_PATTERN = r"\bstill(?:admin)?_[0-9A-Za-z]{12}_[0-9A-Za-z]{39}\b"
"""What a secret scanner looks for; `is_well_formed` then drops look-alikes by their checksum."""

PEPPER_VARIABLE = "STILLHOUSE_PEPPER_"
_PURPOSES = {KEY_PREFIX: "api-key", TOKEN_PREFIX: "admin-token"}


@dataclass(frozen=True, slots=True)
class Credential:
    """A key or token just made: `text` is shown once and kept nowhere."""

    id: str
    text: str

    def __repr__(self) -> str:
        return f"Credential(id={self.id!r})"

    @property
    def enrolment(self) -> str:
        """What its owner hands to whoever enrols it: the id and a SHA-256, which cannot be used."""
        return f"{self.id}:{hashlib.sha256(self.text.encode()).hexdigest()}"


def random_id() -> str:
    """Return 12 random characters of base 62 (71 bits)."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(ID_CHARS))


def mint(prefix: str = KEY_PREFIX) -> Credential:
    """Make a new key, or with `TOKEN_PREFIX` an admin token."""
    identity = random_id()
    body = "".join(secrets.choice(_ALPHABET) for _ in range(SECRET_CHARS))
    head = f"{prefix}_{identity}_{body}"
    return Credential(identity, head + _checksum(head))


def is_well_formed(text: str, prefix: str = KEY_PREFIX) -> bool:
    """Tell whether `text` is shaped like a credential of ours and its checksum is right."""
    found = _SHAPE.fullmatch(text)
    return (
        found is not None
        and found[1] == prefix
        and text[-_CHECK_CHARS:] == _checksum(text[:-_CHECK_CHARS])
    )


def redact(text: str) -> str:
    """Replace the secret part of every key and token in `text`, keeping the public id."""
    return _SHAPE.sub(lambda found: f"{found[1]}_{found[2]}_[redacted]", text)


def parse_enrolment(text: str) -> tuple[str, bytes]:
    """Split `Credential.enrolment` into public id and SHA-256. Raises `InputError`."""
    found = re.fullmatch(r"([0-9A-Za-z]{12}):([0-9a-f]{64})", text, re.ASCII)
    if found is None:
        raise InputError(
            "this is not an enrolment line",
            repair="its owner makes one with: stillhouse accounts new-token",
        )
    return found[1], bytes.fromhex(found[2])


class KeyedHash:
    """HMAC-SHA-256 (RFC 2104) under one key whose two blocks are hashed once, not at every call.

    Three times as fast as `hmac.digest` on OpenSSL 3.0, which sets itself up anew each time.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = key.ljust(64, b"\0")
        if len(block) != 64:
            raise ValueError("a key of at most 64 bytes is meant here")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def digest(self, message: bytes) -> bytes:
        """Return the 32 bytes that `hmac.digest(key, message, "sha256")` returns."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


class Peppers:
    """The secrets under which credentials are kept, by version; the newest one is `current`.

    A new version is added without touching any key: a key is moved to the newest pepper when it is
    next used (`KeyUses`), and an old version can go once no key rests on it.
    """

    def __init__(self, versions: Mapping[int, KeyedDigests]):
        if not versions:
            raise InputError(
                "there is no pepper, so no key can be checked",
                repair="let open_store make one, or set STILLHOUSE_PEPPER_1 "
                "to the output of: openssl rand -hex 32",
            )
        self.current = max(versions)
        # Read at every request: the derived keys lie ready.
        self._keys = {
            prefix: {version: digests.key(purpose) for version, digests in versions.items()}
            for prefix, purpose in _PURPOSES.items()
        }

    def __repr__(self) -> str:
        return f"Peppers(versions={self.versions!r})"

    @classmethod
    def load(cls, folder: Path, *, environment: Mapping[str, str] | None = None) -> Self:
        """Read `pepper.N` files (mode 0600) of a folder and STILLHOUSE_PEPPER_N variables."""
        values = os.environ if environment is None else environment
        found: dict[int, KeyedDigests] = {}
        for path in sorted(folder.glob("pepper.*")):
            number = path.suffix[1:]
            if number.isdigit():
                found[int(number)] = KeyedDigests.load(path)
        for name in sorted(values):
            number = name.removeprefix(PEPPER_VARIABLE)
            if name != number and number.isdigit():
                try:
                    found[int(number)] = KeyedDigests(bytes.fromhex(values[name].strip()))
                except ValueError as error:
                    if isinstance(error, InputError):
                        raise
                    raise InputError(
                        "this pepper is not hexadecimal", place=name, repair="openssl rand -hex 32"
                    ) from None
        return cls(found)

    @staticmethod
    def add(folder: Path) -> int:
        """Write the next `pepper.N` into a folder and return N; running processes need a restart.

        Every process must have the new file before the first of them starts to use it.
        """
        make_folder(folder)
        numbers = [int(p.suffix[1:]) for p in folder.glob("pepper.*") if p.suffix[1:].isdigit()]
        version = max(numbers, default=0) + 1
        create_secret(folder / f"pepper.{version}")
        return version

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions that can be checked, oldest first."""
        return tuple(sorted(self._keys[KEY_PREFIX]))

    def digest_key(self, text: str, version: int | None = None) -> bytes:
        """Return what is kept of a key: 32 bytes. Raises `KeyError` for a version not loaded."""
        key = self._keys[KEY_PREFIX][self.current if version is None else version]
        return hmac.digest(key, text.encode(), "sha256")

    def digest_token(self, sha256: bytes, version: int | None = None) -> bytes:
        """Return what is kept of an admin token, from its enrolment's SHA-256."""
        key = self._keys[TOKEN_PREFIX][self.current if version is None else version]
        return hmac.digest(key, sha256, "sha256")

    def key_material(self) -> dict[int, bytes]:
        """Return version -> HMAC key for keys, for the snapshot's hot path."""
        return dict(self._keys[KEY_PREFIX])


def same(left: bytes, right: bytes) -> bool:
    """Compare two digests in constant time."""
    return hmac.compare_digest(left, right)


def token_sha256(text: str) -> bytes:
    """Return the SHA-256 of a token's text, as its enrolment holds it."""
    return hashlib.sha256(text.encode()).digest()


def _checksum(head: str) -> str:
    number = zlib.crc32(head.encode())
    characters = []
    for _ in range(_CHECK_CHARS):
        number, rest = divmod(number, 62)
        characters.append(_ALPHABET[rest])
    return "".join(characters)
