"""The quickstart, run as a user runs it: minutes, verdict bounds and speed-up.

`low` and `high` are a two-sided 95 % interval over test items, a little wider than the verdict's
own one-sided 95 % bounds: the sheets of the run are judged again at 97.5 %.

python -m benchmarks.quickstart             one run in a fresh folder (about eight minutes)
python -m benchmarks.quickstart --seeds 3   three students, mean judged, spread in the interval
python -m benchmarks.quickstart --from runs/reviews --seconds 470   rows from a finished run
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
from scipy.stats import t as student_t

from benchmarks import rows
from stillhouse.cli.progress import LiveProgress
from stillhouse.distill import read_recipe, run_recipe
from stillhouse.distill.recipe import Recipe
from stillhouse.distill.run import Run
from stillhouse.distill.steps.judge import judge_sheets

RECIPE = Path(__file__).parent.parent / "recipes" / "reviews" / "recipe.yaml"
README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- quickstart: from benchmarks/results/quickstart.csv -->\n", "<!-- end -->\n"
TITLES = {
    "minutes": "whole run, after installation",
    "student_minus_teacher": "student's accuracy minus its teacher's",
    "student_minus_tfidf": "student's accuracy minus TF-IDF's on the same teacher labels",
    "speedup_over_teacher": "student's speed over its teacher's",
}
PACKAGES = ("torch", "transformers", "scikit-learn", "stillhouse")


def main() -> None:
    """Run the recipe, or read a finished run, and append the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--from", dest="finished", type=Path)
    parser.add_argument("--seconds", type=float, help="wall time of the finished run, as measured")
    given = parser.parse_args()
    if given.finished is not None:
        append(read_recipe(RECIPE), given.finished, given.seconds)
        write_readme()
        return
    recipe = dataclasses.replace(read_recipe(RECIPE), seeds=given.seeds)
    if given.seeds > 1:
        recipe = dataclasses.replace(
            recipe, budget=dataclasses.replace(recipe.budget, minutes=None), name="reviews-seeds"
        )
    with tempfile.TemporaryDirectory() as folder, LiveProgress() as progress:
        started = time.monotonic()
        run_recipe(recipe, folder=Path(folder), progress=progress)
        append(recipe, Path(folder), time.monotonic() - started if given.seeds == 1 else None)
    write_readme()


def append(recipe: Recipe, folder: Path, seconds: float | None) -> None:
    """Append the rows of a finished run; `seconds` of wall time where it was a whole one."""
    if seconds is not None:
        rows.append("quickstart", "minutes", seconds / 60, unit="min", packages=PACKAGES)
    judgement = judge_sheets(Run(recipe, folder), alpha=0.025).to_json()
    baseline = next(sheet for sheet in judgement["sheets"] if sheet["name"] == "tfidf")
    pairs = {(one["left"], one["right"]): one["interval"] for one in judgement["comparisons"]}
    for figure, pair in (
        ("student_minus_tfidf", ("student", "tfidf")),
        ("student_minus_teacher", ("student", "teacher")),
    ):
        found = pairs[pair]
        rows.append(
            "quickstart",
            figure,
            found["estimate"],
            low=found["low"],
            high=found["high"],
            unit="points",
            peer="TF-IDF on the teacher's labels, accuracy",
            peer_value=baseline["scores"][0]["value"],
            packages=PACKAGES,
        )
    speedup = orjson.loads((folder / "judge" / "cost.json").read_bytes())["speedup"]
    low, high = _widened(speedup)
    rows.append(
        "quickstart",
        "speedup_over_teacher",
        speedup["estimate"],
        low=low,
        high=high,
        unit="x",
        packages=PACKAGES,
    )


def _widened(interval: dict[str, Any]) -> tuple[float, float]:
    """Ends at 95 % of a t interval of a log ratio that was written at another level."""
    df, level = interval["df"], interval["level"]
    reach = math.log(interval["high"] / interval["estimate"])
    reach *= student_t.ppf(0.975, df) / student_t.ppf((1 + level) / 2, df)
    return interval["estimate"] * math.exp(-reach), interval["estimate"] * math.exp(reach)


def readme_section() -> str:
    """What the README says of the quickstart, from its newest rows."""
    found = rows.newest("quickstart")
    lines = ["| | value | 95 % interval |", "|---|---|---|"]
    for figure, title in TITLES.items():
        row = found[figure]
        interval = "" if row.low is None or row.high is None else f"{row.low:.1f} to {row.high:.1f}"
        lines.append(f"| {title} | {row.value:.1f} {row.unit} | {interval} |")
    minutes = found["minutes"]
    return (
        f"Measured on {minutes.machine} ({minutes.date}, `{minutes.command}`):\n\n"
        + "\n".join(lines)
        + "\n"
    )


def write_readme(path: Path = README) -> None:
    """Put the section between its markers."""
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(before + BEGIN + readme_section() + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
