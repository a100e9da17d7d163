"""A key that never shows: not in `repr`, logs, errors or pickles."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NoReturn

from stillhouse.exchanges.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

MASK = "***"


class Secret:
    """A string read from the environment or from a file that only its owner can read."""

    __slots__ = ("_value",)

    def __init__(self, value: str, *, place: str = "the key"):
        value = value.strip()
        if not value:
            raise InputError("the key is empty", place=place, repair="put the provider's key there")
        if not value.isascii() or not value.isprintable() or " " in value:
            raise InputError(
                "the key holds characters that an HTTP header cannot carry",
                place=place,
                repair="copy the key again, alone and on one line",
            )
        self._value = value

    @classmethod
    def from_env(cls, name: str) -> Secret:
        """Read the environment variable `name`; raises `InputError` when it is not set."""
        value = os.environ.get(name)
        if value is None:
            raise InputError(
                f"the environment variable {name} is not set",
                repair=f"export {name}=... in the shell that runs this, never in the recipe",
            )
        return cls(value, place=name)

    @classmethod
    def from_file(cls, path: Path) -> Secret:
        """Read a file; raises `InputError` when others than its owner may read it."""
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                raise InputError(
                    f"the key file has mode {mode:04o}: others can read it",
                    place=str(path),
                    repair=f"chmod 600 {path}",
                )
            value = path.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"the key file cannot be read: {error}",
                place=str(path),
                repair="give a file that holds the key alone, with mode 600",
            ) from error
        return cls(value, place=str(path))

    def reveal(self) -> str:
        """Return the key itself, for the one header that needs it."""
        return self._value

    def mask(self, text: str) -> str:
        """Return `text` without the key, for messages that quote a server."""
        return text.replace(self._value, MASK)

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")
