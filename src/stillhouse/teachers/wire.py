"""The OpenAI-compatible chat protocol as pure functions: a request's body, an answer's meaning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import orjson

from stillhouse.teachers.chat import ChatRequest, Failure, FinishReason, Reply, TokenLogprob
from stillhouse.teachers.records import messages_value

if TYPE_CHECKING:
    from collections.abc import Mapping

# What an attempt cost: as its usage says; its whole bound, because that is not known; nothing.
Charge = Literal["usage", "bound", "nothing"]
# What to do next: keep it; ask again later; give this request up; stop the run.
Next = Literal["done", "retry", "give_up", "stop"]

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "end_turn": "stop",
    "eos": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one request brought."""

    outcome: Reply | Failure
    charge: Charge
    next: Next
    refused: bool = False  # the server is shedding load: 429, 503
    retry_after_us: int | None = None
    usage: tuple[int, int] | None = None


def request_body(
    request: ChatRequest,
    model: str,
    *,
    max_tokens_name: str = "max_tokens",
    extra: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the JSON body. `max_tokens` is always sent; `extra` adds a provider's own fields."""
    s = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "messages": messages_value(request.messages),
        max_tokens_name: s.max_tokens,
        "temperature": s.temperature,
    }
    if s.top_p != 1.0:
        body["top_p"] = s.top_p
    if s.seed is not None:
        body["seed"] = s.seed
    if s.stop:
        body["stop"] = list(s.stop)
    if s.top_logprobs:
        body["logprobs"] = True
        body["top_logprobs"] = s.top_logprobs
    if s.response_schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {
                "name": "reply",
                "schema": orjson.Fragment(s.response_schema),
                "strict": True,
            },
        }
    return orjson.dumps(body | dict(extra or {}))


def read_answer(status: int, data: bytes, content_type: str, location: str | None) -> Attempt:
    """Say what an HTTP answer means. `location` is the target of a redirect, never followed."""
    if 300 <= status < 400:
        return _stop(
            "redirected",
            f"the endpoint redirects to {location or 'nowhere'}; redirects are not followed, so"
            " that the key is not carried elsewhere: put the final address into teacher.url",
        )
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        body = None
    if status >= 400:
        return _read_error(status, body, data)
    if not isinstance(body, dict):
        return _not_an_answer(data, content_type, cut=body is None)
    if body.get("error"):
        return _read_error(_embedded_status(body["error"]), body, data)
    return _read_completion(body)


def _read_completion(body: dict[str, Any]) -> Attempt:
    usage = _read_usage(body.get("usage"))
    charge: Charge = "bound" if usage is None else "usage"

    def fail(code: str, message: str, then: Next) -> Attempt:
        return Attempt(Failure(code=code, message=message), charge, then, usage=usage)

    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return fail(
            "no_choices",
            "the endpoint answered without a choice; if it stays so, check that the model serves"
            " /chat/completions",
            "retry",
        )
    finish = _FINISH.get(str(choice.get("finish_reason")), "unknown")
    text, thought = _read_content(message.get("content"))
    extra: dict[str, Any] = {}
    if message.get("tool_calls"):
        extra["tool_calls"] = message["tool_calls"]
    if finish == "content_filter" and not text:
        return fail(
            "content_filter",
            "the provider's content filter withheld the reply; change or drop this prompt",
            "give_up",
        )
    if message.get("refusal") and not text:
        return fail("refused_by_model", f"the model refused: {message['refusal']}", "give_up")
    reasoning = message.get("reasoning_content") or message.get("reasoning") or thought
    tokens_in, tokens_out = usage if usage is not None else (None, None)
    details = _mapping(_mapping(body.get("usage")).get("completion_tokens_details"))
    fingerprint = body.get("system_fingerprint")
    reply = Reply(
        text=text,
        finish_reason=finish,
        model=str(body.get("model") or ""),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        tokens_reasoning=_count(details.get("reasoning_tokens")),
        reasoning=reasoning if isinstance(reasoning, str) else None,
        system_fingerprint=fingerprint if isinstance(fingerprint, str) else None,
        logprobs=_read_logprobs(choice.get("logprobs")),
        extra=extra,
    )
    return Attempt(reply, charge, "done", usage=usage)


def _read_content(content: Any) -> tuple[str, str | None]:
    """Text and reasoning of a message's content: a string, or parts (Mistral's are)."""
    parts = content if isinstance(content, list) else []
    thoughts = [_joined(_mapping(part).get("thinking")) for part in parts]
    return _joined(content), "".join(thoughts) or None


