"""`stillhouse gateway --demo`: a teacher on loopback that repeats what it is told, one account.

The teacher speaks the OpenAI chat protocol, whole and streamed, and counts words as tokens. It is
there so that the gateway can be tried with nothing else installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "echo"


async def teacher(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """ASGI application of the demonstration's teacher."""
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope.get("path") != "/v1/chat/completions":
        await _send(send, 404, b"application/json", b"{}")
        return
    asked = orjson.loads(body)
    if not asked.get("stream"):
        await _send(send, 200, b"application/json", _whole(asked))
        return
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for event in _events(asked):
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def config_value(teacher_url: str, listen: str) -> dict[str, Any]:
    """Return the demonstration's configuration, as a file would hold it."""
    return {
        "listen": listen,
        "models": [
            {
                "name": MODEL,
                "dialect": "llamacpp",  # like it, the teacher speaks chat alone
                "surfaces": ["chat", "responses", "messages"],
                "upstreams": [{"url": teacher_url}],
                "max_output_tokens": 256,
                "default_output_tokens": 256,
                "price_in_nano": 100,
                "price_out_nano": 300,
            }
        ],
    }


def curl_line(listen: str, key: str) -> str:
    """Return a command that asks the demonstration's teacher something."""
    message = {"role": "user", "content": "Hello"}
    body = orjson.dumps({"model": MODEL, "messages": [message]}).decode()
    return (
        f"curl -sS http://{listen}/v1/chat/completions -H 'authorization: Bearer {key}' "
        f"-H 'content-type: application/json' -d '{body}'"
    )


def _words(asked: dict[str, Any]) -> tuple[int, list[str]]:
    texts = [_text(message.get("content")) for message in asked.get("messages", [])]
    reply = f"You said: {texts[-1] if texts else ''}".split(" ")
    bound = asked.get("max_completion_tokens") or asked.get("max_tokens") or len(reply)
    return sum(len(text.split()) for text in texts), reply[:bound]


def _text(content: Any) -> str:
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _usage(tokens_in: int, tokens_out: int) -> dict[str, int]:
    return {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
    }


def _whole(asked: dict[str, Any]) -> bytes:
    tokens_in, words = _words(asked)
    message = {"role": "assistant", "content": " ".join(words)}
    return orjson.dumps(
        {
            "id": "echo",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": _usage(tokens_in, len(words)),
        }
    )


def _events(asked: dict[str, Any]) -> Iterator[bytes]:
    tokens_in, words = _words(asked)
    deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant"}, None)]
    deltas += [({"content": word if i == 0 else f" {word}"}, None) for i, word in enumerate(words)]
    deltas.append(({}, "stop"))
    head = {"id": "echo", "object": "chat.completion.chunk", "created": 0, "model": MODEL}
    for delta, finish in deltas:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        yield b"data: " + orjson.dumps({**head, "choices": [choice]}) + b"\n\n"
    usage = {**head, "choices": [], "usage": _usage(tokens_in, len(words))}
    yield b"data: " + orjson.dumps(usage) + b"\n\n"


async def _send(send: Any, status: int, content_type: bytes, body: bytes) -> None:
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
