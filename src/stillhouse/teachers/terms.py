"""The terms gate: may this teacher's outputs train another model?

The answer is looked up, never guessed: in the packaged table (terms.yaml) by the endpoint's host,
the model's name, its licence, or the package that ships it. Everything that applies must permit:
the provider's contract binds whoever calls it, whatever the model's licence says. A row that was
written from memory (`verified: false`) never permits, and neither does silence. Where terms forbid,
set conditions, are unknown or unread, the user may record a permission that they hold; it goes into
the manifest and the model card. This is a record of what was read, not legal advice.
"""

from __future__ import annotations

import dataclasses
import datetime
import fnmatch
import functools
import ipaddress
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

import yaml

from stillhouse.exchanges.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

MayTrain = Literal["yes", "no", "conditions", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """One row: who says what about training on outputs, where it stands, and when it was read.

    `clause` is the clause's own number or heading, `quote` a few of its words; `basis` says in the
    record why the row applies to a teacher (its host, licence, package or name).
    """

    id: str
    who: str
    document: str
    version: str
    may_train: MayTrain
    verified: bool
    source: str
    read_on: datetime.date | None = None
    clause: str = ""
    quote: str = ""
    read_from: str = ""
    note: str = ""
    hosts: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    basis: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """Leave that the user holds: who gave it, when, for what, and where it can be read."""

    granted_by: str = field(metadata={"help": "who gave it, and for whom"})
    date: datetime.date = field(metadata={"help": "when it was given"})
    purpose: str = field(metadata={"help": "what it allows"})
    document: str = field(metadata={"help": "where it can be read: a contract, an address"})

    def __post_init__(self) -> None:
        for name in ("granted_by", "purpose", "document"):
            if not str(getattr(self, name)).strip():
                raise InputError(
                    f"the permission's {name} is empty",
                    place=f"teacher.permission.{name}",
                    repair="say who granted it, for what purpose, and in which document",
                )


@dataclass(frozen=True, slots=True)
class Permit:
    """Training may go on. `record` goes into the manifest and the model card."""

    terms: tuple[Terms, ...]
    permission: Permission | None

    @property
    def record(self) -> dict[str, Any]:
        """What was relied on, as a JSON value."""
        return {
            "terms": [_plain(row) for row in self.terms],
            "permission": None if self.permission is None else _plain(self.permission),
        }


@dataclass(frozen=True, slots=True)
class Refuse:
    """Training may not go on.

    `code` is terms_forbid, terms_conditional, terms_unverified or terms_unknown.
    """

    code: str
    message: str
    terms: tuple[Terms, ...]


def table() -> tuple[Terms, ...]:
    """Return every row that ships with this version."""
    return _table()


def find_terms(
    *,
    named: str | None = None,
    host: str | None = None,
    model: str | None = None,
    models: Iterable[str] = (),
    licences: Iterable[str] = (),
    package: str | None = None,
) -> tuple[Terms, ...]:
    """Return every row that applies to a teacher; one of unknown terms when none does.

    `named` is the row that the recipe names (`teacher.terms`), `host` the endpoint's, `model` the
    model's name (`models` more of them: a recording may hold several), `licences` what its files
    and metadata say (`licences.read_licences`), `package` its distribution name. A name or host
    that the table does not know adds an unknown row, so that naming a mild licence cannot hide a
    provider. Raises `InputError` for an unknown `named`.
    """
    found: dict[str, Terms] = {}

    def add(row: Terms, basis: str) -> None:
        found.setdefault(row.id, _with_basis(row, basis))

    rows = _table()
    if named is not None:
        add(_named(named), "named in the recipe")
    if host is not None and not _is_local(host):
        matching = [r for r in rows if any(_host_matches(host, h) for h in r.hosts)]
        for row in matching:
            add(row, f"endpoint {host}")
        if not matching:
            add(_unknown(f"host:{host}", f"the provider at {host}"), f"endpoint {host}")
    for name in [*([] if model is None else [model]), *models]:
        for row in rows:
            if any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in row.models):
                add(row, f"model {name}")
    for licence in licences:
        matching = [r for r in rows if licence.strip().lower() in r.licences]
        for row in matching:
            add(row, f"licence {licence}")
        if not matching:
            add(_unknown(f"licence:{licence}", f"the licence {licence!r}"), f"licence {licence}")
    if package is not None:
        for row in rows:
            if package.lower() in row.packages:
                add(row, f"package {package}")
    if not found:
        add(_unknown("none", "this teacher"), "nothing was found about it")
    return tuple(found.values())


