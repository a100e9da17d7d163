"""The output head only where it is needed.

A vocabulary of 49,152 makes the head the dearest matrix of a small model. Most positions of a
prompt need no logits, and scoring labels needs only the labels' rows. Both are done by hooking the
head of the model's own forward pass, so that whatever an architecture does around its head
(scaling, soft caps) stays in force.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def logits_at(
    model: Any, rows_M: torch.Tensor, columns_M: torch.Tensor, **inputs: Any
) -> tuple[torch.Tensor, Any]:
    """Return float32 logits (M, V) at M positions (row, column) of a batch, and the model's output.

    The head sees only these M hidden states.
    """

    def gather(hidden_BLD: torch.Tensor) -> torch.Tensor:
        return hidden_BLD[rows_M, columns_M].unsqueeze(0)

    with _before_head(model, gather):
        output = model(**inputs)
    return output.logits[0].float(), output


def label_logits_at(
    model: Any,
    rows_M: torch.Tensor,
    columns_M: torch.Tensor,
    tokens_L: torch.Tensor,
    **inputs: Any,
) -> torch.Tensor:
    """Return float32 logits (M, L) of the tokens `tokens_L` at M positions; no other row is used.

    Only for a model whose head `is_plain`. Oracle: `logits_at(...)[:, tokens_L]`.
    """
    head = model.get_output_embeddings()
    kept: list[torch.Tensor] = []

    def take(hidden_BLD: torch.Tensor) -> torch.Tensor:
        kept.append(hidden_BLD[rows_M, columns_M])
        return hidden_BLD[:1, :0]

    with _before_head(model, take):
        model(**inputs)
    weight_LD = head.weight[tokens_L].float()
    bias_L = None if head.bias is None else head.bias[tokens_L].float()
    return torch.nn.functional.linear(kept[0].float(), weight_LD, bias_L)


@torch.no_grad()
def is_plain(model: Any) -> bool:
    """Say whether the model's logits are the bare output of one linear head (one token is run).

    False for heads that are followed by scaling or a soft cap (Gemma 2, Cohere, Granite).
    """
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        return False
    seen: list[torch.Tensor] = []
    handle = head.register_forward_hook(lambda _m, _args, out: seen.append(out.clone()))
    try:
        logits = model(input_ids=torch.ones((1, 1), dtype=torch.long)).logits
    finally:
        handle.remove()
    return len(seen) == 1 and bool(torch.equal(seen[0].float(), logits.float()))


@contextlib.contextmanager
def _before_head(model: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _m, args: (change(args[0]), *args[1:]))
    try:
        yield
    finally:
        handle.remove()
