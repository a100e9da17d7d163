"""Exit codes (docs/cli.md lists them for users)."""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import TYPE_CHECKING, NoReturn

import click
import orjson

if TYPE_CHECKING:
    from stillhouse.distill import Stopped


class Exit(IntEnum):
    """What the process says when it ends."""

    DONE = 0
    BUG = 1
    USAGE = 2
    INPUT = 3
    TERMS = 4
    BUDGET = 5
    TEACHER = 6
    CHECK = 7
    VERDICT = 8
    INTERRUPTED = 130


MEANINGS = {
    Exit.DONE: "done",
    Exit.BUG: "a mistake of Stillhouse's own; please report it",
    Exit.USAGE: "the command line is wrong",
    Exit.INPUT: "something given cannot be used; the message names it and the repair",
    Exit.TERMS: "the teacher's terms do not permit it, or are not known to",
    Exit.BUDGET: "a cap was reached; raise it and run the same command to go on",
    Exit.TEACHER: "the teacher failed, or changed during the run",
    Exit.CHECK: "a check failed: contamination, the wrong task for this teacher, or a probe leaked",
    Exit.VERDICT: "the verdict is not the one that --require asked for",
    Exit.INTERRUPTED: "stopped by Ctrl-C; run the same command to go on",
}

STOP_EXITS = {
    "terms": Exit.TERMS,
    "budget": Exit.BUDGET,
    "teacher": Exit.TEACHER,
    "check": Exit.CHECK,
}


def leave(stop: Stopped, *, as_json: bool) -> NoReturn:
    """Say why a run ended early, on stderr and for `--json` on stdout, and exit with its code."""
    click.echo(f"stillhouse: {stop}", err=True)
    if as_json:
        told = {"stopped": stop.reason, "message": str(stop)}
        click.echo(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode())
    sys.exit(int(STOP_EXITS[stop.reason]))
