"""Does an engine answer as the student does? The next token after each prompt, over all ids."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from stillhouse.teachers.heads import logits_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from stillhouse.students.export.prompts import Prompt

FLOOR = -80.0  # log-probabilities below are rounded off by float32 softmaxes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an engine says to a prompt.

    `tokens` is how many it made of the prompt, `log_probs_V` its natural log-probabilities of the
    next token over all ids, `greedy` the ids it then writes greedily.
    """

    tokens: int
    log_probs_V: NDArray[np.float32]  # noqa: N815
    greedy: tuple[int, ...]


class Engine(Protocol):
    """What runs an exported file."""

    name: str
    version: str

    def answers(self, prompts: Sequence[Prompt], tokens: int) -> list[Answer]:
        """Answer each prompt, greedily writing at most `tokens` ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """How far an exported file is from the student, both in float32 arithmetic.

    `largest_difference` is over all prompts and ids, of logits less their log-sum-exp (what a
    softmax sees of them). `greedy_agreement` is the share of prompts after which both write the
    same `greedy_tokens` tokens, `first_agreement` the share with the same first one.
    `split_alike` counts prompts that the engine's own tokenizer cuts into as many tokens.
    """

    engine: str
    engine_version: str
    precision: str
    prompts: int
    split_alike: int
    largest_difference: float
    mean_difference: float
    greedy_tokens: int
    greedy_agreement: float
    first_agreement: float
    tolerance: float
    passed: bool

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def as_text(self) -> str:
        """One line a figure."""
        lines = (
            f"{self.engine} {self.engine_version}, {self.precision}",
            f"{self.prompts:,} prompts, {self.split_alike:,} of them split alike",
            (
                f"largest logit difference {self.largest_difference:.2g}, mean"
                f" {self.mean_difference:.2g}; {self.tolerance:g} passes"
            ),
            (
                f"greedy agreement {self.greedy_agreement:.1%} over {self.greedy_tokens} tokens,"
                f" {self.first_agreement:.1%} on the first"
            ),
            "passed" if self.passed else "FAILED",
        )
        return "\n".join(lines)


def check(
    model: Any,
    end_ids: frozenset[int],
    prompts: Sequence[Prompt],
    engine: Engine,
    *,
    tokens: int,
    tolerance: float,
    precision: str,
) -> CheckReport:
    """Compare `engine` with `model` (float32); it passes within `tolerance` at equal splits."""
    answers = engine.answers(prompts, tokens)
    largest, sums, same, first, alike = 0.0, 0.0, 0, 0, 0
    for prompt, answer in zip(prompts, answers, strict=True):
        alike += answer.tokens == len(prompt.ids)
        ours_V = _log_probs(model, prompt.ids)
        difference_V = np.abs(np.maximum(ours_V, FLOOR) - np.maximum(answer.log_probs_V, FLOOR))
        largest, sums = max(largest, float(difference_V.max())), sums + float(difference_V.mean())
        first += int(ours_V.argmax()) == int(answer.log_probs_V.argmax())
        same += before_end(greedy(model, prompt.ids, tokens, end_ids), end_ids) == before_end(
            answer.greedy, end_ids
        )
    return CheckReport(
        engine=engine.name,
        engine_version=engine.version,
        precision=precision,
        prompts=len(prompts),
        split_alike=alike,
        largest_difference=largest,
        mean_difference=sums / len(prompts),
        greedy_tokens=tokens,
        greedy_agreement=same / len(prompts),
        first_agreement=first / len(prompts),
        tolerance=tolerance,
        passed=alike == len(prompts) and largest <= tolerance,
    )


@torch.no_grad()
def _log_probs(model: Any, ids: Sequence[int]) -> NDArray[np.float32]:
    last_1 = torch.tensor([len(ids) - 1])
    logits_1V, _ = logits_at(
        model, torch.tensor([0]), last_1, input_ids=torch.tensor([ids]), use_cache=False
    )
    found: NDArray[np.float32] = torch.log_softmax(logits_1V[0].double(), -1).float().numpy()
    return found


@torch.no_grad()
def greedy(model: Any, ids: Sequence[int], tokens: int, end_ids: frozenset[int]) -> tuple[int, ...]:
    """Return the likeliest continuation, up to `tokens` ids or the first end."""
    written: list[int] = []
    step, cache = torch.tensor([ids]), None
    while len(written) < tokens and not (written and written[-1] in end_ids):
        output = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
        written.append(int(output.logits[0, -1].argmax()))
        step, cache = torch.tensor([written[-1:]]), output.past_key_values
    return tuple(written)


def before_end(ids: Sequence[int], end_ids: frozenset[int]) -> tuple[int, ...]:
    """Return what comes before the first end: engines differ in whether they return it."""
    place = next((i for i, one in enumerate(ids) if one in end_ids), len(ids))
    return tuple(ids[:place])
