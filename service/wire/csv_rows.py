"""CSV -> rows of numbers, strictly, and rows -> CSV.

A line of plain numbers is what stands in a JSON list, so most bodies go to the JSON reader as lists of lists, and
no Python object is made for a number where that makes none. What CSV has and JSON has not (quotes, a plus, a bare
point) is read cell by cell, which also finds the first fault. What the numbers mean is not known here.
"""

import codecs
import csv
import io
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np

from service.errors import Invalid, Malformed
from service.types import Output
from service.wire import json_writer
from service.wire.json_reader import count_byte, read_object
from service.wire.limits import Limits, check_elements, check_rows

_DECIMAL = r"[ \t]*+[+-]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)?[ \t]*+"
_NUMBER = re.compile(_DECIMAL, re.ASCII)
_NUMBERS = re.compile(f"{_DECIMAL}(?:,{_DECIMAL})*+", re.ASCII)
# Of what a line of numbers is made, and the words of writers that have no number: neither makes it one of names.
_OF_NUMBERS = b"0123456789+-.eE, \t\r"
_NO_NAMES = {"", "nan", "inf", "+inf", "-inf", "infinity", "-infinity", "na", "null", "none"}
# With a bracket a line could end its list; a bare CR is white space in JSON and ends a line in CSV; the others begin
# what is no number in JSON.
_NOT_PLAIN = (b"]", b"\r", b"{", b'"', b"u", b"a")

# Where text has no closing bracket these are all the levels there are, however many lists.
_ANY_DEPTH = 1000


def read(body: bytes, limits: Limits, *, path: str, code: str, header: bool | None = None) -> Any:
    """Read rows of numbers.

    Parameters
    ----------
    body : bytes
        UTF-8, perhaps with the byte order mark of spreadsheets, in lines that end with LF or CRLF; empty lines at the
        end count as none.
    path, code : str
        The field that the rows are, and the error of a cell that is no number.
    header : bool or None
        Whether the first line names the columns. None looks: it does if one of its cells is a text, which neither
        an empty cell nor a word such as "nan" is. Names are read over.

    Returns
    -------
    float64 array [rows, columns], or lists of lists of numbers, perhaps of uneven lengths
        At least one row; all numbers are finite.

    Raises
    ------
    Malformed
        `malformed_csv`: no rows, no UTF-8, or quotes that do not match.
    Invalid
        `code` at the first cell that is no decimal number, `ragged`.
    TooLarge
        `rows_too_many`, `elements_too_many`, as far as that shows before the numbers are read.
    """
    text = body.removeprefix(codecs.BOM_UTF8).rstrip(b"\r\n")
    first, _, rest = text.partition(b"\n")
    if _has_names(first) if header is None else header:
        text = rest
    if not text:
        raise Malformed("malformed_csv", "expected at least one line of numbers, got none")
    line_ends = count_byte(text, b"\n", len(text))
    check_rows(line_ends + 1, limits, path=path)
    check_elements((line_ends + 1 + count_byte(text, b",", len(text)),), limits, path=path)
    rows = _read_plain(text)
    return list(_read_cells(text, path, code)) if rows is None else rows


def write(rows: Output) -> bytes:
    """Write a line for each row of one output: numbers in their shortest digits, names quoted where they must be.

    Parameters
    ----------
    rows : Output
        Of an array the last axis goes along the line where there are several; one axis is a column. The mean of
        nothing is an empty line.
    """
    if rows is None:
        return b"\n"
    if isinstance(rows, list | str):
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows([name] for name in _flat(rows))
        return file.getvalue().encode()
    array = np.atleast_1d(np.asarray(rows))
    lines = array.reshape(-1, array.shape[-1] if array.ndim > 1 else 1)
    if not lines.size:
        return b""
    # As JSON `[[1,2],[3,4]]`, but for what is around and between the lists, and around words such as -Infinity.
    return json_writer.dumps(json_writer.plain(lines))[2:-2].replace(b"],[", b"\n").replace(b'"', b"") + b"\n"


def _has_names(line: bytes) -> bool:
    if not line.translate(None, _OF_NUMBERS):
        return False
    cells = next(_cells(line), [])
    return any(not _NUMBER.fullmatch(cell) and cell.strip().lower() not in _NO_NAMES for cell in cells)


def _read_plain(text: bytes) -> Any:
    """Read lines that are lists of JSON numbers; None leaves any others, and every fault, to `_read_cells`."""
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    if any(byte in text for byte in _NOT_PLAIN):
        return None
    try:
        listed = b'{"rows":[[%b]]}' % text.replace(b"\n", b"],[")
        return read_object(listed, _ANY_DEPTH, tensor="rows")["rows"]
    except Malformed:
        return None


def _read_cells(text: bytes, path: str, code: str) -> Iterator[list[float]]:
    width = None
    for row, cells in enumerate(_cells(text)):
        line = ",".join(cells)
        # A quoted cell may have commas of its own.
        if not _NUMBERS.fullmatch(line) or line.count(",") >= len(cells):
            _refuse_first(cells, row, path, code)
        numbers = list(map(float, cells))
        if math.inf in numbers or -math.inf in numbers:
            _refuse_first(cells, row, path, code)
        width = len(numbers) if width is None else width
        if len(numbers) != width:
            message = f"expected a line of {width} numbers as the first, got one of {len(numbers)}"
            raise Invalid("ragged", message, path=f"{path}[{row}]")
        yield numbers


def _cells(text: bytes) -> Iterator[list[str]]:
    try:
        yield from csv.reader(io.StringIO(text.decode(), newline=""), strict=True)
    except UnicodeDecodeError as error:
        raise Malformed("malformed_csv", f"expected UTF-8, got another byte at {error.start}") from None
    except csv.Error as error:
        raise Malformed("malformed_csv", f"expected cells between commas: {error}") from None


def _refuse_first(cells: list[str], row: int, path: str, code: str) -> NoReturn:
    is_bad = (not _NUMBER.fullmatch(cell) or math.isinf(float(cell)) for cell in cells)
    column = next((column for column, bad in enumerate(is_bad) if bad), 0)
    cell = cells[column] if cells else ""
    got = f"{cell[:40]!r}" if cell.strip() else "an empty cell"
    hint = "" if row else "; header=present says that the first line names the columns"
    message = f"expected a decimal number that float64 can hold, got {got}{hint}"
    raise Invalid(code, message, path=f"{path}[{row}][{column}]")


def _flat(names: Output) -> Iterator[Output]:
    if isinstance(names, list):
        for name in names:
            yield from _flat(name)
    else:
        yield names
