"""A model on this machine that answers chat requests: as a teacher, or as a student being judged.

`LocalModel.load(folder)` and then `reply_batch`, `score_labels` or `reply_labels`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from stillhouse.exchanges import InputError, content_digest
from stillhouse.teachers.chat import Reply
from stillhouse.teachers.decoding import write_replies
from stillhouse.teachers.heads import is_plain
from stillhouse.teachers.model_files import fingerprint
from stillhouse.teachers.scoring import (
    MOST_POSITIONS,
    compute_prefix,
    score_sequences,
    score_texts,
    score_tokens,
)
from stillhouse.teachers.template import ChatTemplate
from stillhouse.teachers.weights import end_ids, read_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from stillhouse.teachers.chat import ChatRequest
    from stillhouse.teachers.weights import Precision

    Progress = Callable[[int, int], None]

REFERENCE_CONTEXT = 512  # tokens; the context at which `flops_per_token` is quoted


@dataclass(frozen=True, slots=True)
class _Prompt:
    place: int
    name: str
    text: str
    ids: list[int]


class LocalModel:
    """A causal language model with its tokenizer and template.

    `name` goes into replies, `fingerprint` is a SHA-256 over weights, config, tokenizer and
    template files. Batches are made of prompts of similar length and never mix rows: in float32
    the results equal those at batch size 1 up to rounding.

    Only `Sampling` decides how a reply is drawn: repetition penalties and the like in a folder's
    generation config are not applied; its end-of-text ids are.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, fingerprint: str):
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.fingerprint = fingerprint
        self.template = ChatTemplate(tokenizer, end_ids(model, tokenizer), name)
        self.window = int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)
        self._plain_head = is_plain(model)

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        gguf_file: str | None = None,
        dtype: Precision = "float32",
        threads: int | None = None,
    ) -> Self:
        """Read a transformers folder, or a GGUF file (dequantised to `dtype`).

        `threads` sets torch's thread count for the whole process. Raises `InputError` for
        anything missing, unreadable, or without a usable chat template.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        model, tokenizer, files = read_model(path, gguf_file=gguf_file, dtype=dtype)
        return cls(model, tokenizer, name=path.name, fingerprint=fingerprint(files))

    def with_template(self, chat_template: str) -> Self:
        """Return the same model (weights shared) asked through another Jinja chat template."""
        tokenizer = copy.copy(self.tokenizer)
        tokenizer.chat_template = chat_template
        identity = content_digest([self.fingerprint, chat_template])
        return type(self)(self.model, tokenizer, name=self.name, fingerprint=identity)

    @property
    def dtype(self) -> str:
        """The precision the weights are held in, such as `float32`."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def parameters(self) -> int:
        """The number of parameters; a head tied to the embedding counts once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def flops_per_token(self) -> int:
        """Floating-point operations to process one token at `REFERENCE_CONTEXT`; see `flops_at`."""
        return self.flops_at(REFERENCE_CONTEXT)

    def flops_at(self, context: int) -> int:
        """Return the operations of a forward pass for one token that attends to `context` tokens.

        2 x (parameters outside embedding and head) + 4 x layers x heads x head size x context
        (scores and weighted sum) + 2 x vocabulary x width for the head. The embedding look-up is
        free. Mixtures of experts are counted as if all experts ran.
        """
        config = self.model.config
        embedding = self.model.get_input_embeddings().weight
        head = self.model.get_output_embeddings().weight
        tied = head is embedding
        body = self.parameters - embedding.numel() - (0 if tied else head.numel())
        head_size = getattr(config, "head_dim", None) or (
            config.hidden_size // config.num_attention_heads
        )
        attention = config.num_hidden_layers * config.num_attention_heads * head_size * context
        return int(2 * body + 4 * attention + 2 * head.numel())

    def count_tokens(self, request: ChatRequest, name: str = "the request") -> int:
        """Return how many tokens the rendered prompt has."""
        return len(self.template.encode(self.template.prompt(request.messages, name)))

    def reply_batch(
        self,
        requests: Sequence[ChatRequest],
        batch_size: int = 8,
        *,
        names: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> list[Reply]:
        """Write a reply to each request, in the order given.

        `finish_reason` is `stop` (end of turn or a stop string) or `length` (`max_tokens` or the
        window ran out). `tokens_out` counts the end-of-text token. Latency is left to
        `measure_latency`, so that the same requests give equal replies.

        Raises `InputError` naming the item (`names`) for a prompt that does not fit the window, a
        response schema (decoding is not constrained here) or a temperature without a seed.
        """
        prompts = self._prompts(requests, names, reserve=1)
        for prompt in prompts:
            _check_sampling(requests[prompt.place], prompt.name)
        replies: dict[int, Reply] = {}
        for batch in _by_length(prompts, batch_size):
            samplings = [requests[prompt.place].sampling for prompt in batch]
            written = write_replies(
                self.model,
                [prompt.ids for prompt in batch],
                samplings,
                end_ids=self.template.end_ids,
                window=self.window,
                decode=self._decode,
            )
            for prompt, row in zip(batch, written, strict=True):
                replies[prompt.place] = Reply(
                    text=row.text.removeprefix(self.template.reply_prefix),
                    finish_reason=row.finish_reason,
                    model=self.name,
                    system_fingerprint=self.fingerprint,
                    tokens_in=len(prompt.ids),
                    tokens_out=len(row.ids),
                    logprobs=tuple(row.logprobs) or None,
                )
            if progress is not None:
                progress(len(replies), len(requests))
        return [replies[place] for place in range(len(requests))]

    def score_labels(
        self,
        requests: Sequence[ChatRequest],
        labels: Sequence[str],
        batch_size: int = 32,
        *,
        names: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float64]:
        """Return (N, L) natural-log probabilities of each label as the reply, given it is a label.

        score_l = log p(tokens of l | prompt) - log sum_m p(tokens of m | prompt). When the tokens
        of one label begin another's, the end of the turn is scored with each, so that the events
        exclude each other. Labels of one token each cost one pass over the prompt and L rows of
        the head, and what all prompts begin with is computed once; longer ones share the prompt's
        computation through its cache.

        Raises `InputError` for fewer than two labels, labels that are equal or empty in tokens,
        and (naming the item) prompts that do not fit the window together with a label.
        """
        label_ids = self._label_ids(labels)
        prompts = self._prompts(requests, names, reserve=max(map(len, label_ids)))
        single = self._plain_head and all(len(ids) == 1 for ids in label_ids)
        score = score_tokens if single else score_sequences
        if single and (shared := compute_prefix(self.model, [p.ids for p in prompts])) is not None:
            score = partial(score_tokens, prefix=shared)
        scores_NL = np.empty((len(requests), len(labels)))
        done = 0
        for batch in _by_length(prompts, batch_size):
            places = [prompt.place for prompt in batch]
            ids = [prompt.ids for prompt in batch]
            scores_NL[places] = score(self.model, ids, label_ids).numpy()
            done += len(batch)
            if progress is not None:
                progress(done, len(requests))
        return scores_NL

    def reply_labels(
        self,
        requests: Sequence[ChatRequest],
        labels: Sequence[str],
        batch_size: int = 32,
        *,
        names: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> list[Reply]:
        """Return, for each request, its likeliest label as a reply that carries `label_scores`."""
        scores_NL = self.score_labels(requests, labels, batch_size, names=names, progress=progress)
        return [
            Reply(
                text=labels[int(row.argmax())],
                finish_reason="stop",
                model=self.name,
                system_fingerprint=self.fingerprint,
                tokens_in=self.count_tokens(request),
                tokens_out=0,
                label_scores=tuple(float(score) for score in row),
            )
            for request, row in zip(requests, scores_NL, strict=True)
        ]

    def score_references(
        self,
        requests: Sequence[ChatRequest],
        references: Sequence[str],
        batch_size: int = 8,
        *,
        names: Sequence[str] | None = None,
    ) -> list[float]:
        """Return the natural log of P(reference | prompt), for bits per byte.

        The reference's tokens are those of the text as the reply to the prompt; the end of the turn
        is not scored. Raises `InputError` naming the item for an empty reference and for one that
        does not fit the window with its prompt.
        """
        prompts = self._prompts(requests, names, reserve=1)
        texts = []
        for prompt, reference in zip(prompts, references, strict=True):
            ids = self.template.reply_ids(
                prompt.text, prompt.ids, reference, complete=False, name=prompt.name
            )
            if not ids or len(prompt.ids) + len(ids) > self.window:
                raise InputError(
                    f"the reference of {prompt.name} has {len(ids)} tokens; with its prompt of "
                    f"{len(prompt.ids)} it must have at least one and fit the window of "
                    f"{self.window}",
                    place=self.name,
                    repair="shorten the prompt, give a gold text, or take a longer window",
                )
            texts.append(ids)
        found = [0.0] * len(prompts)
        for batch in _by_length(prompts, batch_size):
            for part in _by_positions(batch, texts):
                places = [prompt.place for prompt in part]
                logs_B = score_texts(
                    self.model, [prompt.ids for prompt in part], [texts[i] for i in places]
                )
                for place, value in zip(places, logs_B.tolist(), strict=True):
                    found[place] = value
        return found

    def _label_ids(self, labels: Sequence[str]) -> list[list[int]]:
        if len(labels) < 2:
            raise InputError("label scoring needs at least two labels")
        opening = self.template.probe_prompt
        opening_ids = self.template.encode(opening)
        ids = [
            self.template.reply_ids(
                opening, opening_ids, label, complete=False, name=f"label {label!r}"
            )
            for label in labels
        ]
        for place, one in enumerate(ids):
            if not one:
                raise InputError(f"label {labels[place]!r} is empty", repair="name every label")
            for other in range(len(ids)):
                if other != place and ids[other] == one:
                    raise InputError(f"labels {labels[place]!r} and {labels[other]!r} are equal")
        nested = any(a is not b and a == b[: len(a)] for a in ids for b in ids if len(a) <= len(b))
        end = list(self.template.end_of_turn_ids) if nested else []
        return [one + end for one in ids]

    def _prompts(
        self, requests: Sequence[ChatRequest], names: Sequence[str] | None, *, reserve: int
    ) -> list[_Prompt]:
        prompts = []
        for place, request in enumerate(requests):
            name = names[place] if names is not None else f"request {place}"
            text = self.template.prompt(request.messages, name)
            ids = self.template.encode(text)
            if len(ids) + reserve > self.window:
                raise InputError(
                    f"the prompt of {name} has {len(ids)} tokens; with {reserve} for the reply it "
                    f"exceeds the window of {self.window}",
                    place=self.name,
                    repair="shorten the prompt, or take a model with a longer window",
                )
            prompts.append(_Prompt(place, name, text, ids))
        return prompts

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


def _by_length(prompts: list[_Prompt], batch_size: int) -> Iterator[list[_Prompt]]:
    """Yield batches of similar length, the longest first (a lack of memory shows at once)."""
    if batch_size < 1:
        raise InputError(f"batch size {batch_size} is below 1")
    ordered = sorted(prompts, key=lambda prompt: -len(prompt.ids))
    for start in range(0, len(ordered), batch_size):
        yield ordered[start : start + batch_size]


def _by_positions(batch: list[_Prompt], texts: Sequence[Sequence[int]]) -> Iterator[list[_Prompt]]:
    """Divide a batch so that one part needs logits at a bounded number of positions."""
    part: list[_Prompt] = []
    for prompt in batch:
        held = sum(len(texts[other.place]) for other in part)
        if part and held + len(texts[prompt.place]) > MOST_POSITIONS:
            yield part
            part = []
        part.append(prompt)
    yield part


def _check_sampling(request: ChatRequest, name: str) -> None:
    sampling = request.sampling
    if sampling.response_schema is not None:
        raise InputError(
            f"{name} asks for a response schema; a local model does not constrain its decoding",
            repair="ask an endpoint that supports response_format, or drop the schema",
        )
    if sampling.temperature > 0 and sampling.seed is None:
        raise InputError(
            f"{name} has temperature {sampling.temperature} and no seed: it could not be repeated",
            repair="set a seed, or temperature 0",
        )
    if sampling.max_tokens < 1:
        raise InputError(f"{name} has max_tokens {sampling.max_tokens}", repair="use at least 1")
