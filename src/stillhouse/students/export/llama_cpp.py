"""llama.cpp as the engine of an exported GGUF file, in a process of its own.

llama.cpp ends its process when it meets a file that it does not like, so it runs in a child
(`llama_child`). It is given the prompts' text, so that its own tokenizer is part of what is
checked.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson

from stillhouse.exchanges import InputError
from stillhouse.students.export.checking import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stillhouse.students.export.prompts import Prompt

SPARE = 16  # tokens of context beyond prompt and reply
CHILD = Path(__file__).with_name("llama_child.py")


class LlamaCpp:
    """A GGUF file in llama.cpp (through xllamacpp), in float32 throughout, on the CPU."""

    name = "llama.cpp"

    def __init__(self, path: Path, *, end_ids: frozenset[int], plain_id: int):
        """Take a file; `plain_id` is any token that is whole text and ends nothing."""
        import xllamacpp

        self.version = f"xllamacpp {xllamacpp.__version__}"
        self._path, self._end_ids, self._plain_id = path, end_ids, plain_id

    def answers(self, prompts: Sequence[Prompt], tokens: int) -> list[Answer]:
        """Answer each prompt; raises `InputError` with llama.cpp's last words when it gives up."""
        order = {
            "model": str(self._path.resolve()),
            "prompts": [(prompt.text, prompt.ids) for prompt in prompts],
            "tokens": tokens,
            "end_ids": sorted(self._end_ids),
            "plain_id": self._plain_id,
            # A tokenizer that differs may need more room than ours.
            "context": 2 * max(len(prompt.ids) for prompt in prompts) + tokens + SPARE,
        }
        with tempfile.TemporaryDirectory() as name:
            asked, found = Path(name) / "order.json", Path(name) / "answers.npz"
            asked.write_bytes(orjson.dumps(order))
            done = subprocess.run(  # noqa: S603 (a file of ours)
                [sys.executable, "-P", str(CHILD), str(asked), str(found)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
            if done.returncode != 0 or not found.exists():
                last = done.stdout.decode(errors="replace").strip().splitlines()[-6:]
                raise InputError(
                    f"llama.cpp gave up on the exported file (exit {done.returncode}): "
                    + " | ".join(last),
                    place=str(self._path),
                    repair="please report this model's config.json; export to ONNX instead",
                )
            with np.load(found) as arrays:
                rows_NV, tokens_N, greedy_NT = (arrays[n] for n in ("rows", "tokens", "greedy"))
        return [
            Answer(
                tokens=int(count),
                log_probs_V=row_V,
                greedy=tuple(int(one) for one in written if one >= 0),
            )
            for row_V, count, written in zip(rows_NV, tokens_N, greedy_NT, strict=True)
        ]
