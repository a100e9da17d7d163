"""The one exception for a mistake that the user can repair."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave cannot be used; says what, where, and how to repair it."""

    def __init__(self, message: str, *, place: str | None = None, repair: str | None = None):
        self.message = message
        self.place = place
        self.repair = repair
        super().__init__(message)

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        mend = f"\n  repair: {self.repair}" if self.repair else ""
        return f"{where}{self.message}{mend}"
