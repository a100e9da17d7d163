"""Live progress on stderr: a moving bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

FIRST_S = 3.0  # what takes no longer says nothing where there is no terminal
QUIET_S = 10.0  # between two lines there


class RateColumn(ProgressColumn):
    """Units a second over the last half minute."""

    def render(self, task: Task) -> Text:
        """Show the speed, or nothing before the first one is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f}/s", style="progress.data.speed")


class LiveProgress:
    """Draws stages and bars; use as a context manager so that the terminal is left clean."""

    def __init__(self, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic):
        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        self.clock = clock
        self.live = sys.stderr.isatty() and not quiet
        self._bars = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            RateColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[facts]}", style="dim"),
            console=self.console,
            transient=True,
            disable=not self.live,
            speed_estimate_period=30.0,
        )
        self._tasks: dict[str, TaskID] = {}
        self._begun: dict[str, tuple[float, int]] = {}  # when, and how much was done then
        self._last_line = -QUIET_S
        self._stage_begun = clock()

    def __enter__(self) -> LiveProgress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def stage(self, name: str, state: str, seconds: float) -> None:
        """Print one line per stage."""
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._tasks.clear()
        self._begun.clear()
        self._stage_begun = self.clock()
        if state == "started":
            self.console.print(f"[bold]{name}[/bold]")
        elif state == "finished":
            self.console.print(f"[bold]{name}[/bold] done in {seconds:,.1f} s")
        else:
            self.console.print(f"[bold]{name}[/bold] unchanged, skipped (took {seconds:,.1f} s)")

    def advance(
        self, what: str, done: int, total: int | None, facts: Mapping[str, str] | None = None
    ) -> None:
        """Move a bar; without a terminal print a line after three seconds, then every ten.

        A rate and the time that is left are told once something was done.
        """
        beside = "  ".join(f"{value} {name}" for name, value in (facts or {}).items())
        if self.live:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=total, facts=beside)
            self._bars.update(self._tasks[what], completed=done, total=total, facts=beside)
            return
        now = self.clock()
        begun, before = self._begun.setdefault(what, (now, done))
        finished = total is not None and done >= total
        if now - begun < FIRST_S or (now - self._last_line < QUIET_S and not finished):
            return
        self._last_line = now
        rate = (done - before) / (now - begun)
        line = f"{what} {done:,}" + ("" if total is None else f"/{total:,}")
        if rate > 0:
            line += f", {rate:,.1f}/s"
            if total is not None:
                line += f", {(total - done) / rate:,.0f} s left"
        self.console.print(f"  {line}  {beside}".rstrip(), markup=False, soft_wrap=True)

    def now(self, what: str) -> None:
        """Show that something goes on; without a terminal only where the stage takes long."""
        if self.live:
            for task in self._tasks.values():
                self._bars.remove_task(task)
            self._tasks = {what: self._bars.add_task(what, total=None, facts="")}
        elif self.clock() - self._stage_begun >= FIRST_S:
            self.console.print(f"  {what} ...", markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print one indented line."""
        self.console.print(f"  {text}", markup=False, soft_wrap=True)
