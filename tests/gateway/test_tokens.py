"""What a prompt is bounded by before anybody is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.gateway.asking import PNG, chat
from tests.gateway.running import configuration

from stillhouse.exchanges import InputError
from stillhouse.gateway.tokens import TokenBound

URL = f"data:image/png;base64,{PNG}"


def bound(table: dict[str, int] | None, *details: str | None) -> int:
    """The bound of a prompt with an image of each detail, above that of its text alone."""
    model = {"images": True, "tokens_per_image": 1000, "tokens_per_image_detail": table}
    config = configuration(Path(), "http://127.0.0.1:1/v1", model=model)
    tokens = TokenBound(config.models[0])

    def of(details: tuple[str | None, ...]) -> tuple[int, int]:
        parts = [
            {"type": "image_url", "image_url": {"url": URL} | ({"detail": d} if d else {})}
            for d in details
        ]
        text = {"type": "text", "text": "what is this?"}
        asked, _ = chat(messages=[{"role": "user", "content": [text, *parts]}])
        return tokens.input_tokens(asked), asked.input_bytes

    (with_images, their_bytes), (without, bytes_of_text) = of(details), of(())
    return with_images - without - (their_bytes - bytes_of_text)


@pytest.mark.parametrize(
    ("detail", "tokens"), [("low", 85), ("high", 1000), ("auto", 1000), (None, 1000)]
)
def test_an_image_is_bounded_by_the_declared_table(detail: str | None, tokens: int) -> None:
    assert bound({"low": 85}, detail) == tokens


def test_without_a_table_every_image_counts_the_same() -> None:
    assert bound(None, "low") == bound(None, "high") == 1000


def test_a_detail_that_nobody_can_ask_for_is_refused() -> None:
    with pytest.raises(InputError, match="tokens_per_image_detail"):
        bound({"medium": 85}, "low")
