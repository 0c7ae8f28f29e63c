"""Tensors of the Open Inference Protocol: raw bytes or JSON data, there and back."""

import tracemalloc
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from service.errors import Invalid, Malformed, RequestError, TooLarge
from service.wire import tensors
from service.wire.limits import Limits

LIMITS = Limits(body_bytes=1 << 20, rows=1000, elements=10_000, json_depth=16)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
FLOATS = st.floats(allow_nan=False, width=32)


def read(data: Any, datatype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    found = tensors.read_data(data, datatype, shape, LIMITS, name="logits", code="logits_type")
    assert isinstance(found, np.ndarray)
    return found


def refused(data: Any, datatype: str, shape: tuple[int, ...]) -> tuple[str, str]:
    with pytest.raises(RequestError) as caught:
        read(data, datatype, shape)
    assert len(caught.value.detail) < 400
    return caught.value.code, caught.value.offences[0].path


# Raw bytes


NUMBERS = {name: dtype for name, dtype in tensors.DATATYPES.items() if name not in {"BOOL", "BF16", "BYTES"}}


@given(hnp.arrays(st.sampled_from([*NUMBERS.values()]), SHAPES), st.integers(0, 9))
def test_raw_bytes_are_the_array_wherever_they_lie(array: NDArray[Any], offset: int) -> None:
    found = tensors.view(b"x" * offset + array.tobytes(), array.dtype, array.shape, offset)
    assert found.tobytes() == array.tobytes()
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.flags.aligned
    assert found.flags.c_contiguous


def test_aligned_bytes_are_not_copied_and_cannot_be_written() -> None:
    body = bytes(8) + np.arange(6, dtype="<f4").tobytes()
    found = tensors.view(body, tensors.FP32, (2, 3), 8)
    assert np.shares_memory(found, np.frombuffer(body, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0] = 1


def test_unaligned_bytes_are_copied_once() -> None:
    body = b"x" + bytes(4_000_000)
    tracemalloc.start()
    try:
        found = tensors.view(body, tensors.FP32, (1_000_000,), 1)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.flags.aligned
    assert 4_000_000 <= peak_bytes < 4_100_000


# JSON data


@pytest.mark.parametrize("data", [[[1, 2, 3], [4, 5, 6]], [1, 2, 3, 4, 5, 6]])
@pytest.mark.parametrize("datatype", [*NUMBERS, "BF16"])
def test_data_are_nested_as_the_shape_says_or_flat(data: list[Any], datatype: str) -> None:
    found = read(data, datatype, (2, 3))
    assert found.dtype == NUMBERS.get(datatype, tensors.FP32)
    assert found.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        ([[1, 2], [3, 4], [5, 6]], (2, 3)),
        ([[[1, 2, 3], [4, 5, 6]]], (2, 3)),
        ([1, 2, 3], (2, 3)),
        ([], (2, 3)),
        (1, (1,)),
        ([1, 2], (1 << 62,)),
    ],
)
def test_data_of_another_shape_are_refused(data: Any, shape: tuple[int, ...]) -> None:
    for dtype in ("FP64", "INT64"):
        assert refused(data, dtype, shape) == ("malformed_tensor", "logits")


def test_tensors_of_nothing_and_without_axes_are_read() -> None:
    assert read([], "FP32", (0, 3)).shape == (0, 3)
    assert read([[], []], "FP32", (2, 0)).shape == (2, 0)
    assert read([5], "INT64", ()) == 5


def test_floats_are_rounded_to_their_datatype_and_words_stand_for_what_json_lacks() -> None:
    found = read([0.1, "-Infinity"], "FP32", (2,))
    assert found.tolist() == [float(np.float32(0.1)), -np.inf]
    assert read([0.1, "-Infinity"], "FP64", (2,)).tolist() == [0.1, -np.inf]
    assert refused([0, 1e39], "FP32", (2,)) == ("float32_overflow", "logits[1]")


