"""Bytes -> one JSON object, strictly."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Invalid, Malformed, RequestError
from service.wire import json_reader, nested
from service.wire.json_reader import HAS_SIMDJSON, MAX_PLAIN_FIELDS, SIMDJSON_BYTES, name_of, read_object
from service.wire.limits import Limits

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


# The tensor that may come as an array

needs_simdjson = pytest.mark.skipif(not HAS_SIMDJSON, reason="simdjson is not installed")

LIMITS = Limits(1 << 20, 1 << 20, 1 << 20, DEPTH)
BLANKS = b" " * SIMDJSON_BYTES  # behind a body, they make it long enough for simdjson


def tensor_of(body: bytes, depth: int = DEPTH) -> Any:
    return read_object(body + BLANKS, depth, tensor="x")["x"]


@needs_simdjson
@pytest.mark.parametrize(
    "value",
    [
        [1, 2.5, -3e-7],
        [[1, 2.5], [3, -0.0]],
        [[1], [2], [3]],
        [[0.5] * 700] * 20,
        [2**53 + 1, 2**63 + 1025, 2**64 - 1, -(2**63)],
        [[5e-324, 2.2250738585072011e-308], [1.7976931348623157e308, 0.1]],
    ],
)
def test_a_plain_tensor_comes_as_an_array_of_the_same_numbers(value: list[float]) -> None:
    array = tensor_of(json.dumps({"x": value}).encode())
    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, np.array(value, np.float64), strict=True)
    assert array.flags.c_contiguous


@needs_simdjson
def test_the_other_fields_stay_and_all_keep_their_order() -> None:
    fields = {"b": [1, 2], "x": [[1, 2], [3, 4]], "a": "x[", "c": [["[", None], []], "d": 2.5, "e": True}
    read = read_object(json.dumps(fields).encode() + BLANKS, DEPTH, tensor="x")
    assert list(read) == list(fields)
    assert isinstance(read["x"], np.ndarray)
    assert {**read, "x": fields["x"]} == fields


@needs_simdjson
def test_objects_beside_the_tensor_stay_as_they_are() -> None:
    others = {"a": {"b": ["["], "c": 0.1, "d": None, "e": 2**63}, "g": {"{": 1}}
    read = read_object(json.dumps({**others, "x": [[1, 2], [3, 4]]}).encode() + BLANKS, DEPTH, tensor="x")
    assert isinstance(read.pop("x"), np.ndarray)
    assert read == others


@needs_simdjson
def test_a_tensor_may_stand_in_an_object() -> None:
    table = {"columns": ["a", "b"], "index": [0, 1], "data": [[1, 2], [3, 4]]}
    read = read_object(json.dumps({"t": table, "x": {"y": 1}}).encode() + BLANKS, DEPTH, tensor="t.data")
    assert list(read) == ["t", "x"]
    np.testing.assert_array_equal(read["t"].pop("data"), np.array([[1.0, 2], [3, 4]]), strict=True)
    assert read == {"t": {"columns": ["a", "b"], "index": [0, 1]}, "x": {"y": 1}}


@pytest.mark.parametrize(
    "body",
    [
        b'{"t": [[1, 2]]}',
        b'{"t": {"rows": [[1, 2]]}}',
        b'{"t": {"data": [[1, [2]]]}}',
        b'{"t": {"data": [[1, 2], [3]]}}',
        b'{"t.data": [[1, 2]]}',
        b'{"u": [[1, 2]]}',
    ],
)
def test_where_no_plain_tensor_stands_in_the_object_all_comes_as_it_is(body: bytes) -> None:
    assert read_object(body + BLANKS, DEPTH, tensor="t.data") == json.loads(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"t": {"data": [[1, 2]], "data": [[3, 4]]}}',
        b'{"t": {"data": [[1, 2]], "a": {"b": 1, "b": 2}}}',
        b'{"x": [1, 2], "a": {"b": 1, "b": 2}}',
        b'{"t": {"data": [[1, 2]]}, "t": 1}',
    ],
)
def test_a_key_twice_is_found_in_objects_too(body: bytes) -> None:
    for tensor in ("t.data", "x"):
        with pytest.raises(Malformed, match="twice"):
            read_object(body + BLANKS, DEPTH, tensor=tensor)


@pytest.mark.parametrize("tensor", ["t.data", "x"])
@pytest.mark.parametrize("depth", range(3, 12))
def test_objects_count_as_levels_for_either_reader(tensor: str, depth: int) -> None:
    deep = json.dumps({"x": [[1, 2]], "t": {"data": [[1, 2]], "a": {"b": [[{"c": [[1]]}]]}}}).encode()
    outcomes = set()
    for name in (tensor, None):
        try:
            outcomes.add(min(read_object(deep + BLANKS, depth, tensor=name)))
        except Malformed as error:
            outcomes.add(error.code)
    assert outcomes == ({"t"} if depth >= 8 else {"malformed_json"})


def test_short_bodies_and_other_fields_come_as_lists() -> None:
    assert read_object(b'{"x": [1, 2]}', DEPTH, tensor="x") == {"x": [1, 2]}
    assert read_object(b'{"y": [1, 2]}' + BLANKS, DEPTH, tensor="x") == {"y": [1, 2]}
    assert read_object(b'{"x": [1, 2]}' + BLANKS, DEPTH) == {"x": [1, 2]}


@pytest.mark.parametrize(
    "value",
    [
        3,
        "x",
        None,
        {},
        {"a": 1},
        [],
        [[[1, 2]], [[3, 4]]],
        [[1, [2]], [3, 4]],
        [[1, 2], [3]],
        [[1, 2], 3],
        [1, [2, 3]],
        [[1, 2], [[3, 4]]],
        [[1, 2], {}],
        [{}],
        ["-Infinity", 1],
        [[1, True]],
        [[None, 1]],
        [2**64, 1],
    ],
)
def test_what_is_no_plain_tensor_comes_as_it_is(value: object) -> None:
    read = read_object(json.dumps({"x": value}).encode() + BLANKS, DEPTH, tensor="x")
    assert read == {"x": value}
    assert not isinstance(read["x"], np.ndarray)


@pytest.mark.parametrize(
    "body",
    [
        b'{"x": [1, 2], "a": "\\u005b"}',
        b'{"x": [[1, [2]], [3, 4]], "a": "\\u005b"}',
        b'{"x": [1, 2], "[": 1}',
        b'{"x": [1, 2], "a": [{"b": 1}]}',
        b'{"x": [1, [2]], "a": "]"}',
        b'{"a": [3], "x\\u0000": [1, 2], "x": [4, 5]}',
        b' {"x": [1, 2]}',
    ],
)
def test_what_could_hide_the_nesting_is_left_to_orjson(body: bytes) -> None:
    assert read_object(body + BLANKS, DEPTH, tensor="x") == json.loads(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"x": [1], "x": [2]}',
        b'{"x": [[1, 2], [3, 4]], "a": 1, "a": 1}',
        b'\xef\xbb\xbf{"x": [1]}',
        b'{"x": [1e400]}',
        b'{"x": [1, 2}',
        b'{"x": [1, 2]} {}',
        b'{"x": [1, 2], "a": "\xff"}',
        b'{"x": [01]}',
        b'{"x": [NaN]}',
    ],
)
def test_what_is_malformed_stays_so_however_long(body: bytes) -> None:
    assert code_of(body + BLANKS) == "malformed_json"
    with pytest.raises(Malformed):
        read_object(body + BLANKS, DEPTH, tensor="x")


@pytest.mark.parametrize(
    ("body", "depth"),
    [(b'{"x": [1]}', 2), (b'{"x": [[1]]}', 3), (b'{"x": [[1]], "a": [[[]], [[]]]}', 4), (b'{"x": [1]}', 3)],
)
def test_nesting_has_one_limit_for_either_reader(body: bytes, depth: int) -> None:
    assert np.array_equal(np.ravel(tensor_of(body, depth)), [1])
    with pytest.raises(Malformed, match="levels of nesting"):
        tensor_of(body.replace(b"1", b"[" * depth + b"]" * depth), depth)


def test_more_fields_than_any_operation_has_are_read_all_the_same() -> None:
    fields: dict[str, object] = {f"a{index}": index for index in range(MAX_PLAIN_FIELDS + 1)}
    fields["x"] = [1, 2]
    assert read_object(json.dumps(fields).encode() + BLANKS, DEPTH, tensor="x") == fields


NUMBERS = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**70), 2**70))
ROWS = st.integers(1, 3).flatmap(
    lambda length: st.lists(st.lists(NUMBERS, min_size=length, max_size=length), min_size=1, max_size=3)
)
BODIES = st.fixed_dictionaries(
    {"x": ROWS | st.lists(NUMBERS, min_size=1, max_size=4)},
    optional={
        "a": st.text(max_size=3),
        "labels": st.lists(st.integers(0, 9), max_size=3),
        "params": st.dictionaries(
            st.text(max_size=2), NUMBERS | st.lists(st.text(max_size=2), max_size=2), max_size=2
        ),
        "ü": st.none() | NUMBERS,
    },
).map(lambda fields: json.dumps(fields, ensure_ascii=False).encode())
MUTATIONS = st.lists(
    st.tuples(
        st.integers(0, 10_000),
        st.integers(0, 2),
        st.sampled_from([b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"-", b"1", b".", b"e9", b"e-400", b"0",
                         b"true", b"null", b'"NaN"', b"[]", b"[1]", b"{}", b'"x":', b"\x00", b"\xff", b" ", b""]),
    ),
    max_size=3,
)  # fmt: skip


def verdict(body: bytes, tensor: str | None) -> object:
    """What becomes of the tensor: its bits and the other fields, or status, code and path."""
    try:
        fields = read_object(body + BLANKS, DEPTH, tensor=tensor)
        array = fields.pop("x", None)
        if not isinstance(array, np.ndarray):
            array = nested.read_floats(array, LIMITS, path="x", code="logits_type")
    except RequestError as error:
        return error.status, error.code, error.offences
    return array.shape, array.tobytes(), list(fields.items())


@needs_simdjson
@given(BODIES, MUTATIONS)
def test_either_reader_gives_the_same_array_or_the_same_error(
    body: bytes, mutations: list[tuple[int, int, bytes]]
) -> None:
    for place, removed, inserted in mutations:
        start = place % (len(body) + 1)
        body = body[:start] + inserted + body[start + removed :]
    assert verdict(body, "x") == verdict(body, None)


@needs_simdjson
@given(ROWS)
def test_plain_rows_never_take_the_slow_way(rows: list[list[float]]) -> None:
    if all(-(2**63) <= number < 2**64 for row in rows for number in row if isinstance(number, int)):
        assert isinstance(tensor_of(json.dumps({"x": rows}).encode()), np.ndarray)


@pytest.mark.parametrize("length", [json_reader.NUMPY_COUNTS_BYTES - 1, json_reader.NUMPY_COUNTS_BYTES])
def test_colons_and_brackets_are_counted_in_bodies_of_any_length(length: int) -> None:
    twice = b'{"x": [1], "x": [1]}'
    assert code_of(twice + b" " * (length - len(twice))) == "malformed_json"
    deep = nest(DEPTH + 1)
    assert code_of(deep + b" " * (length - len(deep))) == "malformed_json"
    deep = nest(DEPTH)
    assert outcome(deep + b" " * (length - len(deep)), DEPTH) == "read"


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": {"b": 1, "b": 2}}',
        b'{"a": [{"b": 1}, {"b": 1, "b": 2}]}',
        b'{"a": [1, {"b": 1, "b": 2}]}',
        b'{"a": [{"b": {"c": [[1]], "c": 2}}]}',
    ],
)
def test_a_key_twice_is_found_at_any_depth(body: bytes) -> None:
    with pytest.raises(Malformed, match="twice"):
        read_object(body, 32)


@pytest.mark.parametrize("body", [b'{"a": [{"b": 1}, {"b": 1}], "c": {"a": {}}}', b'{"a": [1, {"b": ":"}]}'])
def test_the_same_key_in_two_objects_is_no_key_twice(body: bytes) -> None:
    assert read_object(body, 32) == json.loads(body)
