"""Answer sheets: what one model answered to each item, and their JSON Lines form.

One line an item: `{"id": "7", "text": "positive"}` is enough. Every other field of `Reply` may
follow under its own name; `{"id": "7", "failure": {"code": "...", "message": "..."}}` records that
there is no answer. A log-probability of minus infinity is written as null.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from stillhouse.exchanges.errors import InputError
from stillhouse.exchanges.storage import write_atomic
from stillhouse.teachers.chat import Failure, FinishReason, Reply, TokenLogprob

Answers = Mapping[str, Reply | Failure]

_REPLY_FIELDS = tuple(field.name for field in dataclasses.fields(Reply))
_FAILURE_FIELDS = tuple(field.name for field in dataclasses.fields(Failure))
_COUNTS = ("tokens_in", "tokens_out", "tokens_reasoning", "price_nano", "latency_us")


def read_answers(path: Path) -> dict[str, Reply | Failure]:
    """Read an answer sheet, keeping the order of the file.

    Raises InputError naming file:line for anything that is not a JSON object with a unique `id`
    and either `text` or `failure`.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(
            f"cannot read the answers: {error.strerror or error}",
            place=str(path),
            repair="give the path of a JSON Lines file with one answer a line",
        ) from error
    answers: dict[str, Reply | Failure] = {}
    first_seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        item_id, answer = _parse_line(line, place, default_model=path.stem)
        if item_id in answers:
            raise InputError(
                f"id {item_id!r} is answered twice, first in line {first_seen[item_id]}",
                place=place,
                repair="keep one answer for each item",
            )
        answers[item_id] = answer
        first_seen[item_id] = number
    if not answers:
        raise InputError("there is no answer in this file", place=str(path))
    return answers


def write_answers(path: Path, answers: Answers) -> None:
    """Write an answer sheet atomically, one line an item, in the order of the mapping."""
    write_atomic(path, answer_lines(answers.items()))


def answer_lines(pairs: Iterable[tuple[str, Reply | Failure]]) -> bytes:
    """The JSON Lines form of some answers. Fields that hold their default are left out."""
    return b"".join(_line(item_id, answer) for item_id, answer in pairs)


def _line(item_id: str, answer: Reply | Failure) -> bytes:
    record: dict[str, Any] = {"id": item_id}
    if isinstance(answer, Failure):
        record["failure"] = dataclasses.asdict(answer)
    else:
        record |= {name: getattr(answer, name) for name in _REPLY_FIELDS}
        if answer.label_scores is not None:
            record["label_scores"] = [_finite(score) for score in answer.label_scores]
        if answer.logprobs is not None:
            record["logprobs"] = [
                [entry.token, _finite(entry.logprob), [[o, _finite(p)] for o, p in entry.top]]
                for entry in answer.logprobs
            ]
        record = {key: value for key, value in record.items() if value is not None and value != {}}
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the answer to {item_id!r} holds what JSON cannot: {error}",
            repair="leave it out of `extra`, or write it as text",
        ) from error
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate, as some servers send them
        return json.dumps(record, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _finite(logprob: float) -> float | None:
    return None if logprob == -math.inf else logprob


def _parse_line(line: bytes, place: str, *, default_model: str) -> tuple[str, Reply | Failure]:
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not a JSON line: {error}", place=place) from error
    if not isinstance(record, dict):
        raise InputError(
            f"expected a JSON object, found {type(record).__name__}",
            place=place,
            repair='write lines such as {"id": "7", "text": "positive"}',
        )
    item_id = record.pop("id", None)
    if not isinstance(item_id, str) or not item_id:
        raise InputError(
            f"`id` must be a non-empty string, found {item_id!r}",
            place=place,
            repair="name the item that this line answers",
        )
    if "failure" in record:
        return item_id, _failure(record, place)
    return item_id, _reply(record, place, default_model)


def _failure(record: dict[str, Any], place: str) -> Failure:
    details = record["failure"]
    if len(record) > 1 or not isinstance(details, dict):
        raise InputError("a line with `failure` holds an object and nothing else", place=place)
    _known_keys(details, _FAILURE_FIELDS, place)
    for name in ("code", "message"):
        if not isinstance(details.get(name), str):
            raise InputError(f"a failure needs `{name}`, a string", place=place)
    charged = details.get("charged_nano")
    return Failure(
        code=details["code"],
        message=details["message"],
        attempts=_integer(details.get("attempts", 1), "attempts", place),
        charged_nano=None if charged is None else _integer(charged, "charged_nano", place),
    )


def _reply(record: dict[str, Any], place: str, default_model: str) -> Reply:
    _known_keys(record, _REPLY_FIELDS, place)
    if not isinstance(record.get("text"), str):
        raise InputError(
            f"`text` must be a string, found {record.get('text')!r}",
            place=place,
            repair='an item without an answer is {"id": ..., "failure": {"code": ...}}',
        )
    finish = record.get("finish_reason", "unknown")
    if finish not in get_args(FinishReason):
        known = ", ".join(get_args(FinishReason))
        raise InputError(f"finish_reason {finish!r} is none of {known}", place=place)
    fields = {name: record[name] for name in record if name not in ("label_scores", "logprobs")}
    for name in _COUNTS:
        if fields.get(name) is not None:
            _integer(fields[name], name, place)
    for name in ("model", "reasoning", "system_fingerprint"):
        if fields.get(name) is not None and not isinstance(fields[name], str):
            raise InputError(f"`{name}` must be a string, found {fields[name]!r}", place=place)
    if not isinstance(fields.get("extra", {}), dict):
        raise InputError(f"`extra` must be an object, found {fields['extra']!r}", place=place)
    fields = {"finish_reason": finish, "model": default_model} | fields
    return Reply(
        label_scores=_label_scores(record.get("label_scores"), place),
        logprobs=_logprobs(record.get("logprobs"), place),
        **fields,
    )


def _label_scores(value: Any, place: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(s is None or _is_number(s) for s in value):
        raise InputError("`label_scores` must be a list of numbers", place=place)
    return tuple(_logprob(score) for score in value)


def _logprob(value: Any) -> float:
    return -math.inf if value is None else float(value)


def _logprobs(value: Any, place: str) -> tuple[TokenLogprob, ...] | None:
    if value is None:
        return None
    try:
        return tuple(
            TokenLogprob(
                token=str(token),
                logprob=_logprob(logprob),
                top=tuple((str(other), _logprob(p)) for other, p in top),
            )
            for token, logprob, top in value
        )
    except (TypeError, ValueError) as error:
        raise InputError(
            "`logprobs` must be a list of [token, log-probability, [[token, log-probability]]]",
            place=place,
        ) from error


def _known_keys(record: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
    for key in record:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise InputError(
                f"unknown key {key!r}",
                place=place,
                repair=f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}",
            )


def _integer(value: Any, name: str, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"`{name}` must be a whole number, found {value!r}", place=place)
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
