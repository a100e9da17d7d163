"""A labelling journal as exchanges: one for each request that was sent, whatever came of it.

The journal is the crash-safe form while labelling goes on; what this module reads out of it depends
on nothing else, so that the Parquet part made of it can be written again at any time and is the
same. Prompts are not in the journal: their keyed digests and skeleton signatures are made from the
requests that the run asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stillhouse.exchanges import Exchange, SkeletonHash, content_digest, new_id
from stillhouse.exchanges.skeletons import skeleton_of_messages
from stillhouse.teachers.records import read_reply

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from stillhouse.exchanges import KeyedDigests
    from stillhouse.teachers.chat import ChatRequest, Reply

NO_OUTCOME = "no_outcome"


def exchanges_of(
    records: Iterable[Mapping[str, Any]],
    requests: Mapping[str, ChatRequest],
    digests: KeyedDigests,
    *,
    account: str,
    model: str,
) -> Iterator[Exchange]:
    """Yield the exchanges of a labelling journal, in the order in which requests were sent.

    `requests` are by `request_key`; an exchange whose request is not among them (a canary, or one
    of an earlier recipe) has its digest and no skeleton. `model` is the name that was asked for,
    used where the reply does not say. An intent without outcome (in flight when the process was
    killed) is an exchange of code `no_outcome`, priced at its whole reservation. Requests that were
    sent before journals held times are left out.
    """
    describe = _Describer(requests, digests, account, model)
    sent: dict[int, Mapping[str, Any]] = {}
    outcomes: dict[int, Mapping[str, Any]] = {}
    chunks: list[Mapping[str, Any]] = []
    for record in records:
        if "intent" in record:
            sent[record["intent"]] = record
        elif "reply" in record:
            outcomes[record["reply"]] = record
        elif "failure" in record:
            outcomes[record["failure"]] = record
        elif "chunk" in record:
            chunks.append(record)
    for number, intent in sent.items():
        if "at" in intent:
            yield describe.request(intent, outcomes.get(number))
    for chunk in chunks:
        if "at" in chunk:
            yield from describe.chunk(chunk)


class _Describer:
    def __init__(
        self,
        requests: Mapping[str, ChatRequest],
        digests: KeyedDigests,
        account: str,
        model: str,
    ):
        self._requests = requests
        self._digests = digests
        self._signatures = SkeletonHash(digests)
        self._account = account
        self._model = model

    def request(self, intent: Mapping[str, Any], outcome: Mapping[str, Any] | None) -> Exchange:
        """One request to an endpoint."""
        found = outcome or {"code": NO_OUTCOME, "nano": intent.get("nano")}
        reply = read_reply(found["value"]) if "value" in found else None
        return self._exchange(
            intent["key"],
            intent["at"],
            intent["intent"],
            reply,
            price_nano=0 if found.get("free") else found.get("nano"),
            refusal=found.get("code"),
        )

    def chunk(self, chunk: Mapping[str, Any]) -> Iterator[Exchange]:
        """Several requests that a model on this machine answered together; it has no price."""
        keys = chunk.get("keys", [chunk["chunk"]] * len(chunk["replies"]))
        for place, (key, value) in enumerate(zip(keys, chunk["replies"], strict=True)):
            yield self._exchange(
                key, chunk["at"], place, read_reply(value), price_nano=None, refusal=None
            )

    def _exchange(
        self,
        key: str,
        at_us: int,
        number: int,
        reply: Reply | None,
        *,
        price_nano: int | None,
        refusal: str | None,
    ) -> Exchange:
        own = bytes.fromhex(content_digest([key, at_us, number]))
        return Exchange(
            id=new_id(at_us, lambda count: own[:count]),
            time_us=at_us,
            account=self._account,
            model=reply.model if reply is not None and reply.model else self._model,
            teacher_fingerprint=None if reply is None else reply.system_fingerprint,
            request_digest=self._digests.digest("request", key.encode()),
            tokens_in=None if reply is None else reply.tokens_in,
            tokens_out=None if reply is None else reply.tokens_out,
            tokens_reasoning=None if reply is None else reply.tokens_reasoning,
            price_nano=price_nano,
            status=None if reply is None else 200,
            refusal=refusal,
            finish_reason=None if reply is None else reply.finish_reason,
            latency_us=None if reply is None else reply.latency_us,
            streamed=False,
            choices=1,
            **self._asked(key),
        )

    def _asked(self, key: str) -> dict[str, Any]:
        """What is known of the request itself."""
        request = self._requests.get(key)
        if request is None:
            return {}
        sampling = request.sampling
        schema = sampling.response_schema
        text = skeleton_of_messages(message.content for message in request.messages)
        return {
            "schema_digest": None
            if schema is None
            else self._digests.digest("schema", schema.encode()),
            "temperature": float(sampling.temperature),
            "top_p": float(sampling.top_p),
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed,
            "top_logprobs": sampling.top_logprobs or None,
            "skeleton": self._signatures.signature(text),
            "turns": len(request.messages),
            "tools_offered": 0,
        }
