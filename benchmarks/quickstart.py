"""The quickstart, run as a user runs it: minutes, verdict bounds and speed-up.

`low` and `high` are a two-sided 95 % interval over test items, a little wider than the verdict's
own one-sided 95 % bounds: the sheets of the run are judged again at 97.5 %.

python -m benchmarks.quickstart             one run in a fresh folder (about eight minutes)
python -m benchmarks.quickstart --from runs/reviews --seconds 470   rows from a finished run
python -m benchmarks.quickstart --from runs/reviews --more runs/reviews-more
    on the items of that run: two more students from other seeds (the mean of three is judged,
    their spread is in the interval and has a row of its own, none is picked); resumes
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import shutil
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
from stillhouse.distill.stages import Stage, run_stages
from stillhouse.distill.steps.judge import judge_sheets, run_judge
from stillhouse.distill.steps.train import run_train
from stillhouse.exchanges import replacing

RECIPE = Path(__file__).parent.parent / "recipes" / "reviews" / "recipe.yaml"
README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- quickstart: from benchmarks/results/quickstart.csv -->\n", "<!-- end -->\n"
TITLES = {
    "minutes": "whole run, after installation",
    "student_minus_teacher": "student's accuracy minus its teacher's",
    "student_minus_tfidf": "student's accuracy minus TF-IDF's on the same teacher labels",
    "student_minus_tfidf_gold": "student's accuracy minus TF-IDF's on people's ratings",
    "student_minus_gold_trained": "student's accuracy minus one's that learned people's ratings",
    "speedup_over_teacher": "student's speed over its teacher's",
    "three_seeds_minus_teacher": "three students' mean accuracy minus the teacher's",
    "three_seeds_deviation": "standard deviation of accuracy over the three seeds",
    "three_seeds_minus_gold_trained": "their mean minus a student's that learned people's ratings",
}
PEERS = {
    "teacher": "its teacher",
    "tfidf": "TF-IDF on the teacher's labels",
    "tfidf_gold": "TF-IDF on people's ratings",
    "gold_trained": "the same student trained on people's ratings",
}
PACKAGES = ("torch", "transformers", "scikit-learn", "stillhouse")


def main() -> None:
    """Run the recipe, or read a finished run, and append the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--from", dest="finished", type=Path)
    parser.add_argument("--seconds", type=float, help="wall time of the finished run, as measured")
    parser.add_argument("--more", type=Path, help="folder of further students of the finished run")
    given = parser.parse_args()
    recipe = read_recipe(RECIPE)
    if given.more is not None:
        append_more(recipe, given.finished, given.more)
    elif given.finished is not None:
        append(recipe, given.finished, given.seconds)
    else:
        with tempfile.TemporaryDirectory() as folder, LiveProgress() as progress:
            started = time.monotonic()
            run_recipe(recipe, folder=Path(folder), progress=progress)
            append(recipe, Path(folder), time.monotonic() - started)
    write_readme()


def append_more(recipe: Recipe, finished: Path, folder: Path) -> None:
    """Train the students that eight minutes have no time for, on what the finished run labelled."""
    if not folder.exists():
        with replacing(folder) as temporary:
            temporary.mkdir()
            shutil.copy2(finished / "manifest.json", temporary)
            for stage in ("plan", "label", "curate"):
                shutil.copytree(finished / stage, temporary / stage)
            for name in ("seed-1", "gold"):
                shutil.copytree(finished / "train" / name, temporary / "train" / name)
    recipe = dataclasses.replace(
        recipe,
        seeds=3,
        train=dataclasses.replace(recipe.train, checkpoint_seconds=15),
    )
    with LiveProgress() as progress:
        run = Run(recipe, folder, progress)
        stages = [
            Stage("train", lambda _: {}, run_train),
            Stage("judge", lambda _: {}, run_judge),
        ]
        run_stages(folder, stages, run, on_stage=progress.stage)
    judgement = judge_sheets(run, alpha=0.025).to_json()
    for figure, other in (
        ("three_seeds_minus_teacher", "teacher"),
        ("three_seeds_minus_gold_trained", "gold_trained"),
    ):
        _append_difference(judgement, figure, other)
    student = next(sheet for sheet in judgement["sheets"] if sheet["name"] == "student")
    seeds = student["scores"][0]["seeds"]
    rows.append(
        "quickstart",
        "three_seeds_deviation",
        seeds["deviation"],
        unit="points",
        peer="the three students' mean accuracy",
        peer_value=seeds["mean"],
        packages=PACKAGES,
    )


def _append_difference(judgement: dict[str, Any], figure: str, other: str) -> None:
    """Append student minus `other`; where that is a baseline, its accuracy stands beside it."""
    pairs = {(one["left"], one["right"]): one["interval"] for one in judgement["comparisons"]}
    found = pairs["student", other]
    sheet = next(sheet for sheet in judgement["sheets"] if sheet["name"] == other)
    rows.append(
        "quickstart",
        figure,
        found["estimate"],
        low=found["low"],
        high=found["high"],
        unit="points",
        peer=f"{PEERS[other]}, accuracy",
        peer_value=sheet["scores"][0]["value"],
        packages=PACKAGES,
    )


def append(recipe: Recipe, folder: Path, seconds: float | None) -> None:
    """Append the rows of a finished run; `seconds` of wall time where it was a whole one."""
    if seconds is not None:
        rows.append("quickstart", "minutes", seconds / 60, unit="min", packages=PACKAGES)
    judgement = judge_sheets(Run(recipe, folder), alpha=0.025).to_json()
    for figure, other in (
        ("student_minus_tfidf", "tfidf"),
        ("student_minus_tfidf_gold", "tfidf_gold"),
        ("student_minus_gold_trained", "gold_trained"),
        ("student_minus_teacher", "teacher"),
    ):
        _append_difference(judgement, figure, other)
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
    """What the README says of the quickstart: the newest rows, as far as they are of one commit."""
    found = rows.newest("quickstart")
    minutes = found["minutes"]
    found = {n: row for n, row in found.items() if _commit(row) == _commit(minutes)}
    lines = ["| | value | 95 % interval |", "|---|---|---|"]
    for figure, title in TITLES.items():
        if figure not in found:
            continue
        row = found[figure]
        interval = "" if row.low is None or row.high is None else f"{row.low:.1f} to {row.high:.1f}"
        lines.append(f"| {title} | {row.value:.1f} {row.unit} | {interval} |")
    return (
        f"Measured on {minutes.machine} ({minutes.date}, `{minutes.command}`):\n\n"
        + "\n".join(lines)
        + "\n"
    )


def _commit(row: rows.Row) -> str:
    return row.commit.removesuffix("+")  # the rows before it, appended and not committed


def write_readme(path: Path = README) -> None:
    """Put the section between its markers."""
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(before + BEGIN + readme_section() + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