def check(terms: Terms | Iterable[Terms], permission: Permission | None = None) -> Permit | Refuse:
    """Decide: every row permits, or a permission is recorded, or the run is refused."""
    rows = (terms,) if isinstance(terms, Terms) else tuple(terms)
    if not rows:
        rows = (_with_basis(_unknown("none", "this teacher"), "nothing was found about it"),)
    problems = [(code, row) for row in rows if (code := _problem(row)) is not None]
    if not problems or permission is not None:
        return Permit(rows, permission if problems else None)
    worst = min((code for code, _ in problems), key=_WORST_FIRST.index)
    reasons = "\n".join(f"  - {_reason(code, row)}" for code, row in problems)
    return Refuse(
        worst,
        f"the outputs of this teacher may not be trained on:\n{reasons}\n"
        "If you hold a permission, record it in the recipe:\n"
        "  teacher:\n"
        "    permission:\n"
        f"      granted_by: who gave it, and for whom\n"
        "      date: 2026-01-31\n"
        "      purpose: what it allows, such as training a classifier for internal use\n"
        "      document: where it can be read, such as a contract number or an address\n"
        "It is written into the manifest and the model card.",
        rows,
    )


_WORST_FIRST = ("terms_forbid", "terms_conditional", "terms_unverified", "terms_unknown")


def _problem(row: Terms) -> str | None:
    if row.may_train == "no":
        return "terms_forbid"
    if row.may_train == "unknown":
        return "terms_unknown"
    if not row.verified:
        return "terms_unverified"
    return "terms_conditional" if row.may_train == "conditions" else None


def _reason(code: str, row: Terms) -> str:
    if not row.document:
        return f"the terms of {row.who} are not known [{row.basis}]"
    says = {
        "terms_forbid": "forbids it",
        "terms_conditional": "allows it under conditions only",
        "terms_unverified": "was never read by us, so it cannot permit",
        "terms_unknown": "is not known to us",
    }[code]
    clause = f", {row.clause}" if row.clause else ""
    quote = f': "{row.quote}"' if row.quote else ""
    note = f" ({row.note})" if row.note else ""
    source = f" {row.source}" if row.source else ""
    read = f", read {row.read_on}" if row.read_on else ""
    return f"{row.document} of {row.who}{clause} {says}{quote}{note}.{source}{read} [{row.basis}]"


def _named(name: str) -> Terms:
    for row in _table():
        if row.id == name:
            return row
    known = ", ".join(row.id for row in _table())
    raise InputError(
        f"no terms are known as {name!r}", place="teacher.terms", repair=f"name one of: {known}"
    )


def _unknown(name: str, who: str) -> Terms:
    return Terms(
        id=name,
        who=who,
        document="",
        version="",
        may_train="unknown",
        verified=False,
        source="",
    )


def _with_basis(row: Terms, basis: str) -> Terms:
    return dataclasses.replace(row, basis=basis)


def _host_matches(host: str, pattern: str) -> bool:
    host = host.lower().rstrip(".")
    return host == pattern or host.endswith("." + pattern)


def _is_local(host: str) -> bool:
    # A server of one's own has no provider; the model's licence still applies.
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_private


def _plain(value: Terms | Permission) -> dict[str, Any]:
    names = [name for name in value.__slots__ if name not in _MATCHERS]
    fields = {name: getattr(value, name) for name in names}
    return {k: v.isoformat() if isinstance(v, datetime.date) else v for k, v in fields.items()}


_MATCHERS = ("hosts", "models", "licences", "packages")


@functools.cache
def _table() -> tuple[Terms, ...]:
    text = resources.files("stillhouse.teachers").joinpath("terms.yaml").read_text("utf-8")
    rows = []
    for value in yaml.safe_load(text):
        lists = {name: tuple(v.lower() for v in value.pop(name, ())) for name in _MATCHERS}
        fields: dict[str, Any] = value | lists
        rows.append(Terms(**fields))
    return tuple(rows)
