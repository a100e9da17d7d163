"""Every refusal has a code, a status, a sentence and a row in the docs, and SDKs understand it."""

from __future__ import annotations

from pathlib import Path

import anthropic
import httpx2
import openai
import pytest

from stillhouse.gateway.refusals import REFUSALS, RefusedError, error_body, error_event, shown

DOCS = Path(__file__).parents[2] / "docs" / "gateway.md"
OPENAI = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    502: openai.InternalServerError,
    503: openai.InternalServerError,
    504: openai.InternalServerError,
}
ANTHROPIC = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    408: "RequestTimeoutError",
    413: "ContentTooLargeError",
    429: "RateLimitError",
    500: "InternalServerError",
    502: "InternalServerError",
    503: "ServiceUnavailableError",
    504: "GatewayTimeoutError",
}


def answering(code: str, dialect: str) -> httpx2.Client:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(
            shown(code).status,
            content=error_body(code, None, dialect, "req_1"),
            headers={"content-type": "application/json"},
            request=request,
        )

    return httpx2.Client(transport=httpx2.MockTransport(answer))


@pytest.mark.parametrize("code", sorted(REFUSALS))
def test_the_openai_client_raises_its_own_class(code: str) -> None:
    with (
        openai.OpenAI(
            api_key="k",
            base_url="http://x/v1",
            max_retries=0,
            http_client=answering(code, "openai"),
        ) as client,
        pytest.raises(OPENAI.get(shown(code).status, openai.APIStatusError)) as raised,
    ):
        client.models.list()
    assert raised.value.code == (shown(code).openai_code or shown(code).code)
    assert raised.value.type == shown(code).openai_type


@pytest.mark.parametrize("code", sorted(REFUSALS))
def test_the_anthropic_client_raises_its_own_class(code: str) -> None:
    name = ANTHROPIC.get(shown(code).status)
    expected = anthropic.APIStatusError
    if name is not None:
        expected = getattr(anthropic, name, None) or getattr(anthropic._exceptions, name)
    with (
        anthropic.Anthropic(
            api_key="k",
            base_url="http://x",
            max_retries=0,
            http_client=answering(code, "anthropic"),
        ) as client,
        pytest.raises(expected) as raised,
    ):
        client.models.list()
    assert raised.value.body["error"]["type"] == shown(code).anthropic_type


def test_a_refusal_that_would_reveal_a_link_looks_like_the_ordinary_one() -> None:
    for dialect in ("openai", "anthropic"):
        linked = error_body("rate_limited_linked", "campaign 7", dialect, "req_1")
        assert linked == error_body("rate_limited", None, dialect, "req_1")


def test_codes_are_words_and_sentences_are_sentences() -> None:
    for code, row in REFUSALS.items():
        assert code == row.code
        assert code.replace("_", "").isalpha()
        assert code.islower()
        assert row.sentence.endswith(".")
        assert 400 <= row.status < 600
        assert row.shown_as is None or row.shown_as in REFUSALS


def test_every_code_has_a_row_in_the_docs() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for code, row in REFUSALS.items():
        assert f"| `{code}` | {row.status} |" in text, code


def test_an_error_in_a_stream_ends_it_the_way_the_dialect_does() -> None:
    assert error_event("banned", None, "anthropic", "r").startswith(b"event: error\ndata: {")
    assert error_event("banned", None, "openai", "r").startswith(b'data: {"error":')
    assert RefusedError("banned").code == "banned"
