"""npy and npz, in and out."""

import io
import struct
import tracemalloc
import zipfile
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.errors import Invalid, Malformed, RequestError, TooLarge
from service.wire.arrays import (
    MAX_HEADER_BYTES,
    MAX_MEMBERS,
    as_arrays,
    read_npy,
    read_npz,
    write_npy,
    write_npz,
)
from service.wire.limits import Limits

LIMITS = Limits(body_bytes=1 << 20, rows=10_000, elements=10_000, json_depth=32)
MEBIBYTE = 1 << 20

Array = np.ndarray[Any, Any]


def npy(array: Array, version: tuple[int, int] | None = None) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=version)
    return buffer.getvalue()


def npz(**arrays: Array) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type] # its stub takes the names for allow_pickle
    return buffer.getvalue()


def with_header(text: str, data: bytes = b"", version: int = 1) -> bytes:
    header = text.encode("latin-1") + b"\n"
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


def zipped(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def read(body: bytes) -> Array:
    return read_npy(body, LIMITS, path="logits")


def refused(body: bytes) -> Malformed:
    with pytest.raises(Malformed) as caught:
        read(body)
    assert caught.value.code == "malformed_npy"
    assert caught.value.offences[0].path == "logits"
    return caught.value


def refused_npz(body: bytes) -> Malformed:
    with pytest.raises(Malformed) as caught:
        read_npz(body, LIMITS)
    assert caught.value.code == "malformed_npz"
    assert len(caught.value.detail) < 250
    return caught.value


ARRAYS = hnp.arrays(
    st.one_of(
        hnp.floating_dtypes(sizes=(16, 32, 64)),
        hnp.integer_dtypes(),
        hnp.unsigned_integer_dtypes(),
        hnp.boolean_dtypes(),
        hnp.complex_number_dtypes(sizes=(64, 128)),
        hnp.unicode_string_dtypes(max_len=4),
        hnp.byte_string_dtypes(max_len=4),
    ),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)


@given(ARRAYS, st.sampled_from("CF"), st.sampled_from([(1, 0), (2, 0), (3, 0)]))
def test_what_numpy_writes_is_read_whatever_its_order_and_version(
    array: Array, order: Literal["C", "F"], version: tuple[int, int]
) -> None:
    found = read(npy(np.array(array, order=order), version))
    np.testing.assert_array_equal(found, array)
    assert found.shape == array.shape
    assert found.dtype == array.dtype.newbyteorder("=")
    assert found.flags.c_contiguous
    assert found.flags.aligned


@given(ARRAYS)
def test_what_is_written_numpy_reads(array: Array) -> None:
    np.testing.assert_array_equal(np.load(io.BytesIO(write_npy(array)), allow_pickle=False), array)
    with np.load(io.BytesIO(write_npz({"a": array, "b.c": array})), allow_pickle=False) as archive:
        assert archive.files == ["a", "b.c"]
        np.testing.assert_array_equal(archive["b.c"], array)


@given(st.dictionaries(st.sampled_from(["logits", "labels", "a.b"]), ARRAYS, max_size=3))
def test_npz_comes_back_as_it_was_written(arrays: dict[str, Array]) -> None:
    for body in (write_npz(arrays), zipped([(f"{name}.npy", npy(array)) for name, array in arrays.items()])):
        found = read_npz(body, LIMITS)
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)


def test_numpys_own_archives_are_read_compressed_or_not() -> None:
    logits = np.arange(6.0).reshape(2, 3)
    assert read_npz(npz(logits=logits), LIMITS)["logits"].tolist() == logits.tolist()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, logits=logits)
    assert read_npz(buffer.getvalue(), LIMITS)["logits"].tolist() == logits.tolist()


def test_equal_arrays_are_written_as_equal_bytes() -> None:
    assert write_npz({"a": np.arange(3)}) == write_npz({"a": np.arange(3)})


def test_reading_an_aligned_array_copies_nothing() -> None:
    body = npy(np.arange(1000.0))
    assert np.shares_memory(read(body), np.frombuffer(body, np.uint8))


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}",
        "{'shape':(2,),'fortran_order':False,'descr':'<f8'}",
        "  { 'descr' : '<f8' , 'fortran_order' : True , 'shape' : ( 2 , ) , }  ",
        "{'descr': 'f8', 'fortran_order': False, 'shape': (2), }",
        "{'descr': '=f8', 'fortran_order': False, 'shape': (2,), }",
    ],
)
def test_headers_of_other_writers_are_read(header: str) -> None:
    assert read(with_header(header, np.arange(2.0).tobytes())).tolist() == [0.0, 1.0]


