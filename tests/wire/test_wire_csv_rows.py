"""CSV: strict numbers, headers, faults with their place, bounds, and either way of reading gives the same."""

import csv
import io
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import RequestError
from service.wire import csv_rows
from service.wire.json_reader import HAS_SIMDJSON
from service.wire.limits import Limits

LIMITS = Limits(body_bytes=1 << 20, rows=1000, elements=10_000, json_depth=3)

FINITE = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**30), 10**30)
TABLES = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(FINITE, min_size=width, max_size=width), min_size=1, max_size=5)
)


def read(body: bytes, header: bool | None = None, limits: Limits = LIMITS) -> Any:  # noqa: FBT001
    rows = csv_rows.read(body, limits, path="features", code="features_type", header=header)
    return rows.tolist() if isinstance(rows, np.ndarray) else rows


def fault(body: bytes, header: bool | None = None, limits: Limits = LIMITS) -> tuple[str, str]:  # noqa: FBT001
    with pytest.raises(RequestError) as caught:
        read(body, header, limits)
    assert len(caught.value.detail) < 250
    offences = caught.value.offences
    return caught.value.code, offences[0].path if offences else ""


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        (b"1", [[1]]),
        (b"1,2\n3,4", [[1, 2], [3, 4]]),
        (b"1,2\n3,4\n", [[1, 2], [3, 4]]),
        (b"1,2\r\n3,4\r\n\r\n", [[1, 2], [3, 4]]),
        (b"1\n2\n3", [[1], [2], [3]]),
        (b"-1.5,2e3,-0.0,1E-5", [[-1.5, 2000, 0, 1e-5]]),
        (b" 1 ,\t2", [[1, 2]]),
        (b'"1","2"\n"3","4"', [[1, 2], [3, 4]]),
        (b'1,"2.5"\n', [[1, 2.5]]),
        (b"+1,.5,2.,007,+.5e+1", [[1, 0.5, 2, 7, 5]]),
        (b"123456789012345678901234567890", [[1.2345678901234568e29]]),
        (b"\xef\xbb\xbf1,2\n3,4", [[1, 2], [3, 4]]),
    ],
)
def test_numbers_are_read_as_they_are_written(body: bytes, rows: list[list[float]]) -> None:
    assert read(body) == rows
    assert read(body, header=False) == rows


@pytest.mark.parametrize(
    "header",
    [
        b"a,b",
        b'"a","b"',
        b"1,b",
        b",b",
        b"pixel_0,pixel_1",
        "größe,höhe".encode(),
        b'"a,b",c',
        b"a",
        b"True,False",
        b"0x10,1",
        b"\xef\xbb\xbfa,b",
    ],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_first_line_with_a_text_names_columns(header: bytes, end: bytes) -> None:
    body = header + end + b"1,2" + end + b"3,4"
    assert read(body) == [[1, 2], [3, 4]]
    assert read(body, header=True) == [[1, 2], [3, 4]]
    assert fault(body, header=False)[0] in {"features_type", "malformed_csv"}


@pytest.mark.parametrize("word", [b"nan", b"NaN", b"", b"inf", b"-Infinity", b"NA", b"null", b" "])
def test_a_row_that_lacks_a_number_is_no_header(word: bytes) -> None:
    assert fault(word + b",1\n2,3") == ("features_type", "features[0][0]")
    assert fault(b"a,b\n2," + word) == ("features_type", "features[0][1]")


def test_a_header_of_numbers_must_be_said() -> None:
    assert read(b"0,1\n5,6") == [[0, 1], [5, 6]]
    assert read(b"0,1\n5,6", header=True) == [[5, 6]]
    with pytest.raises(RequestError, match="header=present"):
        read(b"e,E\n5,6")
    assert read(b"e,E\n5,6", header=True) == [[5, 6]]


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        (b"", "malformed_csv", ""),
        (b"\n\r\n", "malformed_csv", ""),
        (b"a,b\n", "malformed_csv", ""),
        (b"1,x", "malformed_csv", ""),  # a header and nothing else
        (b"1,2\n3,x", "features_type", "features[1][1]"),
        (b"1,2\n3,", "features_type", "features[1][1]"),
        (b"1,2\n,4", "features_type", "features[1][0]"),
        (b"1,2\n,", "features_type", "features[1][0]"),
        (b"1,2\n3,nan", "features_type", "features[1][1]"),
        (b"1,2\n3,1e400", "features_type", "features[1][1]"),
        (b"1,2\n-1e400,3", "features_type", "features[1][0]"),
        (b"1,2\n0x10,3", "features_type", "features[1][0]"),
        (b"1,2\n1_000,3", "features_type", "features[1][0]"),
        (b"1,2\n1 2,3", "features_type", "features[1][0]"),
        (b"1,2\ntrue,null", "features_type", "features[1][0]"),
        (b"1,2\n[],{}", "features_type", "features[1][0]"),
        (b"1,2],[3,4", "malformed_csv", ""),  # looks like a header; it must not look like two rows
        (b"0,0\n1,2],[3,4", "features_type", "features[1][1]"),
        (b'0,0\n"1,2"', "features_type", "features[1][0]"),
        (b'0,0\n"1,2",3', "features_type", "features[1][0]"),
        (b'0,0\n"1,2,3",4,"5"', "features_type", "features[1][0]"),
        (b'0,0\n1,"2', "malformed_csv", ""),
        (b'0,0\n1,"2"3', "malformed_csv", ""),
        (b"0,0\n1,\xff", "malformed_csv", ""),
        ("0,0\n1,\u0663".encode(), "features_type", "features[1][1]"),
        (b"\xef\xbb\xbf1,2\n3,x", "features_type", "features[1][1]"),
        (b"0,0\n1,\r2", "features_type", "features[1][1]"),
        (b"1,2\n3,4\x00", "features_type", "features[1][1]"),
        (b'"1",2\n3', "ragged", "features[1]"),
        (b'"1",2\n3,4,5', "ragged", "features[1]"),
        (b'"1",2\n\n3,4', "features_type", "features[1][0]"),
    ],
)
def test_a_fault_has_its_place(body: bytes, code: str, path: str) -> None:
    assert fault(body) == (code, path)


