"""How many tokens a request can cost at most, and what a reply whose usage is unknown did cost."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from stillhouse.exchanges import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from stillhouse.gateway.config import Model
    from stillhouse.gateway.surfaces import Asked, ReplyRebuilder


_SLOW_BYTES = 16_384  # a tokenizer takes about a second a megabyte


class Used(NamedTuple):
    """Tokens to settle by; None: not known, so the reservation is paid whole."""

    input_tokens: int | None
    output_tokens: int | None


class TokenBound:
    """Bounds a request's tokens from above.

    With the model's own tokenizer texts are counted; without, every token has at least one byte of
    UTF-8. The chat template's part, images, tools and schemas are bounded by declared figures and
    by bytes. Raises `InputError` where a tokenizer is named that cannot be read.
    """

    def __init__(self, model: Model):
        self._model = model
        self._tokenizer = None if model.tokenizer is None else _load(model.tokenizer)

    @property
    def exact(self) -> bool:
        """Whether texts are counted rather than bounded by bytes."""
        return self._tokenizer is not None

    def is_slow(self, asked: Asked) -> bool:
        """Whether counting its texts takes so long that it belongs into a thread."""
        return self._tokenizer is not None and asked.input_bytes > _SLOW_BYTES

    def input_tokens(self, asked: Asked) -> int:
        """Return at least as many tokens as the prompt has."""
        model = self._model
        extra = model.template_tokens + model.template_tokens_per_message * asked.turns
        if asked.images:
            table = model.tokens_per_image_detail or {}
            extra += sum(
                table.get(image.detail, model.tokens_per_image)  # type: ignore[call-overload]
                for image in asked.images
            )
        if self._tokenizer is None:
            return asked.input_bytes + extra
        if asked.by_bytes:
            # How a template writes tools and calls is its own affair: their bytes bound it.
            extra += max(0, asked.input_bytes - sum(map(_utf8, asked.texts)))
        return self.count(asked.texts) + asked.token_ids + extra

    def count(self, texts: Iterable[str]) -> int:
        """Return the tokens of `texts`; their bytes where there is no tokenizer."""
        if self._tokenizer is None:
            return sum(map(_utf8, texts))
        encode = self._tokenizer.encode
        return sum(len(encode(text, add_special_tokens=False).ids) for text in texts)

    def used(self, rebuilder: ReplyRebuilder, *, whole: bool) -> Used:
        """Return what a reply did cost.

        The upstream's own figures where it gave them. What a stream brought after the last figure
        is counted by us, as all is where there is none: by the tokenizer, else by bytes, and at
        most as much as was reserved. An unknown prompt is paid at its bound.
        """
        usage, produced, most = rebuilder.usage, rebuilder.produced, rebuilder.most_tokens
        tokens_in = None if usage is None else usage.tokens_in
        told = None if usage is None else usage.tokens_out
        if told is None:
            return Used(tokens_in, min(most, max(self._counted(rebuilder), produced.chunks)))
        since = produced.bytes - rebuilder.billed_bytes
        counted = 0
        if since:
            counted = min(told + since, self._counted(rebuilder))
        if since or not whole:
            counted = max(counted, produced.chunks)
        return Used(tokens_in, max(told, min(most, counted)))

    def _counted(self, rebuilder: ReplyRebuilder) -> int:
        produced = rebuilder.produced
        if self._tokenizer is None:
            return produced.bytes
        hidden = produced.reasoning_bytes + produced.tool_bytes
        return self.count((rebuilder.text,)) + hidden


def _utf8(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


@lru_cache(maxsize=8)
def _load(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        raise InputError(
            "a tokenizer is named but the package `tokenizers` is not installed",
            place=str(path),
            repair="pip install tokenizers, or leave the setting out: bytes then bound the tokens",
        ) from None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 (the library raises nothing narrower)
        raise InputError(
            f"this tokenizer cannot be read: {error}",
            place=str(path),
            repair="name the model's tokenizer.json",
        ) from None
