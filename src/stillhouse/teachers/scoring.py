"""The likelihood of given labels as the reply: a fast path for one token each, and the general one.

Both return natural-log probabilities (B, L) normalised over the labels. Where both apply they are
equal up to rounding.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from stillhouse.teachers.heads import label_logits_at, logits_at
from stillhouse.teachers.padding import pad_left, pad_right, positions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_POSITIONS = 1024  # with logits over the whole vocabulary at once: 200 MB for 49,152 tokens
MOST_COPIES = 64  # of a prompt's cache at once: two labels for each of a batch of 32
SHORTEST_PREFIX = 16  # tokens; below it sharing costs more than it saves


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first `length` tokens of every prompt, computed once: demonstrations, a system prompt."""

    length: int
    cache: Any


def shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with that are worth computing once; 0 where none are."""
    if len(prompts) < 2:
        return 0
    ordered = [list(ids) for ids in prompts]
    first, last = min(ordered), max(ordered)  # lists compare like words: all others lie between
    most = min(map(len, ordered)) - 1
    length = 0
    while length < most and first[length] == last[length]:
        length += 1
    return length if length >= SHORTEST_PREFIX else 0


@torch.no_grad()
def compute_prefix(model: Any, prompts: Sequence[Sequence[int]]) -> Prefix | None:
    """Compute what all prompts begin with, once; None where that is short.

    At least one token of each prompt is left to be computed with its row.
    """
    length = shared_length(prompts)
    if length == 0:
        return None
    ids = torch.tensor([prompts[0][:length]], dtype=torch.long)
    output = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    return Prefix(length, output.past_key_values)


@torch.no_grad()
def score_tokens(
    model: Any,
    prompts: Sequence[Sequence[int]],
    label_ids: Sequence[Sequence[int]],
    prefix: Prefix | None = None,
) -> torch.Tensor:
    """Score labels of one token each: one pass, and only the labels' rows of the head.

    The softmax over the vocabulary would cancel in the normalisation, so it is not computed. Only
    for a model whose head `is_plain`. Oracle: `score_sequences`.
    """
    tokens_L = torch.tensor([ids[0] for ids in label_ids])
    shared: dict[str, Any] = {"use_cache": False}
    if prefix is not None:
        prompts = [ids[prefix.length :] for ids in prompts]
        cache = copy.deepcopy(prefix.cache)  # the forward pass appends to it
        cache.batch_repeat_interleave(len(prompts))
        shared = {"use_cache": True, "past_key_values": cache}
    ids_BL, last_B = pad_right(prompts)
    logits_BL = label_logits_at(
        model, torch.arange(len(prompts)), last_B, tokens_L, input_ids=ids_BL, **shared
    )
    return torch.log_softmax(logits_BL.double(), -1)


@torch.no_grad()
def score_sequences(
    model: Any, prompts: Sequence[Sequence[int]], label_ids: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Score labels of any length; each prompt is computed once and shared through the cache."""
    ids_BL, mask_BL = pad_left(prompts)
    rows_B = torch.arange(len(prompts))
    first_BV, output = logits_at(
        model,
        rows_B,
        torch.full_like(rows_B, ids_BL.shape[1] - 1),
        input_ids=ids_BL,
        attention_mask=mask_BL,
        position_ids=positions(mask_BL),
        use_cache=True,
    )
    starts_L = torch.tensor([ids[0] for ids in label_ids])
    scores_BL = torch.log_softmax(first_BV, -1)[:, starts_L].double()
    if max(map(len, label_ids)) > 1:
        scores_BL += _score_rest(model, mask_BL, label_ids, output.past_key_values)
    return torch.log_softmax(scores_BL, -1)


