"""When keys were last used, and their move to the newest pepper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stillhouse.accounts.credentials import Peppers
    from stillhouse.accounts.snapshot import KeyFacts


@dataclass(frozen=True, slots=True)
class KeyUse:
    """A key was used at `at_us`; `digest` is set where it has to move to pepper `pepper`."""

    key_id: str
    at_us: int
    pepper: int
    digest: bytes | None = None


class KeyUses:
    """Collects uses between two writes (`Store.record_uses`). Bounded by the number of keys.

    This is also where a pepper is replaced without anybody getting a new key: a key that was right
    under an older pepper is digested again under the newest one, the only moment its text is known.
    """

    def __init__(self, peppers: Peppers) -> None:
        self._peppers = peppers
        self._waiting: dict[str, KeyUse] = {}

    def note(self, facts: KeyFacts, key_text: str, now_us: int) -> None:
        """Note that `key_text` authenticated as `facts`."""
        newest = self._peppers.current
        known = self._waiting.get(facts.key_id)
        digest = known.digest if known is not None else None
        if facts.pepper < newest and digest is None:
            digest = self._peppers.digest_key(key_text, newest)
        self._waiting[facts.key_id] = KeyUse(facts.key_id, now_us, newest, digest)

    def drain(self) -> list[KeyUse]:
        """Return what is to be written, and forget it here."""
        waiting, self._waiting = list(self._waiting.values()), {}
        return waiting

    def give_back(self, batch: Sequence[KeyUse]) -> None:
        """Take again what could not be written, unless the key was used since."""
        for use in batch:
            self._waiting.setdefault(use.key_id, use)
