"""The report's plots as inline SVG: deterministic, no script, colours that follow the page.

Colours are drawn as placeholders and replaced by CSS variables, so that one drawing serves light,
dark and print. Needs matplotlib.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_COLUMNS = 3
_COLOURS = {  # placeholder -> CSS variable of the page
    "ink": "#010203",
    "muted": "#020304",
    "line": "#030405",
    "teacher": "#040506",
    "student": "#050607",
    "baseline": "#060708",
    "allowed": "#070809",
    "paper": "#08090a",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One interval of the forest plot."""

    label: str
    low: float
    estimate: float
    high: float
    main: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One model in the plot of quality against cost. `cost` is None for a baseline's level."""

    label: str
    role: str
    quality: float
    low: float
    high: float
    cost: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A learning curve: `points` are (x, y); `chosen` marks the x that was kept."""

    title: str
    x_label: str
    y_label: str
    points: tuple[tuple[float, float], ...]
    chosen: float | None = None


def forest(rows: Sequence[Row], margin: float, unit: str) -> str:
    """Differences with their intervals: the verdict's own against the margin, then the others.

    Two scales, because what a baseline loses would squeeze the verdict's interval to a dot.
    """
    main = [row for row in rows if row.main]
    others = [row for row in rows if not row.main]
    heights = [0.5, 0.36 * len(others)] if others else [0.5]
    with _figure(7.6, 0.75 * len(heights) + sum(heights), heights=heights) as (figure, axes):
        own = axes[0]
        high = _limits(own, main, [-margin, 0.0])
        own.axvspan(-margin, high, color=_COLOURS["allowed"], alpha=0.14, linewidth=0)
        own.axvline(-margin, color=_COLOURS["allowed"], linewidth=1.4, linestyle=(0, (4, 2)))
        _intervals(own, main)
        own.annotate(
            "margin",
            (-margin, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4, -3),
            textcoords="offset points",
            va="top",
            fontsize=9,
            color=_COLOURS["muted"],
        )
        if others:
            _limits(axes[1], others, [0.0])
            _intervals(axes[1], others)
        axes[-1].set_xlabel(f"difference in {unit}; to the right of zero the first one is better")
        return _svg(figure, "forest", "Differences with their intervals, margin and zero")


def quality_against_cost(points: Sequence[Point], x_label: str, y_label: str) -> str:
    """Models by cost and quality; baselines, which cost next to nothing, as levels."""
    with _figure(7.6, 3.9) as (figure, (axes,)):
        placed = [point for point in points if point.cost is not None]
        costs = [point.cost for point in placed if point.cost is not None]
        _log_axis(axes, min(costs) / 2.5, max(costs) * 4)
        for point in placed:
            colour = _COLOURS.get(point.role, _COLOURS["ink"])
            axes.plot([point.cost] * 2, [point.low, point.high], color=colour, linewidth=2)
            axes.plot([point.cost], [point.quality], "o", color=colour, markersize=9)
            axes.annotate(
                f"{point.label}  {point.quality:.1f}",
                (point.cost or 0, point.quality),
                xytext=(10, 0),
                textcoords="offset points",
                va="center",
                color=colour,
                fontweight="bold",
            )
        _levels(axes, [point for point in points if point.cost is None])
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(color=_COLOURS["line"], linewidth=0.6)
        for side in ("right", "top"):
            axes.spines[side].set_visible(False)
        return _svg(figure, "cost", "Quality against cost")


def learning_curves(curves: Sequence[Curve]) -> str:
    """Learning curves side by side, three to a line; the leftmost of a line names its y axis."""
    from matplotlib.ticker import MaxNLocator

    columns = min(len(curves), MOST_COLUMNS)
    lines = math.ceil(len(curves) / columns)
    with _figure(7.6, 2.9 * lines, columns=columns, heights=[1.0] * lines) as (figure, all_axes):
        for place, (axes, curve) in enumerate(zip(all_axes, curves, strict=False)):
            x, y = zip(*curve.points, strict=True)
            marker = "o" if len(x) <= 40 else None
            axes.plot(x, y, color=_COLOURS["student"], linewidth=1.8, marker=marker, markersize=3.5)
            if curve.chosen is not None:
                axes.axvline(
                    curve.chosen, color=_COLOURS["muted"], linewidth=1, linestyle=(0, (4, 2))
                )
            axes.set_title(curve.title, fontsize=11, loc="left", color=_COLOURS["ink"])
            axes.set_xlabel(curve.x_label)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
            if place % columns == 0:
                axes.set_ylabel(curve.y_label)
            axes.grid(color=_COLOURS["line"], linewidth=0.6)
            for side in ("right", "top"):
                axes.spines[side].set_visible(False)
        for axes in all_axes[len(curves) :]:
            axes.set_visible(False)
        return _svg(figure, "curve", "Learning curves")


def _limits(axes: Axes, rows: Sequence[Row], also: Sequence[float]) -> float:
    """Set the limits of x; return the upper one."""
    low = min([*also, *(row.low for row in rows)])
    high = max([*also, *(row.high for row in rows)])
    room = 0.08 * (high - low)
    axes.set_xlim(low - room, high + room)
    return float(high + room)


def _intervals(axes: Axes, rows: Sequence[Row]) -> None:
    axes.axvline(0, color=_COLOURS["muted"], linewidth=1)
    for y, row in enumerate(rows):
        colour = _COLOURS["student" if row.main else "ink"]
        width, dot = (3.4, 8) if row.main else (1.8, 5)
        axes.plot([row.low, row.high], [y, y], color=colour, linewidth=width)
        axes.plot([row.estimate], [y], "o", color=colour, markersize=dot)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.grid(axis="x", color=_COLOURS["line"], linewidth=0.6)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if row.main else "normal")


def _log_axis(axes: Axes, low: float, high: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _plainly(value)))


def _plainly(value: float) -> str:
    """A number of a log axis without an exponent."""
    return f"{value:,.10g}" if value >= 1 else f"{value:.12f}".rstrip("0")


def _levels(axes: Axes, levels: Sequence[Point]) -> None:
    """Dotted levels whose labels do not overlap."""
    for level in levels:
        axes.axhline(
            level.quality, color=_COLOURS["baseline"], linewidth=1.1, linestyle=(0, (1, 2))
        )
    bottom, top = axes.get_ylim()
    height = 0.058 * (top - bottom)  # of a line of text
    upwards = sorted(levels, key=lambda level: level.quality)
    places: list[float] = []
    for level in upwards:
        places.append(max([level.quality, *(place + height for place in places[-1:])]))
    above = float(top)
    for number in reversed(range(len(places))):  # back from the top where they ran over it
        places[number] = min(places[number], above)
        above = places[number] - height
    for level, place in zip(upwards, places, strict=True):
        axes.annotate(
            f"{level.label}  {level.quality:.1f}",
            (1.01, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
            color=_COLOURS["muted"],
            annotation_clip=False,
        )


class _figure:  # noqa: N801 - reads as a function
    """A figure in the page's style; matplotlib's settings are left as they were."""

    def __init__(
        self, width: float, height: float, *, columns: int = 1, heights: Sequence[float] = (1.0,)
    ):
        self.width, self.height, self.columns, self.heights = width, height, columns, heights

    def __enter__(self) -> tuple[Any, Any]:
        import matplotlib as mpl
        from matplotlib.figure import Figure

        self.settings = mpl.rc_context(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "stillhouse",
                "font.family": "DejaVu Sans",  # ships with matplotlib: the layout is the same
                "font.size": 10,
                "text.parse_math": False,  # a dollar sign in a name is a dollar sign
                "text.color": _COLOURS["ink"],
                "axes.labelcolor": _COLOURS["muted"],
                "axes.edgecolor": _COLOURS["line"],
                "axes.facecolor": "none",
                "figure.facecolor": "none",
                "xtick.color": _COLOURS["muted"],
                "ytick.color": _COLOURS["muted"],
                "xtick.labelcolor": _COLOURS["muted"],
                "ytick.labelcolor": _COLOURS["ink"],
            }
        )
        self.settings.__enter__()
        figure = Figure(figsize=(self.width, self.height), layout="constrained")
        grid = figure.subplots(
            len(self.heights), self.columns, height_ratios=self.heights, squeeze=False
        )
        return figure, list(grid.ravel())

    def __exit__(self, *error: object) -> None:
        self.settings.__exit__(None, None, None)


def _svg(figure: Any, name: str, title: str) -> str:
    """The figure as an SVG element to put into a page, with ids of its own."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's browser has others
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", text)
    text = re.sub(r'<svg width="[^"]*" height="[^"]*"', "<svg", text, count=1)
    text = re.sub(r'(\sid="|"#|url\(#)', rf"\g<1>{name}-", text).replace("xlink:href", "href")
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would style the whole page
    text = text.replace("'DejaVu Sans'", "var(--font)")
    for variable, placeholder in _COLOURS.items():
        text = text.replace(placeholder, f"var(--{variable})")
    return text.replace("<svg", f'<svg role="img" aria-label="{title}" class="plot plot-{name}"', 1)
