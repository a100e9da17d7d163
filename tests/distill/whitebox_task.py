"""A small run whose student learns its teacher's distributions, as a recipe's file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.distill.run_orders import write_task

LOCAL = "kind: local, model: small-model"


def write_whitebox_task(
    folder: Path,
    model: Any,
    tokenizer: Any,
    divergence: str,
    *,
    teacher: str = LOCAL,
    **changes: str,
) -> Path:
    """Write everything as `write_task` does, with `divergence` as that section of `train`."""
    shutil.rmtree(folder / "small-model", ignore_errors=True)  # of an earlier task here
    path = write_task(folder, model, tokenizer, teacher=teacher)
    text = path.read_text()
    for old, new in {
        "train: {": f"train: {{divergence: {divergence}, ",
        # An untrained teacher never ends its replies, and never writes a label.
        "curate: {": "curate: {allow: [length], ",
        "task: {kind: label, labels: [negative, positive]}": "task: {kind: text}",
        **changes,
    }.items():
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)
    return path
