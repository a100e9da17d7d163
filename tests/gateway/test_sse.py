"""Server-sent events: any cut, any end of line."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.gateway.sse import EventReader

LINES = st.lists(
    st.sampled_from(
        [
            "data: one",
            "data:two",
            "data:  three",
            "data",
            ": note",
            ":",
            "event: x",
            "id: 1",
            "",
            "",
            "datax: no",
            "data: é",
        ]
    ),
    max_size=12,
)


def reference(text: str) -> tuple[list[bytes], int]:
    """The slow oracle: lines first, then events, as the standard describes."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    found, data, comments = [], [], 0
    for line in text.split("\n"):
        if not line:
            if data:
                found.append("\n".join(data).encode())
            data = []
        elif line.startswith("data:") or line == "data":
            data.append(line[5:].removeprefix(" "))
        elif line.startswith(":"):
            comments += 1
    if data:
        found.append("\n".join(data).encode())
    return found, comments


def read(stream: bytes, cuts: list[int]) -> tuple[list[bytes], int]:
    reader = EventReader()
    at = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    found = [data for a, b in itertools.pairwise(at) for data in reader.feed(stream[a:b])]
    return found + reader.finish(), reader.comments


@given(
    LINES, st.lists(st.sampled_from(["\n", "\r\n", "\r"]), min_size=12, max_size=12),
    st.booleans(), st.lists(st.integers(0, 200), max_size=5),
)  # fmt: skip
def test_any_cutting_gives_what_the_whole_stream_gives(lines, ends, mark, cuts):
    text = "".join(line + end for line, end in zip(lines, ends, strict=False))
    if mark:
        text = "\ufeff" + text
    stream = text.encode()
    assert read(stream, cuts) == reference(text)
    assert read(stream, list(range(len(stream)))) == reference(text)


def test_the_usual_chunk_is_read_at_once():
    reader = EventReader()
    assert reader.feed(b"data: {}\n\n") == [b"{}"]
    assert reader.feed(b"data: 1\n\n") == [b"1"]
    assert reader.feed(b"data: 1\n\ndata: 2\n\n") == [b"1", b"2"]


def test_an_event_without_its_empty_line_is_read_at_the_end():
    reader = EventReader()
    assert reader.feed(b"data: [DONE]\n") == []
    assert reader.finish() == [b"[DONE]"]
    assert reader.finish() == []


@pytest.mark.parametrize("size", [1, 1000])
def test_a_too_large_event_is_given_up_and_nothing_of_it_is_held(size):
    reader = EventReader(max_event_bytes=5000)
    assert reader.feed(b"data: ok\n\n") == [b"ok"]
    for _ in range(0, 6000, size):
        assert reader.feed(b"x" * size) == []
    assert reader.overflowed
    assert reader.feed(b"\n\ndata: more\n\n") == []
    assert reader.finish() == []


def test_a_large_event_in_one_chunk_is_bounded_too():
    reader = EventReader(max_event_bytes=10)
    assert reader.feed(b"data: 1\n\n") == [b"1"]
    reader.feed(b"data: " + b"x" * 100)
    assert reader.overflowed
