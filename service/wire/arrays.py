"""npy and npz, in and out.

Nothing is ever unpickled and no header is ever evaluated: a header is matched by a pattern. Shapes and sizes
are checked against the limits as they are declared, before memory is taken for them. What the arrays mean is
not known here.
"""

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from service.errors import Malformed
from service.types import Output
from service.wire.limits import Limits, body_too_large, check_elements

MAGIC = b"\x93NUMPY"
# numpy's own bound on a header it will read; a plain one has 128 bytes.
MAX_HEADER_BYTES = 10_000
# More members than there are fields are an attack on the reader of the directory.
MAX_MEMBERS = 64

_MEMBER = b"PK\x01\x02"  # begins each member's entry in the directory of a zip archive
_END = b"PK\x05\x06"  # begins the record that ends an archive: 22 bytes where there is no comment
_END_BYTES = 22

# What numpy writes. The others inflate with memory that the archive chooses (lzma: up to 4 GiB).
_COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}

_VALUE = rb"""'(?P<descr>[<>|=]?[a-zA-Z]\d{1,9})'|(?P<order>True|False)|\((?P<shape>[\d, ]*+)\)"""
_ENTRY = re.compile(rb"\s*+'(?P<key>descr|fortran_order|shape)'\s*+:\s*+(?:" + _VALUE + rb")\s*+(?:,|(?=\}))")

# What a damaged archive makes zipfile and zlib raise, as fuzzing shows.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,  # a version or a feature that zipfile does not know
    OSError,
    OverflowError,
    RuntimeError,  # an encrypted member
    ValueError,
)


class Header(NamedTuple):
    """What an npy header declares, and where the data begins."""

    dtype: np.dtype[Any]
    fortran_order: bool
    shape: tuple[int, ...]
    data_offset: int


def read_npy(body: bytes, limits: Limits, *, path: str, code: str = "malformed_npy") -> NDArray[Any]:
    """Read one npy file of numbers, booleans or text.

    Parameters
    ----------
    path, code : str
        The field it stands for, and the error of one that cannot be read.

    Returns
    -------
    array
        C-contiguous, aligned and of native byte order; a view of `body` where that is so already.

    Raises
    ------
    Malformed
        `code`: no npy, an object or structured array, or data that do not fit the declared shape.
    TooLarge
        `elements_too_many`, by the declared shape.
    """
    header = _read_header(body, path, code)
    _check_declared(header, len(body), limits, path, code)
    return _to_array(body, header)


def read_npz(body: bytes, limits: Limits) -> dict[str, NDArray[Any]]:
    """Read an npz archive: a zip of npy files, each named as its array with `.npy` behind.

    Raises
    ------
    Malformed
        `malformed_npz`: no zip, members that are no npy, encrypted, named twice or too many of them.
    TooLarge
        `body_too_large` where the members declare more bytes than a body may have, `elements_too_many`.
    """
    if body[-_END_BYTES : -_END_BYTES + 4] != _END or not body.startswith((b"PK\x03\x04", _END)):
        _refuse("malformed_npz", "expected a zip archive with nothing before or after it")
    if body.count(_MEMBER) > MAX_MEMBERS:
        _refuse("malformed_npz", f"expected at most {MAX_MEMBERS} members")
    try:
        return _read_members(body, limits)
    except _ZIP_ERRORS as error:
        _refuse("malformed_npz", f"expected a readable zip archive: {str(error)[:80]}")


def as_arrays(outputs: Mapping[str, Output]) -> dict[str, NDArray[Any]]:
    """Make arrays of outputs, names as text; the mean of nothing has none."""
    return {
        name: np.asarray(value, dtype=np.str_) if isinstance(value, str | list) else np.asarray(value)
        for name, value in outputs.items()
        if value is not None
    }