def _joined(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [_mapping(part).get("text") for part in parts]
    return "".join(text for text in texts if isinstance(text, str))


def _read_error(status: int, body: Any, data: bytes) -> Attempt:
    error = body.get("error") if isinstance(body, dict) else None
    code = str(error.get("code") or error.get("type") or "") if isinstance(error, dict) else ""
    said = _said(error, data)
    if code == "insufficient_quota" or status == 402:
        return _stop("no_credit", f"the provider's account has no credit left: {said}")
    if status == 429:
        return _refused("rate_limited", f"the endpoint limits the rate (HTTP 429): {said}")
    if status in (503, 529):
        return _refused("overloaded", f"the endpoint is overloaded (HTTP {status}): {said}")
    if status in (401, 403):
        return _stop(
            "not_authorised",
            f"the endpoint does not accept the key (HTTP {status}): {said}; check"
            " teacher.api_key_env and what the key may use",
        )
    if status == 404:
        return _stop(
            "not_found",
            f"the endpoint does not know this model or path: {said}; check teacher.model, and that"
            " teacher.url ends in /v1",
        )
    if code in ("content_filter", "content_policy_violation"):
        return _give_up("content_filter", f"the content filter refused this prompt: {said}")
    if code in ("context_length_exceeded", "string_above_max_length") or status == 413:
        return _give_up(
            "prompt_too_long",
            f"the prompt and max_tokens do not fit the model's window: {said}; shorten the prompt"
            " or lower teacher.max_tokens",
        )
    if status in (408, 409, 425):
        failure = Failure(code="try_again", message=f"HTTP {status}: {said}")
        return Attempt(failure, "nothing", "retry")
    if status < 500:
        return _give_up("bad_request", f"the endpoint refused the request (HTTP {status}): {said}")
    # A gateway may give up after the model has worked, so its errors count in full.
    failure = Failure(code="server_error", message=f"the endpoint failed (HTTP {status}): {said}")
    return Attempt(failure, "bound", "retry")


def _not_an_answer(data: bytes, content_type: str, *, cut: bool) -> Attempt:
    start = data.lstrip()[:1]
    if start == b"<" or "html" in content_type:
        code = "html"
        message = (
            f"a web page came instead of JSON: {_quote(data)}; check teacher.url, and that no proxy"
            " or login page stands before it"
        )
    elif cut and start in (b"{", b"["):
        code = "truncated_json"
        message = f"the answer is cut or damaged after {len(data)} bytes; it is asked again"
    else:
        code = "not_json"
        message = f"the answer is no JSON object: {_quote(data)}; check teacher.url"
    return Attempt(Failure(code=code, message=message), "bound", "retry")


def _read_usage(usage: Any) -> tuple[int, int] | None:
    """Tokens in and out; None where the server counted nothing, or not even the prompt."""
    usage = _mapping(usage)
    tokens_in, tokens_out, total = (
        _count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )
    if not tokens_in or tokens_out is None:
        return None
    # Some providers (xAI) leave reasoning out of the completion and count it in the total alone.
    return tokens_in, max(tokens_out, (total or 0) - tokens_in)


def _read_logprobs(value: Any) -> tuple[TokenLogprob, ...] | None:
    content = value.get("content") if isinstance(value, dict) else None
    if not isinstance(content, list):
        return None
    try:
        return tuple(
            TokenLogprob(
                token=str(entry["token"]),
                logprob=_finite(entry["logprob"]),
                top=tuple(
                    (str(other["token"]), _finite(other["logprob"]))
                    for other in entry.get("top_logprobs") or ()
                ),
            )
            for entry in content
        )
    except (KeyError, TypeError, ValueError):
        return None


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("a log-probability is not finite")
    return number


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _embedded_status(error: Any) -> int:
    # Routers answer 200 and put the upstream's status into the error.
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 500


def _said(error: Any, data: bytes) -> str:
    if isinstance(error, dict) and error.get("message"):
        return str(error["message"])[:_SHOWN]
    if isinstance(error, str):
        return error[:_SHOWN]
    return _quote(data)


def _quote(data: bytes) -> str:
    text = " ".join(data[: 4 * _SHOWN].decode("utf-8", "replace").split())
    return f"{text[:_SHOWN]!r}" if text else "an empty answer"


def _stop(code: str, message: str) -> Attempt:
    return Attempt(Failure(code=code, message=message), "nothing", "stop")


def _give_up(code: str, message: str) -> Attempt:
    return Attempt(Failure(code=code, message=message), "nothing", "give_up")


def _refused(code: str, message: str) -> Attempt:
    return Attempt(Failure(code=code, message=message), "nothing", "retry", refused=True)
