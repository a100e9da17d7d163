"""A client's request, read strictly and rebuilt for the upstream: never the client's own bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from stillhouse.gateway.refusals import RefusedError
from stillhouse.gateway.strict_json import parse_object
from stillhouse.gateway.surfaces import chat, messages, responses, texts
from stillhouse.gateway.surfaces.parts import Prompt
from stillhouse.gateway.surfaces.policy import Asked

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillhouse.gateway.surfaces.policy import RequestPolicy, Surface
    from stillhouse.gateway.surfaces.reading import Reading

_READERS: dict[Surface, Callable[[dict[str, Any], Prompt], Reading]] = {
    "chat": chat.read,
    "completions": texts.read_completion,
    "embeddings": texts.read_embedding,
    "responses": responses.read,
    "messages": messages.read,
}


def parse_request(surface: Surface, body: bytes, policy: RequestPolicy, now_us: int) -> Asked:
    """Return what a request asks for, and the request to send upstream.

    Raises `RefusedError`: bad_request, bad_json, duplicate_key, too_deep, request_too_large,
    unknown_model, unsupported_field, unsupported_value, stateful_refused, image_refused,
    too_many_choices, foreign_reasoning.
    """
    given = parse_object(body, max_bytes=policy.max_bytes, max_depth=policy.max_depth)
    name = given.get("model")
    served = policy.models.get(name) if type(name) is str else None
    if served is None:
        raise RefusedError("unknown_model")
    if surface not in served.surfaces:
        raise RefusedError("unsupported_value", "model: not offered on this endpoint")
    # A reference may be spelt with escapes; if neither sign occurs there is none to search for.
    prompt = Prompt(policy, served, now_us, refs=b"$" in body or b"\\u" in body)
    reading = _READERS[surface](given, prompt)
    if policy.cache_salt is not None and served.dialect.cache_salt:
        reading.upstream["cache_salt"] = policy.cache_salt
    if not reading.stream and surface != "embeddings":
        reading.upstream["stream"] = False  # said aloud: `transformers serve` streams by default
    upstream_body = orjson.dumps(reading.upstream)
    taken, sent = reading.taken, reading.sent
    return Asked(
        surface=surface,
        model=served.name,
        served=served,
        policy=policy,
        stream=reading.stream,
        include_usage=reading.include_usage,
        max_tokens=reading.max_tokens,
        choices=reading.choices,
        top_logprobs=reading.top_logprobs,
        texts=tuple(prompt.texts),
        roles=tuple(prompt.roles),
        others=tuple(prompt.others),
        by_bytes=prompt.by_bytes,
        token_ids=prompt.token_ids,
        turns=reading.turns,
        images=tuple(prompt.images),
        tools=reading.tools,
        schema=reading.schema,
        end_user=reading.end_user or taken.get("safety_identifier") or taken.get("user"),
        temperature=sent.get("temperature"),
        top_p=sent.get("top_p"),
        seed=sent.get("seed"),
        stop=reading.stop,
        blobs=reading.blobs,
        session=prompt.session,
        echo=reading.echo,
        upstream_surface=reading.upstream_surface,
        upstream_body=upstream_body,
        input_bytes=len(upstream_body) - prompt.image_chars,
    )
