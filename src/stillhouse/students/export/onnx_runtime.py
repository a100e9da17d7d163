"""onnxruntime as the engine of an exported ONNX file; the prompts' ids are the student's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from stillhouse.students.export.checking import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from stillhouse.students.export.prompts import Prompt


class OnnxRuntime:
    """A session on the CPU."""

    name = "onnxruntime"
    version = str(onnxruntime.__version__)

    def __init__(self, path: Path, end_ids: frozenset[int]):
        self._end_ids = end_ids
        self._session: Any = onnxruntime.InferenceSession(
            str(path), providers=["CPUExecutionProvider"]
        )

    def answers(self, prompts: Sequence[Prompt], tokens: int) -> list[Answer]:
        """Answer each prompt; every token is a run over the whole sequence."""
        return [self._answer(prompt, tokens) for prompt in prompts]

    def _answer(self, prompt: Prompt, tokens: int) -> Answer:
        first_V = self._logits(prompt.ids)
        written = [int(first_V.argmax())][:tokens]
        while len(written) < tokens and written[-1] not in self._end_ids:
            written.append(int(self._logits((*prompt.ids, *written)).argmax()))
        top = first_V.max()
        log_probs_V = first_V - (top + np.log(np.exp(first_V - top).sum()))
        return Answer(
            tokens=len(prompt.ids),
            log_probs_V=log_probs_V.astype(np.float32),
            greedy=tuple(written),
        )

    def _logits(self, ids: Sequence[int]) -> NDArray[np.float64]:
        (logits_BLV,) = self._session.run(["logits"], {"input_ids": np.array([ids], np.int64)})
        found: NDArray[np.float64] = logits_BLV[0, -1].astype(np.float64)
        return found
