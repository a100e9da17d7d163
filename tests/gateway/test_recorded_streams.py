"""Recorded streams of every kind of upstream, split at random (fuzz.py damages them too).

The recordings are written by hand after the servers' formats; each hides the word SECRET where a
client must never see it.
"""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from stillhouse.gateway.probes import PROBE_FORMATS, client_request, probe_models
from stillhouse.gateway.refusals import RefusedError
from stillhouse.gateway.surfaces import ReplyRebuilder, RequestPolicy, TierPolicy, parse_request

FOLDER = Path(__file__).parent / "recordings"
RECORDINGS = sorted(path.stem for path in FOLDER.glob("*.sse"))


@functools.cache
def recorded(name: str) -> bytes:
    return (FOLDER / f"{name}.sse").read_bytes()


def rebuilder(name: str, model: str) -> ReplyRebuilder:
    upstream, surface = name.split("_")
    policy = RequestPolicy(account="acct", models=probe_models(upstream), tier=TierPolicy())
    body = client_request(surface, model, stream=True)  # type: ignore[arg-type]
    asked = parse_request(surface, body, policy, 1_700_000_000_000_000)  # type: ignore[arg-type]
    return ReplyRebuilder(asked, reply_id="r1", created_s=1)


@functools.cache
def models(name: str) -> list[str]:
    """The models that are offered on the recording's surface."""
    found = []
    for model in sorted(PROBE_FORMATS):
        with contextlib.suppress(RefusedError):
            rebuilder(name, model)
            found.append(model)
    return found


def served(name: str, model: str, pieces: list[bytes]) -> bytes:
    rebuild = rebuilder(name, model)
    return b"".join(map(rebuild.feed, pieces)) + rebuild.finish()


def without_comments(stream: bytes) -> bytes:
    """A keep-alive goes out where it came in, which depends on how the bytes arrived."""
    return stream.replace(b":\n\n", b"")


def test_every_kind_of_upstream_has_a_recording_that_hides_something() -> None:
    assert {name.split("_")[0] for name in RECORDINGS} >= {"vllm", "sglang", "llamacpp", "openai"}
    for name in RECORDINGS:
        assert b"SECRET" in recorded(name) or name == "transformers_responses"


@pytest.mark.parametrize("name", RECORDINGS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_stream_is_served_alike_however_it_is_split(name: str, data: st.DataObject) -> None:
    stream = recorded(name)
    model = data.draw(st.sampled_from(models(name)))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole = served(name, model, [stream])
    assert without_comments(served(name, model, pieces)) == without_comments(whole)


@pytest.mark.parametrize("name", RECORDINGS)
def test_no_byte_split_lets_a_hidden_word_through(name: str) -> None:
    stream = recorded(name)
    model = next(model for model in PROBE_FORMATS if b"SECRET" not in served(name, model, [stream]))
    for cut in range(0, len(stream), 5):
        assert b"SECRET" not in served(name, model, [stream[:cut], stream[cut:]])
