"""The part of the plan that touches models: do they fit each other, this machine, and the time?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch

from stillhouse.distill.candidates import HELD_OUT, most_tries
from stillhouse.distill.examples import first_tokens
from stillhouse.distill.forecast import measure_speed, predict_memory
from stillhouse.distill.precision import bf16_units, choose_dtype
from stillhouse.distill.run import Run, choose
from stillhouse.distill.surgery import shaped
from stillhouse.distill.whitebox import foresee, teacher_of_distributions
from stillhouse.exchanges import InputError
from stillhouse.parity import Item
from stillhouse.teachers import RecordedTeacher
from stillhouse.teachers.chat import Reply
from stillhouse.teachers.scoring import shared_length

Precision = Literal["float32", "bfloat16"]

PROBE_ITEMS = 64
LONGEST_CHECKED = 32
PROBE_S = 1.0  # seconds per timed kind of work
PROBE_ROWS, PROBE_TOKENS = 16, 1024  # at most so many in a timed pass
FIXED_S = 75.0  # planning, reading weights, baselines, contamination, report: on two cores
PLANNED_SHARE = 0.85  # of the minutes that the budget gives: probes run 10 to 15 % too fast
FEWEST_ITEMS = 64  # training items below which a cut to fit the time is refused
PROBE_STRINGS = (
    "Hello, world!",
    "  two spaces, a\ttab and\na line",
    "naïve café, 東京, Привет, 🙂",
    "1234567890 3.14159",
    "def f(x):\n    return x ** 2\n",
)


def fit(run: Run, plan: dict[str, Any]) -> dict[str, Any]:
    """Check student against teacher, choose precisions, and cut training to fit the minutes.

    Returns the plan's entries `precision`, `tokens`, `speeds`, `seconds`, `steps`, `train_items`,
    `cuts`, `notes`, `memory_bytes` and `disk_bytes`. Raises InputError with the repair for a pair
    of models that cannot be trained together or a budget of time that nothing useful fits.
    """
    local = run.recipe.teacher.kind == "local"
    run.progress.now("reading the models")
    start = run.load(run.student_place, "float32")
    notes = []
    check_head(start, "student", str(run.student_place.weights))
    if local and run.student_place.weights != run.teacher_place.weights:
        teacher = run.load(run.teacher_place, "float32")
        check_head(teacher, "teacher", str(run.teacher_place.weights))
        notes += compare_tokenizers(teacher.tokenizer, start.tokenizer)
        notes += compare_heads(teacher, start)
    train = run.recipe.train
    soft = train.label_targets == "soft" and train.divergence is None
    if soft and run.recipe.teacher.answer == "score":
        first_tokens(run.task.labels, start.template)
    student = _cut_to_size(run, start)
    tries = most_tries(run, int(start.model.config.num_hidden_layers))
    if tries:
        notes.append(
            f"at most {tries} candidates are trained for {run.recipe.student.try_steps} steps each,"
            " and the best of them is the student"
        )
    teaching = teacher_of_distributions(run, student, start.tokenizer)
    items = choose(run.splits.train.items, PROBE_ITEMS, run.recipe.seed)
    run.progress.now("counting tokens")
    longest = _check_lengths(run, start, "student")
    if local and run.student_place.weights != run.teacher_place.weights:
        _check_lengths(run, run.load(run.teacher_place, "float32"), "teacher")
    reply = _mean_reply(run, start, items)
    # Training reads all of a prompt, also what scoring computes once for all of them.
    tokens = {
        "student": _mean_tokens(run, start, items),
        "example": _mean_tokens(run, start, items, whole=True) + reply,
    }
    speeds: dict[str, dict[str, float]] = {}
    length = max(8, round(tokens["student"]))
    example = max(8, min(round(tokens["example"]), start.window))
    frozen = {"freeze_embeddings": train.freeze_embeddings, "freeze_layers": train.freeze_layers}
    run.progress.now("timing the student")
    speeds["train"] = _speeds(
        student,
        "train",
        train.dtype,
        example,
        reply_tokens=min(round(reply), example - 1),
        **frozen,
    )
    speeds["judge"] = _speeds(student, "score", run.recipe.teacher.dtype, length)
    if teaching is not None or local:
        run.progress.now("timing the teacher")
        teacher = teaching or run.load(run.teacher_place, "float32")
        tokens["teacher"] = _mean_tokens(run, teacher, items)
        speeds["teacher"] = _speeds(
            teacher.model, "score", run.recipe.teacher.dtype, round(tokens["teacher"])
        )
    precision = {name: max(found, key=lambda d: found[d]) for name, found in speeds.items()}
    if local:
        # Both are judged in one precision, or their speeds could not be compared.
        precision["judge"] = precision["teacher"]
    precision.setdefault("teacher", precision["judge"])
    fitted = _fit_time(run, plan, tokens, speeds, precision, tries)
    dtype = cast("Precision", precision["train"])
    reply_tokens = 4 if run.task.kind == "label" else run.recipe.teacher.max_tokens
    whole = longest + reply_tokens
    micro = min(max(train.micro_batch_tokens, whole), train.batch_size * whole)
    rank = run.recipe.student.lora_rank
    foreseen: dict[str, Any] = {"cache_bytes": 0}
    reading = 0
    if teaching is not None:
        foreseen = foresee(
            run,
            student,
            teaching,
            fitted,
            reply_tokens=reply_tokens,
            dtype=cast("Precision", precision["teacher"]),
        )
        beside, reading = foreseen.pop("beside_bytes"), foreseen.pop("reading_bytes")
    run.forget()
    if teaching is None:
        beside = run.held_bytes()
    return {
        **fitted,
        **foreseen,
        "notes": notes,
        "precision": precision,
        "tokens": tokens,
        "speeds": speeds,
        "memory_bytes": max(
            reading,
            predict_memory(
                student.config,
                micro,
                dtype,
                reply_tokens=max(
                    1, round(micro * reply_tokens / (tokens["student"] + reply_tokens))
                ),
                freeze_embeddings=run.recipe.train.freeze_embeddings,
                trainable_parameters=None if rank is None else _lora_parameters(student, rank),
                white_box=teaching is not None,
                beside_bytes=beside,
            ),
        ),
        "disk_bytes": (6 + 4 * (run.recipe.seeds + tries))
        * sum(p.numel() for p in student.parameters())
        + foreseen["cache_bytes"],
        "parameters": {
            "start": start.parameters,
            "student": sum(parameter.numel() for parameter in student.parameters()),
        },
        "tokenizer_vocabulary": len(start.tokenizer),
        "head_rows": _head_rows(start),
        "soft_cap": getattr(start.model.config, "final_logit_softcapping", None),
    }


def compare_tokenizers(teacher: Any, student: Any) -> list[str]:
    """Sentences on how two tokenizers differ; training on replies as text allows it."""
    notes = []
    unlike = [text for text in PROBE_STRINGS if _ids(teacher, text) != _ids(student, text)]
    if unlike:
        notes.append(
            f"teacher and student split {len(unlike)} of {len(PROBE_STRINGS)} probe strings"
            " differently: replies are passed on as text, label scores by label"
        )
    if teacher.eos_token != student.eos_token:
        notes.append(
            f"the end of text is {teacher.eos_token!r} for the teacher and {student.eos_token!r}"
            " for the student: the student is trained with its own"
        )
    elif teacher.eos_token_id != student.eos_token_id:
        notes.append(
            f"the end of text {teacher.eos_token!r} has the id {teacher.eos_token_id} for the"
            f" teacher and {student.eos_token_id} for the student: each is asked with its own"
        )
    if teacher.chat_template != student.chat_template:
        notes.append("the chat templates differ: each model is asked in its own")
    return notes


def compare_heads(teacher: Any, student: Any) -> list[str]:
    """A sentence where the heads of two models have other sizes; replies as text allow it."""
    theirs, own = _head_rows(teacher), _head_rows(student)
    if theirs == own:
        return []
    told = (
        f"the teacher's head has {theirs:,} rows for {len(teacher.tokenizer):,} tokens, the"
        f" student's {own:,} for {len(student.tokenizer):,}: rows beyond the tokens are padding"
    )
    return [told]


def check_head(model: Any, whose: str, place: str) -> None:
    """Raise InputError where a tokenizer makes tokens that the model's head has no row for."""
    rows, tokens = _head_rows(model), len(model.tokenizer)
    if rows < tokens:
        raise InputError(
            f"the {whose}'s head has {rows:,} rows, its tokenizer {tokens:,} tokens",
            place=place,
            repair="give the model the tokenizer it was made with, or resize its embeddings",
        )