@pytest.mark.parametrize(
    ("data", "datatype", "error", "path"),
    [
        ([1, None], "FP32", "logits_type", "logits[1]"),
        ([1, True], "FP32", "logits_type", "logits[1]"),
        ([[1, 2], [3, "x"]], "FP64", "logits_type", "logits[1][1]"),
        ([1, 1.0], "INT64", "logits_type", "logits[1]"),
        ([1, False], "INT64", "logits_type", "logits[1]"),
        ([1, "2"], "INT64", "logits_type", "logits[1]"),
        ([0, 1 << 63], "INT64", "logits_type", "logits[1]"),
        ([1, -1], "UINT8", "logits_type", "logits[1]"),
        ([255, 256], "UINT8", "logits_type", "logits[1]"),
        ([-128, -129], "INT8", "logits_type", "logits[1]"),
        ([1 << 63, 1 << 64], "UINT64", "logits_type", "logits[1]"),
        ([True, 1], "BOOL", "logits_type", "logits[1]"),
        (["a", 1], "BYTES", "logits_type", "logits[1]"),
        ([0, 65520], "FP16", "logits_type", "logits[1]"),
        ([0, 3.4e38], "BF16", "logits_type", "logits[1]"),
        ([[1], [2, 3]], "FP32", "ragged", "logits[1]"),
        ([[1], [2, 3]], "INT64", "ragged", "logits[1]"),
    ],
)
def test_what_is_no_number_of_the_datatype_is_refused_at_its_place(
    data: Any, datatype: str, error: str, path: str
) -> None:
    with pytest.raises(Invalid) as caught:
        read(data, datatype, (2,))
    assert (caught.value.code, caught.value.offences[0].path) == (error, path)


def test_integers_are_exact_to_64_bits() -> None:
    assert read([(1 << 63) - 1, -(1 << 63)], "INT64", (2,)).tolist() == [(1 << 63) - 1, -(1 << 63)]


def test_the_short_floats_are_rounded_to_the_nearest_and_ties_to_even() -> None:
    assert read([1 / 3, 65504, "-Infinity"], "FP16", (3,)).tolist() == [0.333251953125, 65504, -np.inf]
    # BF16 has 8 bits of significand: 257 lies between 256 and 258, 259 between 258 and 260.
    found = read([257, 259, 256.5, 1 / 3, -257, "Infinity", "NaN"], "BF16", (7,))
    assert found.tolist()[:6] == [256, 260, 256, 0.333984375, -256, np.inf]
    assert np.isnan(found[6])


def test_the_short_floats_are_read_from_raw_bytes_without_loss() -> None:
    halves = np.array([0.5, -2.25, 65504], np.float16)
    read_halves = tensors.read_raw(b"x" + halves.tobytes(), "FP16", (3,), 1, 6, name="logits")
    np.testing.assert_array_equal(read_halves, halves, strict=True)
    floats = np.array([[1.5, -np.inf], [2.0**-133, 3.3895314e38]], np.float32)  # whose lower halves are empty
    body = (floats.view(np.uint32) >> 16).astype("<u2").tobytes()
    np.testing.assert_array_equal(
        tensors.read_raw(body, "BF16", (2, 2), 0, 8, name="logits"), floats, strict=True
    )


def test_true_and_false_are_no_numbers_and_stay_what_they_are() -> None:
    assert read([True, False], "BOOL", (2,)).dtype == np.bool_
    raw = tensors.read_raw(b"\x01\x00", "BOOL", (2,), 0, 2, name="logits")
    assert isinstance(raw, np.ndarray)
    assert raw.tolist() == [True, False]


def packed(*texts: str) -> bytes:
    return b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in texts)


def test_text_is_nested_as_json_would_bring_it() -> None:
    texts = ["zero", "", "d\u00e9j\u00e0 vu", "4"]
    body = b"before" + packed(*texts)
    found = tensors.read_raw(body, "BYTES", (2, 2), 6, len(body) - 6, name="labels")
    assert found == [texts[:2], texts[2:]]
    for data in (texts, [texts[:2], texts[2:]]):
        assert tensors.read_data(data, "BYTES", (2, 2), LIMITS, name="labels", code="labels_type") == found
    assert tensors.read_raw(b"", "BYTES", (0,), 0, 0, name="labels") == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        packed("a"),
        packed("a", "b")[:-1],
        packed("a", "b") + b"c",
        packed("a", "b", "c"),
        packed("a") + b"\xff\xff\xff\xffb",
        packed("a") + b"\x01\0\0",
        packed("a") + b"\x01\0\0\0\xff",
    ],
)
def test_text_that_is_not_as_described_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        # What follows in the body is another tensor's.
        tensors.read_raw(body + bytes(9), "BYTES", (2,), 0, len(body), name="labels")
    assert caught.value.code == "malformed_tensor"


@pytest.mark.parametrize(
    ("datatype", "shape", "size_bytes", "fits"),
    [
        ("FP32", (2, 3), 24, True),
        ("FP32", (2, 3), 23, False),
        ("FP32", (2, 3), -24, False),
        ("BF16", (2, 3), 12, True),
        ("FP64", (0, 3), 0, True),
        ("BYTES", (3,), 12, True),
        ("BYTES", (3,), 9999, True),
        ("BYTES", (3,), 11, False),
    ],
)
def test_a_size_must_fit_its_description(
    datatype: str, shape: tuple[int, ...], size_bytes: int, *, fits: bool
) -> None:
    if fits:
        tensors.check_size(datatype, shape, size_bytes, name="labels")
    else:
        with pytest.raises(Malformed, match="raw bytes by datatype and shape"):
            tensors.check_size(datatype, shape, size_bytes, name="labels")