def write_npy(array: NDArray[Any]) -> bytes:
    """Write an array of numbers or text as npy."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def write_npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Write arrays as npz, uncompressed: compressing floats costs more time than it saves bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            # A ZipInfo of its own has a fixed date, so that equal answers are equal bytes.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), write_npy(array))
    return buffer.getvalue()


def _read_members(body: bytes, limits: Limits) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    room = limits.body_bytes
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name in found:
                _refuse("malformed_npz", f"expected each name once, got {name[:40]!r} twice")
            if info.compress_type not in _COMPRESSIONS:
                _refuse("malformed_npz", f"expected members stored or deflated, got {name[:40]!r} otherwise")
            with archive.open(info) as member:
                found[name] = _read_member(member, info.file_size, limits, name[:40], room)
            room -= info.file_size
    return found


def _read_member(
    member: IO[bytes], size_bytes: int, limits: Limits, path: str, room_bytes: int
) -> NDArray[Any]:
    """Inflate the header, and the rest only where what both directory and header declare can be had."""
    start = member.read(12 + MAX_HEADER_BYTES)
    header = _read_header(start, path, "malformed_npz")
    _check_declared(header, size_bytes, limits, path, "malformed_npz")
    if size_bytes > room_bytes:
        raise body_too_large(limits.body_bytes)
    # zipfile inflates no more than the declared size, then compares the checksum.
    return _to_array(start + member.read(), header)


def _check_declared(header: Header, size_bytes: int, limits: Limits, path: str, code: str) -> None:
    check_elements(header.shape, limits, path=path)
    expected_bytes = math.prod(header.shape) * header.dtype.itemsize
    got_bytes = size_bytes - header.data_offset
    if got_bytes != expected_bytes:
        declared = f"{header.dtype.str} of shape {list(header.shape)}"
        _refuse(code, f"expected {expected_bytes} bytes of data ({declared}), got {got_bytes}", path)


def _to_array(body: bytes, header: Header) -> NDArray[Any]:
    count = math.prod(header.shape)
    # frombuffer has no word for "nothing"
    flat = (
        np.frombuffer(body, header.dtype, count, header.data_offset) if count else np.empty(0, header.dtype)
    )
    array = flat.reshape(header.shape, order="F" if header.fortran_order else "C")
    return np.require(array, header.dtype.newbyteorder("="), ["C_CONTIGUOUS", "ALIGNED"])


def _read_header(body: bytes, path: str, code: str) -> Header:
    if len(body) < 12 or not body.startswith(MAGIC):
        _refuse(code, "expected an npy file, which begins with the bytes 93 4E 55 4D 50 59", path)
    major = body[len(MAGIC)]
    if major not in {1, 2, 3}:
        _refuse(code, f"expected version 1, 2 or 3 of the npy format, got {major}", path)
    start = 10 if major == 1 else 12
    length = int.from_bytes(body[8:start], "little")
    header = body[start : start + length]
    if length > MAX_HEADER_BYTES or len(header) < length:
        _refuse(code, f"expected a header of at most {MAX_HEADER_BYTES} bytes, all of it there", path)
    if b"'|O" in header:
        _refuse(code, "object arrays are not read: they would have to be unpickled", path)
    entries = _read_entries(header.strip())
    if entries is None:
        _refuse(code, "expected a header with a plain descr, fortran_order and shape, and nothing else", path)
    descr, fortran_order, shape = entries
    try:
        dtype = np.dtype(descr)
    except TypeError:
        dtype = np.dtype("V")
    if dtype.kind not in "biufcSU" or not dtype.itemsize:
        _refuse(code, f"expected numbers, booleans or text, got descr {descr[:40]!r}", path)
    return Header(dtype, fortran_order, shape, start + length)


def _read_entries(header: bytes) -> tuple[str, bool, tuple[int, ...]] | None:
    """Match `{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }`, whatever the order."""
    found: dict[bytes, re.Match[bytes]] = {}
    position = 1
    while entry := _ENTRY.match(header, position):
        found[entry["key"]] = entry
        position = entry.end()
    if not header.startswith(b"{") or header[position:].strip() != b"}" or len(found) != 3:
        return None
    descr, order, shape = found[b"descr"]["descr"], found[b"fortran_order"]["order"], found[b"shape"]["shape"]
    if descr is None or order is None or shape is None:
        return None
    lengths = [length.strip() for length in shape.split(b",")]
    if not lengths[-1]:  # (), (3,) and (2, 3, ) end so
        lengths.pop()
    # An axis of 19 digits is beyond every limit, and more could not be multiplied in good time.
    if not all(length.isdigit() and len(length) < 20 for length in lengths):
        return None
    return descr.decode(), order == b"True", tuple(map(int, lengths))


def _refuse(code: str, message: str, path: str = "") -> NoReturn:
    raise Malformed(code, message, path=path)
