"""Bytes -> one JSON object, strictly."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Invalid, Malformed, RequestError
from service.wire.json_reader import name_of, read_object

DEPTH = 8


def code_of(body: bytes, depth: int = DEPTH) -> str:
    with pytest.raises(RequestError) as caught:
        read_object(body, depth)
    return caught.value.code


def outcome(body: bytes, depth: int) -> str:
    try:
        read_object(body, depth)
    except RequestError as error:
        return error.code
    return "read"


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"a": 1},
        {"a": [[1, 2.5], [-3, 1e300]]},
        {"a": "x:y", "b": [{"c": 1}, {"c": 2}]},
        {"a": {"a": {"a": 1}}},
        {'with \\ and " and [brackets]': "[[[[[[[[[[[[", "{": ":"},
        {"": [], "b": {}, "c": None, "d": True},
        {"é": "ü 😀"},
    ],
)
def test_an_object_is_read_as_it_is(value: object) -> None:
    assert read_object(json.dumps(value).encode(), DEPTH) == value
    assert read_object(json.dumps(value, ensure_ascii=False, indent=2).encode(), DEPTH) == value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"\xef\xbb\xbf{}",
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": "\\ud800"}',
        b'{"a": "\n"}',
        '{"a": 1}'.encode("utf-16"),
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": 1e400}',
        b'{"a": -1e400}',
        b'{"a": 01}',
        b'{"a": +1}',
        b'{"a": .5}',
        b'{"a": 0x10}',
        b'{"a": 1,}',
        b'{"a": [1,]}',
        b"{'a': 1}",
        b"{a: 1}",
        b'{"a": 1}}',
        b'{"a": 1} {"b": 2}',
        b'{"a": 1',
        b'{"a" 1}',
        b"{} // said",
        b"\x00",
        b"logits=1",
        b"[" * 100_000,
        b'{"a":' * 5000,
    ],
)
def test_what_is_no_json_is_malformed(body: bytes) -> None:
    assert code_of(body) == "malformed_json"


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
def test_a_literal_that_json_lacks_gets_a_hint(literal: str) -> None:
    with pytest.raises(Malformed) as caught:
        read_object(f'{{"logits": [1, {literal}]}}'.encode(), DEPTH)
    assert '"-Infinity"' in caught.value.message
    assert "line 1" in caught.value.message


def test_other_faults_get_no_such_hint() -> None:
    with pytest.raises(Malformed) as caught:
        read_object(b'{"logits": [1, nothing]}', DEPTH)
    assert "-Infinity" not in caught.value.message


@pytest.mark.parametrize(
    ("body", "got"),
    [
        (b"[1, 2]", "a list"),
        (b'[{"a": 1}]', "a list"),
        (b"3", "the number 3"),
        (b'"logits"', "the string 'logits'"),
        (b"null", "null"),
        (b"true", "true"),
    ],
)
def test_json_that_is_no_object_is_refused_in_its_own_words(body: bytes, got: str) -> None:
    with pytest.raises(Invalid) as caught:
        read_object(body, DEPTH)
    assert caught.value.code == "body_type"
    assert caught.value.message == f"expected a JSON object, got {got}"


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": 1, "a": 1}',
        b'{"a": 1, "\\u0061": 2}',
        b'{"a": {"b": 1, "b": 2}}',
        b'{"a": [{"b": 1, "b": 2}]}',
        b'{"a": ":", "a": ":"}',
        b'{"": 1, "": 2}',
        b'[{"a": 1, "a": 2}]',
        b'{"a": 1, "b": [[1, 2]], "a": [[3, 4]]}',
    ],
)
def test_a_key_twice_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        read_object(body, DEPTH)
    assert "twice" in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": "a: b: c"}',
        b'{"a": {"a": {"a": 1}}}',
        b'{"a": [{"b": 1}, {"b": 1}]}',
        b'{"a": [":", ":"], ":": 1}',
        b'{"a": 123456789012345678901234567890.0, "b": ":"}',
    ],
)
def test_colons_alone_are_no_key_twice(body: bytes) -> None:
    assert read_object(body, DEPTH) == json.loads(body)


def test_a_long_key_twice_is_not_echoed() -> None:
    key = "k" * 10_000
    with pytest.raises(Malformed) as caught:
        read_object(json.dumps({key: 1}).encode()[:-1] + f', "{key}": 2}}'.encode(), DEPTH)
    assert len(caught.value.message) < 100


def nest(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    """An object of so many levels, its own included."""
    return f'{{"a": {opening * (depth - 1)}{closing * (depth - 1)}}}'.encode()


@pytest.mark.parametrize("depth", [2, 3, 8, 32])
def test_nesting_up_to_the_limit_is_read_and_one_more_is_not(depth: int) -> None:
    assert outcome(nest(depth), depth) == "read"
    assert code_of(nest(depth + 1), depth) == "malformed_json"


@pytest.mark.parametrize(
    "deep",
    [
        "[" * 8 + "]" * 8,
        '{"a":' * 8 + "1" + "}" * 8,
        '[{"a":' * 4 + "1" + "}]" * 4,
        "[[1, 2], [3, 4], " + "[" * 7 + "]" * 8,
        '["]]]]]]", ' * 8 + "1" + "]" * 8,
        '["\\"]", ' * 8 + "1" + "]" * 8,
        '["]", ["]", ["]", ["]", ["]", ["]", ["]", ["]", "[", "[", "["]]]]]]]]',
        '["\\\\", ' * 8 + "1" + "]" * 8,
        '["", ' * 8 + '""' + "]" * 8,
    ],
)
def test_nothing_in_strings_or_beside_hides_nesting(deep: str) -> None:
    assert code_of(f'{{"a": {deep}}}'.encode(), 8) == "malformed_json"
    read_object(f'{{"a": {deep}}}'.encode(), 9)


def test_many_brackets_side_by_side_are_not_deep() -> None:
    rows = [[float(index)] * 3 for index in range(1000)]
    assert read_object(json.dumps({"a": rows, "b": ["[" * 50, '"', "\\", "]"]}).encode(), 3)["a"] == rows


def test_nesting_near_pythons_own_limit_is_read_or_refused_no_accident() -> None:
    body = f'{{"a": {"[" * 997}":"{"]" * 997}}}'.encode()
    assert outcome(body, 1000) in {"read", "malformed_json"}  # by how much of its stack Python has left


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=4), st.integers(1, 6))
def test_every_object_is_read_exactly_or_is_too_deep(value: dict[str, object], depth: int) -> None:
    body = json.dumps(value).encode()
    if depth_of(value) > depth:
        assert code_of(body, depth) == "malformed_json"
    else:
        assert read_object(body, depth) == value


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    assert outcome(b'{"a":' + body + b"}", DEPTH) in {"read", "malformed_json"}


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (1, "the number 1"),
        (1.5, "the number 1.5"),
        ("x", "the string 'x'"),
        ([1], "a list"),
        ({"a": 1}, "an object"),
        (np.zeros(3), "an array"),
    ],
)
def test_values_are_named_in_jsons_words(value: object, name: str) -> None:
    assert name_of(value) == name


@pytest.mark.parametrize("value", ["x" * 10_000, 10**4000, [0] * 10_000])
def test_values_are_named_briefly(value: object) -> None:
    assert len(name_of(value)) < 60
