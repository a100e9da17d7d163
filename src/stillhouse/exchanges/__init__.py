"""Exchanges: the record that every other room shares, and how it is kept.

Start from `Journal` (append-only, survives kill -9, notices damage) and `write_atomic` (a whole
file or none). `canonical_json` and `content_digest` name values, `KeyedDigests` names values that
other people sent. `InputError` is the one exception for a mistake that the user can repair.

Refused here: plain digests of other people's data, files that are half written, NaN in a record,
two processes writing to one place, and silence about damage.
"""

from stillhouse.exchanges.canonical import canonical_json, content_digest
from stillhouse.exchanges.digests import KeyedDigests
from stillhouse.exchanges.errors import InputError
from stillhouse.exchanges.journal import (
    DamagedJournalError,
    Journal,
    JournalContents,
    Repair,
    iterate_journal,
    read_journal,
)
from stillhouse.exchanges.storage import RunLock, replacing, sha256_file, write_atomic

__all__ = [
    "DamagedJournalError",
    "InputError",
    "Journal",
    "JournalContents",
    "KeyedDigests",
    "Repair",
    "RunLock",
    "canonical_json",
    "content_digest",
    "iterate_journal",
    "read_journal",
    "replacing",
    "sha256_file",
    "write_atomic",
]