PLAIN = "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "{}",
        "{'descr': '<f8'}",
        "{'descr': '<f8', 'fortran_order': False}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), 'more': 1}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), } + 1",
        "{'descr': '<f8', 'fortran_order': 1, 'shape': (2,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-2,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2.0,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1,,2), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1 2), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': [2], }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': '<f8', }",
        "{'descr': (2,), 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<f8', 'fortran_order': (2,), 'shape': (2,), }",
        "{'descr': '<f3', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<f99999999', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<U0', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '|V8', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<M8', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<m8[s]', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<f8,<f8', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (2,), }",
        "{'descr': ('<f8', (1,)), 'fortran_order': False, 'shape': (2,), }",
        "__import__('os').system('true')",
        "{'descr': '<f8', 'fortran_order': __import__('os'), 'shape': (2,), }",
        "(" * 5000,
        "{'descr': '<f8', 'fortran_order': False, 'shape': (" + " " * 9000 + "x), }",
        "{" + " " * 9900,
        PLAIN + " " * MAX_HEADER_BYTES,
    ],
)
def test_any_other_header_is_malformed(header: str) -> None:
    for version in (1, 2):
        refused(with_header(header, np.arange(2.0).tobytes(), version))


def test_object_arrays_are_refused_for_their_reason_and_never_unpickled() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([print, {}], dtype=object), allow_pickle=True)
    assert "unpickled" in refused(buffer.getvalue()).message
    assert "unpickled" in refused_npz(zipped([("logits.npy", buffer.getvalue())])).message


@pytest.mark.parametrize("dtype", [[("a", "f4")], [("a", "f4", (2,)), ("b", "i8")], "V4"])
def test_structured_and_void_arrays_are_malformed(dtype: Any) -> None:
    refused(npy(np.zeros(3, dtype=dtype)))


@pytest.mark.parametrize(
    "body",
    [b"", b"hello", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x00\x00", b"\x80\x04.", b"PK\x03\x04" + bytes(30)],
)
def test_what_is_no_npy_is_malformed(body: bytes) -> None:
    refused(body)


@pytest.mark.parametrize("version", [0, 4, 255])
def test_unknown_versions_are_malformed(version: int) -> None:
    assert "version" in refused(with_header(PLAIN, bytes(16), version)).message


def test_a_truncated_file_is_malformed_wherever_it_ends() -> None:
    body = npy(np.arange(4.0))
    for end in range(len(body)):
        refused(body[:end])


def test_trailing_bytes_are_malformed() -> None:
    error = refused(npy(np.arange(4.0)) + b"\0")
    assert error.message == "expected 32 bytes of data (<f8 of shape [4]), got 33"


@pytest.mark.parametrize(
    "shape", ["(100, 101)", "(1000000000000,)", "(0, 10001)", "(9999999999999999999, 0)"]
)
def test_a_declared_shape_over_the_limit_is_refused_before_the_data(shape: str) -> None:
    body = with_header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}")
    with pytest.raises(TooLarge) as caught:
        read(body)
    assert caught.value.code == "elements_too_many"


def test_a_length_of_too_many_digits_is_malformed() -> None:
    refused(with_header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({'9' * 5000},), }}"))


def test_too_many_axes_are_refused() -> None:
    shape = "1, " * 40
    with pytest.raises(Invalid) as caught:
        read(with_header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({shape}), }}", bytes(8)))
    assert caught.value.code == "rank"


GOOD = npz(logits=np.arange(3.0))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"PK\x03\x04",
        b"PK\x05\x06",
        b"not a zip archive, but long enough to hold one's end",
        GOOD + b"\0",
        b"\0" + GOOD,
        GOOD[:-1],
        GOOD[: len(GOOD) // 2],
        GOOD[1:],
        zipped([("logits.npy", b"no npy")]),
        zipped([("logits.txt", npy(np.arange(3.0)) + b"!")]),
        zipped([("logits.npy", npy(np.arange(3.0))[:-4])]),
    ],
)
def test_a_damaged_archive_is_malformed(body: bytes) -> None:
    refused_npz(body)


