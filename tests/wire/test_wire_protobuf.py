"""Protobuf's layout of messages, checked against protobuf's own library."""

import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Malformed
from service.wire import protobuf
from service.wire.protobuf import FIXED32, FIXED64, LENGTH, VARINT, key_of, read_fields

UINT64 = st.integers(0, 2**64 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)


def messages() -> Any:
    """Make the class of a message that has every kind of field, in a pool of its own."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="test.proto", package="test", syntax="proto3")
    made = file.message_type.add(name="Every")
    kinds: list[tuple[str, Any, Any]] = [
        ("text", field.TYPE_STRING, field.LABEL_OPTIONAL),
        ("texts", field.TYPE_STRING, field.LABEL_REPEATED),
        ("number", field.TYPE_INT64, field.LABEL_OPTIONAL),
        ("numbers", field.TYPE_INT64, field.LABEL_REPEATED),
        ("float", field.TYPE_FLOAT, field.LABEL_OPTIONAL),
        ("double", field.TYPE_DOUBLE, field.LABEL_OPTIONAL),
        ("inner", field.TYPE_MESSAGE, field.LABEL_OPTIONAL),
        ("inners", field.TYPE_MESSAGE, field.LABEL_REPEATED),
        ("yes", field.TYPE_BOOL, field.LABEL_OPTIONAL),
    ]
    for number, (name, kind, label) in enumerate(kinds, 1):
        of = ".test.Every" if kind == field.TYPE_MESSAGE else None
        made.field.add(name=name, number=number, type=kind, label=label, type_name=of)
    # Of a number that takes two bytes.
    made.field.add(name="far", number=3000, type=field.TYPE_UINT64, label=field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("test.Every"))


Every = messages()
INNER = {"text": 1, "number": 3}
SCHEMA = {
    "text": 1,
    "texts": 2,
    "number": 3,
    "numbers": 4,
    "inner": (7, INNER),
    "inners": (8, INNER),
    "yes": 9,
    "far": 3000,
    "left_out": None,
    "named": (3, {"SEVEN": 7}),
}


def fields(message: bytes, **bounds: int) -> list[protobuf.Field]:
    return list(read_fields(message, 0, len(message), **bounds))


def refused(message: bytes, **bounds: int) -> str:
    with pytest.raises(Malformed) as caught:
        fields(message, **bounds)
    assert caught.value.code == "malformed_protobuf"
    assert len(caught.value.detail) < 200
    return caught.value.detail


# Reading


@given(st.text(), INT64, st.floats(width=32, allow_nan=False), st.floats(allow_nan=False), UINT64)
def test_every_kind_of_field_is_found(
    text: str, number: int, float32: float, float64: float, far: int
) -> None:
    whole = Every(text=text, number=number, float=float32, double=float64, far=far)
    message = whole.SerializeToString()
    found = {field.key: field for field in fields(message)}
    for key, name, read in (
        (key_of(1, LENGTH), "text", lambda field: protobuf.read_text(message, field)),
        (key_of(3, VARINT), "number", lambda field: protobuf.read_integer(message, field, signed=True)),
        (key_of(5, FIXED32), "float", lambda field: struct.unpack_from("<f", message, field.start)[0]),
        (key_of(6, FIXED64), "double", lambda field: struct.unpack_from("<d", message, field.start)[0]),
        (key_of(3000, VARINT), "far", lambda field: protobuf.read_integer(message, field)),
    ):
        # What a message holds by default is not sent.
        assert (read(found[key]) if key in found else type(getattr(whole, name))()) == getattr(whole, name)
    assert b"".join(message[field.at : field.end] for field in found.values()) == message


@given(st.lists(st.one_of(INT64, st.integers(-3, 300))))
def test_packed_integers_are_read_at_once(numbers: list[int]) -> None:
    message = Every(numbers=numbers).SerializeToString()
    packed = b"".join(message[field.start : field.end] for field in fields(message))
    assert protobuf.read_integers(packed).view(np.int64).tolist() == numbers
    assert protobuf.count_integers(packed) == len(numbers)


@pytest.mark.parametrize(
    ("packed", "what"),
    [(b"\x80", "no end"), (b"\x01\xff", "no end behind another"), (b"\x80" * 10 + b"\x01", "eleven bytes")],
)
def test_integers_end_within_64_bits(packed: bytes, what: str) -> None:
    with pytest.raises(Malformed, match="64 bits"):
        protobuf.read_integers(packed)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (b"\x0a", "an integer of at most 64 bits at byte 1"),
        (b"\x80" * 11, "an integer of at most 64 bits at byte 0"),
        (b"\x0a\x05abcd", "a field that ends before byte 6"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "a field that ends before byte"),
        (b"\x0d\x00\x00\x00", "a field that ends before byte 4"),
        (b"\x09" + bytes(7), "a field that ends before byte 8"),
        (b"\x0b\x0c", "a field at byte 0, got one of kind 3"),
        (b"\x0e", "a field at byte 0, got one of kind 6"),
        (b"\x00\x00", "a field that ends before byte 2, got one at byte 0"),
    ],
)
def test_what_is_no_message_is_told_by_its_place(message: bytes, told: str) -> None:
    assert told in refused(message)


def test_text_is_utf8() -> None:
    (field,) = fields(b"\x0a\x02\xc3\x28")
    with pytest.raises(Malformed, match="UTF-8 at byte 2"):
        protobuf.read_text(b"\x0a\x02\xc3\x28", field)


def test_fields_are_counted_before_more_is_read() -> None:
    assert len(fields(b"\x2a\x00" * 1000)) == 1000
    assert "at most 1000 fields" in refused(b"\x2a\x00" * 1001)
    assert "at most 2 fields" in refused(b"\x2a\x00" * 3, most=2)
    hostile = b"\x2a\x00" * (1 << 22)
    tracemalloc.start()
    refused(hostile)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_refused(message: bytes) -> None:
    try:
        found = fields(message)
    except Malformed:
        return
    assert b"".join(message[field.at : field.end] for field in found) == message


# Writing


@given(
    st.fixed_dictionaries(
        {
            "text": st.text(),
            "texts": st.lists(st.text()),
            "number": INT64,
            "numbers": st.lists(INT64),
            "inner": st.fixed_dictionaries({"text": st.text(), "number": INT64}),
            "inners": st.lists(st.fixed_dictionaries({"text": st.text(), "number": INT64})),
            "yes": st.booleans(),
            "far": UINT64,
        }
    )
)
def test_what_is_written_is_what_the_library_writes(values: dict[str, Any]) -> None:
    written, whole = protobuf.write(values, SCHEMA), Every(**values)
    assert Every.FromString(written) == whole
    assert len(written) == whole.ByteSize()


def test_an_empty_message_is_there_and_an_empty_list_is_not() -> None:
    read = Every.FromString(protobuf.write({"inner": {}, "texts": [], "numbers": [], "text": ""}, SCHEMA))
    assert read.HasField("inner")
    assert read == Every(inner={})


def test_enumerations_are_written_by_number_and_what_is_left_out_not_at_all() -> None:
    assert Every.FromString(protobuf.write({"named": "SEVEN", "left_out": {}}, SCHEMA)) == Every(number=7)
    for unknown in ({"named": "EIGHT"}, {"nobody": 1}):
        with pytest.raises(KeyError):
            protobuf.write(unknown, SCHEMA)


@given(st.binary(), st.sampled_from([1, 15, 16, 3000]))
def test_bytes_are_written_behind_their_head(value: bytes, number: int) -> None:
    message = protobuf.write_bytes(number, value)
    assert message == protobuf.write_head(number, len(value)) + value
    (field,) = fields(message)
    assert (field.key, message[field.start :]) == (key_of(number, LENGTH), value)
