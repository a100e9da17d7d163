"""Train a student for a few steps and print the process's peak memory; for `test_peak_memory`.

Argument: JSON with the `tokenizer`'s folder, the student's `layers` and `vocabulary`, the
`batch_size` (one forward pass each), the `dtype`, and how the student learns: `divergence` (keys of
the recipe's section) or null, the `teacher_layers`, and the `lora_rank` of its adapters or null.
Prints, as JSON, the peak in bytes and what the forecast had said.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from stillhouse.distill.distribution import DivergenceConfig
from stillhouse.distill.examples import Target
from stillhouse.distill.forecast import parameter_bytes, predict_memory, predict_reading
from stillhouse.distill.loop import prepare
from stillhouse.distill.teaching import LiveTeacher, keep
from stillhouse.distill.training import TrainConfig, train
from stillhouse.parity.items import Item, TrainSplit, ValidationSplit
from stillhouse.students.adapters import add_adapter
from stillhouse.teachers.chat import Message
from stillhouse.teachers.local import LocalModel

if TYPE_CHECKING:
    from stillhouse.distill.examples import Examples
    from stillhouse.distill.teaching import SplitName, Teacher

WIDTH, INNER = 384, 1024


def model(layers: int, vocabulary: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        use_cache=False,
    )
    return LlamaForCausalLM(config).eval()


def items(prefix: str, count: int) -> tuple[Item, ...]:
    return tuple(
        Item(id=f"{prefix}{i}", messages=(Message("user", f"x {i}"),), variable="", group="")
        for i in range(count)
    )


def make_teacher(
    given: dict[str, Any],
    tokenizer: Any,
    divergence: DivergenceConfig,
    sets: dict[SplitName, Examples],
    folder: Path,
) -> tuple[Teacher, int, int]:
    """A teacher, the bytes of it that stay, and the foreseen peak of its reading."""
    deep = model(given["teacher_layers"], given["vocabulary"])
    local = LocalModel(deep, tokenizer, name="t", fingerprint="")
    if divergence.source == "live":
        live = LiveTeacher(local, divergence, len(tokenizer))
        return live, parameter_bytes(local.model, "float32"), 0
    kept = keep(local, divergence, len(tokenizer), sets, folder / "cache", template="", seed=0,
                progress=lambda *_seen: None)  # fmt: skip
    student = model(given["layers"], given["vocabulary"])
    return kept, 0, predict_reading(student, deep, "float32")


def main() -> None:
    torch.set_num_threads(1)
    given = json.loads(sys.argv[1])
    student = model(given["layers"], given["vocabulary"])
    auto: Any = transformers.AutoTokenizer
    tokenizer = auto.from_pretrained(given["tokenizer"])
    train_items, validation = items("t", 3 * given["batch_size"]), items("v", 8)
    targets = {i.id: Target(reply="good film " * 80) for i in (*train_items, *validation)}
    divergence, teacher, beside, reading = None, None, 0, 0
    if given["divergence"] is not None:
        divergence = DivergenceConfig(**given["divergence"])
    config = TrainConfig(
        steps=3,
        batch_size=given["batch_size"],
        micro_batch_tokens=1 << 20,
        dtype=given["dtype"],
        evaluate_every=2,
        divergence=divergence,
    )
    train_split, validation_split = TrainSplit(train_items), ValidationSplit(validation)
    sets = prepare(student, tokenizer, train_split, validation_split, targets, config, ())
    if given["lora_rank"] is not None:
        student = add_adapter(student, rank=given["lora_rank"])
    with tempfile.TemporaryDirectory() as folder:
        if divergence is not None:
            teacher, beside, reading = make_teacher(
                given, tokenizer, divergence, sets, Path(folder)
            )
        train(
            student,
            tokenizer,
            train_split,
            validation_split,
            targets,
            config,
            Path(folder) / "run",
            seed=1,
            teacher=teacher,
        )
    status = Path("/proc/self/status").read_text()
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    tokens, reply = (
        min(config.micro_batch_tokens, config.batch_size * max(lengths))
        for lengths in (
            [len(e.ids) for e in sets["train"].examples],
            [e.reply_tokens for e in sets["train"].examples],
        )
    )
    predicted = predict_memory(
        student.config,
        tokens,
        given["dtype"],
        reply_tokens=reply,
        trainable_parameters=None
        if given["lora_rank"] is None
        else sum(p.numel() for p in student.parameters() if p.requires_grad),
        white_box=divergence is not None,
        beside_bytes=beside,
    )
    predicted = max(predicted, reading)
    print(json.dumps({"peak": int(peak) * 1024, "predicted": predicted, "tokens": [tokens, reply]}))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
