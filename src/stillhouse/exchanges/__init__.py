"""Exchanges: the record that every other room shares, and how it is kept.

Start from `Exchange` and `ExchangeLog` (what is recorded), from `Journal` (append-only, survives
kill -9, notices damage) and `write_atomic` (a whole file or none). `stillhouse.exchanges.dataset`
turns closed journals into Parquet and reads it (apart, as pyarrow is slow to import). `skeleton`
and `SkeletonHash` say which prompts come from one template. `KeyedDigests` names what other people
sent, `content_digest` what the user owns, `AccountKeys` seals what an account can have erased.

Refused here: plain digests of other people's data, files that are half written, NaN in a record,
two processes writing to one place, secrets that others can read, and silence about damage.
"""

from stillhouse.exchanges.canonical import canonical_json, content_digest
from stillhouse.exchanges.digests import KeyedDigests, create_secret
from stillhouse.exchanges.errors import InputError
from stillhouse.exchanges.exchange import Exchange, new_id
from stillhouse.exchanges.journal import (
    DamagedJournalError,
    Journal,
    JournalContents,
    Repair,
    encode_record,
    iterate_journal,
    read_journal,
)
from stillhouse.exchanges.log import ExchangeLog
from stillhouse.exchanges.minhash import (
    SIGNATURE_BYTES,
    SkeletonHash,
    similarities,
    similarity,
)
from stillhouse.exchanges.sealing import AccountKeys, ErasedError, KeyFolder, KeyStore
from stillhouse.exchanges.skeletons import shingles, skeleton, skeleton_of_messages
from stillhouse.exchanges.storage import (
    InUseError,
    RunLock,
    make_folder,
    replacing,
    sha256_file,
    write_atomic,
)

__all__ = [
    "SIGNATURE_BYTES",
    "AccountKeys",
    "DamagedJournalError",
    "ErasedError",
    "Exchange",
    "ExchangeLog",
    "InUseError",
    "InputError",
    "Journal",
    "JournalContents",
    "KeyFolder",
    "KeyStore",
    "KeyedDigests",
    "Repair",
    "RunLock",
    "SkeletonHash",
    "canonical_json",
    "content_digest",
    "create_secret",
    "encode_record",
    "iterate_journal",
    "make_folder",
    "new_id",
    "read_journal",
    "replacing",
    "sha256_file",
    "shingles",
    "similarities",
    "similarity",
    "skeleton",
    "skeleton_of_messages",
    "write_atomic",
]
