"""Tensors written out in a message, by whoever writes them."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from service.errors import RequestError
from service.wire import contents
from service.wire.limits import Limits
from service.wire.protobuf import FIXED32, LENGTH, VARINT, Field, key_of
from service.wire.tensors import DATATYPES

LIMITS = Limits(body_bytes=1 << 20, rows=1000, elements=1000, json_depth=16)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
NUMBERS = sorted(contents.FIELDS.keys() - {"BYTES"})


def read(message: bytes, datatype: str, shape: tuple[int, ...], cut: int | None = None) -> Any:
    """Read a tensor whose contents are a whole message, or the two halves of one."""
    ends = [len(message)] if cut is None else [cut, len(message)]
    pieces = [Field(0, start, end, start) for start, end in zip([0, *ends], ends, strict=False)]
    return contents.read(
        message,
        pieces,
        datatype,
        shape,
        LIMITS,
        name="labels",
        code="labels_type",
        place="inputs[1].contents",
    )


def refused(message: bytes, datatype: str, shape: tuple[int, ...]) -> tuple[str, str]:
    with pytest.raises(RequestError) as caught:
        read(message, datatype, shape)
    assert len(caught.value.detail) < 200
    return caught.value.code, caught.value.offences[0].path if caught.value.offences else ""


def written(datatype: str, values: Any) -> bytes:
    message = service_pb2.InferTensorContents()
    getattr(message, contents.FIELDS[datatype][0]).extend(values)
    return bytes(message.SerializeToString())


def test_fields_have_the_numbers_of_the_protocol() -> None:
    for field, number, _ in contents.FIELDS.values():
        assert service_pb2.InferTensorContents.DESCRIPTOR.fields_by_name[field].number == number
    assert contents.FIELDS.keys() == DATATYPES.keys() - {"FP16", "BF16"}


@given(st.sampled_from(NUMBERS), SHAPES, st.data())
def test_numbers_come_out_as_they_went_in(datatype: str, shape: tuple[int, ...], data: st.DataObject) -> None:
    array: NDArray[Any] = data.draw(hnp.arrays(DATATYPES[datatype], shape))
    found = read(written(datatype, array.ravel().tolist()), datatype, shape)
    np.testing.assert_array_equal(found, array, strict=True)


@given(hnp.arrays(np.object_, SHAPES, elements=st.text(max_size=3)))
def test_text_comes_out_as_it_went_in(texts: NDArray[Any]) -> None:
    message = written("BYTES", [text.encode() for text in texts.ravel()])
    assert read(message, "BYTES", texts.shape) == texts.tolist()


def test_a_tensor_may_come_in_pieces_and_element_by_element() -> None:
    packed = written("INT64", [1, -2])
    alone = bytes([key_of(3, VARINT), 5]) * 2
    assert read(packed + alone, "INT64", (4,), cut=len(packed)).tolist() == [1, -2, 5, 5]
    floats = b"".join(bytes([key_of(6, FIXED32)]) + struct.pack("<f", number) for number in (0.5, 2))
    assert read(floats, "FP32", (2,)).tolist() == [0.5, 2]
    assert read(b"", "FP32", (0, 4)).shape == (0, 4)


@pytest.mark.parametrize(
    ("datatype", "message", "code", "path"),
    [
        ("FP32", written("FP64", [1.0]), "option_type", "inputs[1].contents"),
        ("INT64", written("INT32", [1]), "option_type", "inputs[1].contents"),
        ("FP16", written("FP32", [1.0]), "missing_field", "inputs[1].contents"),
        ("BF16", written("FP32", [1.0]), "missing_field", "inputs[1].contents"),
        ("FP32", written("FP32", [1.0, 2.0]), "malformed_tensor", "labels"),
        ("FP32", b"", "malformed_tensor", "labels"),
        ("FP32", bytes([key_of(6, LENGTH), 3, 0, 0, 0]), "malformed_tensor", "labels"),
        ("INT64", written("INT64", [1, 2]), "malformed_tensor", "labels"),
        ("BYTES", written("BYTES", [b"a", b"b"]), "malformed_tensor", "labels"),
        ("BYTES", written("BYTES", [b"\xff"]), "malformed_tensor", "labels"),
        ("BYTES", written("BYTES", [b""] * 1001), "malformed_protobuf", ""),
        ("INT8", written("INT32", [128]), "labels_type", "labels"),
        ("INT16", written("INT32", [-32769]), "labels_type", "labels"),
        ("UINT8", written("UINT32", [256]), "labels_type", "labels"),
        ("INT64", bytes([key_of(3, LENGTH), 2, 0xFF, 0xFF]), "malformed_tensor", "labels"),
        ("INT64", bytes([key_of(3, LENGTH), 11]) + b"\xff" * 10 + b"\x00", "malformed_protobuf", ""),
        ("INT64", b"\xff", "malformed_protobuf", ""),
    ],
)
def test_mistakes_are_told_by_their_place(datatype: str, message: bytes, code: str, path: str) -> None:
    assert refused(message, datatype, (1,)) == (code, path)
