"""Intervals, tests and their corrections: small pure functions over numpy arrays.

Start from `paired_difference(a, b, clusters=..., rng=...)` and hand its `Interval` to
`noninferiority(interval, margin)`. Metrics that are no mean: `paired_statistic_difference`,
`auc_difference`. Shares: `binomial_interval`. What was randomised: `permutation_pvalue`,
`sign_flip_pvalue`. Looking while data arrive: `BettingEProcess`. Many tests: `holm`, `e_bh`.
Against a clean reference: `conformal_pvalues`. Planning: `required_n`, `smallest_margin`.
Which method is chosen when, and how well it covers: docs/statistics.md.
Refuses (InputError): empty, unpaired or non-finite values, one cluster, a margin of 0.
Nothing here reads a file, a clock or a global random state.
"""

from __future__ import annotations

from stillhouse.statistics.auc import auc_difference
from stillhouse.statistics.binomial import binomial_interval
from stillhouse.statistics.conformal import conformal_pvalues
from stillhouse.statistics.difference import (
    micro_f1,
    paired_difference,
    paired_statistic_difference,
)
from stillhouse.statistics.eprocess import (
    BettingEProcess,
    betting_interval,
    betting_log_evalues,
)
from stillhouse.statistics.interval import Interval
from stillhouse.statistics.multiplicity import e_bh, holm
from stillhouse.statistics.noninferiority import NonInferiority, noninferiority
from stillhouse.statistics.permutation import (
    SignFlip,
    permutation_pvalue,
    sign_flip_pvalue,
    sign_flip_test,
)
from stillhouse.statistics.power import required_n, required_n_continuous, smallest_margin
from stillhouse.statistics.tango import tango_interval

__all__ = [
    "BettingEProcess",
    "Interval",
    "NonInferiority",
    "SignFlip",
    "auc_difference",
    "betting_interval",
    "betting_log_evalues",
    "binomial_interval",
    "conformal_pvalues",
    "e_bh",
    "holm",
    "micro_f1",
    "noninferiority",
    "paired_difference",
    "paired_statistic_difference",
    "permutation_pvalue",
    "required_n",
    "required_n_continuous",
    "sign_flip_pvalue",
    "sign_flip_test",
    "smallest_margin",
    "tango_interval",
]
