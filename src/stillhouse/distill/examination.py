"""What `stillhouse doctor` finds: the installation, the machine, what a recipe opens."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from stillhouse.distill.machine import describe_machine
from stillhouse.distill.recipe import Recipe, read_recipe
from stillhouse.teachers import Permit, cache_folder, check, find_terms, table

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact. `opens` marks what lets code run, or data or money leave this machine."""

    state: Literal["ok", "missing", "opens", "unknown", "info"]
    subject: str
    detail: str
    repair: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def examine(recipe: Path | None) -> list[Finding]:
    """Look at the installation, the machine, the known terms, and a recipe if one is named."""
    found = [*_installation(), *_machine(), *_terms()]
    return found if recipe is None else [*found, *_recipe(read_recipe(recipe))]


def _installation() -> list[Finding]:
    packages = describe_machine(Path()).packages
    findings = [
        Finding("ok", name, version)
        if version is not None
        else Finding("missing", name, "not installed", "pip install 'stillhouse[distill]'")
        for name, version in packages.items()
    ]
    pip = shutil.which("pip") or shutil.which("pip3")
    if pip is None:
        findings.append(Finding("missing", "pip", "packaged models and data cannot be fetched"))
    return findings


def _machine() -> list[Finding]:
    machine = describe_machine(Path())
    bf16 = ", ".join(machine.bf16_units)
    return [
        Finding(
            "info", "processor", f"{machine.processor}, {machine.cores} cores for this process"
        ),
        Finding("info", "memory", f"{machine.memory_bytes / GIB:.1f} GiB"),
        Finding("info", "free disk", f"{machine.free_disk_bytes / GIB:.1f} GiB here"),
        Finding("info", "bfloat16 units", bf16 or "none: float32 is faster"),
        Finding("info", "cache", str(cache_folder())),
    ]


def _terms() -> list[Finding]:
    return [
        Finding(
            "info",
            f"terms {row.id}",
            f"{row.document} of {row.who}: may train other models: {row.may_train}"
            + ("" if row.verified else " (not verified: never permits)"),
        )
        for row in table()
    ]


def _recipe(recipe: Recipe) -> list[Finding]:
    teacher = recipe.teacher
    findings = [_permission(recipe)]
    if teacher.kind == "endpoint":
        assert teacher.url is not None  # noqa: S101 (the recipe was checked)
        address = urlsplit(teacher.url)
        findings.append(
            Finding("opens", "teacher.url", f"every prompt is sent to {address.netloc}")
        )
        if teacher.api_key_env is not None and teacher.api_key_env not in os.environ:
            findings.append(
                Finding(
                    "missing",
                    "teacher.api_key_env",
                    f"{teacher.api_key_env} is not set",
                    f"export {teacher.api_key_env}=...",
                )
            )
        budget = recipe.budget
        if budget.usd is None and budget.tokens is None and budget.requests is None:
            findings.append(
                Finding(
                    "opens", "budget", "no cap on money, tokens or requests", "set budget.tokens"
                )
            )
    for name, function in (
        ("curate.function", recipe.curate.function),
        ("judge.function", recipe.judge.function),
    ):
        if function is not None:
            findings.append(Finding("opens", name, f"runs your code: {function}"))
    for name, spec in (
        ("teacher.package", teacher.package),
        ("student.package", recipe.student.package),
    ):
        if spec is not None:
            findings.append(
                Finding("opens", name, f"pip fetches {spec.requirement}, checked by its SHA-256")
            )
    if not recipe.data.path.exists():
        findings.append(Finding("missing", "data.path", f"no such file: {recipe.data.path}"))
    return findings


def _permission(recipe: Recipe) -> Finding:
    """What is known of the terms without reading the model's files (`--until plan` does that)."""
    teacher = recipe.teacher
    package = teacher.package.requirement.partition("==")[0] if teacher.package else None
    answer = check(
        find_terms(
            named=teacher.terms,
            host=urlsplit(teacher.url).hostname if teacher.url else None,
            model=Path(teacher.model).name,
            package=package,
        ),
        teacher.permission,
    )
    if isinstance(answer, Permit):
        return Finding("ok", "terms of the teacher", ", ".join(row.id for row in answer.terms))
    return Finding("unknown", "terms of the teacher", answer.message)
