"""A first recipe for a user's own file: columns guessed, every choice explained in place."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from stillhouse.exchanges import InputError, make_folder, write_atomic
from stillhouse.parity.outcomes import parse_document
from stillhouse.parity.reading import gold_text
from stillhouse.parity.tables import Row, Table, open_table
from stillhouse.parity.turns import read_turns

PEEK = 2000  # rows looked at
MOST_LABELS = 20
LONGEST_LABEL = 40
FINAL = {
    "gold": "the assistant's last turn is the right answer, for judging only",
    "drop": "the assistant's last turn is left out",
}
DELIMITERS = (";", "\t", "|")
NAMES = {
    "prompt": ("prompt", "text", "input", "question", "instruction", "content", "review"),
    "gold": ("gold", "label", "answer", "output", "reference", "target", "completion", "class"),
    "id": ("id", "uid", "key", "item"),
    "group": (
        "group",
        "document",
        "user",
        "author",
        "session",
        "conversation",
        "template",
        "source",
    ),
}


def draft_recipe(
    folder: Path,
    *,
    data: Path,
    teacher: str,
    model: str | None = None,
    url: str | None = None,
    student: str | None = None,
    prompt: str | None = None,
    gold: str | None = None,
) -> Path:
    """Write `folder/recipe.yaml` for the file `data`; returns its path.

    `prompt` and `gold` name columns; both are guessed when absent. Paths are given as seen from
    here, and written as whole ones: a recipe's own are taken from its folder. Raises InputError
    when the file cannot be read, no column looks like a prompt, or a recipe stands there already.
    """
    path = folder / "recipe.yaml"
    if path.exists():
        raise InputError(
            "there is a recipe already", place=str(path), repair="choose another folder"
        )
    delimiter = _delimiter(data)
    table = open_table(data, delimiter=delimiter)
    rows = list(itertools.islice(table.rows, PEEK))
    if not rows:
        raise InputError("the file holds no items", place=str(data))
    columns = list(dict.fromkeys(name for row in rows for name in row.values))
    found = {role: _column(names, columns) for role, names in NAMES.items()}
    for role, given in (("prompt", prompt), ("gold", gold)):
        if given is not None and given not in columns:
            raise table.missing(f"the file has no column {given!r} for --{role}", given)
        found[role] = given or found[role]
    chat = "messages" if "messages" in columns and prompt is None else None
    if chat is None and found["prompt"] is None:
        raise InputError(
            f"no column looks like a prompt; there are: {', '.join(columns)}",
            place=str(data),
            repair="name it with --prompt COLUMN",
        )
    if chat is None and {"{", "}"} & set(found["prompt"] or ""):
        raise InputError(
            f"the column {found['prompt']!r} has a brace in its name, and braces name columns",
            place=str(data),
            repair="rename it, or name another one with --prompt COLUMN",
        )
    golds = (gold_text(row, found["gold"]) for row in rows)
    answers = [gold for gold in golds if gold is not None]
    replies = _final_replies(rows, chat, table) if chat is not None else []
    make_folder(folder)
    text = _text(
        name=folder.resolve().name,
        data=data.resolve(),
        delimiter=delimiter,
        chat=chat,
        final=None if not replies else "drop" if answers else "gold",
        found=found,
        answers=answers or replies,
        teacher=teacher,
        model=model if model is None or teacher == "endpoint" else _from_here(model),
        url=url,
        student=None if student is None else _from_here(student),
    )
    write_atomic(path, text.encode())
    return path


def _delimiter(data: Path) -> str | None:
    """What separates the columns, where a comma leaves one column that holds something likelier."""
    table = open_table(data)
    if table.format != "csv" or len(table.columns) != 1:
        return None
    return next((other for other in DELIMITERS if other in table.columns[0]), None)


def _column(names: Sequence[str], columns: Sequence[str]) -> str | None:
    lower = {column.lower(): column for column in columns}
    for name in names:
        if name in lower:
            return lower[name]
    near = [difflib.get_close_matches(name, lower, n=1, cutoff=0.85) for name in names]
    return next((lower[match[0]] for match in near if match), None)


def _final_replies(rows: Sequence[Row], chat: str, table: Table) -> list[str]:
    """What the assistant says last, where turns end so; InputError for turns that are none."""
    read = (read_turns(row, chat, (), "gold", table) for row in rows)
    return [final for _, _, final in read if final is not None]


def _from_here(model: str) -> str:
    """A model's path in full where it is one, seen from here."""
    path = Path(model)
    return str(path.resolve()) if path.exists() else model


