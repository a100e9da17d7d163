"""A teacher that only replays: replies by exact request, and a miss is a failure.

Two forms are read. A *recording* (JSON Lines) is written from a labelling journal or from answers:
its first line says how many replies follow and the SHA-256 of their bytes, each further line is
`{"key": ..., "reply": {...}}`, the key being `request_key`. A *plain* file is what users have from
elsewhere: `{"messages": [...], "reply": "..."}` or `{"prompt": "...", "reply": "..."}` a line, with
optional `finish_reason`, `model`, `tokens_in`, `tokens_out`; it is matched by messages alone, since
it does not say how its replies were sampled, and replies without `finish_reason` have "unknown".
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import orjson

from stillhouse.exchanges.canonical import canonical_json
from stillhouse.exchanges.errors import InputError
from stillhouse.exchanges.journal import read_journal
from stillhouse.exchanges.storage import write_atomic
from stillhouse.teachers.chat import ChatRequest, Failure, FinishReason, Message, Reply, Role
from stillhouse.teachers.records import messages_key, read_reply, reply_record, request_key
from stillhouse.teachers.wire import Attempt

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = "stillhouse-recording-1"
_PLAIN_KEYS = {
    "messages",
    "prompt",
    "reply",
    "finish_reason",
    "model",
    "id",
    "tokens_in",
    "tokens_out",
}


@dataclass(frozen=True, slots=True)
class RecordedTeacher:
    """Replies by key. `exact` tells whether keys are of whole requests or of messages alone."""

    replies: Mapping[str, Reply]
    teacher: Mapping[str, Any]
    digest: str
    exact: bool
    place: str

    @classmethod
    def open(cls, path: Path) -> RecordedTeacher:
        """Read a recording or a plain file (either may be gzipped).

        Raises `InputError` naming file and line for a damaged recording, an unknown or missing
        field, or one prompt with two different replies.
        """
        try:
            data = path.read_bytes()
            if data[:2] == b"\x1f\x8b":
                data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(
                f"the recording cannot be read: {getattr(error, 'strerror', None) or error}",
                place=str(path),
                repair="give the path of a JSON Lines file, gzipped or not",
            ) from error
        data = data.removeprefix(codecs.BOM_UTF8)
        first = data.partition(b"\n")[0]
        if b'"stillhouse_recording"' in first:
            return _read_recording(path, data)
        return _read_plain(path, data)

    def describe(self) -> dict[str, Any]:
        """Return what the replies depend on: the recording's own bytes."""
        return {"recording": self.digest}

    def find(self, request: ChatRequest) -> Reply | Failure:
        """Return the recorded reply to exactly this request; a miss is never asked elsewhere."""
        key = request_key(request) if self.exact else messages_key(request.messages)
        reply = self.replies.get(key)
        if reply is not None:
            return reply
        what = "request (messages and sampling)" if self.exact else "list of messages"
        return Failure(
            code="not_recorded",
            message=f"{self.place} holds no reply to this {what} (key {key[:12]}); record it, or"
            " set the recipe's prompts and sampling to those of the recording",
        )

    async def attempt(self, request: ChatRequest) -> Attempt:
        """Answer as a live teacher would; it costs nothing and is never tried twice."""
        outcome = self.find(request)
        return Attempt(outcome, "nothing", "done" if isinstance(outcome, Reply) else "give_up")

    async def reply(self, request: ChatRequest) -> Reply | Failure:
        """Return the recorded reply or the failure of a miss."""
        return self.find(request)


def write_recording(path: Path, replies: Mapping[str, Reply], teacher: Mapping[str, Any]) -> str:
    """Write replies (by `request_key`) in the order of their keys; return the file's digest.

    `teacher` is what `describe` of the live teacher says, kept for the reader.
    """
    lines = [
        canonical_json({"key": key, "reply": reply_record(replies[key])}) + b"\n"
        for key in sorted(replies)
    ]
    body = b"".join(lines)
    digest = hashlib.sha256(body).hexdigest()
    head = {
        "stillhouse_recording": FORMAT,
        "teacher": dict(teacher),
        "replies": len(lines),
        "sha256": digest,
    }
    write_atomic(path, canonical_json(head) + b"\n" + body)
    return digest


