"""Batched decoding whose rows do not see each other, with true finish reasons.

Its own loop rather than `generate`: each row has its own limit, seed and stop strings, a finished
row leaves the batch at once, and why it finished is known, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from stillhouse.teachers.chat import TokenLogprob
from stillhouse.teachers.padding import pad_left, positions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stillhouse.teachers.chat import Sampling


@dataclass(slots=True)
class Written:
    """What one row has written: `ids` holds the end-of-text id too, `text` does not."""

    finish_reason: Literal["stop", "length"] = "length"
    ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)


@torch.no_grad()
def write_replies(
    model: Any,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
    *,
    end_ids: frozenset[int],
    window: int,
    decode: Callable[[Sequence[int]], str],
) -> list[Written]:
    """Continue each prompt until an end id, a stop string, its `max_tokens` or the window.

    Prompts are padded on the left; positions count from a row's first real token. Temperature 0 is
    the arg max, otherwise each row draws from its own generator (`Sampling.seed`), so a reply does
    not depend on its neighbours beyond rounding (none is seen in float32 up to ties; bfloat16
    kernels round differently for different batch shapes).
    """
    written = [Written() for _ in prompts]
    draw = [_sampler(sampling) for sampling in samplings]
    ids_BL, mask_BL = pad_left(prompts)
    alive = list(range(len(prompts)))
    cache = None
    while alive:
        output = model(
            input_ids=ids_BL,
            attention_mask=mask_BL,
            position_ids=positions(mask_BL)[:, -ids_BL.shape[1] :],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        logits_BV = output.logits[:, -1].float()
        kept: list[int] = []
        chosen: list[int] = []
        for place, row in enumerate(alive):
            token = draw[row](logits_BV[place])
            room = window - len(prompts[row])
            if _take(written[row], token, logits_BV[place], samplings[row], end_ids, room, decode):
                kept.append(place)
                chosen.append(token)
        if len(kept) < len(alive):
            alive = [alive[place] for place in kept]
            index = torch.tensor(kept, dtype=torch.long)
            mask_BL = mask_BL[index]
            if alive:
                cache.batch_select_indices(index)
        ids_BL = torch.tensor(chosen, dtype=torch.long)[:, None]
        mask_BL = torch.cat([mask_BL, torch.ones_like(mask_BL[:, :1])], dim=1)
    return written


def _take(
    row: Written,
    token: int,
    logits_V: torch.Tensor,
    sampling: Sampling,
    end_ids: frozenset[int],
    room: int,
    decode: Callable[[Sequence[int]], str],
) -> bool:
    """Add one token to a row; return whether the row goes on."""
    row.ids.append(token)
    if sampling.top_logprobs:
        row.logprobs.append(_logprob(token, logits_V, sampling.top_logprobs, decode))
    if token in end_ids:
        row.text = decode(row.ids[:-1])
        row.finish_reason = "stop"
        return False
    done = len(row.ids) >= min(sampling.max_tokens, room)
    if sampling.stop or done:
        row.text = decode(row.ids)
    cuts = [at for stop in sampling.stop if (at := row.text.find(stop)) >= 0]
    if cuts:
        row.text = row.text[: min(cuts)]
        row.finish_reason = "stop"
        return False
    return not done


def _sampler(sampling: Sampling) -> Callable[[torch.Tensor], int]:
    if sampling.temperature == 0:
        return lambda logits_V: int(logits_V.argmax())
    generator = torch.Generator().manual_seed(sampling.seed or 0)

    def sample(logits_V: torch.Tensor) -> int:
        sorted_V, order_V = torch.softmax(logits_V / sampling.temperature, -1).sort(
            descending=True, stable=True
        )
        # The smallest set whose probability reaches top_p; the first token is always in it.
        sorted_V[sorted_V.cumsum(-1) - sorted_V >= sampling.top_p] = 0.0
        return int(order_V[torch.multinomial(sorted_V, 1, generator=generator)])

    return sample


def _logprob(
    token: int, logits_V: torch.Tensor, top: int, decode: Callable[[Sequence[int]], str]
) -> TokenLogprob:
    logprobs_V = torch.log_softmax(logits_V, -1)
    values, tokens = logprobs_V.topk(min(top, len(logprobs_V)))
    return TokenLogprob(
        token=decode([token]),
        logprob=float(logprobs_V[token]),
        top=tuple((decode([int(t)]), float(v)) for t, v in zip(tokens, values, strict=True)),
    )
