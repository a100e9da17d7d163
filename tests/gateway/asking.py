"""Models, tiers and short ways to ask, for the tests of requests."""

from __future__ import annotations

import base64
import json

import pytest

from stillhouse.exchanges import KeyedDigests
from stillhouse.gateway.refusals import RefusedError
from stillhouse.gateway.surfaces import (
    DIALECTS,
    ReasoningFormat,
    ReasoningSeal,
    RequestPolicy,
    ServedModel,
    TierPolicy,
    parse_request,
)

NOW_US = 1_700_000_000_000_000
DIGESTS = KeyedDigests(b"a test's deployment secret......")
SEAL = ReasoningSeal(DIGESTS)
THINK = ReasoningFormat((("<think>", "</think>"),))
EVERYWHERE = frozenset({"chat", "completions", "responses", "messages", "embeddings"})
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 30).decode()
USER = {"role": "user", "content": "hi"}
FUNCTION = {"name": "add", "parameters": {"type": "object", "properties": {"a": {}}}}
SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"$ref": "#/b"}}}


def served(name, dialect, **more):
    options = {"max_output_tokens": 1000, "images": True, "surfaces": EVERYWHERE} | more
    return ServedModel(name=name, upstream_name="up", dialect=DIALECTS[dialect], **options)


MODELS = {name: served(name, name) for name in DIALECTS} | {
    "thinks": served("thinks", "vllm", reasoning=THINK),
    "blind": served("blind", "vllm", images=False),
    "chat-only": served("chat-only", "vllm", surfaces=frozenset({"chat"})),
    "small": served("small", "vllm", default_output_tokens=50),
}
RICH = TierPolicy(choices=4, top_logprobs=5, logit_bias=True, prefill=True)
HOSTS = TierPolicy(image_hosts=frozenset({"images.example"}), max_images=2)


def ask(surface, tier=TierPolicy(), session=None, now_us=NOW_US, account="a", **body):  # noqa: B008
    policy = RequestPolicy(
        account=account, models=MODELS, tier=tier, seal=SEAL, cache_salt="salt", session=session
    )
    return parse_request(surface, json.dumps(body).encode(), policy, now_us)


def chat(model="vllm", tier=TierPolicy(), **body):  # noqa: B008
    asked = ask("chat", tier, **{"model": model, "messages": [USER]} | body)
    return asked, json.loads(asked.upstream_body)


def refusal(surface, tier=TierPolicy(), **body):  # noqa: B008
    with pytest.raises(RefusedError) as refused:
        ask(surface, tier, **body)
    return refused.value.code
