"""Distil: from a recipe to a student, a verdict and a report; it owns the order of the stages.

Start from `read_recipe` and `run_recipe`. `draft_recipe` writes a first recipe for a user's file;
`judge_pair` judges two models or answer files without training. A run lives in one folder, each
stage in a folder of its own, and any of them can be killed and continued.
Refused: teachers whose terms do not permit it, contaminated data, a teacher that trivial methods
match, test items in training, recipes with unknown keys, and work thrown away without asking.
"""

from stillhouse.distill.drafting import draft_recipe
from stillhouse.distill.pair import judge_pair, read_judging
from stillhouse.distill.pipeline import RunResult, run_recipe
from stillhouse.distill.progress import Progress, Silent
from stillhouse.distill.recipe import Recipe, read_recipe
from stillhouse.distill.stages import Stopped

__all__ = [
    "Progress",
    "Recipe",
    "RunResult",
    "Silent",
    "Stopped",
    "draft_recipe",
    "judge_pair",
    "read_judging",
    "read_recipe",
    "run_recipe",
]
