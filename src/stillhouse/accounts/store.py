"""The accounts' store: acts in, snapshots and changes out. All of it blocks; none of it is pure."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from stillhouse.accounts import database, rows, schema
from stillhouse.accounts.credentials import (
    PEPPER_VARIABLE,
    TOKEN_PREFIX,
    Credential,
    Peppers,
    is_well_formed,
    mint,
    same,
    token_sha256,
)
from stillhouse.accounts.desk import Act, Desk, Done, link_of, named, operator_of_row
from stillhouse.accounts.measures import DAY_US, Policy
from stillhouse.accounts.roles import ForbiddenError, Operator, Role, demand
from stillhouse.accounts.sightings import Sighting, prefix_digest
from stillhouse.accounts.snapshot import Delta, Snapshot
from stillhouse.accounts.tiers import DEFAULT_TIERS
from stillhouse.exchanges import (
    InputError,
    KeyedDigests,
    canonical_json,
    create_secret,
    make_folder,
)
from stillhouse.exchanges.digests import SECRET_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from stillhouse.accounts.uses import KeyUse

LOCAL = Operator("local", "the owner of this machine", Role.ADMIN)
"""Who acts where the command is run beside the database and its secrets, before any admin is."""

_ANSWERS_KEPT_US = DAY_US
_CHANGES_KEPT_US = DAY_US
_ROWS_AT_ONCE = 500


class ConflictError(InputError):
    """The idempotency key was used before, for another request."""


def open_store(url: str, *, secrets: Path, policy: Policy | None = None) -> Store:
    """Open the store of a URL or a path; an empty database gets its tables.

    secrets: a folder of mode 0700 with the files `secret` and `pepper.1`, ... (0600); they are made
    where the folder holds none, and belong into a backup that is kept apart from the database's.
    STILLHOUSE_SECRET and STILLHOUSE_PEPPER_1, ... stand in for the files. Raises `InputError`.
    """
    digests, peppers = load_secrets(secrets)
    return Store(database.connect(url), peppers, digests, policy or Policy())


def load_secrets(folder: Path) -> tuple[KeyedDigests, Peppers]:
    """Read the deployment secret and the peppers of a folder or the environment; make them once."""
    path = folder / "secret"
    if SECRET_VARIABLE not in os.environ and not path.exists():
        make_folder(folder)
        folder.chmod(0o700)
        create_secret(path)
        if not any(folder.glob("pepper.*")) and f"{PEPPER_VARIABLE}1" not in os.environ:
            Peppers.add(folder)
    digests = KeyedDigests.load(None if SECRET_VARIABLE in os.environ else path)
    return digests, Peppers.load(folder)


class Store:
    """Organisations, accounts, keys, terms, measures and operators, in one database.

    Start from `perform` (every change), `load_snapshot` and `changes_since` (the data path's view).
    Safe to use from several threads and processes.
    """

    def __init__(
        self,
        engine: Engine,
        peppers: Peppers,
        digests: KeyedDigests,
        policy: Policy,
        *,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
        monotonic: Callable[[], int] = lambda: time.monotonic_ns() // 1000,
    ) -> None:
        self.engine = engine
        self.peppers = peppers
        self.digests = digests
        self.policy = policy
        self.clock = clock
        self.monotonic = monotonic
        self._tidied_us = 0

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    # -- acts ------------------------------------------------------------------------------------

    def perform(self, operator: str, act: Act, *, request_key: str | None = None) -> Done:
        """Carry out an act for an operator (by id), or make a proposal where a second is needed.

        Rights are those of the moment, read in the same transaction. With `request_key` the same
        request is carried out once: a repetition gets the first answer, without secrets. Raises
        `ForbiddenError` where a rule stands against it, `InputError` where the request does,
        `ConflictError` where `request_key` was used for another one. All or nothing.
        """
        with self.desk(operator) as desk:
            if request_key is None:
                return perform_at(desk, act)
            digest = hashlib.sha256(act.NAME.encode() + b"\0" + act.model_dump_json().encode())
            known = _answered(desk, request_key, digest.hexdigest())
            if known is not None:
                return known
            done = perform_at(desk, act)
            desk.put(
                schema.answered,
                operator=desk.actor.id,
                request_key=request_key,
                digest=digest.hexdigest(),
                answer=done.as_json() | {"secret": None},
                at_us=desk.now_us,
            )
            return done

    def perform_all(self, operator: str, acts: Sequence[Act]) -> list[Done]:
        """Carry out acts in one transaction: all of them, or none and the error of the first."""
        with self.desk(operator) as desk:
            return [perform_at(desk, act) for act in acts]

    @contextmanager
    def desk(self, operator: str) -> Iterator[Desk]:
        """Open a transaction in the name of an operator as they stand now."""
        with database.writing(self.engine) as connection:
            desk = Desk.open(
                connection, self.clock(), LOCAL, self.peppers, self.digests, self.policy
            )
            if operator != LOCAL.id:
                desk.actor = desk.operator(operator)
            yield desk
            desk.close()

    def operator_of(self, token: str) -> Operator | None:
        """Return whose admin token this is; None for anything else. Constant time."""
        if not is_well_formed(token, TOKEN_PREFIX):
            return None
        table, now_us = schema.tokens, self.clock()
        with self.reading() as connection:
            statement = select(table).where(table.c.id == token.split("_")[1])
            row = connection.execute(statement).one_or_none()
            if row is None or row.pepper not in self.peppers.versions:
                return None
            digest = self.peppers.digest_token(token_sha256(token), row.pepper)
            ended = row.revoked_us is not None or (row.expires_us or now_us + 1) <= now_us
            if not same(digest, row.digest) or ended:
                return None
            who = select(schema.operators).where(schema.operators.c.id == row.operator)
            operator = operator_of_row(connection.execute(who).one())
        return operator if operator.rights else None

    def get_operator(self, token: str) -> Operator:
        """Return whose admin token this is. Raises `ForbiddenError` for anything else."""
        operator = self.operator_of(token)
        if operator is None:
            raise ForbiddenError(
                "this is not the admin token of an operator at work here",
                repair="check which store and which token are meant",
            )
        return operator

    # -- the data path's view ----------------------------------------------------------------------

    def load_snapshot(self) -> Snapshot:
        """Return a new snapshot of everything."""
        return Snapshot(self.peppers.key_material(), self._delta(None))

    def changes_since(self, sequence: int) -> Delta:
        """Return what changed after `sequence`: everything, where too much did or it went back."""
        return self._delta(sequence)

    def _delta(self, since: int | None) -> Delta:
        asked_us = self.monotonic()
        with self.reading() as connection:
            feed = connection.execute(select(schema.feed)).one()
            full = since is None or since < feed.floor or since > feed.sequence
            found = {} if since == feed.sequence else rows.read(connection, None if full else since)
            return Delta(feed.epoch, feed.sequence, asked_us, full, **found)

    def record_sightings(self, batch: Sequence[Sighting]) -> None:
        """Keep which accounts were seen behind which networks; one row for each pair.

        Once a day this also tidies up, so that nothing is kept past its time.
        """
        # Rows are made for a part at a time: those of 60,000 sightings would take 60 MB at once.
        for start in range(0, len(batch), _ROWS_AT_ONCE):
            days: dict[tuple[bytes, str], int] = {}
            for sighting in batch[start : start + _ROWS_AT_ONCE]:
                for network in sighting.address.networks:
                    key = (prefix_digest(self.digests, network), sighting.account)
                    days[key] = max(days.get(key, 0), sighting.day)
            values = [
                {"prefix": prefix, "account": account, "first_day": day, "last_day": day}
                for (prefix, account), day in sorted(days.items())
            ]
            with database.writing(self.engine) as connection:
                connection.execute(_sighting_statement(connection.dialect.name), values)
        if self.clock() - self._tidied_us > DAY_US:
            self._tidied_us = self.clock()
            self.tidy()

    def record_uses(self, batch: Sequence[KeyUse]) -> None:
        """Keep when keys were last used, and move those that say so to a newer pepper."""
        table = schema.keys
        key: Any = bindparam("of_key")
        at_us: Any = bindparam("at_us")
        pepper: Any = bindparam("to_pepper")
        used = update(table).where(
            (table.c.id == key) & (func.coalesce(table.c.last_used_us, 0) < at_us)
        )
        moved = update(table).where((table.c.id == key) & (table.c.pepper < pepper))
        ordered = sorted(batch, key=lambda use: use.key_id)
        for start in range(0, len(ordered), _ROWS_AT_ONCE):
            part = ordered[start : start + _ROWS_AT_ONCE]
            times = [{"of_key": use.key_id, "at_us": use.at_us} for use in part]
            moves = [
                {"of_key": use.key_id, "to_pepper": use.pepper, "to_digest": use.digest}
                for use in part
                if use.digest is not None
            ]
            with database.writing(self.engine) as connection:
                connection.execute(used.values(last_used_us=at_us), times)
                if moves:
                    values = {"pepper": pepper, "digest": bindparam("to_digest")}
                    connection.execute(moved.values(**values), moves)

    def tidy(self) -> None:
        """Drop what is past its time: old sightings, old change notices, old answers."""
        now_us = self.clock()
        with database.writing(self.engine) as connection:
            changes, feed = schema.changes, schema.feed
            old = changes.c.at_us < now_us - _CHANGES_KEPT_US
            last = connection.execute(select(func.max(changes.c.sequence)).where(old)).scalar()
            if last is not None:
                connection.execute(update(feed).values(floor=last))
                connection.execute(delete(changes).where(changes.c.sequence <= last))
            answered, seen = schema.answered, schema.sightings
            connection.execute(delete(answered).where(answered.c.at_us < now_us - _ANSWERS_KEPT_US))
            oldest_day = now_us // DAY_US - self.policy.seen_days
            connection.execute(delete(seen).where(seen.c.last_day < oldest_day))

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection that sees the database as of one moment."""
        with database.reading(self.engine) as connection:
            yield connection

    def check_audit(self) -> int:
        """Return how many audit rows there are. Raises `InputError` at the first altered one."""
        before, count = b"", 0
        table = schema.audit
        with self.reading() as connection:
            for row in connection.execute(select(table).order_by(table.c.sequence)):
                kept = dict(row._mapping)
                link = kept.pop("link")
                if not same(link, link_of(self.digests, before, kept)):
                    raise InputError(
                        "the audit was altered here, or rows before it were removed",
                        place=f"audit row {row.sequence}",
                    )
                before, count = link, count + 1
        return count


def first_admin(store: Store, name: str, *, rescue: bool = False) -> Credential:
    """Make the first admin of a store, from the machine that holds its secrets. Works once.

    rescue: make one although there are admins, for when the others are gone; the audit says so.
    Raises `InputError` when there are operators already.
    """
    token = mint(TOKEN_PREFIX)
    with store.desk(LOCAL.id) as desk:
        known = desk.connection.execute(select(func.count()).select_from(schema.operators))
        if known.scalar_one() and not rescue:
            raise InputError(
                "there are operators already, the first admin is made once",
                repair="ask one of them for add-operator; if no admin is left: --rescue",
            )
        tiers = desk.connection.execute(select(schema.tiers.c.name)).first()
        for tier in () if tiers else DEFAULT_TIERS:
            desk.connection.execute(insert(schema.tiers).values(**tier.as_row()))
            desk.changed("tier", tier.name)
        identity = named("op")
        values = {"name": name, "role": Role.ADMIN, "paused": False, "sponsor": None}
        desk.put(schema.operators, id=identity, **values, added_us=desk.now_us)
        digest = desk.peppers.digest_token(token_sha256(token.text))
        pepper = desk.peppers.current
        kept: dict[str, Any] = {"pepper": pepper, "digest": digest, "added_us": desk.now_us}
        desk.put(schema.tokens, id=token.id, operator=identity, **kept)
        act = "rescue-admin" if rescue else "first-admin"
        desk.record(act, identity, canonical_json({"name": name}).decode())
    return token


def perform_at(desk: Desk, act: Act) -> Done:
    """Carry out an act at an open desk. The one place where rights are checked."""
    demand(desk.actor, act.RIGHT)
    why = act.why_second(desk)
    done = act.carry_out(desk) if why is None else _propose(desk, act, why)
    desk.record(f"propose {act.NAME}" if why else act.NAME, done.subject, act.for_audit())
    return done


def _propose(desk: Desk, act: Act, why: str) -> Done:
    identity = named("prop")
    desk.put(
        schema.proposals,
        id=identity,
        act=act.NAME,
        request=act.model_dump(mode="json"),
        why=why,
        author=desk.actor.id,
        state="open",
        created_us=desk.now_us,
        expires_us=desk.now_us + desk.policy.proposal_days * DAY_US,
    )
    return Done(act.NAME, identity, {"why": why}, proposal=identity)


def _sighting_statement(dialect: str) -> Any:
    table = schema.sightings
    statement: Any = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(table)
    return statement.on_conflict_do_update(
        index_elements=[table.c.prefix, table.c.account],
        set_={"last_day": statement.excluded.last_day},
        where=table.c.last_day < statement.excluded.last_day,
    )


def _answered(desk: Desk, request_key: str, digest: str) -> Done | None:
    table = schema.answered
    where = (table.c.operator == desk.actor.id) & (table.c.request_key == request_key)
    row = desk.connection.execute(select(table).where(where)).one_or_none()
    if row is None:
        return None
    if row.digest != digest:
        raise ConflictError(
            "this idempotency key was used for another request", repair="use a new one"
        )
    answer = row.answer
    return Done(answer["act"], answer["subject"], answer["result"], None, answer["proposal"])
