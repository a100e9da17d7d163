"""What a prompt is bounded by before anybody is asked."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.asking import FUNCTION, NOW_US, PNG, RICH, SEAL, USER, ask, chat
from tests.gateway.running import configuration

from stillhouse.exchanges import InputError
from stillhouse.gateway.surfaces import TierPolicy
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


def assistant(**said: Any) -> dict[str, Any]:
    return {"messages": [USER, {"role": "assistant", **said}, USER]}


def call(name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    calls = assistant(tool_calls=[{"id": "a", "type": "function", "function": function}])
    calls["messages"].insert(2, {"role": "tool", "tool_call_id": "a", "content": "ok"})
    return calls


def response_call(arguments: str) -> dict[str, Any]:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments}
    return {"input": [USER, call, {"type": "function_call_output", "call_id": "c", "output": "ok"}]}


def tool_use(value: str) -> dict[str, Any]:
    use = {"type": "tool_use", "id": "t", "name": "f", "input": {"x": value}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": "ok"}
    messages = [
        USER,
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    return {"max_tokens": 5, "messages": messages}


def thought(value: str) -> dict[str, Any]:
    session = SEAL.session(b"first\0" + b'"hi"')
    blob = SEAL.seal({"t": value}, account="a", session=session, model="vllm", now_us=NOW_US)
    block = {"type": "thinking", "thinking": "", "signature": blob}
    said = [block, {"type": "text", "text": "yes"}]
    return {"max_tokens": 5, "messages": [USER, {"role": "assistant", "content": said}, USER]}


def anthropic_tool(value: str) -> dict[str, Any]:
    tool = {"name": "f", "description": value, "input_schema": {"type": "object"}}
    return {"max_tokens": 5, "messages": [USER], "tools": [tool]}


def schema(value: str) -> dict[str, Any]:
    shape = {"name": "s", "schema": {"type": "object", "description": value}}
    return {"messages": [USER], "response_format": {"type": "json_schema", "json_schema": shape}}


def image(value: str) -> str:
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n" + value.encode()).decode()
    return f"data:image/png;base64,{data}"


def tool(**more: Any) -> dict[str, Any]:
    return {"messages": [USER], "tools": [{"type": "function", "function": FUNCTION | more}]}


SAID: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "refusal": ("chat", lambda x: assistant(refusal=x)),
    "arguments": ("chat", lambda x: call("f", x)),
    "a tool": ("chat", lambda x: tool(description=x)),
    "arguments of responses": ("responses", response_call),
    "tool use": ("messages", tool_use),
    "a thought": ("messages", thought),
    "a tool of messages": ("messages", anthropic_tool),
}
BESIDE: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "a name": ("chat", lambda x: {"messages": [USER | {"name": f"n{len(x)}"}]}),
    "a function's name": ("chat", lambda x: call(f"f{len(x)}", "{}")),
    "parameters": ("chat", lambda x: tool(parameters={"type": "object", "description": x})),
    "a schema": ("chat", schema),
    "token ids": ("embeddings", lambda x: {"input": [7] * len(x)}),
    "an image": (
        "chat",
        lambda x: {"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": image(x)}}
        ]}]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SAID | BESIDE)
def test_prompts_that_differ_in_any_part_are_distinct(case: str) -> None:
    surface, made = (SAID | BESIDE)[case]
    tier = TierPolicy(reasoning_blobs=True)
    one, same, two = (ask(surface, tier, model="vllm", **made(x)) for x in ("one", "one", "other"))
    assert one.whole_prompt == same.whole_prompt != two.whole_prompt
    if case in SAID:  # and sketched
        assert one.texts != two.texts


@pytest.mark.parametrize("case", [*SAID, "token ids", "parameters", "a schema", "names", "calls"])
def test_with_a_tokenizer_every_part_of_a_prompt_is_bounded(case: str, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    # Without merges a token is a byte, as of the worst text.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    worst = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    worst.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    worst.save(str(tmp_path / "tokenizer.json"))
    model = {"tokenizer": "tokenizer.json"}
    tokens = TokenBound(configuration(tmp_path, "http://127.0.0.1:1/v1", model=model).models[0])
    if case == "names":
        asked = ask("chat", RICH, model="vllm", messages=[USER | {"name": "n" * 100}] * 50)
    elif case == "calls":
        calls = call("f" * 128, "")
        calls["messages"][1]["tool_calls"] *= 40
        asked = ask("chat", RICH, model="vllm", **calls)
    else:
        surface, made = (SAID | BESIDE)[case]
        asked = ask(surface, TierPolicy(reasoning_blobs=True), model="vllm", **made("x" * 5000))
    assert tokens.input_tokens(asked) >= 5000
    assert tokens.input_tokens(chat()[0]) < 100
