"""Kills writers at every named step and at random times; run as a program by test_kills.

`python killed.py SCENARIO FOLDER SEED POINTS` prints one JSON object: the steps that were seen, the
numbers of kills, and what went wrong. This process never writes itself and stays single-threaded:
every writer and every check is a forked child.
"""

import json
import os
import random
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stillhouse.exchanges import (
    Exchange,
    ExchangeLog,
    Journal,
    RunLock,
    new_id,
    read_journal,
    storage,
    write_atomic,
)

# Imported before the forks, so that it is paid for once; it starts no thread until it is used.
from stillhouse.exchanges.dataset import compact, read_exchanges

HEADER = {"kind": "kill test"}
DAY_US = 86_400_000_000
Acknowledge = Callable[[int], None]


@dataclass
class Child:
    told: list[str]
    ended_well: bool
    wall_s: float

    def acknowledged(self) -> list[int]:
        return [int(line[4:]) for line in self.told if line.startswith("ack ")]

    def steps(self) -> list[str]:
        return [line[5:] for line in self.told if line.startswith("step ")]


def run(
    work: Callable[[Acknowledge], None],
    *,
    at_step: int | None = None,
    after_s: float | None = None,
    after_lines: int | None = None,
) -> Child:
    """Run `work` in a child that is killed at its n-th step, after a time, or after n lines."""
    reader, writer = os.pipe()
    begun = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _work(work, writer, at_step)
    os.close(writer)
    received = b""
    open_pipe = True
    killed = False
    while open_pipe:
        wait_s = None if after_s is None else max(0.0, begun + after_s - time.perf_counter())
        ready = select.select([reader], [], [], None if killed else wait_s)[0]
        if ready:
            piece = os.read(reader, 1 << 16)
            received += piece
            open_pipe = bool(piece)
        enough = after_lines is not None and received.count(b"\n") >= after_lines
        if not killed and (enough or (not ready and after_s is not None)):
            os.kill(child, signal.SIGKILL)
            killed = True
    os.close(reader)
    status = os.waitpid(child, 0)[1]
    lines = received.decode().split("\n")[:-1]
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status):
        raise AssertionError("\n".join(line[6:] for line in lines if line.startswith("error ")))
    return Child(lines, not os.WIFSIGNALED(status), time.perf_counter() - begun)


def _work(work: Callable[[Acknowledge], None], pipe: int, at_step: int | None) -> None:
    seen = 0

    def step(name: str) -> None:
        nonlocal seen
        seen += 1
        os.write(pipe, f"step {name}\n".encode())
        if seen == at_step:
            os.kill(os.getpid(), signal.SIGKILL)

    storage.on_step = step
    try:
        work(lambda number: os.write(pipe, f"ack {number}\n".encode()) and None)
    except BaseException:  # noqa: BLE001  (told to the parent)
        text = traceback.format_exc().replace("\n", "\nerror ")
        os.write(pipe, f"error {text}\n".encode())
        os._exit(1)
    os._exit(0)


class JournalScenario:
    """Appends; every acknowledged record must be there, and nothing that was not asked for."""

    count = 12

    def __init__(self, folder: Path):
        self.path = folder / "journal"

    def prepare(self) -> None:
        pass

    def write(self, acknowledge: Acknowledge) -> None:
        with Journal.open(self.path, header=HEADER, fsync_every=5) as journal:
            for index in range(journal.count, self.count):
                acknowledge(journal.append({"index": index, "text": "x" * 500}))

    def check(self, acknowledged: list[int]) -> None:
        with Journal.open(self.path, header=HEADER) as journal:
            found = [record["index"] for record in journal.records()]
        assert found == list(range(len(found))), found
        last = max(acknowledged, default=0)
        assert last <= len(found) <= last + 1, (acknowledged, found)

    def finish(self) -> None:
        self.write(lambda number: None)
        contents = read_journal(self.path)
        assert [record["index"] for record in contents.records] == list(range(self.count))