@pytest.mark.parametrize("body", [b"1,2\n3", b"1\n\n2", b"\n1,2"])
def test_uneven_lines_of_plain_numbers_are_left_to_whoever_reads_lists(body: bytes) -> None:
    assert len({len(row) for row in read(body)}) > 1


def test_a_cell_is_not_echoed_at_length() -> None:
    assert fault(b"1\n" + b"x" * 100_000) == ("features_type", "features[1][0]")
    assert fault(b"1\n" + b"x" * 1_000_000)[0] == "malformed_csv"


def test_limits_are_checked_before_numbers_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_read_plain", "_read_cells"):
        monkeypatch.setattr(csv_rows, name, None)
    few = Limits(1 << 20, rows=3, elements=10, json_depth=3)
    assert fault(b"1\n" * 4, limits=few) == ("rows_too_many", "features")
    assert fault(b"1,2,3,4,5,6\n" * 2, limits=few) == ("elements_too_many", "features")
    assert fault(b"," * 11, limits=few) == ("elements_too_many", "features")


@pytest.mark.skipif(not HAS_SIMDJSON, reason="simdjson is not installed")
def test_long_bodies_become_arrays() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 20))
    body = "\n".join(",".join(map(repr, row)) for row in rows.tolist()).encode()
    found = csv_rows.read(body, LIMITS, path="features", code="features_type")
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, rows)


@given(TABLES, st.sampled_from(["\n", "\r\n"]), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_what_pythons_csv_writes_is_read_exactly(rows: list[list[float]], end: str, quoting: int) -> None:
    file = io.StringIO()
    csv.writer(file, lineterminator=end, quoting=quoting).writerows(rows)  # type: ignore[arg-type] # one of its own
    expected = [[float(number) for number in row] for row in rows]
    found = [[float(number) for number in row] for row in read(file.getvalue().encode())]
    assert found == expected
    assert [[math.copysign(1, n) for n in row] for row in found] == [
        [math.copysign(1, n) for n in row] for row in expected
    ]


@given(TABLES)
def test_what_is_written_is_read_again(rows: list[list[float]]) -> None:
    array = np.array(rows, np.float64)
    np.testing.assert_array_equal(np.array(read(csv_rows.write(array)), np.float64), array)


@given(st.text(alphabet='0123456789+-.eE, \t\r\n"[]{}nulatrfs', max_size=40))
def test_the_fast_way_gives_nothing_that_the_careful_way_would_not(text: str) -> None:
    plain = csv_rows._read_plain(text.encode())
    if plain is None or len({len(row) for row in plain}) > 1:
        return
    if any(len(row) == 0 for row in plain):  # lines of spaces: no row of a head
        return
    careful = list(csv_rows._read_cells(text.encode(), "features", "features_type"))
    assert [list(map(float, row)) for row in plain] == careful


@given(st.binary(max_size=60))
def test_any_bytes_are_rows_or_refused(body: bytes) -> None:
    for header in (None, True, False):
        try:
            rows = read(body, header)
        except RequestError as error:
            assert error.status in {400, 422}  # noqa: PT017 - either outcome is right
        else:
            assert len(rows) >= 1


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (np.array([[0.25, 0.75], [1, 0]], np.float32), "0.25,0.75\n1.0,0.0\n"),
        (np.array([[0.1]], np.float32), "0.1\n"),
        (np.array([3, 7]), "3\n7\n"),
        (np.array([0.5, np.inf]), "0.5\nInfinity\n"),
        (np.array([[-np.inf, 0.5]]), "-Infinity,0.5\n"),
        (np.float64(0.5), "0.5\n"),
        (7, "7\n"),
        (np.zeros((2, 1, 2)), "0.0,0.0\n0.0,0.0\n"),
        (np.zeros((0, 3)), ""),
        (["cat", 'say "a", b'], 'cat\n"say ""a"", b"\n'),
        ([["a", "b"], ["c"]], "a\nb\nc\n"),
        ("cat", "cat\n"),
    ],
)
def test_an_output_is_a_line_for_each_row(rows: Any, text: str) -> None:
    assert csv_rows.write(rows).decode() == text


def test_the_mean_of_nothing_is_an_empty_line() -> None:
    assert csv_rows.write(None) == b"\n"
