"""Chat turns in a column: a list of objects with role and content, or its JSON text."""

from __future__ import annotations

from typing import Any, Literal, get_args

import orjson

from stillhouse.exchanges.errors import InputError
from stillhouse.parity.tables import Row, Table, kind_of
from stillhouse.teachers.chat import Message, Role

FinalReply = Literal["refuse", "gold", "drop"]
Prompt = tuple[tuple[Message, ...], str, str | None]  # turns, their variable part, a final reply

ROLES = get_args(Role)
NOTHING: tuple[Any, ...] = (None, [], {})  # what logs and Parquet write for keys that are not used


def read_turns(
    row: Row, column: str, system: tuple[Message, ...], final_reply: FinalReply, table: Table
) -> Prompt:
    """Read the turns in `column`: text in known roles, ending with what is asked.

    `final_reply` says what becomes of a last turn by the assistant. Raises InputError with the
    row's place for anything that would be lost or misread.
    """
    turns = _turns(row, column, table)
    if system and any(turn.role == "system" for turn in turns):
        raise InputError(
            "the turns have a system turn, and data.system gives another",
            place=row.place,
            repair="remove one of the two",
        )
    final = None
    if turns and turns[-1].role == "assistant":
        if final_reply == "refuse":
            raise InputError(
                f"the turns in {column!r} end with the assistant's, so nothing is asked",
                place=row.place,
                repair="set data.final_reply: gold takes that turn as the answer, drop removes it",
            )
        final, turns = turns[-1].content, turns[:-1]
    asked = [turn for turn in turns if turn.role != "system"]
    if not asked or asked[-1] is not turns[-1] or not asked[-1].content.strip():
        raise InputError(
            f"the prompt in {column!r} is empty",
            place=row.place,
            repair="end the turns with a user's turn that says something, or remove the row",
        )
    return (*system, *turns), "\n".join(turn.content for turn in asked), final


def _turns(row: Row, column: str, table: Table) -> tuple[Message, ...]:
    if column not in row.values:
        raise table.missing(f"the row has no {column!r}", column, row)
    value = row.values[column]
    if isinstance(value, str):
        try:
            value = orjson.loads(value)  # chat turns in a CSV cell
        except orjson.JSONDecodeError:
            value = row.values[column]
    if not isinstance(value, list):
        raise InputError(
            f"{column!r} is {kind_of(value)}, not a list of turns",
            place=row.place,
            repair='write [{"role": "user", "content": "..."}]',
        )
    return tuple(_turn(turn, f"{column}[{i}]", row) for i, turn in enumerate(value))


def _turn(turn: Any, where: str, row: Row) -> Message:
    if not isinstance(turn, dict):
        raise InputError(
            f"{where} is {kind_of(turn)}, not a turn",
            place=row.place,
            repair='write {"role": "user", "content": "..."}',
        )
    role, content = turn.get("role"), turn.get("content")
    if role is None or role not in ROLES:
        raise InputError(
            f"{where} has the role {role!r}", place=row.place, repair=f"one of {', '.join(ROLES)}"
        )
    if not isinstance(content, str):
        raise InputError(
            f"the content of {where} is {kind_of(content)}, not text",
            place=row.place,
            repair="only text can be asked here: write the content as one string",
        )
    more = [
        key for key in turn if key not in ("role", "content") and turn[key] not in (None, [], {})
    ]
    if more:
        raise InputError(
            f"{where} has {more[0]!r}, which would be lost",
            place=row.place,
            repair="keep only role and content",
        )
    return Message(role, content)
