"""Every way in which the gateway says no: one table, for clients, logs and the docs.

`code` is stable and is what the log says. A client sees it in `error.code` unless the row has
`shown_as`: a refusal that would reveal a link between accounts, or a block, looks like another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable

Dialect = Literal["openai", "anthropic"]

# HTTP status -> the error type that the two providers' own services send with it.
_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """One way to say no. `sentence` is for the client: it names no person, key or secret."""

    code: str
    status: int
    sentence: str
    shown_as: str | None = None
    # The SDKs retry 408, 409, 429 and 5xx on their own: False where asking again is pointless.
    retry: bool = True
    openai_code: str | None = None  # where OpenAI has a code of its own for it

    @property
    def openai_type(self) -> str:
        """`error.type` on the OpenAI surfaces."""
        if self.openai_code == "insufficient_quota":
            return "insufficient_quota"
        if self.status >= 500:
            return "server_error"
        return _OPENAI_TYPES.get(self.status, "invalid_request_error")

    @property
    def anthropic_type(self) -> str:
        """`error.type` on the Anthropic surface."""
        return _ANTHROPIC_TYPES.get(self.status, "invalid_request_error")

    @property
    def anchor(self) -> str:
        """Its row in docs/gateway.md."""
        return f"refusal-{self.code.replace('_', '-')}"


class RefusedError(Exception):
    """A request is refused. `detail` is shown to the client after the sentence.

    `detail` names a field or a bound of the client's own request, and nothing else.
    """

    def __init__(self, code: str, detail: str | None = None, *, retry_after_us: int | None = None):
        self.refusal = REFUSALS[code]
        self.detail = detail
        self.retry_after_us = retry_after_us
        super().__init__(f"{code}: {detail}" if detail else code)

    @property
    def code(self) -> str:
        """The true code, as logged."""
        return self.refusal.code


def shown(code: str) -> Refusal:
    """Return the row that a client is shown for `code`."""
    row = REFUSALS[code]
    return REFUSALS[row.shown_as] if row.shown_as else row


def error_object(
    code: str, detail: str | None, dialect: Dialect, request_id: str
) -> dict[str, object]:
    """Return the JSON value of an error, as the dialect's own service forms it."""
    row = shown(code)
    # A detail would tell a row that is shown as another one from the real thing.
    message = f"{row.sentence} ({detail})" if detail and row.code == code else row.sentence
    if dialect == "anthropic":
        return {
            "type": "error",
            "error": {"type": row.anthropic_type, "message": message, "code": row.code},
            "request_id": request_id,
        }
    return {
        "error": {
            "message": message,
            "type": row.openai_type,
            "param": None,
            "code": row.openai_code or row.code,
        }
    }


def error_body(code: str, detail: str | None, dialect: Dialect, request_id: str) -> bytes:
    """Return the body of an error reply."""
    return orjson.dumps(error_object(code, detail, dialect, request_id))


def error_event(code: str, detail: str | None, dialect: Dialect, request_id: str) -> bytes:
    """Return the server-sent event that ends a stream which cannot go on."""
    data = error_body(code, detail, dialect, request_id)
    if dialect == "anthropic":
        return b"event: error\ndata: %b\n\n" % data
    return b"data: %b\n\n" % data


def _table(rows: Iterable[Refusal]) -> dict[str, Refusal]:
    return {row.code: row for row in rows}


REFUSALS: dict[str, Refusal] = _table(
    [
        # the request itself
        Refusal("bad_request", 400, "The request body is not what this endpoint accepts."),
        Refusal("bad_json", 400, "The request body is not valid JSON."),
        Refusal("duplicate_key", 400, "The request body names a key twice."),
        Refusal("too_deep", 400, "The request body is nested too deeply."),
        Refusal("unsupported_field", 400, "A field of the request is not offered here."),
        Refusal("unsupported_value", 400, "A value in the request is not offered here."),
        Refusal("stateful_refused", 400, "Stored and background responses are not offered here."),
        Refusal("image_refused", 400, "Images are accepted only as data: URLs of a known type."),
        Refusal(
            "too_many_tokens",
            400,
            "The prompt is longer than this model or account may send.",
            openai_code="context_length_exceeded",
        ),
        Refusal("too_many_choices", 400, "More choices are asked for than this account may have."),
        Refusal(
            "foreign_reasoning", 400, "A reasoning block was not issued for this conversation."
        ),
        Refusal("content_type", 415, "Send the request as application/json, without encoding."),
        Refusal("request_too_large", 413, "The request is larger than this gateway accepts."),
        Refusal("slow_request", 408, "The request body came too slowly.", retry=False),
        Refusal("unknown_path", 404, "There is no such endpoint here."),
        Refusal("method_not_allowed", 405, "This endpoint takes another method."),
        Refusal(
            "unknown_model",
            404,
            "There is no such model here, or this key may not use it.",
            openai_code="model_not_found",
        ),
        # who asks
        Refusal("no_key", 401, "No API key was given.", openai_code="invalid_api_key"),
        Refusal("invalid_key", 401, "The API key is not valid.", openai_code="invalid_api_key"),
        Refusal("expired_key", 401, "The API key has expired.", openai_code="invalid_api_key"),
        Refusal("revoked_key", 401, "The API key was revoked.", openai_code="invalid_api_key"),
        Refusal(
            "auth_throttled", 429, "Too many failed attempts to authenticate. Try again later."
        ),
        Refusal("scope_missing", 403, "This key may not be used for inference."),
        Refusal("terms_required", 403, "The organisation has not accepted the terms of use."),
        Refusal("terms_lapsed", 403, "The terms of use changed and were not accepted in time."),
        Refusal("verification_required", 403, "The account must be verified for this."),
        Refusal("account_closed", 403, "This account is closed."),
        Refusal("suspended", 403, "Access is suspended. The operator can say why."),
        Refusal("banned", 403, "Access was withdrawn. The operator can say why, and hear appeals."),
        Refusal("address_blocked", 403, "Access from this network is not allowed."),
        Refusal("country_refused", 403, "Access from this network is not allowed."),
        Refusal("network_refused", 403, "Access from this network is not allowed."),
        # how much
        Refusal("rate_limited", 429, "The rate limit is reached. Try again later."),
        Refusal("rate_limited_linked", 429, "A shared limit is reached.", shown_as="rate_limited"),
        Refusal("concurrency_limited", 429, "Too many requests at once."),
        Refusal(
            "budget_exhausted",
            429,
            "The budget of this key, account or organisation is used up.",
            retry=False,
            openai_code="insufficient_quota",
        ),
        Refusal(
            "exceeds_limit",
            400,
            "This request alone asks for more than a limit of this account ever allows.",
        ),
        Refusal("overloaded", 503, "The service is overloaded. Try again later."),
        # the gateway and what is behind it
        Refusal("internal_error", 500, "The gateway failed. The request id helps to find out why."),
        Refusal("unavailable", 503, "The service is not available now. Try again later."),
        Refusal("stale_feed", 503, "The bans feed is stale.", shown_as="unavailable"),
        Refusal("journal_failing", 503, "The journal cannot be written.", shown_as="unavailable"),
        Refusal("limits_unavailable", 503, "The limits' store fails.", shown_as="unavailable"),
        Refusal("draining", 503, "The gateway is stopping.", shown_as="unavailable"),
        Refusal("upstream_refused", 502, "The model's server refused the request.", retry=False),
        Refusal("upstream_failed", 502, "The model's server failed."),
        Refusal("upstream_timeout", 504, "The model's server took too long."),
        Refusal("upstream_malformed", 502, "The model's server sent a reply that cannot be read."),
    ]
)
