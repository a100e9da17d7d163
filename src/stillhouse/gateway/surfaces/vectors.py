"""Replies to /v1/embeddings: numbers in order, and what they cost."""

from __future__ import annotations

import datetime
import math
import re
from typing import TYPE_CHECKING, Any

import orjson

from stillhouse.gateway.surfaces.produced import Usage, openai_usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stillhouse.gateway.surfaces.policy import Asked, ServedModel

_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


def rebuild_embeddings(reply: dict[str, Any], asked: Asked) -> tuple[bytes | None, Usage | None]:
    """Return (body, usage); body None where the reply is not a list of vectors."""
    usage = openai_usage(reply.get("usage"))
    rows = reply.get("data")
    if type(rows) is not list or not rows:
        return None, usage
    data = []
    for position, row in enumerate(rows):
        if type(row) is not dict:
            return None, usage
        vector = row.get("embedding")
        if type(vector) is str:
            if not _BASE64.fullmatch(vector):
                return None, usage
        elif type(vector) is not list or not all(
            type(one) in (float, int) and math.isfinite(one) for one in vector
        ):
            return None, usage
        index = row.get("index")
        index = index if type(index) is int and 0 <= index < len(rows) else position
        data.append({"object": "embedding", "index": index, "embedding": vector})
    tokens = 0 if usage is None else usage.tokens_in
    body = {
        "object": "list",
        "data": data,
        "model": asked.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return orjson.dumps(body), usage


def models_body(models: Iterable[ServedModel], dialect: str, created_s: int) -> bytes:
    """Return the body of /v1/models: names as clients may spell them, and nothing else."""
    data = [_model(model, dialect, created_s) for model in models]
    if dialect == "anthropic":
        ends = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        return orjson.dumps(
            {"data": data, "has_more": False, "first_id": ends[0], "last_id": ends[1]}
        )
    return orjson.dumps({"object": "list", "data": data})


def model_body(model: ServedModel, dialect: str, created_s: int) -> bytes:
    """Return the body of /v1/models/{name}."""
    return orjson.dumps(_model(model, dialect, created_s))


def _model(model: ServedModel, dialect: str, created_s: int) -> dict[str, Any]:
    if dialect == "anthropic":
        created = datetime.datetime.fromtimestamp(created_s, datetime.UTC)
        return {
            "type": "model",
            "id": model.name,
            "display_name": model.name,
            "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    return {"id": model.name, "object": "model", "created": created_s, "owned_by": "operator"}
