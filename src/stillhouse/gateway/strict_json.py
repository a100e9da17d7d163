"""JSON from clients, read strictly: one meaning or a refusal.

Two parsers that keep different copies of a repeated key would let one request mean two things, one
for the checks and one for the model; so repeated keys are refused, and so are NaN, lone surrogates,
numbers that overflow, invalid UTF-8, and nesting or lists and objects beyond a bound.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

from stillhouse.gateway.refusals import RefusedError

MAX_DEPTH = 64
MAX_BYTES = 16 << 20
MAX_CONTAINERS = 100_000  # lists and objects; far above any honest conversation and its tools


def parse_object(
    body: bytes, *, max_bytes: int = MAX_BYTES, max_depth: int = MAX_DEPTH
) -> dict[str, Any]:
    """Return the JSON object that `body` is.

    Raises `RefusedError`: request_too_large (also too many lists and objects), bad_json (also NaN,
    lone surrogates, overflowing numbers, invalid UTF-8), too_deep, duplicate_key, bad_request (not
    an object).
    """
    if len(body) > max_bytes:
        raise RefusedError("request_too_large", f"at most {max_bytes} bytes")
    brackets = body.count(b"{") + body.count(b"[")
    if brackets > MAX_CONTAINERS and _count_brackets(body) > MAX_CONTAINERS:
        # Before they are made: two million of them take most of a second.
        raise RefusedError("request_too_large", f"at most {MAX_CONTAINERS} lists and objects")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # The parser's own depth bound (1,024) is far above ours.
        deep = str(error).startswith("depth limit")
        raise RefusedError("too_deep" if deep else "bad_json") from None
    if type(value) is not dict:
        raise RefusedError("bad_request", "the body is not a JSON object")
    # A body that has few brackets cannot be deep; text may hold many, so only then walk the tree.
    if brackets > max_depth and _depth(value, max_depth) > max_depth:
        raise RefusedError("too_deep", f"at most {max_depth} levels")
    # What is written back has each key once. Equal bytes prove that the body does too; the clients'
    # libraries write compact JSON, so this is the usual case. Otherwise count the pairs of both.
    compact = orjson.dumps(value)
    if compact != body and count_pairs(compact) != count_pairs(body):
        raise RefusedError("duplicate_key")
    return value


def parse_lenient(data: bytes) -> dict[str, Any] | None:
    """Return the JSON object an upstream sent, or None. Forgives what Python's encoder may write.

    NaN and infinities become None, lone surrogates question marks. Never raises.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            loose = json.loads(data.decode("utf-8", "replace"), parse_constant=lambda _: None)
            text = json.dumps(loose, ensure_ascii=False, default=str)
            value = orjson.loads(text.encode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return None
    return value if type(value) is dict else None


def count_pairs(document: bytes) -> int:
    """Return how many key-value pairs a *valid* document writes: its colons outside strings."""
    return _outside_strings(document).count(b":")


def _count_brackets(document: bytes) -> int:
    outside = _outside_strings(document)
    return outside.count(b"{") + outside.count(b"[")


def _outside_strings(document: bytes) -> bytes:
    # All at C speed: without escapes every second piece between quotes is outside of strings.
    if b"\\" in document:
        document = document.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(document.split(b'"')[::2])


def _depth(value: Any, stop_above: int) -> int:
    depth = 0
    level = [value]
    while level and depth <= stop_above:
        depth += 1
        below: list[Any] = []
        for container in level:
            items = container.values() if type(container) is dict else container
            below += [item for item in items if type(item) is dict or type(item) is list]
        level = below
    return depth