def test_an_empty_archive_has_no_arrays() -> None:
    assert read_npz(zipped([]), LIMITS) == {}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("a.npy", "a.npy"), ("a.npy", "a")])
def test_a_name_twice_is_malformed(names: tuple[str, str]) -> None:
    body = zipped([(name, npy(np.arange(3.0))) for name in names])
    assert "'a' twice" in refused_npz(body).message


def test_too_many_members_are_malformed_before_the_directory_is_read() -> None:
    content = npy(np.arange(3.0))
    assert len(read_npz(zipped([(f"{i}.npy", content) for i in range(MAX_MEMBERS)]), LIMITS)) == MAX_MEMBERS
    refused_npz(zipped([(f"{i}.npy", content) for i in range(MAX_MEMBERS + 1)]))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_that_choose_their_memory_are_malformed(method: int) -> None:
    assert "stored or deflated" in refused_npz(zipped([("a.npy", npy(np.arange(3.0)))], method)).message


def test_encrypted_members_are_malformed() -> None:
    body = bytearray(zipped([("a.npy", npy(np.arange(3.0)))]))
    body[6] |= 1  # the flag in the member's own header
    body[body.index(b"PK\x01\x02") + 8] |= 1  # and in the directory
    refused_npz(bytes(body))


def test_a_wrong_checksum_is_malformed() -> None:
    body = zipped([("a.npy", npy(np.arange(3.0)))], zipfile.ZIP_STORED)
    damaged = body.replace(struct.pack("<d", 2.0), struct.pack("<d", 3.0))
    assert damaged != body
    refused_npz(damaged)


def test_a_member_that_declares_more_bytes_than_a_body_may_have_is_not_inflated() -> None:
    text = np.zeros(10_000, dtype="<U100")
    body = zipped([("names.npy", npy(text))])
    assert len(body) < 10_000
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge) as caught:
            read_npz(body, LIMITS)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code == "body_too_large"
    assert peak_bytes < MEBIBYTE


def test_members_share_the_limit() -> None:
    half = npy(np.zeros(9_000))
    limits = Limits(body_bytes=200_000, rows=1, elements=10_000, json_depth=1)
    assert len(read_npz(zipped([("a.npy", half), ("b.npy", half)]), limits)) == 2
    with pytest.raises(TooLarge):
        read_npz(zipped([("a.npy", half), ("b.npy", half), ("c.npy", half)]), limits)


def test_a_zip_bomb_is_refused_by_the_shape_its_header_declares() -> None:
    bomb = zipped([("logits.npy", npy(np.zeros((1000, 5000))))])
    assert len(bomb) < LIMITS.body_bytes
    with pytest.raises(TooLarge) as caught:
        read_npz(bomb, LIMITS)
    assert caught.value.code == "elements_too_many"
    assert caught.value.offences[0].path == "logits"


def outcome(body: bytes) -> str:
    try:
        read_npz(body, LIMITS)
    except RequestError as error:
        return error.code
    return "read"


@given(st.data())
def test_a_mutated_archive_is_read_or_refused(data: st.DataObject) -> None:
    body = bytearray(data.draw(st.sampled_from([GOOD, zipped([("logits.npy", npy(np.arange(3.0)))])])))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    known = {"read", "malformed_npz", "elements_too_many", "body_too_large", "rank"}
    assert outcome(bytes(body)) in known


@given(st.data())
def test_a_mutated_npy_is_read_or_refused(data: st.DataObject) -> None:
    body = bytearray(npy(np.arange(6.0).reshape(2, 3)))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))
    assert outcome_of_npy(bytes(body)) in {"read", "malformed_npy", "elements_too_many", "rank"}


def outcome_of_npy(body: bytes) -> str:
    try:
        found = read(body)
    except RequestError as error:
        return error.code
    return "read" if found.size <= LIMITS.elements else "over the limit"


def test_outputs_become_arrays_but_for_the_mean_of_nothing() -> None:
    made = as_arrays({"a": np.array([1.5]), "b": 2, "c": ["x", "yz"], "d": "w", "e": None})
    assert {name: (array.shape, array.dtype.kind) for name, array in made.items()} == {
        "a": ((1,), "f"),
        "b": ((), "i"),
        "c": ((2,), "U"),
        "d": ((), "U"),
    }
