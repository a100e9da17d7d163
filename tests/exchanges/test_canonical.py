import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.exchanges import InputError, canonical_json, content_digest

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=15
)


@given(values)
def test_a_value_comes_back_unchanged(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), scalars))
def test_the_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    turned = dict(reversed(value.items()))
    assert canonical_json(turned) == canonical_json(value)
    assert content_digest(turned) == content_digest(value)


def test_the_bytes_are_fixed_for_ever() -> None:
    value = {"é": [1, 1.0, 1e16, -0.0, True, None, "\n"], "a": {"b": ()}}
    assert canonical_json(value) == '{"a":{"b":[]},"é":[1,1.0,1e+16,-0.0,true,null,"\\n"]}'.encode()
    assert content_digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.mark.parametrize(
    "value", [math.nan, [math.inf], {1: 2}, {"a": [{None: 1}]}, "\ud800", {1, 2}, b"x"]
)
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(InputError):
        canonical_json(value)


def test_a_key_that_is_no_string_is_named_with_its_place() -> None:
    with pytest.raises(InputError, match=r"\$\.a\[1\]: the key 7"):
        canonical_json({"a": [0, {7: 1}]})


def test_a_value_that_holds_itself_is_refused() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(InputError, match="nested"):
        canonical_json(value)
