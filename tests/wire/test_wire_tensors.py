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


def read(data: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    return tensors.read_data(data, dtype, shape, LIMITS, name="logits", code="logits_type")


def refused(data: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> tuple[str, str]:
    with pytest.raises(RequestError) as caught:
        read(data, dtype, shape)
    assert len(caught.value.detail) < 400
    return caught.value.code, caught.value.offences[0].path


# Raw bytes


@given(hnp.arrays(st.sampled_from([*tensors.DATATYPES.values()]), SHAPES), st.integers(0, 9))
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
@pytest.mark.parametrize("dtype", [*tensors.DATATYPES.values()])
def test_data_are_nested_as_the_shape_says_or_flat(data: list[Any], dtype: np.dtype[Any]) -> None:
    found = read(data, dtype, (2, 3))
    assert found.dtype == dtype
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
    for dtype in (tensors.FP64, tensors.INT64):
        assert refused(data, dtype, shape) == ("malformed_tensor", "logits")


def test_tensors_of_nothing_and_without_axes_are_read() -> None:
    assert read([], tensors.FP32, (0, 3)).shape == (0, 3)
    assert read([[], []], tensors.FP32, (2, 0)).shape == (2, 0)
    assert read([5], tensors.INT64, ()) == 5


def test_floats_are_rounded_to_their_datatype_and_words_stand_for_what_json_lacks() -> None:
    found = read([0.1, "-Infinity"], tensors.FP32, (2,))
    assert found.tolist() == [float(np.float32(0.1)), -np.inf]
    assert read([0.1, "-Infinity"], tensors.FP64, (2,)).tolist() == [0.1, -np.inf]
    assert refused([0, 1e39], tensors.FP32, (2,)) == ("float32_overflow", "logits[1]")


@pytest.mark.parametrize(
    ("data", "dtype", "error", "path"),
    [
        ([1, None], tensors.FP32, "logits_type", "logits[1]"),
        ([1, True], tensors.FP32, "logits_type", "logits[1]"),
        ([[1, 2], [3, "x"]], tensors.FP64, "logits_type", "logits[1][1]"),
        ([1, 1.0], tensors.INT64, "logits_type", "logits[1]"),
        ([1, False], tensors.INT64, "logits_type", "logits[1]"),
        ([1, "2"], tensors.INT64, "logits_type", "logits[1]"),
        ([0, 1 << 63], tensors.INT64, "logits_type", "logits[1]"),
        ([[1], [2, 3]], tensors.FP32, "ragged", "logits[1]"),
        ([[1], [2, 3]], tensors.INT64, "ragged", "logits[1]"),
    ],
)
def test_what_is_no_number_of_the_datatype_is_refused_at_its_place(
    data: Any, dtype: np.dtype[Any], error: str, path: str
) -> None:
    with pytest.raises(Invalid) as caught:
        read(data, dtype, (2,))
    assert (caught.value.code, caught.value.offences[0].path) == (error, path)


def test_integers_are_exact_to_64_bits() -> None:
    assert read([(1 << 63) - 1, -(1 << 63)], tensors.INT64, (2,)).tolist() == [(1 << 63) - 1, -(1 << 63)]


def test_more_data_than_the_limit_are_refused() -> None:
    with pytest.raises(TooLarge):
        read([0] * 10_001, tensors.FP32, (1,))
    with pytest.raises(Malformed) as caught:
        read([0], tensors.FP32, (1,) * 30 + (7,))
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
        name, dtype, shape = entry["name"], tensors.DATATYPES[entry["datatype"]], tuple(entry["shape"])
        assert ("data" in entry) == (name not in binary)
        if name in binary:
            found = tensors.view(body.content, dtype, shape, offset)
            offset += entry["parameters"]["binary_data_size"]
        else:
            found = read(entry["data"], dtype, shape)
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
