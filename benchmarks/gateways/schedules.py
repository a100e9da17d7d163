"""Schedules of requests, simulated and with real kills, and whether any limit was ever exceeded.

    python -m benchmarks.gateways.schedules [--simulated N] [--killed N] [--minutes M]

`limit_overshoots`: intervals that hold more settled cost, dated at admission, than their limit,
over `--simulated` schedules in one process (`simulated.py`: 98 % hostile, the others operated) and
`--killed` ones with four processes on Redis and PostgreSQL, all of them killed (`killed.py`).
`admitted_over_oracle`: cost admitted over what an oracle admits, over the operated schedules; its
interval is that of a ratio of means, over schedules. That of the hostile ones is printed beside it.

Batches are kept in results/gateway-schedules.jsonl with a digest of the limits' code: what was run
with this code is not run again. Several processes may run this at once; each takes batches that no
other has. `--minutes` ends one early. The rows are appended when the last batch is done.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import rows
from benchmarks.gateways import killed, simulated
from stillhouse import limits

KEPT = rows.RESULTS / "gateway-schedules.jsonl"
CLAIMS = Path("runs/schedules")
SIZES = {"hostile": 10_000, "operated": 2_000, "killed": 10}


def main() -> None:
    """Run the batches that are missing, then write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--simulated", type=int, default=1_000_000)
    parser.add_argument("--killed", type=int, default=1_000)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--only", choices=["simulated", "killed"])
    parser.add_argument("--smoke", action="store_true", help="one small batch each, no rows")
    arguments = parser.parse_args()
    if arguments.smoke:
        for part, size in (("hostile", 1000), ("operated", 100), ("killed", 3)):
            print(part, run(part, 0, size), flush=True)
        return
    operated = arguments.simulated // 50
    wanted = {
        "hostile": arguments.simulated - operated,
        "operated": operated,
        "killed": arguments.killed,
    }
    end = time.monotonic() + 60 * arguments.minutes
    CLAIMS.mkdir(parents=True, exist_ok=True)
    batches = [
        (part, number)
        for part in ("killed", "hostile", "operated")
        for number in range(-(-wanted[part] // SIZES[part]))
    ]
    for part, number in batches:
        if arguments.only and (part == "killed") != (arguments.only == "killed"):
            continue
        code = DIGESTS[part]
        with claimed(CLAIMS / f"{code}-{part}-{number}") as mine:
            if not mine or (part, number) in done():
                continue
            if time.monotonic() > end:
                return
            began = time.monotonic()
            sums = run(part, number, SIZES[part])
            line = {"code": code, "part": part, "batch": number, **sums}
            with KEPT.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{part} {number}: {time.monotonic() - began:.0f} s {sums}", flush=True)
    print("nothing is left to run here", flush=True)
    kept = done()
    if all(batch in kept for batch in batches):
        tell(kept)


def run(part: str, number: int, size: int) -> dict[str, Any]:
    """Run one batch."""
    if part == "killed":
        return asdict(killed.batch(number, size))
    return asdict(simulated.batch(number, size, part))


def tell(kept: dict[tuple[str, int], dict[str, Any]]) -> None:
    """Append the rows, and print what else was seen."""
    counts = {
        part: sum(sums["schedules"] for (name, _), sums in kept.items() if name == part)
        for part in SIZES
    }
    found = sum(sums["overshoots"] for sums in kept.values())
    many = counts["hostile"] + counts["operated"]
    command = f"--simulated {many} --killed {counts['killed']}"
    command = f"python -m benchmarks.gateways.schedules {command}"
    for name in (
        "requests",
        "admitted",
        "deaths",
        "kills",
        "redis_kills",
        "redis_flushes",
        "postgres_kills",
    ):
        seen = {part: total(kept, part, name) for part in SIZES}
        print(name, {part: count for part, count in seen.items() if count}, flush=True)
    rows.append("gateway", "limit_overshoots", found, unit="count", command=command)
    value, half = ratio(kept, "hostile")
    print(f"hostile schedules admitted {value:.4f} +- {half:.4f} of the oracle's", flush=True)
    value, half = ratio(kept, "operated")
    rows.append(
        "gateway",
        "admitted_over_oracle",
        value,
        low=value - half,
        high=value + half,
        unit="share",
        command=command,
    )


def total(kept: dict[tuple[str, int], dict[str, Any]], part: str, name: str) -> float:
    """Sum one column over the batches of a part."""
    return sum(sums.get(name, 0) for (where, _), sums in kept.items() if where == part)


def ratio(kept: dict[tuple[str, int], dict[str, Any]], part: str) -> tuple[float, float]:
    """Ratio of the mean shares admitted, and half of its 95 % interval (delta method)."""
    n, x, y, xx, yy, xy = (
        total(kept, part, name)
        for name in ("rated", "ours", "oracle", "ours_squared", "oracle_squared", "both")
    )
    value = x / y
    # The residuals x - value * y have mean zero.
    variance = (xx - 2 * value * xy + value * value * yy) / (n - 1)
    return value, 1.96 * (variance / n) ** 0.5 / (y / n)


def done() -> dict[tuple[str, int], dict[str, Any]]:
    """Read the batches that were run with the present code."""
    if not KEPT.exists():
        return {}
    lines = [json.loads(line) for line in KEPT.read_text(encoding="utf-8").splitlines()]
    return {
        (one["part"], one["batch"]): one for one in lines if one["code"] == DIGESTS[one["part"]]
    }


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold a batch; False where another process has it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def digest(names: tuple[str, ...], script: str) -> str:
    """Name the code that decides: modules of the limits, and the script that draws schedules."""
    sha = hashlib.sha256()
    for path in (*(Path(limits.__file__).parent / name for name in names), HERE / script):
        sha.update(path.read_bytes())
    return sha.hexdigest()[:10]


HERE = Path(__file__).parent
CORE = ("limit.py", "cells.py", "table.py", "reservation.py", "ledger.py", "replay.py", "memory.py")
DIGESTS = dict.fromkeys(("hostile", "operated"), digest(CORE, "simulated.py")) | {
    "killed": digest(
        (*CORE, "folding.py", "rebuilding.py", "line.py", "shared.py", "shared.lua"), "killed.py"
    )
}


if __name__ == "__main__":
    main()
