"""Runs `stillhouse` command lines in forks, and kills, interrupts or starves them where it is told.

Forking from here, where everything is imported and nothing runs, makes hundreds of runs cheap. Each
line of standard input is an order (JSON); the answer is a line with the fork's exit code (negative:
the signal that ended it), output, and seconds:
  argv       the command line (the first order warms this process up: no fork)
  kill       [STAGE, NAME]: SIGKILL when that step comes
  kill_after seconds after which it is killed from outside
  interrupt  [STAGE, NAME, N]: SIGINT when it comes the Nth time (the others take N too)
  limit      [STAGE, NAME]: from then on no file can grow (RLIMIT_FSIZE)
  fill       [STAGE, NAME]: the run's disk is filled up at that step
  mutant     a fault to run with (see MUTANTS): what the tests must notice
  steps      file for the list of [STAGE, NAME] that a fork which ended by itself went through
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tests.distill.run_orders import STAGES

from stillhouse.cli import main as stillhouse
from stillhouse.cli.progress import LiveProgress
from stillhouse.distill import fitting, run, stages
from stillhouse.distill.steps import curate as curating
from stillhouse.distill.steps import label as labelling
from stillhouse.exchanges import storage
from stillhouse.exchanges.journal import Journal
from stillhouse.parity import answers, contamination, plots
from stillhouse.teachers import LabelSettings
from stillhouse.teachers.pacing import Backoff


def write_in_place(path: Path, data: bytes, **_: Any) -> None:
    """A write that a kill can leave half done."""
    with path.open("wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        storage.on_step(f"write:{path.name}")
        file.write(data[len(data) // 2 :])
    storage.on_step(f"write:{path.name}:done")


def _not_atomic() -> None:
    for module in (answers, run, stages, curating):
        module.write_atomic = write_in_place


def _done_too_early() -> None:
    """A stage that says it is done before it has run."""
    start = stages._start

    def started(folder: Path, stage: Any, inputs: Any, **options: Any) -> None:
        start(folder, stage, inputs, **options)
        if stage.name != "plan":
            stages._finish(folder, stage.name, inputs, 0.0)

    stages._start = started


def _held_back() -> None:
    """A journal that keeps what it acknowledges in memory until it is closed."""
    close, held = Journal.close, []

    def append(self: Journal, record: Mapping[str, Any]) -> int:
        storage.on_step(f"write:{self.path.name}")
        held.append(record)
        return self.count + len(held)

    def closing(self: Journal) -> None:
        self.append_all(held)
        held.clear()
        close(self)

    Journal.append, Journal.close = append, closing


MUTANTS: dict[str, Callable[[], None]] = {
    "writes in place": _not_atomic,
    "done too early": _done_too_early,
    "journal held back": _held_back,
}


class Watch:
    """Follows a run from step to step, and does to it what the order says."""

    def __init__(self, order: Mapping[str, Any]):
        self.order = order
        self.stage = STAGES[0]
        self.seen: list[list[str]] = []

    def step(self, name: str) -> None:
        """Hook of `storage.on_step`."""
        here = [self.stage, name]
        self.seen.append(here)
        for what, do in DEEDS.items():
            wanted = self.order.get(what) or [None]
            if wanted[:2] == here and self.seen.count(here) == (wanted[2:] or [1])[0]:
                do()

    def enter(self, name: str, state: str) -> None:
        """A stage began or ended; what is written between two belongs to the second."""
        self.stage = name if state == "started" else [*STAGES, ""][STAGES.index(name) + 1]


def _fill() -> None:
    run = Path(sys.argv[sys.argv.index("--run") + 1])
    with contextlib.suppress(OSError), (run.parent / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


DEEDS: dict[str, Callable[[], None]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "interrupt": lambda: os.kill(os.getpid(), signal.SIGINT),
    "limit": _limit,
    "fill": _fill,
}


def attempt(order: Mapping[str, Any]) -> int:
    """Run one command line here; return its exit code."""
    watch = Watch(order)
    drawn = LiveProgress.stage

    def stage(self: LiveProgress, name: str, state: str, seconds: float) -> None:
        watch.enter(name, state)
        drawn(self, name, state, seconds)

    LiveProgress.stage = stage  # type: ignore[method-assign]
    storage.on_step = watch.step
    if order.get("mutant"):
        MUTANTS[order["mutant"]]()
    code = run_main(order)
    if order.get("steps"):
        Path(order["steps"]).write_text(json.dumps(watch.seen))
    return code


def run_main(order: Mapping[str, Any]) -> int:
    """The program as its user starts it."""
    sys.argv = ["stillhouse", *order["argv"]]
    try:
        stillhouse()
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:  # noqa: BLE001 (a mistake of its own, as its user would see it)
        traceback.print_exc()
    return 1


def in_fork(order: Mapping[str, Any]) -> dict[str, Any]:
    """Run one command line in a fork; return how that ended."""
    began = time.monotonic()
    # A pipe: what a run says is not subject to the limits on its files.
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1 << 20)
    child = os.fork()
    if child == 0:
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        code = 1
        try:
            code = attempt(order)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    os.close(writer)
    if order.get("kill_after") is not None:
        time.sleep(order["kill_after"])
        os.kill(child, signal.SIGKILL)  # a child that has ended waits to be waited for
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(reader, "rb") as pipe:  # noqa: PTH123
        output = pipe.read().decode(errors="replace")
    return {"code": code, "output": output, "seconds": time.monotonic() - began}


def main() -> None:
    """Obey until standard input ends."""
    torch.set_num_threads(1)
    # What takes long and writes nothing: timing probes, planted near-copies, drawing.
    fitting.PROBE_S = 0.0
    contamination.PLANTED_PER_KIND = 20
    quick = Backoff(base_us=500, highest_us=2_000)
    labelling.LabelSettings = functools.partial(LabelSettings, backoff=quick)
    plots._svg = lambda _figure, name, _title: f"<svg>{name}</svg>"
    answers_to = os.dup(1)
    os.dup2(2, 1)
    warm = False
    for line in sys.stdin:
        order = json.loads(line)
        found = in_fork(order) if warm else {"code": run_main(order)}
        warm = True
        os.write(answers_to, json.dumps(found).encode() + b"\n")


if __name__ == "__main__":
    main()