class CarelessScenario(JournalScenario):
    """Acknowledges before it writes: the harness has to catch it."""

    def write(self, acknowledge: Acknowledge) -> None:
        with Journal.open(self.path, header=HEADER, fsync_every=5) as journal:
            for index in range(journal.count, self.count):
                acknowledge(index + 1)
                journal.append({"index": index, "text": "x" * 500})


class AtomicScenario:
    """Replaces a file; it must hold one of the versions whole, never one before the last known."""

    count = 4

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / "file"

    def prepare(self) -> None:
        pass

    def write(self, acknowledge: Acknowledge) -> None:
        with RunLock(self.folder):
            for version in range(1, self.count + 1):
                write_atomic(self.path, self.version(version))
                acknowledge(version)

    def check(self, acknowledged: list[int]) -> None:
        last = max(acknowledged, default=0)
        allowed = {self.version(v) for v in range(last, self.count + 1) if v}
        assert (not self.path.exists() and last == 0) or self.path.read_bytes() in allowed

    def finish(self) -> None:
        self.write(lambda number: None)
        assert sorted(p.name for p in self.folder.iterdir()) == [".lock", "file"]

    def version(self, number: int) -> bytes:
        return b"%d" % number * 300_000


class CompactionScenario:
    """Compacts two journals over three days; every exchange must be in one place, once."""

    def __init__(self, folder: Path):
        self.folder = folder
        generator = random.Random(5)
        times = [20_000 * DAY_US + index * DAY_US // 10 for index in range(24)]
        self.exchanges = [
            Exchange(id=new_id(t, generator.randbytes), time_us=t, account=f"a{t % 7}")
            for t in times
        ]

    def prepare(self) -> None:
        with ExchangeLog(
            self.folder, key_id="k", time_us=1, fsync_every=0, journal_length=12
        ) as log:
            for exchange in self.exchanges:
                log.append(exchange)

    def write(self, acknowledge: Acknowledge) -> None:
        compact(self.folder)

    def check(self, acknowledged: list[int]) -> None:
        kept = set()
        for path in (self.folder / "journal").iterdir():
            kept |= {bytes.fromhex(record["id"]) for record in read_journal(path).records}
        if (self.folder / "parquet").exists():
            found = [exchange.id for exchange in read_exchanges(self.folder)]
            assert len(found) == len(set(found)), "an exchange is there twice"
            kept |= set(found)
        assert kept == {exchange.id for exchange in self.exchanges}, "an exchange is lost"

    def finish(self) -> None:
        compact(self.folder)
        assert sorted(read_exchanges(self.folder), key=lambda e: e.id) == self.exchanges
        assert not list((self.folder / "journal").iterdir())
        assert not list(self.folder.rglob("*stillhouse-tmp"))


Scenario = JournalScenario | AtomicScenario | CompactionScenario
SCENARIOS: dict[str, Callable[[Path], Scenario]] = {
    "journal": JournalScenario,
    "careless": CarelessScenario,
    "atomic": AtomicScenario,
    "compaction": CompactionScenario,
}


def main(name: str, base: Path, seed: int, points: int) -> None:
    generator = random.Random(seed)
    folder = base / "work"

    def fresh() -> Scenario:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        scenario = SCENARIOS[name](folder)
        run(lambda acknowledge: scenario.prepare())
        return scenario

    undisturbed = run(fresh().write)
    plans = [{"at_step": index + 1} for index in range(len(undisturbed.steps()))]
    for _ in range(points // 2):
        plans.append({"after_lines": generator.randrange(1, len(undisturbed.told))})
        plans.append({"after_s": generator.uniform(0, undisturbed.wall_s)})
    killed = 0
    failures = []
    for plan in plans:
        scenario = fresh()
        child = run(scenario.write, **plan)
        killed += not child.ended_well

        def check(acknowledge: Acknowledge, s: Scenario = scenario, c: Child = child) -> None:
            s.check(c.acknowledged())
            s.finish()

        try:
            run(check)
        except AssertionError as error:
            failures.append(f"{plan}: {error}")
    print(
        json.dumps(
            {
                "steps": undisturbed.steps(),
                "points": len(plans),
                "killed": killed,
                "failures": failures,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
