"""Labelled data: every kind of file, what is wrong with one in one line, and a split that never changes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.errors import Invalid, StartError
from service.evaluation.labelled import HELD_OUT_EVERY, held_out, indices_of, read

VALUES = np.array([[0.5, -1.25], [3e-2, 4.0], [1e10, 0.0]])
LABELS = np.array([1, 0, 1])
ONE_LINE = r"^[^\n]*$"


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, features=VALUES, logits=-VALUES, labels=LABELS, other=np.zeros(9))
    np.testing.assert_array_equal(read(path).values, VALUES)
    np.testing.assert_array_equal(read(path, logits=True).values, -VALUES)
    np.testing.assert_array_equal(read(path).labels, LABELS)


def test_npy_is_mapped_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", VALUES)
    np.save(tmp_path / "y.npy", LABELS)
    values, labels = read(tmp_path / "x.npy", tmp_path / "y.npy")
    assert isinstance(values, np.memmap)
    np.testing.assert_array_equal(values, VALUES)
    np.testing.assert_array_equal(labels, LABELS)


CSVS: dict[str, tuple[str, list[str]]] = {
    "a header": ("a,label,b\n0.5,1,-1.25\n3e-2,0,4\n1e10,1,0\n", ["1", "0", "1"]),
    "a header in capitals, with CRLF and a byte order mark": (
        "\ufeffa,Labels,b\r\n0.5,1,-1.25\r\n3e-2,0,4\r\n1e10,1,0\r\n",
        ["1", "0", "1"],
    ),
    "no header": ("0.5,-1.25,1\n3e-2,4,0\n1e10,0,1\n", ["1", "0", "1"]),
    "names without a header": ("0.5,-1.25,cat\n\n3e-2,4, dog\n1e10,0,cat\n\n", ["cat", "dog", "cat"]),
    "quotes": ('"a","b","label"\n"0.5",-1.25,"a, b"\n3e-2,4,"""c"""\n1e10,0,#3\n', ["a, b", '"c"', "#3"]),
}


@pytest.mark.parametrize(("text", "labels"), CSVS.values(), ids=CSVS)
def test_csv(tmp_path: Path, text: str, labels: list[str]) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(text.encode())
    data = read(path)
    np.testing.assert_array_equal(data.values, VALUES)
    assert data.labels.tolist() == labels


def test_one_row_is_enough(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("1,2,0")
    data = read(tmp_path / "rows.csv")
    assert (data.values.tolist(), data.labels.tolist()) == ([[1, 2]], ["0"])


BROKEN_CSVS: dict[str, tuple[str, str]] = {
    "nothing": ("", "expected a line for each row, got none"),
    "blank lines": ("\n\n\n", "expected a line for each row, got none"),
    "a header alone": ("a,b,label\n", "expected rows below a header"),
    "a header without a label": ("a,b,c\n1,2,0\n", "with one column called label"),
    "two labels": ("label,b,label\n1,2,0\n", "with one column called label"),
    "one column": ("1\n2\n", "expected a label beside the other columns"),
    "a word among numbers": ("1,2,0\n1,x,0\n", "could not convert string 'x'"),
    "a line too short": ("1,2,0\n1,2\n", "invalid column index 2 at row 2"),
    "no UTF-8": ("1,2,0\n1,\udcff,0\n", "codec can't decode"),
}


@pytest.mark.parametrize(("text", "said"), BROKEN_CSVS.values(), ids=BROKEN_CSVS)
def test_a_broken_csv_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(StartError, match=ONE_LINE) as raised:
        read(path)
    assert said in str(raised.value)
    assert str(path) in str(raised.value)


def arrays(folder: Path, **named: Any) -> Path:
    np.savez(folder / "rows.npz", **named)
    return folder / "rows.npz"


BROKEN_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "no labels": ({"features": VALUES}, "expected an array labels, got features"),
    "logits that were not asked for": (
        {"logits": VALUES, "labels": LABELS},
        "expected an array features, got logits, labels; --logits reads logits",
    ),
    "a row alone": ({"features": VALUES[0], "labels": LABELS}, "got shape [2]"),
    "no rows": ({"features": VALUES[:0], "labels": LABELS[:0]}, "got shape [0, 2]"),
    "no columns": ({"features": VALUES[:, :0], "labels": LABELS}, "got shape [3, 0]"),
    "text": ({"features": np.array([["a"]]), "labels": LABELS[:1]}, "expected numbers, got an array of <U1"),
    "fewer labels than rows": ({"features": VALUES, "labels": LABELS[:2]}, "labels of shape [2]"),
    "rows of labels": ({"features": VALUES, "labels": np.eye(3)}, "labels of shape [3, 3]"),
    "objects": ({"features": VALUES, "labels": np.array([None] * 3)}, "allow_pickle=False"),
}


@pytest.mark.parametrize(("named", "said"), BROKEN_ARRAYS.values(), ids=BROKEN_ARRAYS)
def test_arrays_that_are_no_labelled_rows_are_one_line(
    tmp_path: Path, named: dict[str, Any], said: str
) -> None:
    path = arrays(tmp_path, **named)
    with pytest.raises(StartError, match=ONE_LINE) as raised:
        read(path)
    assert said in str(raised.value)


def test_files_that_are_no_such_thing_are_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", VALUES)
    (tmp_path / "one.npz").write_bytes((tmp_path / "one.npy").read_bytes())
    np.savez(tmp_path / "many.npz", labels=LABELS)
    (tmp_path / "many.npy").write_bytes((tmp_path / "many.npz").read_bytes())
    (tmp_path / "noise.npz").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "noise.npy").write_bytes(b"noise")
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    refused: list[tuple[str, str | None, str]] = [
        ("absent.npz", None, "No such file"),
        ("one.npz", None, "expected several arrays"),
        ("noise.npz", None, "cannot read"),
        ("rows.parquet", None, "expected a file .npz or .npy or .csv"),
        ("one.npy", None, "--labels FILE.npy goes with --data FILE.npy"),
        ("one.npz", "one.npy", "--labels FILE.npy goes with --data FILE.npy"),
        ("one.npy", "many.npy", "magic string is not correct"),
        ("noise.npy", "one.npy", "noise.npy"),
        ("one.npy", "absent.npy", "absent.npy"),
    ]
    for name, labels, said in refused:
        with pytest.raises(StartError, match=ONE_LINE) as raised:
            read(tmp_path / name, tmp_path / labels if labels else None)
        assert said in str(raised.value), name


def test_a_truncated_archive_is_one_line(tmp_path: Path) -> None:
    whole = arrays(
        tmp_path, features=np.random.default_rng(0).random((99, 9)), labels=np.zeros(99, int)
    ).read_bytes()
    for keep in (len(whole) // 2, len(whole) - 3):
        (tmp_path / "cut.npz").write_bytes(whole[:keep])
        with pytest.raises(StartError, match="cannot read"):
            read(tmp_path / "cut.npz")


def test_names_are_indices_where_all_of_them_are_known() -> None:
    names = ("cat", "dog", "7")
    assert indices_of(np.array(["dog", "cat", "7"]), 3, names).tolist() == [1, 0, 2]
    assert indices_of(np.array(["1", "0"]), 3, names).tolist() == [1, 0]
    assert indices_of(np.array(["2", "0"]), 3).tolist() == [2, 0]
    assert indices_of(np.array([2, 0], np.uint8), 3).dtype == np.int64
    for labels, names_known, said in (
        (["dog", "eel"], names, "expected one of 3 class names or the index of a class, got 'eel'"),
        (["dog"], None, "expected the index of a class, got 'dog'"),
        (["1.0"], None, "got '1.0'"),
        (["9" * 50], None, "got '9999"),
    ):
        with pytest.raises(StartError) as raised:
            indices_of(np.array(labels), 3, names_known)
        assert said in str(raised.value)


@pytest.mark.parametrize(
    "labels", [np.array([0, 3]), np.array([-1, 0]), np.array([1.0, 0.0]), np.array([True, False])]
)
def test_what_is_no_index_is_refused(labels: Any) -> None:
    with pytest.raises(Invalid):
        indices_of(labels, 3)


@given(hnp.arrays(np.int64, st.integers(1, 200), elements=st.integers(0, 6)))
def test_every_fifth_row_of_each_class_is_held_out(labels: Any) -> None:
    chosen = held_out(labels)
    expected = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        expected[np.flatnonzero(labels == label)[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]] = True
    np.testing.assert_array_equal(chosen, expected)
