"""Train a student for a few steps and print the process's peak memory; for `test_peak_memory`.

Argument: JSON with the `tokenizer`'s folder, the student's `layers` and `vocabulary`, the
`batch_size` (one forward pass each), the `dtype`, and how the student learns: `divergence` (keys of
the recipe's section) or null. Prints, as JSON, the peak in bytes and what the forecast had said.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from stillhouse.distill.distribution import DivergenceConfig
from stillhouse.distill.examples import Target
from stillhouse.distill.forecast import parameter_bytes, predict_memory
from stillhouse.distill.loop import prepare
from stillhouse.distill.training import TrainConfig, train
from stillhouse.parity.items import Item, TrainSplit, ValidationSplit
from stillhouse.teachers.chat import Message

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


def main() -> None:
    torch.set_num_threads(1)
    given = json.loads(sys.argv[1])
    student = model(given["layers"], given["vocabulary"])
    auto: Any = transformers.AutoTokenizer
    tokenizer = auto.from_pretrained(given["tokenizer"])
    train_items, validation = items("t", 64), items("v", 8)
    targets = {i.id: Target(reply="good film " * 80) for i in (*train_items, *validation)}
    divergence, teacher, beside = None, None, 0
    if given["divergence"] is not None:
        from stillhouse.distill.teaching import LiveTeacher
        from stillhouse.teachers.local import LocalModel

        divergence = DivergenceConfig(**given["divergence"])
        local = LocalModel(
            model(2 * given["layers"], given["vocabulary"]), tokenizer, name="t", fingerprint=""
        )
        teacher = LiveTeacher(local, divergence, len(tokenizer))
        beside = parameter_bytes(local.model, "float32")
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
    with tempfile.TemporaryDirectory() as folder:
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
        white_box=divergence is not None,
        beside_bytes=beside,
    )
    print(json.dumps({"peak": int(peak) * 1024, "predicted": predicted, "tokens": [tokens, reply]}))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
