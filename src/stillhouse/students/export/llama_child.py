"""A GGUF file's answers to an order, written as arrays: run as a program by `llama_cpp`.

    python llama_child.py ORDER.json ANSWERS.npz

It imports nothing of this package, whose other parts take seconds to load.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import orjson

UNSEEN = -1e30  # llama.cpp's own value for a probability that rounds to zero lies below


def answer(asked: Path, found: Path) -> None:
    """Load the file that the order names, answer its prompts, write the answers."""
    import xllamacpp

    order = orjson.loads(asked.read_bytes())
    settings: Any = xllamacpp.CommonParams()
    settings.model.path = order["model"]
    settings.n_ctx = settings.n_batch = settings.n_ubatch = order["context"]
    settings.n_parallel = 1
    settings.n_gpu_layers = 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.warmup = settings.ui = settings.fit_params = settings.ctx_shift = False
    settings.offline = True
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server: Any = xllamacpp.Server(settings)

    def next_token(prompt: str | list[int], listed: int) -> Any:
        # What is sampled does not matter, and must be whole text: llama.cpp tells nothing of a
        # token that ends the reply or the first part of a character. Logits come unbiased.
        return server.handle_completions(
            {
                "prompt": prompt,
                "n_predict": 1,
                "n_probs": listed,
                "logit_bias": [[order["plain_id"], 1e9]],
                "temperature": 0.0,
            }
        )

    rows, counts, written = [], [], []
    for text, ids in order["prompts"]:
        reply = next_token(text, 1 << 20)
        rows.append(_row(reply))
        counts.append(reply["usage"]["prompt_tokens"])
        reply_ids: list[int] = []
        for _ in range(order["tokens"]):
            reply_ids.append(_listed(next_token([*ids, *reply_ids], 1))[0]["id"])
            if reply_ids[-1] in order["end_ids"]:
                break
        written.append((reply_ids + [-1] * order["tokens"])[: order["tokens"]])
    np.savez(found, rows=np.stack(rows), tokens=np.array(counts), greedy=np.array(written))


def _listed(reply: Any) -> Any:
    return reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]


def _row(reply: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    listed = _listed(reply)
    row_V = np.full(len(listed), UNSEEN, dtype=np.float32)
    row_V[[one["id"] for one in listed]] = [max(UNSEEN, one["logprob"]) for one in listed]
    return row_V


if __name__ == "__main__":
    answer(Path(sys.argv[1]), Path(sys.argv[2]))