def test_text_is_written_behind_its_length_or_in_the_json() -> None:
    names = np.array([["a", "\u00e9"]], np.object_)
    body = tensors.write({"id": "1"}, "outputs", {"names": names}, frozenset({"names"}))
    assert body.json_bytes is not None
    assert body.content[body.json_bytes :] == packed("a", "\u00e9")
    (said,) = orjson.loads(body.content[: body.json_bytes])["outputs"]
    assert said == {
        "name": "names",
        "datatype": "BYTES",
        "shape": [1, 2],
        "parameters": {"binary_data_size": 11},
    }
    text = tensors.write({}, "outputs", {"names": names}, frozenset()).content
    assert orjson.loads(text)["outputs"][0]["data"] == ["a", "\u00e9"]


def test_more_data_than_the_limit_are_refused() -> None:
    with pytest.raises(TooLarge):
        read([0] * 10_001, "FP32", (1,))
    with pytest.raises(Malformed) as caught:
        read([0], "FP32", (1,) * 30 + (7,))
    assert len(caught.value.detail) < 400


# Out


@given(
    hnp.arrays(np.float32, SHAPES, elements=FLOATS),
    hnp.arrays(np.int64, SHAPES),
    st.sets(st.sampled_from(["floats", "integers"])),
)
def test_what_is_written_is_read_again(
    floats: NDArray[np.float32], integers: NDArray[np.int64], binary: set[str]
) -> None:
    arrays: dict[str, NDArray[Any]] = {"floats": floats, "integers": integers}
    body = tensors.write({"id": "7"}, "outputs", arrays, frozenset(binary), all_digits=True)
    said = orjson.loads(body.content[: body.json_bytes])
    assert said["id"] == "7"
    offset = len(body.content) if body.json_bytes is None else body.json_bytes
    for entry in said["outputs"]:
        name, datatype, shape = entry["name"], entry["datatype"], tuple(entry["shape"])
        assert ("data" in entry) == (name not in binary)
        if name in binary:
            found = tensors.view(body.content, tensors.DATATYPES[datatype], shape, offset)
            offset += entry["parameters"]["binary_data_size"]
        else:
            found = read(entry["data"], datatype, shape)
        np.testing.assert_array_equal(found, arrays[name], strict=True)
    assert offset == len(body.content)


def test_tensors_behind_the_json_lie_aligned() -> None:
    for letters in range(tensors.ALIGNMENT_BYTES):
        body = tensors.write({"id": "x" * letters}, "outputs", {"a": np.zeros(2)}, frozenset({"a"}))
        assert body.json_bytes is not None
        assert body.json_bytes % tensors.ALIGNMENT_BYTES == 0
        assert np.shares_memory(
            tensors.view(body.content, tensors.FP64, (2,), body.json_bytes),
            np.frombuffer(body.content, np.uint8),
        )


def test_a_message_without_raw_bytes_is_json_alone() -> None:
    body = tensors.write({}, "outputs", {"a": np.zeros((0, 3), np.float32)}, frozenset({"a"}))
    assert body.json_bytes is None
    assert orjson.loads(body.content)["outputs"] == [
        {"name": "a", "datatype": "FP32", "shape": [0, 3], "parameters": {"binary_data_size": 0}}
    ]


def test_data_are_flat_and_float32_has_its_shortest_digits_unless_all_are_wanted() -> None:
    arrays = {"a": np.array([[0.1, -np.inf], [1e-45, np.inf]], np.float32)}
    short = tensors.write({}, "outputs", arrays, frozenset())
    assert b'"data":[0.1,"-Infinity",1e-45,"Infinity"]' in short.content
    long = tensors.write({}, "outputs", arrays, frozenset(), all_digits=True)
    assert b"[0.10000000149011612," in long.content


@pytest.mark.parametrize("binary", [frozenset(), frozenset("a")])
def test_any_layout_and_byte_order_is_written(binary: frozenset[str]) -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3)
    for sent in (array, np.asfortranarray(array), array[:, ::2]):
        assert tensors.write({}, "outputs", {"a": sent}, binary) == tensors.write(
            {}, "outputs", {"a": np.ascontiguousarray(sent, "<f4")}, binary
        )
