"""A labelling run that is killed over and over loses nothing and repeats only what it must."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillhouse.exchanges import read_journal

ITEMS = 400
MOST_KILLS = 60  # then a run may end, so that the test does


class Runs:
    """Starts labelling runs of one journal, and keeps account of what each kill left behind."""

    def __init__(self, url: str, folder: Path):
        self.journal = folder / "labels.journal"
        self.result = folder / "result.json"
        self.url = url
        self.kills = 0
        self.in_flight_at_kills = 0
        self.first_seen: dict[str, str] = {}
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).parent / "kill_worker.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = 0

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def run(self, *, cap: int, kill_at_step: int = 0) -> bool:
        """Run until the end or a kill; return whether it ended by itself."""
        order = {
            "url": self.url,
            "journal": str(self.journal),
            "result": str(self.result),
            "items": ITEMS,
            "cap": cap,
            "kill_at_step": kill_at_step,
        }
        print(json.dumps(order), file=self._process.stdin, flush=True)
        self.pid = int(self._process.stdout.readline())
        status = int(self._process.stdout.readline())
        self.pid = 0
        assert status in (0, -signal.SIGKILL)
        if status != 0:
            self.kills += 1
            self.look_at_the_journal()
        return status == 0

    def look_at_the_journal(self) -> None:
        if not self.journal.exists() or not self.journal.stat().st_size:
            return
        intents, outcomes = set(), set()
        for record in read_journal(self.journal).records:
            if "intent" in record:
                intents.add(record["intent"])
            else:
                outcomes.add(record.get("reply") or record.get("failure"))
            if "reply" in record:
                text = record["value"]["text"]
                assert self.first_seen.setdefault(record["key"], text) == text
        self.in_flight_at_kills = len(intents - outcomes)


@pytest.fixture
def runs(endpoint) -> Iterator[Runs]:
    # SIGKILL loses nothing that the kernel has, on a disk or not; a busy disk is slow to sync.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        runs = Runs(endpoint.url, Path(folder))
        yield runs
        runs.close()


def no_two_replies_alike(runs, endpoint, *, kill_every=0, seed=0):
    """Answer with the request's own number; kill the run before or after some of the answers."""
    rng = random.Random(seed)
    countdown = kill_every and rng.randrange(1, kill_every)

    async def handler(asked):
        nonlocal countdown
        countdown -= 1
        # The deferred kills strike while the run works, whatever it is doing at that moment.
        if kill_every and countdown <= 0 and runs.pid and runs.kills < MOST_KILLS:
            countdown = rng.randrange(1, kill_every)
            pid, runs.pid = runs.pid, 0
            if rng.random() < 0.5:
                os.kill(pid, signal.SIGKILL)
            else:
                asyncio.get_running_loop().call_later(
                    rng.random() * 0.004, lambda: kill_if_there(pid)
                )
        if rng.random() < 0.05:
            return asked.reply(choices=[])
        return asked.reply(f"reply number {asked.number}")

    endpoint.handler = handler


def kill_if_there(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def check_the_end(runs, endpoint):
    outcome = json.loads(runs.result.read_text())
    assert outcome["stopped"] is None
    assert len(outcome["answers"]) == ITEMS
    runs.look_at_the_journal()
    assert sorted(outcome["answers"].values()) == sorted(runs.first_seen.values())
    failed = sum("failure" in record for record in read_journal(runs.journal).records)
    assert len(endpoint.asked) <= ITEMS + failed + runs.in_flight_at_kills
    assert outcome["spent"] == ITEMS + failed + runs.in_flight_at_kills
    assert len(set(outcome["answers"].values())) == ITEMS


def test_fifty_kills_at_random_times_repeat_only_what_was_in_flight(runs, endpoint):
    no_two_replies_alike(runs, endpoint, kill_every=12, seed=1)
    while not runs.run(cap=10_000):
        pass
    assert runs.kills >= 50
    check_the_end(runs, endpoint)


def test_kills_at_journal_writes_and_syncs_repeat_only_what_was_in_flight(runs, endpoint):
    no_two_replies_alike(runs, endpoint)
    rng = random.Random(2)
    for step in [*range(1, 16), *(rng.randrange(16, 60) for _ in range(20))]:
        assert not runs.run(cap=10_000, kill_at_step=step)
    assert runs.run(cap=10_000)
    assert runs.kills == 35
    check_the_end(runs, endpoint)


def test_a_cap_holds_over_kills_because_what_was_in_flight_counts_as_spent(runs, endpoint):
    no_two_replies_alike(runs, endpoint, kill_every=12, seed=3)
    while not runs.run(cap=200):
        pass
    outcome = json.loads(runs.result.read_text())
    assert outcome["stopped"] == "budget_exhausted"
    assert outcome["spent"] <= 200
    assert len(endpoint.asked) <= 200
    assert runs.kills >= 5