def record_journal(journal: Path, path: Path) -> str:
    """Make a recording of every reply in a labelling journal (canaries left out)."""
    contents = read_journal(journal)
    if contents.header.get("purpose") != "labelling":
        raise InputError("this is not a labelling journal", place=str(journal))
    replies = {
        record["key"]: read_reply(record["value"])
        for record in contents.records
        if "reply" in record and not record["key"].startswith("canary/")
    }
    return write_recording(path, replies, contents.header["teacher"])


def _read_recording(path: Path, data: bytes) -> RecordedTeacher:
    first, _, body = data.partition(b"\n")
    head = _object(first, f"{path}:1")
    if head.get("stillhouse_recording") != FORMAT:
        raise InputError(
            f"the recording's format is {head.get('stillhouse_recording')!r}, not {FORMAT!r}",
            place=f"{path}:1",
            repair="read it with the version of stillhouse that wrote it",
        )
    digest = hashlib.sha256(body).hexdigest()
    if digest != head.get("sha256"):
        raise InputError(
            f"the replies have SHA-256 {digest}, the first line says {head.get('sha256')}",
            place=str(path),
            repair="the file was changed or cut: get it again, or make it again from its journal",
        )
    replies = {}
    for number, line in enumerate(body.splitlines(), start=2):
        entry = _object(line, f"{path}:{number}")
        replies[entry["key"]] = read_reply(entry["reply"])
    return RecordedTeacher(replies, head["teacher"], digest, exact=True, place=str(path))


def _read_plain(path: Path, data: bytes) -> RecordedTeacher:
    replies: dict[str, Reply] = {}
    seen: dict[str, int] = {}
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        messages, reply = _plain_entry(_object(line, place), place, path.stem)
        key = messages_key(messages)
        if key in replies and replies[key] != reply:
            raise InputError(
                f"the same prompt has another reply in line {seen[key]}",
                place=place,
                repair="keep one reply for each prompt",
            )
        replies[key] = reply
        seen.setdefault(key, number)
    if not replies:
        raise InputError(
            "there is no reply in this file",
            place=str(path),
            repair='write lines such as {"prompt": "2 + 2?", "reply": "4"}',
        )
    digest = hashlib.sha256(data).hexdigest()
    return RecordedTeacher(replies, {"model": path.stem}, digest, exact=False, place=str(path))


def _plain_entry(
    entry: dict[str, Any], place: str, model: str
) -> tuple[tuple[Message, ...], Reply]:
    for key in entry.keys() - _PLAIN_KEYS:
        raise InputError(
            f"unknown key {key!r}",
            place=place,
            repair=f"the keys are {', '.join(sorted(_PLAIN_KEYS))}",
        )
    if ("messages" in entry) == ("prompt" in entry) or not isinstance(entry.get("reply"), str):
        raise InputError(
            "a line needs `reply` and either `prompt` or `messages`",
            place=place,
            repair='write {"prompt": "2 + 2?", "reply": "4"}',
        )
    finish = entry.get("finish_reason", "unknown")
    if finish not in get_args(FinishReason):
        known = ", ".join(get_args(FinishReason))
        raise InputError(f"finish_reason is {finish!r}", place=place, repair=f"one of {known}")
    raw = entry.get("messages", [{"role": "user", "content": entry.get("prompt")}])
    reply = Reply(
        text=entry["reply"],
        finish_reason=finish,
        model=str(entry.get("model", model)),
        tokens_in=_count(entry, "tokens_in", place),
        tokens_out=_count(entry, "tokens_out", place),
    )
    return _messages(raw, place), reply


def _messages(raw: Any, place: str) -> tuple[Message, ...]:
    repair = 'write "messages": [{"role": "user", "content": "..."}]'
    if not isinstance(raw, list) or not raw:
        raise InputError("`messages` is not a list of turns", place=place, repair=repair)
    messages = []
    for turn in raw:
        if (
            not isinstance(turn, dict)
            or turn.keys() != {"role", "content"}
            or turn["role"] not in get_args(Role)
            or not isinstance(turn["content"], str)
        ):
            raise InputError(f"this turn cannot be read: {turn!r:.80}", place=place, repair=repair)
        messages.append(Message(turn["role"], turn["content"]))
    return tuple(messages)


def _count(entry: dict[str, Any], name: str, place: str) -> int | None:
    value = entry.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise InputError(f"`{name}` is {value!r}, not a count", place=place)
    return value


def _object(line: bytes, place: str) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InputError(f"not a JSON line: {error}", place=place) from error
    if not isinstance(value, dict):
        raise InputError("this line is not a JSON object", place=place)
    return value
