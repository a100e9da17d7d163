"""What a probe puts into a field: a secret word, a secret number, in the shape the field has."""

# ruff: noqa: ARG001  (every shape takes a word and a number)
from __future__ import annotations

from collections.abc import Callable
from typing import Any

Shape = Callable[[str, int], Any]


def text(secret: str, number: int) -> Any:
    """Return a field of text."""
    return secret


def texts(secret: str, number: int) -> Any:
    """Return a list of texts."""
    return [secret]


def count(secret: str, number: int) -> Any:
    """Return a number."""
    return number


def counts(secret: str, number: int) -> Any:
    """Return a list of numbers, such as token ids."""
    return [1, number]


def reals(secret: str, number: int) -> Any:
    """Return rows of reals, such as hidden states."""
    return [[0.5, number + 0.5]]


def mapping(secret: str, number: int) -> Any:
    """Return an object."""
    return {"value": secret, "count": number}


def mappings(secret: str, number: int) -> Any:
    """Return a list of objects."""
    return [{"type": "text", "text": secret, "id": number}]


def token(secret: str, number: int) -> dict[str, Any]:
    """Return the log-probabilities of one token that is not in the answer."""
    top = [{"token": secret, "logprob": -0.25, "bytes": list(secret.encode())}]
    return {"token": secret, "logprob": -0.5, "bytes": [1, 2], "top_logprobs": top}


def logprobs(secret: str, number: int) -> Any:
    """Return chat's log-probabilities."""
    return {"content": [token(secret, number)], "refusal": [token(secret, number)]}


def tokens(secret: str, number: int) -> Any:
    """Return a list of tokens with their log-probabilities."""
    return [token(secret, number)]


def old_logprobs(secret: str, number: int) -> Any:
    """Return the log-probabilities of text completions."""
    return {
        "tokens": [secret],
        "token_logprobs": [-0.5],
        "top_logprobs": [{secret: -0.5}],
        "text_offset": [0],
    }


def both_logprobs(secret: str, number: int) -> Any:
    """Return the log-probabilities of chat and of text completions in one object."""
    return {**logprobs(secret, number), **old_logprobs(secret, number)}


def probabilities(secret: str, number: int) -> Any:
    """Return llama.cpp's form: with token ids, and probabilities after sampling."""
    top = [{"id": number, "token": secret, "bytes": [1], "prob": 0.5}]
    one = {"id": number, "token": secret, "bytes": [1], "prob": 0.5, "top_probs": top}
    return {"content": [one]}


def custom_call(secret: str, number: int) -> Any:
    """Return a call of a tool that takes free text."""
    return [{"id": "call_9", "type": "custom", "custom": {"name": "x", "input": secret}}]


def summary(secret: str, number: int) -> Any:
    """Return the summary of a reasoning item."""
    return [{"type": "summary_text", "text": secret}]


def thoughts(secret: str, number: int) -> Any:
    """Return the content of a reasoning item."""
    return [{"type": "reasoning_text", "text": secret}]


def prompt_logprobs(secret: str, number: int) -> Any:
    """Return vLLM's log-probabilities of the prompt."""
    return [None, {str(number): {"logprob": -0.5, "rank": 1, "decoded_token": secret}}]


Fields = dict[str, Shape]
