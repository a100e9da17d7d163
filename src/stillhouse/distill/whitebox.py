"""The part of the plan that is about white-box training: does it fit, what does it take?"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from stillhouse.distill.forecast import parameter_bytes, predict_reading
from stillhouse.distill.pairing import distribution_place, shared_vocabulary
from stillhouse.distill.states import bare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillhouse.distill.run import Run
    from stillhouse.teachers.local import LocalModel
    from stillhouse.teachers.weights import Precision

# Seconds of compiling the loss's arithmetic over what it saves on a logit (docs/log.md).
_COMPILING_PAYS = 4_000_000_000


def teacher_of_distributions(run: Run, student: Any, tokenizer: Any) -> LocalModel | None:
    """The teacher in float32, checked against the student; None where words alone are learned."""
    config = run.recipe.train.divergence
    if config is None:
        return None
    local = run.load(distribution_place(run), "float32")
    trimmed = run.recipe.student.cut.vocabulary is not None
    shared_vocabulary(local, student, tokenizer, config, trimmed=trimmed)
    return local


def foresee(
    run: Run,
    student: Any,
    teacher: LocalModel,
    fitted: Mapping[str, Any],
    *,
    reply_tokens: int,
    dtype: Precision,
) -> dict[str, Any]:
    """The plan's entries `work`, `cache_bytes` and `compiled`, and memory that the teacher takes.

    `beside_bytes` are in training beside the student, `reading_bytes` all while a cache is built.
    `fitted` says how many steps and training items there are, `reply_tokens` are a reply's at
    most, `dtype` is the teacher's.
    """
    config = run.recipe.train.divergence
    assert config is not None  # noqa: S101 (there is a teacher)
    ours, theirs = products(student), products(teacher.model)
    trained = run.recipe.train
    rows = int(teacher.model.get_output_embeddings().weight.shape[0])
    width = int(teacher.model.get_output_embeddings().weight.shape[1])
    kept = 0
    if config.source == "cache":
        items = fitted["train_items"] + len(run.splits.validation.items)
        kept = items * (reply_tokens + 1) * config.payload(rows, width).record_bytes
    full = config.source == "live" or config.keep == "hidden"
    logits = fitted["steps"] * trained.batch_size * reply_tokens * rows
    return {
        "work": {
            "student": ours,
            "teacher": theirs,
            "head_trained": not trained.freeze_embeddings and run.recipe.student.lora_rank is None,
        },
        "cache_bytes": kept,
        "beside_bytes": 0 if config.source == "cache" else parameter_bytes(teacher.model, dtype),
        "reading_bytes": (
            predict_reading(student, teacher.model, dtype) if config.source == "cache" else 0
        ),
        "compiled": full and logits >= _COMPILING_PAYS and shutil.which("g++") is not None,
    }


def products(model: Any) -> dict[str, int]:
    """Entries of the matrices that each token, and each reply token, is multiplied by."""
    inner = bare(model)
    head = inner.get_output_embeddings().weight
    table = inner.get_input_embeddings().weight
    total = sum({id(p): p.numel() for p in inner.parameters()}.values())
    outside = {id(head): head.numel(), id(table): table.numel()}
    return {"body": total - sum(outside.values()), "head": head.numel()}


def work_over_plain(run: Run, result: Mapping[str, Any]) -> float:
    """Matrix products of a step with the teacher's part, over those of one on words alone.

    Multiplications of a token with the body: the student's three times (forward, and twice
    backward), a live teacher's once; of a reply token with the head: two or three times, and once.
    What a cache keeps was computed once for each example and is spread over all passes; hidden
    states want the teacher's head again in each. The same work, then, is this many times the steps.
    """
    config, work = run.recipe.train.divergence, run.decided["work"]
    assert config is not None  # noqa: S101
    tokens, replies = result["tokens"], result["reply_tokens"]
    ours = 3 * work["student"]["body"] * tokens
    ours += (3 if work["head_trained"] else 2) * work["student"]["head"] * replies
    body, head = work["teacher"]["body"] * tokens, work["teacher"]["head"] * replies
    if config.source == "live":
        theirs = float(body + head)
    else:
        passes = result["steps"] * run.recipe.train.batch_size / result["examples"]
        theirs = (body + head) / max(passes, 1e-9)
        theirs += head if config.keep == "hidden" else 0
    return 1 + theirs / float(ours)