def _score_rest(
    model: Any, mask_BL: torch.Tensor, label_ids: Sequence[Sequence[int]], cache: Any
) -> torch.Tensor:
    """Return the log-likelihood (B, L) of every label's second and later tokens."""
    prompts, labels = len(mask_BL), len(label_ids)
    total_BL = torch.zeros((prompts, labels), dtype=torch.double)
    for asked, scored in _parts(prompts, [len(ids) - 1 for ids in label_ids]):
        own = cache
        if (len(asked), len(scored)) != (prompts, labels):
            own = copy.deepcopy(cache)  # the forward pass appends to it
            own.batch_select_indices(torch.arange(asked.start, asked.stop))
        part = _score_part(
            model, mask_BL[asked.start : asked.stop], [label_ids[i] for i in scored], own
        )
        total_BL[asked.start : asked.stop, scored.start : scored.stop] = part
    return total_BL


def _parts(prompts: int, lengths: Sequence[int]) -> Iterator[tuple[range, range]]:
    """Divide prompts x labels so that a part needs a bounded number of copies and positions.

    `lengths` are the labels' counted tokens; labels without any are left out where a part would
    hold nothing else.
    """
    start = 0
    for stop in range(1, len(lengths) + 1):
        more = sum(lengths[start : stop + 1])
        if stop < len(lengths) and stop - start < MOST_COPIES and more <= MOST_POSITIONS:
            continue
        positions = sum(lengths[start:stop])
        if positions:
            size = max(1, min(MOST_COPIES // (stop - start), MOST_POSITIONS // positions))
            for first in range(0, prompts, size):
                yield range(first, min(first + size, prompts)), range(start, stop)
        start = stop


def _score_part(
    model: Any, mask_BL: torch.Tensor, label_ids: Sequence[Sequence[int]], cache: Any
) -> torch.Tensor:
    prompts, labels = len(mask_BL), len(label_ids)
    cache.batch_repeat_interleave(labels)  # prompt-major: all labels of the first prompt, ...
    given_LT, _ = pad_right([ids[:-1] for ids in label_ids])
    wanted_LT, last_L = pad_right([ids[1:] for ids in label_ids])
    steps_T = torch.arange(given_LT.shape[1])
    counted_MT = (steps_T <= last_L[:, None]).repeat(prompts, 1)
    rows, columns = counted_MT.nonzero(as_tuple=True)
    before_MP = mask_BL.repeat_interleave(labels, 0)
    logits_KV, _ = logits_at(
        model,
        rows,
        columns,
        input_ids=given_LT.repeat(prompts, 1),
        attention_mask=torch.cat([before_MP, torch.ones_like(counted_MT).long()], 1),
        position_ids=before_MP.sum(1, keepdim=True) + steps_T,
        past_key_values=cache,
        use_cache=True,
    )
    wanted_K = wanted_LT.repeat(prompts, 1)[rows, columns]
    logprobs_K = torch.log_softmax(logits_KV, -1).gather(1, wanted_K[:, None])[:, 0]
    total_M = torch.zeros(prompts * labels, dtype=torch.double)
    return total_M.index_add_(0, rows, logprobs_K.double()).view(prompts, labels)


@torch.no_grad()
def score_texts(
    model: Any, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Return the natural-log likelihood (B,) of each text's tokens after its prompt.

    sum over t of log p(text_t | prompt, text_<t); no end of turn is scored. The head sees only the
    positions that predict a token of a text.
    """
    ids_BL, _ = pad_right([[*ids, *text] for ids, text in zip(prompts, texts, strict=True)])
    rows_K = torch.tensor([row for row, text in enumerate(texts) for _ in text])
    columns_K = torch.tensor(
        [
            len(ids) - 1 + place
            for ids, text in zip(prompts, texts, strict=True)
            for place in range(len(text))
        ]
    )
    wanted_K = torch.tensor([token for text in texts for token in text])
    logits_KV, _ = logits_at(model, rows_K, columns_K, input_ids=ids_BL, use_cache=False)
    found_K = torch.log_softmax(logits_KV, -1).gather(1, wanted_K[:, None])[:, 0].double()
    return torch.zeros(len(texts), dtype=torch.double).index_add_(0, rows_K, found_K)
