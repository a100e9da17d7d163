"""What a user sees of something long: how far, how fast, how much longer, at what cost."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from stillhouse.cli.progress import LiveProgress
from stillhouse.distill.asking import _facts
from stillhouse.teachers import Progress
from stillhouse.teachers.budget import Spent


class Watch:
    """Progress without a terminal, at a time that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.progress = LiveProgress(clock=lambda: self.now)
        self.progress.live = False
        self.out = io.StringIO()
        self.progress.console = Console(file=self.out, width=40, highlight=False)

    def lines(self) -> list[str]:
        return self.out.getvalue().splitlines()


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_what_is_done_at_once_says_nothing(watch: Watch) -> None:
    for done in range(11):
        watch.progress.advance("items", done, 10)
        watch.now += 0.1
    assert watch.lines() == []


def test_what_takes_long_tells_rate_time_left_and_cost(watch: Watch) -> None:
    for done in range(41):
        watch.progress.advance("items", done, 40, {"tokens": f"{done * 30}", "spent": "$0.01"})
        watch.now += 1
    assert watch.lines() == [
        "  items 3/40, 1.0/s, 37 s left  90 tokens  $0.01 spent",
        "  items 13/40, 1.0/s, 27 s left  390 tokens  $0.01 spent",
        "  items 23/40, 1.0/s, 17 s left  690 tokens  $0.01 spent",
        "  items 33/40, 1.0/s, 7 s left  990 tokens  $0.01 spent",
        "  items 40/40, 1.0/s, 0 s left  1200 tokens  $0.01 spent",
    ]


def test_work_of_an_earlier_attempt_does_not_count_as_speed(watch: Watch) -> None:
    watch.progress.advance("items", 30, 40)
    watch.now += 5
    watch.progress.advance("items", 30, 40)
    watch.now += 11
    watch.progress.advance("items", 32, 40)
    assert watch.lines() == ["  items 30/40", "  items 32/40, 0.1/s, 64 s left"]


def test_a_sentence_is_one_line_whatever_the_width(watch: Watch) -> None:
    watch.progress.say("a margin of 5 points needs [167] independent test items at 80 % power")
    assert watch.lines() == [
        "  a margin of 5 points needs [167] independent test items at 80 % power"
    ]


@pytest.mark.parametrize(
    ("nano", "told"), [(None, ("price", "unknown")), (0, ("spent", "$0.0000"))]
)
def test_an_unknown_price_is_told_and_is_not_zero(nano: int | None, told: tuple[str, str]) -> None:
    seen = Progress(
        done=1,
        total=2,
        failed=0,
        reused=0,
        in_flight=1,
        limit=16,
        requests_sent=1,
        elapsed_s=1.0,
        rate_per_s=1.0,
        eta_s=1.0,
        spent=Spent(1, 5, nano, 0, 0, None),
    )
    assert told in _facts(seen).items()
    assert len(_facts(seen)) == 3


def test_a_part_without_a_count_is_named_where_a_stage_takes_long(watch: Watch) -> None:
    watch.progress.stage("curate", "started", 0.0)
    watch.progress.now("filters")
    watch.now += 4
    watch.progress.now("contamination")
    assert watch.lines() == ["curate", "  contamination ..."]
