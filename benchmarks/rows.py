"""Rows of results: one row a figure, appended to results/NAME.csv, never edited afterwards."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure with its 95 % interval, and the best other system of the same run if any."""

    date: str
    commit: str
    machine: str
    versions: str
    figure: str
    value: float
    low: float | None
    high: float | None
    unit: str
    peer: str
    peer_value: float | None
    command: str

    def in_words(self) -> str:
        """The value with its interval, in four digits, or up to six that tell its ends apart."""
        ends = () if self.low is None and self.high is None else (self.low, self.high)
        known = {end for end in (self.value, *ends) if end is not None}
        apart = (n for n in (4, 5) if len({f"{x:.{n}g}" for x in known}) == len(known))
        digits = next(apart, 6)
        value, *said = ("" if x is None else f"{x:.{digits}g}" for x in (self.value, *ends))
        return f"{value} [{', '.join(said)}]" if said else value


COLUMNS = tuple(field.name for field in fields(Row))


def commit() -> str:
    """Short id of the checkout, with a plus sign when there are changes that it does not hold."""
    here = Path(__file__).parent
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=10"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def machine() -> str:
    """Processor, cores that this process may use, memory."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}; {len(os.sched_getaffinity(0))} cores; {memory_gib:.0f} GiB"


def versions(*packages: str) -> str:
    """`name=version` of Python and the packages that matter to the figure."""
    named = [f"python={platform.python_version()}"]
    named += [f"{name}={importlib.metadata.version(name)}" for name in packages]
    return " ".join(named)


def append(
    name: str,
    figure: str,
    value: float,
    *,
    low: float | None = None,
    high: float | None = None,
    unit: str = "",
    peer: str = "",
    peer_value: float | None = None,
    packages: tuple[str, ...] = (),
    command: str | None = None,
) -> Row:
    """Append one row to results/NAME.csv, print it, and return it.

    `command` is what makes the figure again; by default how this process was started.
    """
    row = Row(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        commit=commit(),
        machine=machine(),
        versions=versions(*packages),
        figure=figure,
        value=value,
        low=low,
        high=high,
        unit=unit,
        peer=peer,
        peer_value=peer_value,
        command=command or started_as(),
    )
    path = RESULTS / f"{name}.csv"
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        values = (getattr(row, column) for column in COLUMNS)
        writer.writerow(
            "" if v is None else f"{v:.6g}" if isinstance(v, float) else v for v in values
        )
    beside = f"; {peer} {peer_value:.4g}" if peer_value is not None else ""
    print(f"{name}.{figure}: {row.in_words()} {unit}{beside}", flush=True)
    return row


def started_as() -> str:
    """The `python -m benchmarks.NAME ...` line of this process."""
    spec = sys.modules["__main__"].__spec__
    module = f"benchmarks.{Path(sys.argv[0]).stem}" if spec is None else spec.name
    return " ".join(["python -m", module, *sys.argv[1:]])


def newest(name: str) -> dict[str, Row]:
    """Figure -> its newest row in results/NAME.csv; empty when there is no such file."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path}: the columns are {reader.fieldnames}, not {COLUMNS}")
        return {record["figure"]: _parse(record) for record in reader}


def _parse(record: dict[str, str]) -> Row:
    def number(key: str) -> float | None:
        return float(record[key]) if record[key] else None

    return Row(
        **{
            key: record[key]
            for key in (
                "date",
                "commit",
                "machine",
                "versions",
                "figure",
                "unit",
                "peer",
                "command",
            )
        },
        value=float(record["value"]),
        low=number("low"),
        high=number("high"),
        peer_value=number("peer_value"),
    )