def _head_rows(model: Any) -> int:
    return int(model.model.get_output_embeddings().weight.shape[0])


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _cut_to_size(run: Run, start: Any) -> Any:
    """A student of the right shape for timing; which parts it keeps is chosen when it trains."""
    from stillhouse.students import cut_depth

    layers = run.recipe.student.layers
    model = shaped(run, start)
    depth = int(model.config.num_hidden_layers)
    if layers is None or layers == depth:
        return model
    if not 1 <= layers <= depth:
        raise InputError(
            f"student.layers is {layers}, the model to cut has {depth}",
            repair=f"keep 1 to {depth} layers",
        )
    return cut_depth(model, range(layers))


def _check_lengths(run: Run, model: Any, whose: str) -> int:
    """Return the longest prompt in tokens; raises InputError naming one that does not fit.

    Only the longest texts are tokenised, and all that could exceed the window: a text never has
    more tokens than bytes.
    """
    longest, where = 0, ""
    everything = (*run.splits.train.items, *run.splits.validation.items, *run.splits.test.items)
    sizes = {item.id: sum(len(m.content.encode()) for m in item.messages) for item in everything}
    ordered = sorted(everything, key=lambda item: -sizes[item.id])
    overhead = model.count_tokens(run.request(ordered[-1])) + 16
    for place, item in enumerate(ordered):
        if place >= LONGEST_CHECKED and sizes[item.id] + overhead <= model.window:
            break
        tokens = model.count_tokens(run.request(item), f"item {item.id}")
        if tokens > longest:
            longest, where = tokens, item.id
    if longest + 1 > model.window:
        raise InputError(
            f"the prompt of item {where} has {longest} tokens; the {whose}'s window is"
            f" {model.window}",
            place=str(run.recipe.data.path),
            repair="shorten it, or "
            + ("start from" if whose == "student" else "ask")
            + " a model with a longer window",
        )
    return longest