def _kind(answers: Sequence[str]) -> tuple[str, list[str]]:
    """The kind of task that the gold answers look like, and its labels."""
    if not answers:
        return "text", []
    if all(parse_document(answer) is not None for answer in answers):
        return "json", []
    labels = sorted(set(answers))
    few = len(labels) <= min(MOST_LABELS, max(2, len(answers) // 3))
    if len(labels) >= 2 and few and all(len(label) <= LONGEST_LABEL for label in labels):
        return "label", labels
    return "text", []


def _text(
    *,
    name: str,
    data: Path,
    delimiter: str | None,
    chat: str | None,
    final: str | None,
    found: dict[str, str | None],
    answers: list[str],
    teacher: str,
    model: str | None,
    url: str | None,
    student: str | None,
) -> str:
    kind, labels = _kind(answers)
    prompt = "{" + str(found["prompt"]) + "}"
    if kind == "label":
        listed = ", ".join(labels).replace("{", "{{").replace("}", "}}")
        prompt += f"\n\nAnswer with one of: {listed}."
    start = student or ("teacher" if teacher == "local" else "MODEL-FOLDER")
    lines = [
        "# Written by `stillhouse init`. Every key: docs/recipe.md.",
        f"# What it will cost (spends nothing): stillhouse distill {name}/recipe.yaml --until plan",
        f"name: {_yaml(name)}",
        "seed: 1",
        "",
        "task:",
        f"  kind: {kind}  # label, text or json",
        *([f"  labels: {_yaml(labels)}"] if labels else []),
        "",
        "data:",
        f"  path: {_yaml(str(data))}",
        *([f"  delimiter: {_yaml(delimiter)}"] if delimiter else []),
        *(
            [f"  messages: {chat}"]
            + ([f"  final_reply: {final}  # {FINAL[final]}"] if final else [])
            if chat
            else [f"  prompt: {_yaml(prompt)}  # {{column}} is replaced by its text"]
        ),
        *([f"  id: {_yaml(found['id'])}"] if found["id"] else []),
        *([f"  gold: {_yaml(found['gold'])}  # right answers, for judging only"]
          if found["gold"] else [] if final else
          ["  # gold: COLUMN  # right answers, to judge by"]),
        *([f"  group: {_yaml(found['group'])}  # a split never cuts one"] if found["group"] else
          ["  # group: COLUMN  # items of one document or user: a split never cuts one"]),
        "",
        "split: {validation: 0.15, test: 0.25}",
        "",
        "teacher:",
        f"  kind: {teacher}",
        f"  model: {_yaml(model or _placeholder(teacher))}",
        *([f"  url: {_yaml(url or 'http://localhost:8000/v1')}"] if teacher == "endpoint" else []),
        *(["  # api_key_env: VARIABLE  # environment variable that holds the key"]
          if teacher == "endpoint" else []),
        f"  max_tokens: {16 if kind == 'label' else 512}  # longest reply; always sent",
        "  # terms: ID  # which terms bind its outputs: `stillhouse doctor` lists those known",
        "  # permission:  # where terms forbid, set conditions or are unknown, and you hold leave",
        "  #   {granted_by: WHO, date: 2026-01-31, purpose: WHAT FOR, document: WHERE IT STANDS}",
        "",
        "student:",
        f"  start: {_yaml(start)}  # a model folder, or teacher",
        "  # layers: 12  # keep so many layers",
        "",
        "judge:",
        "  margin: 5  # points of loss that still count as equal; fix it before the run",
        *(["  teacher_lead: null  # there are no right answers to measure it by"]
          if not answers else []),
        "",
        "budget:",
        "  # usd: 5.00  # needs teacher.price_in_nano and price_out_nano",
        "  # tokens: 2000000",
        "  # minutes: 60  # training is cut to fit",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _placeholder(teacher: str) -> str:
    return {"endpoint": "MODEL-NAME", "local": "MODEL-FOLDER", "recording": "REPLIES.jsonl"}[
        teacher
    ]


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")
