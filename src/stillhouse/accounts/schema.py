"""The tables of the accounts' store, for SQLite and PostgreSQL alike.

Times are integer microseconds since 1970 (`_us`), days are integer days since 1970. Secrets are
never here: keys and tokens as HMAC-SHA-256, account facts and addresses as keyed digests. The
migrations build the same tables; a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()


def _id(name: str = "id") -> Column[str]:
    return Column(name, String(32), primary_key=True)


def _time(name: str, *, optional: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=optional)


# One row. Every act raises `sequence` and so holds this row's lock until it commits: numbers become
# visible in their order, also on PostgreSQL, and a follower that asks for "after n" misses nothing.
feed = Table(
    "feed",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", String(32), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("floor", BigInteger, nullable=False),
)
changes = Table(
    "changes",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(16), nullable=False),
    Column("subject", String(80), nullable=False),
    _time("at_us"),
)
audit = Table(
    "audit",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    _time("at_us"),
    Column("actor", String(32), nullable=False),
    Column("approver", String(32)),
    Column("act", String(40), nullable=False),
    Column("subject", String(80), nullable=False),
    Column("detail", Text, nullable=False),
    Column("link", LargeBinary, nullable=False),
    Index("audit_by_subject", "subject"),
)
operators = Table(
    "operators",
    metadata,
    _id(),
    Column("name", String(200), nullable=False),
    Column("role", String(16), nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("sponsor", String(32)),
    _time("added_us"),
    _time("removed_us", optional=True),
)
tokens = Table(
    "tokens",
    metadata,
    _id(),
    Column("operator", ForeignKey("operators.id"), nullable=False),
    Column("pepper", Integer, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    _time("added_us"),
    _time("expires_us", optional=True),
    _time("revoked_us", optional=True),
)
organisations = Table(
    "organisations",
    metadata,
    _id(),
    Column("name", String(200), nullable=False),
    Column("purpose", Text, nullable=False),
    _time("created_us"),
    _time("closed_us", optional=True),
)
representatives = Table(
    "representatives",
    metadata,
    _id(),
    Column("organisation", ForeignKey("organisations.id"), nullable=False, index=True),
    Column("name", String(200), nullable=False),
    Column("contact", String(320), nullable=False),
    _time("added_us"),
    _time("removed_us", optional=True),
)
accounts = Table(
    "accounts",
    metadata,
    _id(),
    Column("organisation", ForeignKey("organisations.id"), nullable=False, index=True),
    Column("name", String(200), nullable=False),
    Column("tier", ForeignKey("tiers.name"), nullable=False),
    Column("campaign", String(64), index=True),
    _time("created_us"),
    _time("closed_us", optional=True),
    Column("prepaid_nano", BigInteger),
)
left_campaigns = Table(
    "left_campaigns",
    metadata,
    Column("account", ForeignKey("accounts.id"), primary_key=True),
    Column("campaign", String(64), primary_key=True),
    _time("left_us"),  # the last time
)
keys = Table(
    "keys",
    metadata,
    _id(),
    Column("account", ForeignKey("accounts.id"), nullable=False, index=True),
    Column("label", String(200), nullable=False),
    Column("pepper", Integer, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("replaces", String(32)),
    _time("created_us"),
    _time("expires_us", optional=True),
    _time("revoked_us", optional=True),
    _time("last_used_us", optional=True),
)
tiers = Table(
    "tiers",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("level", Integer, nullable=False),
    Column("caps", JSON, nullable=False),
    Column("max_output_tokens", Integer, nullable=False),
    Column("top_logprobs", Integer, nullable=False),
    Column("models", JSON, nullable=False),
)
terms = Table(
    "terms",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("text", Text, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("clauses", JSON, nullable=False),
    Column("author", String(32), nullable=False),
    _time("published_us"),
    _time("effective_us"),
    _time("grace_us"),
)
acceptances = Table(
    "acceptances",
    metadata,
    Column("organisation", ForeignKey("organisations.id"), primary_key=True),
    Column("version", ForeignKey("terms.version"), primary_key=True),
    Column("representative", ForeignKey("representatives.id"), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("address", String(64), nullable=False),
    Column("purpose", Text, nullable=False),
    Column("recorder", String(32), nullable=False),
    _time("at_us"),
)
facts = Table(
    "facts",
    metadata,
    Column("account", ForeignKey("accounts.id"), primary_key=True),
    Column("kind", String(32), primary_key=True),
    Column("digest", LargeBinary, primary_key=True),
    _time("at_us"),
    Index("facts_by_value", "kind", "digest"),
)
measures = Table(
    "measures",
    metadata,
    _id(),
    Column("kind", String(16), nullable=False),
    Column("scope", String(16), nullable=False),
    Column("subject", String(80), nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence", JSON, nullable=False),
    Column("clauses", JSON, nullable=False),
    Column("author", String(32), nullable=False),
    Column("approver", String(32)),
    Column("low", LargeBinary, index=True),  # of a block: its first address, for overlaps
    Column("affected", Integer),
    _time("start_us"),
    _time("expires_us", optional=True),
    Column("appeal", String(16), nullable=False),
    Column("appeal_text", Text),
    Column("appeal_decider", String(32)),
    Column("undone_by", String(32)),
    Column("undone_reason", Text),
    _time("undone_us", optional=True),
    Index("measures_by_subject", "scope", "subject"),
)
proposals = Table(
    "proposals",
    metadata,
    _id(),
    Column("act", String(40), nullable=False),
    Column("request", JSON, nullable=False),
    Column("why", Text, nullable=False),
    Column("author", ForeignKey("operators.id"), nullable=False),
    Column("state", String(16), nullable=False),
    Column("decider", String(32)),
    _time("created_us"),
    _time("expires_us"),
    _time("decided_us", optional=True),
)
lists = Table(
    "lists",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("value", String(80), primary_key=True),
    Column("verdict", String(16), nullable=False),
    Column("level", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("author", String(32), nullable=False),
    _time("added_us"),
)
sightings = Table(
    "sightings",
    metadata,
    Column("prefix", LargeBinary, primary_key=True),
    Column("account", String(32), primary_key=True),
    Column("first_day", Integer, nullable=False),
    Column("last_day", Integer, nullable=False, index=True),
    Index("sightings_by_account", "account"),
)
answered = Table(
    "answered",
    metadata,
    Column("operator", String(32), primary_key=True),
    Column("request_key", String(128), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("answer", JSON, nullable=False),
    Column("at_us", BigInteger, nullable=False, index=True),
)
