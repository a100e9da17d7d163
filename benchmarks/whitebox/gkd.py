"""TRL's own trainer on the same batches."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.whitebox.data import Example, digest, padded
from benchmarks.whitebox.loops import RATE

TRL = "1.16.0"


def train(
    teacher: Path, student: Path, data: list[Example], *, batch: int, steps: int
) -> tuple[list[float], list[str]]:
    """Seconds of each step, and the digest of each batch as it was handed to the trainer."""
    import trl
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    if trl.__version__ != TRL:
        raise RuntimeError(f"trl {trl.__version__} is installed; the figures are for trl=={TRL}")
    auto: Any = transformers.AutoModelForCausalLM
    tokenizer = transformers.AutoTokenizer.from_pretrained(student)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    seconds: list[float] = []
    fed: list[str] = []

    class Clock(transformers.TrainerCallback):
        began = 0.0

        def on_step_begin(self, *_given: Any, **_options: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_given: Any, **_options: Any) -> None:
            seconds.append(time.perf_counter() - self.began)

    def collate(records: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        given = [(record["input_ids"], record["start"]) for record in records]
        fed.append(digest(given))
        ids_BL, mask_BL, rows_M, columns_M = padded(given)
        labels_BL = torch.full_like(ids_BL, -100)
        labels_BL[rows_M, columns_M + 1] = ids_BL[rows_M, columns_M + 1]
        return {
            "input_ids": ids_BL,
            "attention_mask": mask_BL,
            "labels": labels_BL,
            "prompts": ids_BL[:, :1],
            "prompt_attention_mask": mask_BL[:, :1],
        }

    class InOrder(GKDTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_given: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    dataset = Dataset.from_list([{"input_ids": ids, "start": start} for ids, start in data])
    with tempfile.TemporaryDirectory() as folder:
        trainer = InOrder(
            model=auto.from_pretrained(student, dtype=torch.float32),
            teacher_model=auto.from_pretrained(teacher, dtype=torch.bfloat16),
            args=GKDConfig(
                output_dir=folder,
                lmbda=0.0,
                beta=0.0,
                temperature=1.0,
                bf16=True,
                use_cpu=True,
                max_steps=steps,
                per_device_train_batch_size=batch,
                gradient_checkpointing=False,
                learning_rate=RATE,
                optim="adamw_torch_fused",
                logging_strategy="no",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            data_collator=collate,
            train_dataset=dataset,
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        trainer.train()
    return seconds, fed[:steps]
