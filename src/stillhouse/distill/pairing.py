"""Whether a student can learn a teacher's distributions, and the teacher that gives them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.distill.divergences import Head, check_packable
from stillhouse.distill.run import CACHES, ModelPlace, Run, add_reading
from stillhouse.distill.states import bare
from stillhouse.distill.teaching import LiveTeacher, Teacher, keep
from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stillhouse.distill.distribution import DivergenceConfig
    from stillhouse.distill.examples import Examples
    from stillhouse.distill.teaching import SplitName
    from stillhouse.teachers.local import LocalModel

_WORDS = "leave train.divergence out: replies are passed on as text"


def distribution_place(run: Run) -> ModelPlace:
    """The files of the model whose distributions are learned."""
    config = run.recipe.train.divergence
    if config is not None and config.model is not None:
        path = Path(config.model)
        if path.suffix == ".gguf":
            return ModelPlace(path.parent, path.name, run.recipe.teacher.template)
        return ModelPlace(path, None, run.recipe.teacher.template)
    if run.recipe.teacher.kind != "local":
        raise InputError(
            f"train.divergence needs the teacher's distributions, and a teacher of kind "
            f"{run.recipe.teacher.kind} gives words alone",
            repair="name the same model's folder as train.divergence.model, or leave "
            "train.divergence out",
        )
    return run.teacher_place


def kept_ids(teacher: Any, trimmed: Any) -> tuple[int, ...] | None:
    """The teacher's id of each of a trimmed tokenizer's; None where it keeps all of them.

    Raises `InputError` where the two are no such pair.
    """
    theirs, ours = teacher.get_vocab(), trimmed.get_vocab()
    words = sorted(ours, key=lambda word: ours[word])
    if not ours.keys() <= theirs.keys() or sorted(ours.values()) != list(range(len(ours))):
        raise InputError(
            "the student's trimmed vocabulary is no part of the teacher's",
            repair=f"start the student from a model with the teacher's tokenizer, or {_WORDS}",
        )
    kept = tuple(theirs[word] for word in words)
    return None if kept == tuple(range(len(theirs))) else kept


def shared_vocabulary(
    teacher: LocalModel,
    student: Any,
    tokenizer: Any,
    config: DivergenceConfig,
    *,
    trimmed: bool = False,
) -> int:
    """Return how many of the teacher's ids are tokens, which are those of both models.

    With `trimmed` the student keeps a part of them (`tokenizer` is its own, or the one that will be
    trimmed). Raises `InputError` with the repair where ids mean different things, templates differ,
    a head lacks ids or is no plain one, or layers cannot be compared or packed.
    """
    config.divergence()
    theirs, ours = teacher.tokenizer.get_vocab(), tokenizer.get_vocab()
    if trimmed:
        kept_ids(teacher.tokenizer, tokenizer)
    elif theirs != ours:
        unlike = [word for word, token in ours.items() if theirs.get(word) != token]
        unlike += sorted(theirs.keys() - ours.keys())
        raise InputError(
            f"teacher and student have other vocabularies: {len(theirs):,} and {len(ours):,} "
            f"pieces, {len(unlike):,} of them unlike, such as {unlike[0]!r}",
            repair=f"start the student from a model with the teacher's tokenizer, or {_WORDS}",
        )
    if teacher.tokenizer.chat_template != tokenizer.chat_template:
        raise InputError(
            "teacher and student have other chat templates: the teacher would read prompts that "
            "are not its own",
            repair="give both one template (teacher.template, student.template), or " + _WORDS,
        )
    needed: int = max(theirs.values()) + 1
    heads = {"teacher": Head.of(teacher.model), "student": Head.of(bare(student).eval())}
    for name, head in heads.items():
        if head.vocabulary < needed and not (trimmed and name == "student"):
            raise InputError(
                f"the {name}'s head has {head.vocabulary:,} rows for {needed:,} ids",
                repair="take a model whose head covers its tokenizer",
            )
    if config.packing:
        for model in (teacher.model, bare(student)):
            try:
                check_packable(model)
            except InputError as error:
                raise InputError(
                    error.message, repair="set train.divergence.packing: false"
                ) from error
    if config.hidden_states is not None:
        widths = [int(head.weight_VD.shape[1]) for head in heads.values()]
        depths = [int(m.config.num_hidden_layers) for m in (bare(student), teacher.model)]
        if widths[0] != widths[1] or depths[0] > depths[1]:
            raise InputError(
                f"hidden states of a teacher of width {widths[0]} with {depths[1]} layers cannot "
                f"be compared with those of a student of width {widths[1]} with {depths[0]}",
                repair="cut the student by depth alone, or leave "
                "train.divergence.hidden_states out",
            )
    return needed


def open_teacher(
    run: Run,
    student: Any,
    tokenizer: Any,
    sets: Mapping[SplitName, Examples],
    progress: Callable[[SplitName, int, int], None],
) -> Teacher | None:
    """The teacher that the recipe's loss asks for, its cache built or finished where it has one."""
    config = run.recipe.train.divergence
    if config is None:
        return None
    local = run.load(distribution_place(run), run.decided["precision"]["teacher"])
    trimmed = run.recipe.student.cut.vocabulary is not None
    vocabulary = shared_vocabulary(local, student, tokenizer, config, trimmed=trimmed)
    ids = kept_ids(local.tokenizer, tokenizer) if trimmed else None
    if config.source == "live":
        return LiveTeacher(local, config, vocabulary, ids)
    folder = run.folder / "train" / CACHES
    begun = time.monotonic_ns()

    def show(split: SplitName, done: int, total: int) -> None:
        nonlocal begun
        now = time.monotonic_ns()
        add_reading(run, (now - begun) // 1000)
        begun = now
        progress(split, done, total)

    kept = keep(
        local,
        config,
        vocabulary,
        dict(sets),
        folder,
        template=str(tokenizer.chat_template),
        seed=run.recipe.seed,
        progress=show,
        kept=ids,
    )
    run.forget(small=True)  # it is not needed in memory any more
    return kept
