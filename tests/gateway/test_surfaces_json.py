"""Strict JSON: the fast check for repeated keys agrees with the slow one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.gateway.refusals import RefusedError
from stillhouse.gateway.strict_json import count_pairs, parse_lenient, parse_object

TEXT = st.text(st.sampled_from('ab":\\{}[],\n é\U0001f600'), max_size=6)
LEAVES = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | TEXT | st.floats(-1e9, 1e9)


class Pairs(list):
    """An object as it was written: with what it repeats."""


TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(st.tuples(st.sampled_from(["a", "b", ':"', "\\", "é"]), inner), max_size=4).map(
            Pairs
        )
    ),
    max_leaves=12,
)


def write(value: object, spaced: bool, escaped: bool) -> str:
    """Encode, repeated keys and all; Python's own encoder can not."""
    if isinstance(value, Pairs):
        colon, comma = (" : ", " , ") if spaced else (":", ",")
        pairs = [
            json.dumps(key, ensure_ascii=escaped) + colon + write(item, spaced, escaped)
            for key, item in value
        ]
        return "{" + comma.join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(write(item, spaced, escaped) for item in value) + "]"
    return json.dumps(value, ensure_ascii=escaped)


def repeats_a_key(document: str) -> bool:
    """The slow oracle."""
    found = False

    def look(pairs: list[tuple[str, object]]) -> dict[str, object]:
        nonlocal found
        found = found or len({key for key, _ in pairs}) < len(pairs)
        return dict(pairs)

    json.loads(document, object_pairs_hook=look)
    return found


@given(TREES, st.booleans(), st.booleans())
def test_a_repeated_key_is_refused_at_any_depth_and_nothing_else_is(tree, spaced, escaped):
    document = '{"top":' + write(tree, spaced, escaped) + "}"
    if repeats_a_key(document):
        with pytest.raises(RefusedError, match="duplicate_key"):
            parse_object(document.encode())
    else:
        assert parse_object(document.encode()) == json.loads(document)


def test_the_fast_path_alone_would_pass_what_the_count_refuses():
    # The mutant "equal length instead of equal bytes or equal counts" passes this one.
    with pytest.raises(RefusedError, match="duplicate_key"):
        parse_object(b'{"a":1,"\\u0061":2}')


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad_json"),
        (b"\xef\xbb\xbf{}", "bad_json"),
        (b'{"a":NaN}', "bad_json"),
        (b'{"a":Infinity}', "bad_json"),
        (b'{"a":1e999}', "bad_json"),
        (b'{"a":"\\ud800"}', "bad_json"),
        (b'{"a":"\xff"}', "bad_json"),
        (b'{"a":"\x00"}', "bad_json"),
        (b'{"a":1}{"b":2}', "bad_json"),
        (b"[]", "bad_request"),
        (b'"text"', "bad_request"),
        (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "too_deep"),
        (b'{"a":' * 64 + b"{}" + b"}" * 64, "too_deep"),
        (b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", "too_deep"),
        (b'{"a":"' + b"x" * 100 + b'"}', "request_too_large"),
    ],
)
def test_what_is_no_strict_json_object_is_refused(body, code):
    most = 64 if code == "request_too_large" else 1 << 20
    with pytest.raises(RefusedError) as refused:
        parse_object(body, max_bytes=most)
    assert refused.value.code == code


def test_brackets_in_text_are_not_depth_and_the_last_allowed_level_is():
    assert parse_object(b'{"a":"' + b"[{" * 500 + b'"}')
    assert parse_object(b'{"a":' + b"[" * 63 + b"]" * 63 + b"}")
    wide = b'{"a":[' + b"{}," * 500 + b"{}]}"
    assert len(parse_object(wide)["a"]) == 501


def test_lists_and_objects_are_bounded_before_they_are_made(monkeypatch):
    most = b'{"a":[' + b"[]," * 49_999 + b"{}," * 49_998 + b'{},"[{\\"["]}'
    assert len(parse_object(most)["a"]) == 99_999
    assert parse_object(b'{"a":"' + b'\\"[{' * 100_000 + b'"}')
    monkeypatch.setattr("orjson.loads", None)
    with pytest.raises(RefusedError, match="request_too_large"):
        parse_object(most.replace(b"[],", b"[[]],", 1))


def test_pairs_are_counted_outside_strings_only():
    assert count_pairs(b'{"a:b":":","\\":\\\\":{"c" : "\\\\"}}') == 3


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":NaN,"b":-Infinity}', {"a": None, "b": None}),
        (b'{"a":"\\ud83d"}', {"a": "?"}),
        (b'{"a":"\xff"}', {"a": "�"}),
        (b"[1]", None),
        (b"{", None),
        (b"[" * 100_000, None),
        (b'{"a":1e999}', None),
    ],
)
def test_an_upstreams_json_is_forgiven_or_given_up(data, value):
    assert parse_lenient(data) == value
