"""Structure-aware fuzzing of what the gateway reads: upstreams' streams and clients' requests.

Three kinds of case, drawn in turn from one seed:

- *damaged*: a recorded stream with values replaced by others of any type, fields and events
  dropped, repeated, exchanged or cut. It ends in a reply or a refusal, never in an exception;
  every event that goes out is JSON; in two pieces, in many and byte by byte it is served alike;
  and nothing that was hidden in a field comes out.
- *said*: a reply drawn from a grammar (reasoning in fields or between tags, text that quotes the
  tags, calls of tools), written as each kind of upstream writes it, whole and as a stream. Both are
  served as the same reply, and it is the one that was drawn, without its reasoning.
- *asked*: a client's request, damaged the same way. It is refused with a code, or what goes
  upstream has no field beyond those that are offered.

    python -m benchmarks.gateways.fuzz [--minutes 10] [--seed 1]

It measures nothing and writes no row: it prints how many cases held, and ends with 1 at the first
that does not, printed so that it can be run again.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from benchmarks.gateways.damage import SEEDS, damaged_stream, damaged_value
from benchmarks.gateways.sayings import FORMS, draw_saying, served_saying
from stillhouse.gateway.probes import PROBE_FORMATS, client_request, probe_models
from stillhouse.gateway.refusals import REFUSALS, RefusedError
from stillhouse.gateway.surfaces import ReplyRebuilder, RequestPolicy, TierPolicy, parse_request

RECORDINGS = Path(__file__).parents[2] / "tests" / "gateway" / "recordings"
NOW_US = 1_700_000_000_000_000
RICH = TierPolicy(choices=4, top_logprobs=5, logit_bias=True, prefill=True)
# All that may stand at the top of a request that goes upstream, on any surface.
OFFERED = frozenset(
    [
        "model",
        "messages",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "stop",
        "tools",
        "tool_choice",
        "response_format",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "temperature",
        "top_p",
        "frequency_penalty",
        "presence_penalty",
        "seed",
        "reasoning_effort",
        "verbosity",
        "parallel_tool_calls",
        "top_k",
        "min_p",
        "repetition_penalty",
        "cache_salt",
        "continue_final_message",
        "add_generation_prompt",
        "timings_per_token",
        "prompt",
        "suffix",
        "input",
        "encoding_format",
        "dimensions",
        "instructions",
        "max_output_tokens",
        "text",
        "reasoning",
        "include",
        "store",
        "truncation",
        "system",
        "stop_sequences",
        "thinking",
        "output_config",
    ]
)


class BrokenError(Exception):
    """A case that does not hold."""


@dataclass
class Fuzzer:
    """Draws cases; `run` gives the name of the kind that was tried."""

    seed: int

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._recorded = {path.stem: path.read_bytes() for path in RECORDINGS.glob("*.sse")}
        self._policies: dict[tuple[str, bool], RequestPolicy] = {}
        self._kinds = itertools.cycle([self.damaged, self.said, self.asked])
        self._models = {name: self._offered(name) for name in sorted(self._recorded)}

    def run(self) -> str:
        """Try the next case. Raises `BrokenError` where it does not hold."""
        kind: Callable[[], str] = next(self._kinds)
        state = self._random.getstate()
        try:
            return kind()
        except BrokenError:
            raise
        except Exception as error:
            self._random.setstate(state)
            raise BrokenError(f"{kind.__name__} raised {error!r}") from error

    def damaged(self) -> str:
        """A recorded stream, damaged."""
        name = self._random.choice(sorted(self._recorded))
        model = self._random.choice(self._models[name])
        stream = damaged_stream(self._recorded[name], self._random)
        upstream, surface = name.split("_")
        served = self._alike(upstream, surface, model, stream)
        hidden = model == "plain" and b"SECRET" not in self._serve(
            upstream, surface, model, [self._recorded[name]]
        )
        if hidden and b"SECRET" in served:
            raise BrokenError(f"{name} {model}: a hidden word came out of {stream!r}")
        return "damaged"

    def said(self) -> str:
        """A drawn reply, whole and streamed."""
        upstream, surface = self._random.choice(sorted(FORMS))
        model = self._random.choice(sorted(PROBE_FORMATS))
        saying = draw_saying(self._random, PROBE_FORMATS[model], fields=upstream != "openai")
        whole, stream = FORMS[upstream, surface](saying, self._random)
        for client in _clients(upstream, surface):
            rebuild = self._rebuilder(upstream, client, model, stream=False)
            rebuilt = rebuild.whole(whole)
            if rebuilt.code is not None:
                raise BrokenError(f"{upstream} {surface}: {rebuilt.code} for {whole!r}")
            told = served_saying(client, rebuilt.body)
            streamed = served_saying(client, self._alike(upstream, client, model, stream))
            if not told == streamed == saying.shown():
                raise BrokenError(
                    f"{upstream} {surface} to {client}, {model}: said {saying}, "
                    f"whole {told}, streamed {streamed}, upstream's {stream!r}"
                )
        return "said"

    def asked(self) -> str:
        """A request, damaged."""
        surface, body = self._random.choice(SEEDS)
        value = orjson.loads(body)
        for _ in range(self._random.randint(0, 3)):
            value = damaged_value(value, self._random)
        upstream = self._random.choice(["openai", "vllm", "sglang", "llamacpp", "anthropic"])
        given = orjson.dumps(value)
        if self._random.random() < 0.1:
            at = self._random.randrange(len(given))
            given = given[:at] + self._random.randbytes(2) + given[at + 1 :]
        policy = self._policy(upstream, rich=self._random.random() < 0.5)
        try:
            asked = parse_request(surface, given, policy, NOW_US)
        except RefusedError as refused:
            if refused.code not in REFUSALS:
                raise BrokenError(f"{surface} {given!r}: {refused!r}") from None
            return "refused"
        sent = orjson.loads(asked.upstream_body)
        if not sent.keys() <= OFFERED or sent["model"] != "upstream":
            raise BrokenError(f"{surface} to {upstream}: {given!r} became {sent!r}")
        return "asked"

    def _alike(self, upstream: str, surface: Any, model: str, stream: bytes) -> bytes:
        """Return what is served, which must not depend on how the bytes arrive."""
        whole = self._serve(upstream, surface, model, [stream])
        at = self._random.randint(0, len(stream))
        cuts = sorted(self._random.randint(0, len(stream)) for _ in range(8))
        many = [stream[a:b] for a, b in itertools.pairwise([0, *cuts, len(stream)])]
        ways = [[stream[:at], stream[at:]], many]
        if self._random.random() < 0.1:
            ways.append([stream[i : i + 1] for i in range(len(stream))])
        for way in ways:
            if self._serve(upstream, surface, model, way) != whole:
                raise BrokenError(f"{upstream} {surface} {model}: {way!r} is not served alike")
        for event in whole.split(b"\n\n"):
            for line in event.split(b"\n"):
                if line.startswith(b"data: ") and line != b"data: [DONE]":
                    orjson.loads(line[6:])
        return whole

    def _serve(self, upstream: str, surface: Any, model: str, pieces: list[bytes]) -> bytes:
        rebuild = self._rebuilder(upstream, surface, model, stream=True)
        served = b"".join(map(rebuild.feed, pieces)) + rebuild.finish()
        if not rebuild.done or rebuild.feed(b"data: x\n\n") or rebuild.finish():
            raise BrokenError(f"{upstream} {surface} {model}: no end after {pieces!r}")
        # A keep-alive goes out where it came in, which depends on how the bytes arrived.
        return served.replace(b":\n\n", b"")

    def _rebuilder(
        self, upstream: str, surface: Any, model: str, *, stream: bool
    ) -> ReplyRebuilder:
        body = client_request(surface, model, stream=stream)
        asked = parse_request(surface, body, self._policy(upstream, rich=False), NOW_US)
        return ReplyRebuilder(asked, reply_id="r1", created_s=1)

    def _policy(self, upstream: str, *, rich: bool) -> RequestPolicy:
        if (upstream, rich) not in self._policies:
            models = probe_models(upstream)
            tier = RICH if rich else TierPolicy()
            self._policies[upstream, rich] = RequestPolicy(
                account="acct", models=models, tier=tier, cache_salt="salt"
            )
        return self._policies[upstream, rich]

    def _offered(self, name: str) -> list[str]:
        upstream, surface = name.split("_")
        found = []
        for model in sorted(PROBE_FORMATS):
            try:
                self._rebuilder(upstream, surface, model, stream=True)
            except RefusedError:
                continue
            found.append(model)
        return found


def _clients(upstream: str, surface: str) -> Iterator[Any]:
    """Whose replies these are: the surface's own, and of chat those it is translated for."""
    yield surface
    if surface == "chat" and upstream == "sglang":
        yield "messages"
        yield "responses"


def fuzz(seed: int, until: Callable[[], bool]) -> Counter[str]:
    """Try cases until `until()`; return how many of each kind held. Raises `BrokenError`."""
    fuzzer = Fuzzer(seed)
    held: Counter[str] = Counter()
    while not until():
        try:
            held[fuzzer.run()] += 1
        except BrokenError as error:
            raise BrokenError(f"seed {seed}, after {held.total():,} cases: {error}") from error
    return held


def main() -> None:
    """Fuzz for a while."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=10.0, help="processor time")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    end = time.process_time() + 60 * options.minutes
    try:
        held = fuzz(options.seed, lambda: time.process_time() > end)
    except BrokenError as error:
        print(error)
        sys.exit(1)
    print(f"seed {options.seed}: " + ", ".join(f"{n:,} {kind}" for kind, n in held.items()))


if __name__ == "__main__":
    main()
