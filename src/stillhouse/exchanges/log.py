"""Where exchanges are written first: journals of one process each, a few hundred thousand long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from stillhouse.exchanges.exchange import SCHEMA_VERSION, new_id
from stillhouse.exchanges.journal import Journal
from stillhouse.exchanges.storage import make_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from stillhouse.exchanges.exchange import Exchange

JOURNAL_FOLDER = "journal"
JOURNAL_SUFFIX = ".journal"


class ExchangeLog:
    """Appends exchanges under `folder`/journal. Any number of processes may have one each.

    `key_id` is the `KeyedDigests.key_id` behind the digests (they compare only within one). After
    `journal_length` exchanges a new journal is begun, so that the closed one can be compacted.
    `time_us` names the first journal; `fsync_every` is as in `Journal.open`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        key_id: str,
        time_us: int,
        fsync_every: int = 1,
        journal_length: int = 200_000,
    ):
        self.folder = folder
        self._key_id = key_id
        self._fsync_every = fsync_every
        self._journal_length = journal_length
        self._journal = self._begin(time_us)

    @property
    def path(self) -> Path:
        """The journal that is written to now."""
        return self._journal.path

    def append(self, exchange: Exchange) -> None:
        """Write one exchange; it is in the kernel on return. Raises as `Journal.append` does."""
        self.turn(exchange.time_us)
        self._journal.append(exchange.to_record())

    def turn(self, time_us: int) -> None:
        """Begin a new journal, named by `time_us`, if the present one is long enough."""
        if self._journal.count >= self._journal_length:
            following = self._begin(time_us)
            self._journal.close()
            self._journal = following

    def append_encoded(self, records: Sequence[bytes]) -> None:
        """Write several exchanges with one system call into the present journal.

        Each is `encode_record(exchange.to_record())`; nothing checks that here.
        """
        self._journal.append_encoded(records)

    def sync(self) -> None:
        """Put everything that was appended on the disk."""
        self._journal.sync()

    def close(self) -> None:
        """Sync and close the journal."""
        self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(self, time_us: int) -> Journal:
        # A name of its own for ever: the Parquet files made of a journal are named after it.
        part = new_id(time_us).hex()
        folder = self.folder / JOURNAL_FOLDER
        make_folder(folder)
        return Journal.open(
            folder / f"{part}{JOURNAL_SUFFIX}",
            header={
                "kind": "exchanges",
                "schema": SCHEMA_VERSION,
                "part": part,
                "key_id": self._key_id,
            },
            fsync_every=self._fsync_every,
        )
