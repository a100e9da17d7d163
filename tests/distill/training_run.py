"""A training run that is killed where it is told to be; a program for `test_training_resume`.

Reads a plan as JSON from standard input: {"student": FOLDER, "runs": {NAME: [KILL, ...]}} where a
KILL is ["event", INDEX] (SIGKILL at the INDEXth named step of that attempt), ["torn", INDEX]
(SIGKILL halfway through writing the INDEXth file of tensors) or ["after", SECONDS]. Each run is
attempted once per kill, each in a fork, and then until it ends. A run named `undisturbed` is added,
and one for the first time that each of its named steps occurs, and the last time for those of the
checkpoint. Prints what came out, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import torch

from stillhouse.distill import checkpoints
from stillhouse.distill.examples import Target
from stillhouse.distill.training import TrainConfig, train
from stillhouse.exchanges import storage
from stillhouse.parity.items import Item, TrainSplit, ValidationSplit
from stillhouse.students import load_student
from stillhouse.teachers.chat import Message

WORDS = ["the film", "very good", "was bad", "no", "yes the film was very very good", "film"]


def items(prefix: str, count: int) -> tuple[Item, ...]:
    return tuple(
        Item(
            id=f"{prefix}{i}",
            messages=(Message("user", WORDS[i % 6] + " x" * (i % 5)),),
            variable="",
            group="",
        )
        for i in range(count)
    )


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def attempt(student: tuple[Any, Any], folder: Path, kill: list[Any] | None) -> None:
    """Train to the end or to the kill; the names of all steps go to a file."""
    events: list[str] = []
    saves = 0
    save = torch.save

    def on_step(name: str) -> None:
        events.append(name)
        if kill is not None and kill[0] == "event" and len(events) == kill[1]:
            die()

    def torn_save(value: Any, file: Any) -> None:
        nonlocal saves
        saves += 1
        save(value, file)
        if kill is not None and kill[0] == "torn" and saves == kill[1]:
            file.flush()
            os.ftruncate(file.fileno(), file.tell() // 2)
            die()

    storage.on_step = on_step
    checkpoints.torch.save = torn_save
    if kill is not None and kill[0] == "after":
        threading.Timer(kill[1], die).start()
    model, tokenizer = student  # this fork's own copy
    train_items, validation_items = items("t", 30), items("v", 6)
    targets = {
        item.id: Target(
            reply=("good", "bad film")[place % 2],
            label_scores=(-0.1 * place, -1.0) if place % 3 == 0 else None,
        )
        for place, item in enumerate((*train_items, *validation_items))
    }
    result = train(
        model,
        tokenizer,
        TrainSplit(train_items),
        ValidationSplit(validation_items),
        targets,
        TrainConfig(
            steps=6,
            batch_size=8,
            micro_batch_tokens=200,
            learning_rate=0.02,
            evaluate_every=2,
            checkpoint_steps=2,
            freeze_embeddings=False,
        ),
        folder,
        seed=4,
        labels=("good", "bad film"),
    )
    (folder / "events.json").write_text(json.dumps(events))
    (folder / "outcome.json").write_text(
        json.dumps(
            {
                "weights": result.weights_sha256,
                "file": storage.sha256_file(result.student / "model.safetensors"),
                "curve": [[p.step, p.train_loss, p.validation_loss] for p in result.curve],
                "tokens": [result.tokens, result.reply_tokens],
            }
        )
    )


def in_fork(student: tuple[Any, Any], folder: Path, kill: list[Any] | None) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            attempt(student, folder, kill)
            code = 0
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def complete(student: tuple[Any, Any], folder: Path, kills: list[list[Any]]) -> dict[str, Any]:
    """Attempt one run once per kill and then to its end."""
    codes = [in_fork(student, folder, kill) for kill in [*kills, None]]
    return {
        "codes": codes,
        "left": sorted(path.name for path in folder.iterdir()),
        "events": json.loads((folder / "events.json").read_text()),
        "outcome": json.loads((folder / "outcome.json").read_text()),
    }


def main() -> None:
    plan = json.load(sys.stdin)
    root = Path(plan["student"]).parent
    torch.set_num_threads(1)
    student = load_student(Path(plan["student"]))
    found = {"undisturbed": complete(student, root / "undisturbed", [])}
    events = found["undisturbed"]["events"]
    places = {events.index(name) for name in events}
    places |= {len(events) - 1 - events[::-1].index(n) for n in events if "checkpoint" in n}
    runs = {f"event {i} {events[i]}": [["event", i + 1]] for i in sorted(places)} | plan["runs"]
    for number, (name, kills) in enumerate(runs.items()):
        found[name] = complete(student, root / str(number), kills)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
