"""Label: every item is answered by the teacher, and nothing that was paid for is asked twice.

The run's folder also gets every request that was sent as an exchange, in the Parquet dataset
`exchanges/`. It is made of the labelling journal alone, so a later attempt writes the same again.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stillhouse.distill.asking import ask_endpoint, open_endpoint, require_whole
from stillhouse.distill.permission import require_permit
from stillhouse.distill.references import scores_references, with_references
from stillhouse.distill.run import SPLITS, Run, write_json
from stillhouse.distill.stages import Stopped
from stillhouse.exchanges import (
    InputError,
    Journal,
    KeyedDigests,
    content_digest,
    create_secret,
    iterate_journal,
    make_folder,
)
from stillhouse.exchanges.digests import SECRET_VARIABLE
from stillhouse.exchanges.journal import OtherHeaderError
from stillhouse.parity import Answers, Item, write_answers
from stillhouse.teachers import (
    RecordedTeacher,
    open_journal,
    request_key,
)
from stillhouse.teachers.chat import ChatRequest, Failure, Reply
from stillhouse.teachers.exchanged import exchanges_of
from stillhouse.teachers.records import read_reply, reply_record
from stillhouse.teachers.scheduler import wall_us

JOURNAL = "replies.journal"
SUMMARY = "summary.json"
OTHER_TEACHER = "other_teacher"
EXCHANGES = "exchanges"
SECRET = "secret"  # noqa: S105 (a file's name)
CHUNK_BATCHES = 8  # batches of a local teacher between two writes to the journal


def run_label(run: Run, folder: Path) -> None:
    """Write one answer sheet per split, and `summary.json` with counts, tokens and money."""
    items = [item for split in SPLITS for item in run.items(split)]
    kind = run.recipe.teacher.kind
    ask = {"local": _ask_local, "endpoint": _ask_endpoint, "recording": _ask_recording}[kind]
    answers, facts = ask(run, folder, items)
    offsets = _offsets(run, answers) if run.recipe.teacher.calibrate else None
    if offsets is not None:
        answers = {name: _calibrated(run, answer, offsets) for name, answer in answers.items()}
    for split in SPLITS:
        sheet = {item.id: answers[item.id] for item in run.items(split)}
        write_answers(folder / f"{split}.jsonl", sheet)
    write_json(folder / SUMMARY, {**_counts(answers), **facts, "calibration": offsets})


def _ask_local(run: Run, folder: Path, items: Sequence[Item]) -> tuple[Answers, dict[str, Any]]:
    """Answer by the local model, in chunks of similar length.

    A chunk is journaled whole: its composition is fixed by the items, so that a run which was
    interrupted computes the same batches, and so the same rounding, as one that was not.
    """
    teacher = run.recipe.teacher
    dtype = run.decided["precision"]["teacher"]
    model = run.load(run.teacher_place, dtype)
    requests = {item.id: run.request(item) for item in items}
    ordered = sorted(items, key=lambda item: (-model.count_tokens(requests[item.id]), item.id))
    size = teacher.batch_size * CHUNK_BATCHES
    chunks = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    header = {
        "purpose": "local labelling",
        "teacher": model.fingerprint,
        "dtype": dtype,
        "answer": teacher.answer,
        "labels": run.task.labels,
        "batch_size": teacher.batch_size,
    }
    if scores_references(run):
        header["references"] = content_digest([[item.id, item.gold] for item in items])
    answers: dict[str, Reply | Failure] = {}
    tokens = 0
    with _own_journal(run, folder, partial(Journal.open, header=header)) as journal:
        kept = {record["chunk"]: record["replies"] for record in journal.records()}
        for chunk in chunks:
            asked = [requests[item.id] for item in chunk]
            name = content_digest([request_key(request) for request in asked])
            if name not in kept:
                names = [item.id for item in chunk]
                begun = time.monotonic_ns()
                replies = (
                    model.reply_labels(asked, run.task.labels, teacher.batch_size, names=names)
                    if teacher.answer == "score"
                    else model.reply_batch(asked, teacher.batch_size, names=names)
                )
                if scores_references(run):
                    replies = with_references(model, chunk, asked, replies, teacher.batch_size)
                kept[name] = [reply_record(reply) for reply in replies]
                keys = [request_key(request) for request in asked]
                journal.append(
                    {
                        "chunk": name,
                        "keys": keys,
                        "at": wall_us(),
                        "us": (time.monotonic_ns() - begun) // 1000,
                        "replies": kept[name],
                    }
                )
            for item, record in zip(chunk, kept[name], strict=True):
                reply = answers[item.id] = read_reply(record)
                tokens += (reply.tokens_in or 0) + (reply.tokens_out or 0)
            facts = {"tokens": f"{tokens:,}"}
            run.progress.advance("items", len(answers), len(items), facts)
        write_exchanges(run, journal, requests.values(), model=model.name)
    return answers, {"teacher_fingerprint": model.fingerprint, "spent_nano": None}


def nothing_to_ask(run: Run) -> bool:
    """Whether every item has a reply, or what another try cannot change."""
    if run.recipe.teacher.kind != "endpoint":
        return True
    failures: dict[str, int] = run.read("label", SUMMARY)["failures"]
    return failures.keys() <= {OTHER_TEACHER}


def _own_journal(run: Run, folder: Path, begin: Callable[[Path], Journal]) -> Journal:
    """The journal of this teacher as it is asked now; one of another is kept under another name."""
    path = folder / JOURNAL
    try:
        return begin(path)
    except OtherHeaderError:
        if not run.accepts_changes:
            raise
    names = (f"replies-{number}.journal" for number in itertools.count(1))
    aside = next(folder / name for name in names if not (folder / name).exists())
    path.rename(aside)
    run.progress.say(
        f"the teacher is asked anew: earlier replies were to other settings, and stay in {aside}"
    )
    return begin(path)


def labelling_us(run: Run) -> int:
    """How long labelling took: of a local teacher over all attempts, else the one that finished."""
    journal = run.folder / "label" / JOURNAL
    if run.recipe.teacher.kind == "local":
        try:
            return sum(int(record["us"]) for record in iterate_journal(journal))
        except KeyError:
            raise InputError(
                "these labels were made by a version that did not write how long each chunk took",
                place=str(journal),
                repair="remove the folder label/, or start in a new folder, to label again",
            ) from None
    return round(float(run.read("label", "done.json")["seconds"]) * 1e6)


def _ask_endpoint(run: Run, folder: Path, items: Sequence[Item]) -> tuple[Answers, dict[str, Any]]:
    """Answer over HTTP, within the budget."""
    spec = run.recipe.teacher
    require_permit(run)  # the address may be another than the one that was planned
    teacher = open_endpoint(spec, run.recipe.seed)
    requests = {item.id: run.request(item) for item in items}
    with _own_journal(run, folder, partial(open_journal, teacher=teacher)) as journal:
        result = ask_endpoint(
            teacher,
            journal,
            requests,
            spec,
            run.recipe.budget,
            seed=run.recipe.seed,
            progress=run.progress,
        )
        write_exchanges(run, journal, requests.values(), model=spec.model)
    require_whole(result)
    answers: Answers = result.answers
    replies = [answer for answer in answers.values() if isinstance(answer, Reply)]
    permit = require_permit(run, {reply.model for reply in replies if reply.model})
    teachers: dict[str, int] = {}
    if spec.on_change == "split":
        learned = [item.id for item in run.items("train")]
        answers, teachers = keep_one_teacher(answers, result.groups, learned)
    if len(teachers) > 1:
        run.progress.say(
            "the replies come from several teachers, and only the first of these is used: "
            + ", ".join(f"{name} ({count:,})" for name, count in teachers.items())
        )
        _require_every_split(run, answers, next(iter(teachers)))
    return answers, {
        "terms": permit.record,
        "models": _seen(replies, "model"),
        "fingerprints": _seen(replies, "system_fingerprint"),
        "teachers": teachers,
        "spent_nano": result.spent.nano,
        "requests_sent": result.requests_sent,
        "reused": result.reused,
        "notes": list(result.notes),
    }


def _seen(replies: Iterable[Reply], name: str) -> dict[str, int]:
    """How often replies say each value of a field."""
    found = Counter(value for reply in replies if (value := getattr(reply, name)))
    return dict(sorted(found.items()))


def keep_one_teacher(
    answers: Answers, groups: Mapping[str, str], learned: Iterable[str]
) -> tuple[Answers, dict[str, int]]:
    """Keep the replies of the teacher that answered most training items (`learned`).

    Those of others become failures of the code `other_teacher`: they do not train, and nobody is
    judged on their items. Also returns the number of replies by teacher, the kept one first.
    """
    counts = Counter(groups.values())
    if len(counts) < 2:
        return answers, dict(counts)
    own = Counter(groups[item] for item in learned if item in groups)
    order = sorted(counts, key=lambda name: (-own[name], name))
    kept = {
        item: answer
        if groups.get(item, order[0]) == order[0]
        else Failure(code=OTHER_TEACHER, message=f"{groups[item]} answered, not {order[0]}")
        for item, answer in answers.items()
    }
    return kept, {name: counts[name] for name in order}


def _require_every_split(run: Run, answers: Answers, teacher: str) -> None:
    for split in SPLITS:
        if not answered_by_one(run.items(split), answers):
            raise Stopped(
                "teacher",
                f"the teacher changed, and {teacher}, who answered most training items, answered"
                f" no {split} item; nobody can be judged across teachers. Start a new run with"
                " --run FOLDER",
            )


def answered_by_one(items: Sequence[Item], answers: Answers) -> tuple[Item, ...]:
    """The items without those that another teacher answered."""
    return tuple(item for item in items if not _of_another(answers.get(item.id)))


def _of_another(answer: Reply | Failure | None) -> bool:
    return isinstance(answer, Failure) and answer.code == OTHER_TEACHER


def _ask_recording(run: Run, folder: Path, items: Sequence[Item]) -> tuple[Answers, dict[str, Any]]:
    """Replay a recording; an item it does not hold is a failure, never a live call."""
    del folder
    recording = RecordedTeacher.open(Path(run.recipe.teacher.model))
    answers = {item.id: recording.find(run.request(item)) for item in items}
    return answers, {"spent_nano": None, "recording": recording.digest}


def write_exchanges(
    run: Run, journal: Journal, requests: Iterable[ChatRequest], *, model: str
) -> None:
    """Write what the journal holds into the run's dataset of exchanges (docs/exchanges.md).

    The part is named after its first exchange: one part a journal, replaced when it has grown.
    """
    from stillhouse.exchanges.dataset import to_table, write_part

    base = run.folder / EXCHANGES
    make_folder(base)
    found = list(
        exchanges_of(
            journal.records(),
            {request_key(request): request for request in requests},
            _digests(base),
            account=run.recipe.name,
            model=model,
        )
    )
    if found:
        first = min(exchange.time_us for exchange in found)
        write_part(base, to_table(found), part=f"label-{first}")


def _digests(folder: Path) -> KeyedDigests:
    """The deployment's secret where the environment names one, else one of this run's own."""
    if SECRET_VARIABLE in os.environ:
        return KeyedDigests.load(None)
    path = folder / SECRET
    if not path.exists():
        create_secret(path)
    return KeyedDigests.load(path)


def _offsets(run: Run, answers: Answers) -> list[float]:
    """Median log-probability of each label over the training prompts; no gold answer is used.

    For two labels this centres the log-odds on their median: both log-probabilities are monotone
    in the log-odds. It assumes that about half the prompts deserve each label (compare contextual
    calibration, arXiv 2102.09690, whose constant comes from content-free prompts instead).
    """
    scores_NL = np.array(
        [
            answer.label_scores
            for item in run.items("train")
            if isinstance(answer := answers[item.id], Reply) and answer.label_scores is not None
        ]
    )
    return [float(value) for value in np.median(scores_NL, axis=0)]


def _calibrated(run: Run, answer: Reply | Failure, offsets: Sequence[float]) -> Reply | Failure:
    if isinstance(answer, Failure) or answer.label_scores is None:
        return answer
    shifted_L = np.array(answer.label_scores) - np.array(offsets)
    shifted_L -= np.logaddexp.reduce(shifted_L)
    return Reply(
        **{
            **{name: getattr(answer, name) for name in Reply.__slots__},
            "text": run.task.labels[int(shifted_L.argmax())],
            "label_scores": tuple(float(score) for score in shifted_L),
        }
    )


def _counts(answers: Mapping[str, Reply | Failure]) -> dict[str, Any]:
    replies = [answer for answer in answers.values() if isinstance(answer, Reply)]
    failures: dict[str, int] = {}
    for answer in answers.values():
        if isinstance(answer, Failure):
            failures[answer.code] = failures.get(answer.code, 0) + 1
    return {
        "items": len(answers),
        "replies": len(replies),
        "failures": failures,
        "tokens_in": sum(reply.tokens_in or 0 for reply in replies),
        "tokens_out": sum(reply.tokens_out or 0 for reply in replies),
        "finish_reasons": {
            reason: sum(reply.finish_reason == reason for reply in replies)
            for reason in sorted({reply.finish_reason for reply in replies})
        },
    }
