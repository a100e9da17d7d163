"""Plan: check everything that can go wrong, predict what the run takes, and spend nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stillhouse.distill.asking import open_endpoint, price_of
from stillhouse.distill.curate import make_verifiers
from stillhouse.distill.machine import describe_machine
from stillhouse.distill.permission import require_permit
from stillhouse.distill.references import check_metric
from stillhouse.distill.run import DECIDED, Run, write_json
from stillhouse.exchanges import InputError
from stillhouse.parity import Item, Metric
from stillhouse.parity.cost import dollars
from stillhouse.parity.scores import default_metric
from stillhouse.statistics import required_n, required_n_continuous
from stillhouse.teachers import IdentityPolicy
from stillhouse.teachers.budget import bound_tokens
from stillhouse.teachers.identity import canary_requests

PLAN = "plan.json"
DECISIONS = ("train_items", "precision", "work", "compiled")
CANARY_ROUNDS = 5  # two at the start, one at the end, two more of those that changed
DISCORDANCE = (0.05, 0.1, 0.2)  # shares of items that one of the two models alone gets right
DEVIATIONS = (0.1, 0.2, 0.3)  # of the differences of partial scores
RIGHT_OR_WRONG = {"accuracy", "exact_match", "document_match", "document_match_published"}
MEAN_SCORES = {"rouge_l", "field_f1", "field_f1_published", "function"}

TIMES = {  # the parts that a plan predicts, in their order
    "label": "labelling",
    "train": "training",
    "judge": "judging",
    "fixed": "everything else",
}


def run_plan(run: Run, folder: Path) -> None:
    """Write `plan.json`, and what of it decides about later stages as `decided.json`.

    Raises InputError or Stopped with the repair where the run would fail.
    """
    permit = require_permit(run)
    if run.recipe.teacher.kind == "endpoint":
        open_endpoint(run.recipe.teacher, run.recipe.seed)  # a bad address, a key that is not set
    splits = run.splits
    metric = run.recipe.judge.metric or default_metric(run.task.kind)
    check_metric(run, metric)
    make_verifiers(run.task, run.recipe.curate, run.recipe.data.path.parent)
    plan: dict[str, Any] = {
        "items": {
            "train": len(splits.train.items),
            "validation": len(splits.validation.items),
            "test": len(splits.test.items),
        },
        "groups_in_test": len({item.group for item in splits.test.items}),
        "metric": metric,
        "margin": run.recipe.judge.margin,
        "terms": permit.record,
        "machine": describe_machine(run.folder).as_json(),
        "train_items": len(splits.train.items),
        "cuts": [],
        "power": _power(run, metric),
    }
    from stillhouse.distill.fitting import fit

    plan |= fit(run, plan)
    plan["teacher"] = _teacher_cost(run)
    _room(run, plan)
    write_json(folder / DECIDED, {name: plan[name] for name in DECISIONS if name in plan})
    write_json(folder / PLAN, plan)
    for line in _sentences(plan):
        run.progress.say(line)


def _power(run: Run, metric: Metric) -> dict[str, Any]:
    """Test items that the margin needs at 80 % power, under each of some assumptions.

    `needed` by assumption: of answers that are right or wrong, the share in which the two differ;
    of partial scores, the standard deviation of the differences. Empty where neither says it.
    """
    n = len(run.splits.test.items)
    margin = run.recipe.judge.margin / 100
    needed: dict[str, int] = {}
    if metric in RIGHT_OR_WRONG:
        needed = {
            f"{share:.0%} of the answers differ in rightness".replace("%", " %"): required_n(
                margin, share
            )
            for share in DISCORDANCE
        }
    elif metric in MEAN_SCORES:
        needed = {
            f"an item's scores differ by {100 * sd:.0f} points (standard deviation)": (
                required_n_continuous(margin, sd)
            )
            for sd in DEVIATIONS
        }
    return {"test_items": n, "needed": needed}


def _teacher_cost(run: Run) -> dict[str, Any]:
    """Bounds on requests, tokens and money of labelling without repeats; None where unknown."""
    teacher, budget = run.recipe.teacher, run.recipe.budget
    if teacher.kind != "endpoint":
        return {"requests": 0, "canaries": 0, "tokens_at_most": 0, "nano_at_most": 0}
    items: list[Item] = [
        *run.splits.train.items,
        *run.splits.validation.items,
        *run.splits.test.items,
    ]
    policy = IdentityPolicy(canaries=teacher.canaries)
    canaries = CANARY_ROUNDS * canary_requests(policy.max_tokens) if policy.canaries else ()
    allowance = teacher.template_allowance
    bounds = [bound_tokens(asked, allowance) for asked in (*map(run.request, items), *canaries)]
    tokens_in = sum(bound.tokens_in for bound in bounds)
    tokens_out = sum(bound.tokens_out for bound in bounds)
    rate = price_of(teacher)
    if budget.usd is not None and rate is None:
        raise InputError(
            "budget.usd is set, but the teacher's price is unknown",
            repair="give teacher.price_in_nano and teacher.price_out_nano (nano-dollars a token),"
            " or cap budget.tokens or budget.requests instead",
        )
    return {
        "requests": len(bounds),
        "canaries": len(canaries),
        "tokens_at_most": tokens_in + tokens_out,
        "nano_at_most": None if rate is None else rate.cost_nano(tokens_in, tokens_out),
    }


def _room(run: Run, plan: dict[str, Any]) -> None:
    """Refuse what does not fit memory or disk."""
    memory, disk = plan["machine"]["memory_bytes"], plan["machine"]["free_disk_bytes"]
    if plan["memory_bytes"] is not None and plan["memory_bytes"] > memory:
        raise InputError(
            f"training would need about {plan['memory_bytes'] / 2**30:.1f} GiB of memory, this"
            f" machine has {memory / 2**30:.1f}",
            repair="lower train.micro_batch_tokens, keep fewer layers, set student.lora_rank"
            + (
                ""
                if run.recipe.train.divergence is None
                else ", or take the teacher out of the loop with train.divergence.source: cache"
            ),
        )
    if plan["disk_bytes"] is not None and plan["disk_bytes"] > disk:
        raise InputError(
            f"the run would need about {plan['disk_bytes'] / 2**30:.1f} GiB of disk, "
            f"{disk / 2**30:.1f} are free",
            place=str(run.folder),
            repair="free some space, or name another folder with --run",
        )


def _sentences(plan: dict[str, Any]) -> list[str]:
    items = plan["items"]
    counts = ", ".join(f"{count:,} {name} items" for name, count in items.items())
    lines = [f"{counts} ({plan['groups_in_test']:,} test groups)"]
    needed = "; ".join(
        f"{count:,} if {assumed}" + ("" if count <= items["test"] else " (more than there are)")
        for assumed, count in plan["power"]["needed"].items()
    )
    lines.append(
        f"a margin of {plan['margin']:g} points needs, at 80 % power, so many independent test"
        f" items: {needed}"
        if needed
        else f"how many test items a margin of {plan['margin']:g} needs is not predicted for"
        f" {plan['metric']}: the report says what these could show"
    )
    teacher = plan["teacher"]
    if teacher["requests"]:
        money = (
            "price unknown"
            if teacher["nano_at_most"] is None
            else f"at most {dollars(teacher['nano_at_most'])}"
        )
        lines.append(
            f"at most {teacher['requests']:,} requests"
            + (f" ({teacher['canaries']} of them canaries)" if teacher["canaries"] else "")
            + f" and {teacher['tokens_at_most']:,} tokens, {money}; what is asked again after"
            " failures or in a resumed run comes on top"
        )
    seconds = {name: s for name, s in plan["seconds"].items() if s is not None}
    if seconds:
        shown = [f"{TIMES[name]} {s:,.0f} s" for name, s in sorted(seconds.items(), key=_in_order)]
        if teacher["requests"]:
            shown.insert(0, "labelling as long as the endpoint takes")
        lines.append("expected on this machine: " + ", ".join(shown))
    whole, kept = plan["parameters"]["start"], plan["parameters"]["student"]
    lines.append(f"student of {kept:,} parameters, started from {whole:,}")
    if plan["memory_bytes"] is not None:
        if plan["cache_bytes"]:
            lines.append(f"teacher cache at most {plan['cache_bytes'] / 2**20:,.1f} MiB of disk")
        lines.append(
            f"memory about {_size(plan['memory_bytes'])}, disk about {_size(plan['disk_bytes'])}"
        )
    return [*lines, *plan["cuts"], *plan["notes"]]


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def _in_order(part: tuple[str, float]) -> int:
    return list(TIMES).index(part[0])
