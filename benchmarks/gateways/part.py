"""What the parts of the gateway's benchmark share: a folder, --smoke, rows, the real command.

A part is a module of its own: `python -m benchmarks.gateways.NAME [--smoke]`. A smoke run is short
and writes no rows.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.limits.servers import PostgresServer, RedisServer

from benchmarks import rows
from benchmarks.gateways import rig, told
from benchmarks.gateways.ours import CAPS
from stillhouse.accounts import Furnished, Store, furnish, open_store
from stillhouse.accounts.acts.settings import DefineTier
from stillhouse.gateway.config import read_config

PACKAGES = ("uvicorn", "uvloop", "httptools", "orjson")
STORE = "STILLHOUSE_BENCHMARK_STORE"  # the environment variable with PostgreSQL's URL
PROGRAM = "from stillhouse.cli import main; main()"


@dataclass(frozen=True)
class Part:
    """One run of a part."""

    smoke: bool
    folder: Path
    allowed: frozenset[int]  # cores

    def tell(
        self,
        figure: str,
        value: float,
        unit: str,
        *,
        low: float | None = None,
        high: float | None = None,
        peer: str = "",
        peer_value: float | None = None,
        packages: tuple[str, ...] = PACKAGES,
    ) -> None:
        """Append the row of a figure; only print it in a smoke run."""
        if self.smoke:
            print(f"{figure}: {value:.4g} {unit} [{low}, {high}] (smoke: no row)", flush=True)
            return
        os.sched_setaffinity(0, self.allowed)  # the row names all the cores that were used
        rows.append(
            "gateway",
            figure,
            value,
            low=low,
            high=high,
            unit=unit,
            peer=peer,
            peer_value=peer_value,
            packages=packages,
        )
        told.write()


@contextlib.contextmanager
def part(doc: str | None) -> Iterator[Part]:
    """Read the command line and give the part a folder that is gone afterwards."""
    parser = argparse.ArgumentParser(description=doc, allow_abbrev=False)
    parser.add_argument("--smoke", action="store_true", help="short, and writes no rows")
    smoke = parser.parse_args().smoke
    allowed = frozenset(os.sched_getaffinity(0))
    if len(allowed) == 1:  # what is measured and what loads it share the only core
        rig.MEASURED = rig.LOADING = min(allowed)
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as folder:
        yield Part(smoke, Path(folder), allowed)


def write(path: Path, listen: str, url: str, **changes: Any) -> Path:
    """Write a configuration with one model at `url`; `changes` are settings of the top level."""
    model = {
        "name": "small",
        "upstreams": [{"url": url, "most_in_flight": 4096}],
        "surfaces": ["chat", "messages"],
        "max_output_tokens": 256,
        "default_output_tokens": 64,
        "price_in_nano": 100,
        "price_out_nano": 300,
        **changes.pop("model", {}),
    }
    address = {"scope": "address", "measure": "requests", "amount": 10**9, "window_s": 60.0}
    everything = {"scope": "global", "measure": "requests", "amount": 10**10, "window_s": 60.0}
    value = {"listen": listen, "models": [model], "more_limits": [address, everything], **changes}
    path.write_text(yaml.safe_dump(value))
    return path


def fill(path: Path, accounts: int, caps: list[dict[str, Any]] | None = None) -> Furnished:
    """Make accounts, their lowest tier wide open, for a configuration."""
    with opened(path) as store:
        made = furnish(store, accounts=accounts)
        tier = DefineTier(
            name="new", level=0, caps=caps or wide(), max_output_tokens=10**6, top_logprobs=0
        )
        store.perform(made.operator, tier)
        return made


def wide() -> list[dict[str, Any]]:
    """The caps of the whole benchmark: as the default tier's, far wider."""
    caps = [{"burst": 0, **cap} for cap in CAPS]
    for cap in caps:
        if cap["measure"] not in ("concurrency", "distinct_prompts"):
            cap["burst"] = cap["amount"] // 2
    return caps


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Store]:
    """Open the store of a configuration."""
    config = read_config(path)
    variable = config.accounts_env
    url = config.accounts if variable is None else os.environ[variable]
    store = open_store(url, secrets=config.secrets)
    try:
        yield store
    finally:
        store.close()


def gateway(path: Path) -> list[str]:
    """Return the command that serves a configuration, as users do."""
    return [sys.executable, "-c", PROGRAM, "gateway", str(path)]


@contextlib.contextmanager
def processes(paths: Sequence[Path], *, core: int) -> Iterator[list[tuple[int, int]]]:
    """Serve each configuration by a process of its own, on `core`; yields ports and pids."""
    with contextlib.ExitStack() as stack:
        found = []
        for path in paths:
            port = rig.free_port()
            command = [*gateway(path), "--listen", f"127.0.0.1:{port}"]
            process = stack.enter_context(rig.started(command, port, core=core, wait_s=120))
            found.append((port, process.pid))
        yield found


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[tuple[dict[str, str], list[int]]]:
    """Run one Redis and one PostgreSQL; yields the settings that name them, and pids."""
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        redis = RedisServer(folder)
        stack.callback(redis.kill)
        postgres = PostgresServer()
        stack.callback(postgres.remove)
        os.environ[STORE] = postgres.url
        settings = {"limits": redis.url, "accounts_env": STORE}
        yield settings, [redis.process.pid, postgres.process.pid]


def as_caps(caps: tuple[Any, ...], **factors: int) -> list[dict[str, Any]]:
    """Return a tier's caps as plain values, those of a scope multiplied by its factor."""
    plain = [dataclasses.asdict(cap) for cap in caps]
    for cap in plain:
        factor = factors.get(cap["scope"], 1)
        cap["amount"] *= factor
        cap["burst"] *= factor
    return plain
