"""The operator's lists on countries, networks' owners (ASN) and hosting ranges (pure)."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from stillhouse.accounts.networks import Address, PrefixTable, parse_network
from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from pathlib import Path

ListKind = Literal["country", "asn", "hosting"]
Verdict = Literal["refuse", "verify", "only"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a client comes from, as a trusted proxy or the operator's file says; None: unknown."""

    country: str | None = None
    asn: int | None = None


@dataclass(frozen=True, slots=True)
class ListEntry:
    """One line of a list.

    kind and value: a country ("FR"), an ASN ("64500") or a hosting range ("198.51.100.0/24").
    verdict: `refuse` nobody from there; `verify` only tiers of `level` or above; `only` (countries)
    nobody from elsewhere, unknown origins included.
    """

    kind: ListKind
    value: str
    verdict: Verdict
    level: int = 0


def check_entry(kind: ListKind, value: str, verdict: Verdict) -> str:
    """Return `value` in canonical form. Raises `InputError` where it is not of its kind."""
    if verdict == "only" and kind != "country":
        raise InputError("only countries can be listed with the verdict `only`", place=value)
    if kind == "hosting":
        return str(parse_network(value))
    pattern = r"[A-Za-z]{2}" if kind == "country" else r"(?:AS)?\d{1,10}"
    if re.fullmatch(pattern, value, re.ASCII) is None:
        raise InputError(
            f"this is not a value of the list {kind}",
            place=value[:64],
            repair="write a country as two letters (FR), an ASN as its number (64500)",
        )
    return value.upper() if kind == "country" else str(int(value.removeprefix("AS")))


class OriginRules:
    """The lists as they stand; `judge` is asked for every request."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], ListEntry] = {}
        self._hosting: PrefixTable[ListEntry] = PrefixTable()
        self._only = False

    def add(self, entry: ListEntry) -> None:
        """Put an entry in, in place of an earlier one on the same value."""
        self.discard(entry.kind, entry.value)
        self._entries[entry.kind, entry.value] = entry
        if entry.kind == "hosting":
            self._hosting.add(parse_network(entry.value), entry)
        self._only = self._only or entry.verdict == "only"

    def discard(self, kind: str, value: str) -> None:
        """Take an entry away, if it is there."""
        entry = self._entries.pop((kind, value), None)
        if entry is None:
            return
        if entry.kind == "hosting":
            self._hosting.discard(parse_network(value), entry)
        self._only = any(other.verdict == "only" for other in self._entries.values())

    def judge(self, address: Address, origin: Origin, level: int | None) -> str | None:
        """Return the code of the refusal, or None. Refusals come before demands to verify."""
        if not self._entries:
            return None
        country = self._entries.get(("country", origin.country)) if origin.country else None
        if self._only and (country is None or country.verdict == "refuse"):
            return "country_refused"
        network = self._entries.get(("asn", str(origin.asn))) if origin.asn is not None else None
        found = [entry for entry in (country, network) if entry is not None]
        found += self._hosting.find(address)
        for entry in found:
            if entry.verdict == "refuse":
                return "country_refused" if entry.kind == "country" else "network_refused"
        for entry in found:
            if entry.verdict == "verify" and level is not None and level < entry.level:
                return "verification_required"
        return None


class Origins:
    """The operator's table of networks: country and ASN by longest prefix."""

    def __init__(self, table: PrefixTable[Origin]) -> None:
        self._table = table

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a CSV file with the header `network,country,asn`; both values may be empty.

        Raises `InputError` with the line of the first mistake.
        """
        table: PrefixTable[Origin] = PrefixTable()
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames != ["network", "country", "asn"]:
                raise InputError(
                    f"the columns are {rows.fieldnames}",
                    place=str(path),
                    repair="start the file with the line network,country,asn",
                )
            for row in rows:
                try:
                    country, asn = row["country"] or None, row["asn"] or None
                    table.add(
                        parse_network(row["network"]),
                        Origin(
                            None if country is None else check_entry("country", country, "refuse"),
                            None if asn is None else int(check_entry("asn", asn, "refuse")),
                        ),
                    )
                except InputError as error:
                    raise InputError(
                        error.message, place=f"{path}:{rows.line_num}", repair=error.repair
                    ) from error
        return cls(table)

    def find(self, address: Address) -> Origin:
        """Return the origin of the narrowest network around `address`; unknown where there is none.

        An IPv4 address inside an IPv6 form is looked up by itself first.
        """
        version, value = address.canonical
        found = self._table.find(Address(version, value)) or self._table.find(address)
        return found[0] if found else Origin()