def _mean_tokens(run: Run, model: Any, items: list[Item], *, whole: bool = False) -> float:
    """Tokens of a prompt that are computed for it alone when it is answered, or all, on average."""
    template = model.template
    prompts = [template.encode(template.prompt(item.messages, item.id)) for item in items]
    once = 0 if whole or run.recipe.teacher.answer != "score" else shared_length(prompts)
    return sum(len(ids) - once for ids in prompts) / len(prompts)


def _mean_reply(run: Run, model: Any, items: list[Item]) -> float:
    """Tokens of a reply to train on: a label's or a recorded one's, else the most it may have."""
    teacher = run.recipe.teacher
    texts: list[str] = list(run.task.labels)
    if not texts and teacher.kind == "recording":
        found = RecordedTeacher.open(Path(teacher.model))
        replies = [found.find(run.request(item)) for item in items]
        texts = [reply.text for reply in replies if isinstance(reply, Reply)]
    if not texts:
        return float(teacher.max_tokens)
    counts = [len(model.template.encode(text)) for text in texts]
    return sum(counts) / len(counts) + len(model.template.end_of_turn_ids)


def _speeds(
    model: Any, work: Literal["score", "train"], wanted: str, length: int, **how: Any
) -> dict[str, float]:
    """Tokens a second in each precision that comes into question."""
    if wanted == "auto":
        options: list[Precision] = ["float32", "bfloat16"] if bf16_units() else ["float32"]
    else:
        options = [choose_dtype(cast("Any", wanted))]
    rows = max(1, min(PROBE_ROWS, PROBE_TOKENS // length))
    return {
        dtype: measure_speed(model, work, dtype, rows=rows, length=length, seconds=PROBE_S, **how)
        for dtype in options
    }


def _fit_time(
    run: Run,
    plan: Mapping[str, Any],
    tokens: Mapping[str, float],
    speeds: Mapping[str, Mapping[str, float]],
    precision: Mapping[str, str],
    tries: int,
) -> dict[str, Any]:
    """Seconds per stage, and the training items and steps that fit the minutes."""
    config, recipe = run.recipe.train, run.recipe
    count = plan["items"]
    write = 1.0 if recipe.teacher.answer == "score" else _writing_factor(recipe.teacher.max_tokens)

    def seconds_for(items: int) -> dict[str, float]:
        batches = math.ceil(items / config.batch_size)
        steps = config.steps or math.ceil(batches * config.epochs)
        trained = recipe.seeds + (1 if run.trains_gold else 0)
        per_step = config.batch_size * tokens["example"] / speeds["train"][precision["train"]]
        judged = tokens["example"] / max(speeds["judge"].values())
        trying = tries * (recipe.student.try_steps * per_step + HELD_OUT * items * judged)
        reading = 0.0
        if config.divergence is not None:
            # The teacher reads every batch, or each reply once; plain training takes as long again.
            each = tokens["example"] / speeds["teacher"][precision["teacher"]]
            live = config.divergence.source == "live"
            per_step += config.batch_size * each if live else 0.0
            reading = 0.0 if live else (items + count["validation"]) * each
            trained += 1
        # Those that are trained answer the test items, and the student before training.
        answering = 1.0 + trained + 1.2 * (write == 1.0 and recipe.judge.writing)
        measured = math.ceil(steps / config.evaluate_every) * count["validation"]
        evaluating = measured * judged
        found = {
            "train": trained * (steps * per_step + evaluating) + reading + trying,
            "judge": answering
            * write
            * count["test"]
            * tokens["student"]
            / speeds["judge"].get(precision["judge"], min(speeds["judge"].values())),
            "fixed": FIXED_S,
        }
        if "teacher" in tokens:
            asked = items + count["validation"] + count["test"]
            found["label"] = (
                write * asked * tokens["teacher"] / speeds["teacher"][precision["teacher"]]
            )
        return found

    items = count["train"]
    seconds = seconds_for(items)
    cuts: list[str] = []
    if recipe.budget.minutes is not None:
        allowed = PLANNED_SHARE * 60 * recipe.budget.minutes
        if sum(seconds.values()) > allowed:
            items = _most_items(lambda n: sum(seconds_for(n).values()) <= allowed, items)
            if items < FEWEST_ITEMS:
                raise InputError(
                    f"at the speed of this machine {recipe.budget.minutes:g} minutes leave time for"
                    f" {items} training items",
                    repair="raise budget.minutes, keep fewer layers, or judge on fewer items",
                )
            before, seconds = sum(seconds.values()), seconds_for(items)
            cuts.append(
                f"cut to fit {recipe.budget.minutes:g} minutes: {items:,} of {count['train']:,}"
                f" training items (all would take about {before / 60:,.1f} minutes)"
            )
    batches = math.ceil(items / config.batch_size)
    return {
        "train_items": items,
        "steps": config.steps or math.ceil(batches * config.epochs),
        "seconds": seconds,
        "cuts": cuts,
    }


def _most_items(fits: Any, most: int) -> int:
    """The largest count up to `most` that fits; 0 when none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _writing_factor(max_tokens: int) -> float:
    """Work of writing a reply over that of reading its prompt: tokens come one at a time."""
    return 1.0 + 0.25 * max_tokens


def _lora_parameters(model: Any, rank: int) -> int:
    head = model.get_output_embeddings()
    return sum(
        rank * (module.in_features + module.out_features)
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    )
