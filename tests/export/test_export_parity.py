"""How far two answers lie apart, and which rows they are compared on."""

from pathlib import Path

import numpy as np
import pytest

from service.export.parity import Parity, ParityError, compare, read_rows
from service.export.source import Answers, ExportError, Float64Array
from service.numeric.softmax import softmax

LOGITS = np.array([[1.0, 2.0], [30.0, -5.0]])


def said(logits: Float64Array, probabilities: Float64Array | None = None) -> Answers:
    return Answers(logits, probabilities, logits.argmax(axis=1))


def against(source: Answers, tolerance: float = 1e-6, *, calibrated: bool = True) -> Parity:
    return compare(LOGITS, source, tolerance=tolerance, calibrated=calibrated)


def test_the_same_answers_do_not_differ() -> None:
    parity = against(said(LOGITS))
    assert parity == Parity(2, 0.0, None, 0, 1e-6, 1e-6)
    assert parity.holds


def test_a_logit_differs_relative_to_the_largest_of_its_row_but_not_below_1() -> None:
    assert against(said(LOGITS + np.array([[0.0, 0.0], [3.0, 0.0]]))).logits == pytest.approx(3 / 33)
    assert against(said(LOGITS + np.array([[0.0, 0.0], [0.0, 3.0]]))).logits == pytest.approx(3 / 30)
    small = np.array([[0.25, 0.5]])
    parity = compare(small, said(small - np.array([[0.5, 0.0]])), tolerance=1e-6, calibrated=True)
    assert parity.logits == pytest.approx(0.5)


def test_probabilities_may_differ_as_the_logits_behind_them_may() -> None:
    logits = np.array([[0.5, 0.0], [400.0, 401.0]])
    exact = softmax(logits)
    moved = exact + np.array([[0.0, 0.0], [1e-4, -1e-4]])
    parity = compare(logits, said(logits, moved), tolerance=1e-6, calibrated=True)
    assert parity.probabilities == pytest.approx(1e-4)
    assert parity.probability_tolerance == pytest.approx(401e-6)
    assert parity.holds
    worse = compare(logits, said(logits, moved[::-1]), tolerance=1e-6, calibrated=True)
    assert not worse.holds
    moved = exact + np.array([[1e-4, -1e-4], [2e-4, -2e-4]])  # the smaller one is beyond what its row may
    parity = compare(logits, said(logits, moved), tolerance=1e-6, calibrated=True)
    assert parity.probabilities == pytest.approx(1e-4)
    assert parity.probability_tolerance == 1e-6


def test_a_probability_differs_as_it_is_unless_scores_have_none() -> None:
    exps = np.exp(LOGITS)
    probabilities = exps / exps.sum(axis=1, keepdims=True)
    assert against(said(LOGITS, probabilities)).holds
    off = probabilities + np.array([[0.25, -0.25], [0, 0]])
    assert against(said(LOGITS, off)).probabilities == pytest.approx(0.25)
    assert against(said(LOGITS, off), calibrated=False).probabilities is None


def test_a_class_differs_where_the_source_is_sure_of_its_own() -> None:
    other = LOGITS[:, ::-1].copy()
    assert against(said(other)).classes == 2
    assert not against(said(other), tolerance=1e-6).holds
    tied = Answers(np.array([[2.0, 2.0 + 1e-9], [30.0, -5.0]]), None, np.array([1, 0]))
    parity = compare(np.array([[2.0, 2.0], [30.0, -5.0]]), tied, tolerance=1e-6, calibrated=True)
    assert (parity.classes, parity.holds) == (0, True)


def test_what_is_not_a_number_is_not_within_any_tolerance() -> None:
    assert not Parity(1, float("nan"), None, 0, 1.0, 1.0).holds


def test_the_error_says_what_differs() -> None:
    error = ParityError(Parity(5, 0.5, 0.1, 2, 0.2, 0.2))
    assert "logits differ by 0.5, allowed is 0.2; 2 of 5 rows get another class" in str(error)
    assert "probabilities" not in str(error)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_rows_are_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    rows = np.array([[1.5, 2.0], [3.0, 4.25]])
    if suffix == ".npy":
        np.save(path, rows.astype(np.float32))
    elif suffix == ".npz":
        np.savez(path, features=rows, labels=np.zeros(2))
    else:
        path.write_text("a,b\n1.5,2\n3,4.25\n", encoding="utf-8")
    read = read_rows(path, 2)
    assert read.dtype == np.float64
    np.testing.assert_array_equal(read, rows)


def test_an_archive_of_one_array_needs_no_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.ones((2, 3)))
    assert read_rows(tmp_path / "rows.npz", 3).shape == (2, 3)
    np.savez(tmp_path / "rows.npz", x=np.ones((2, 3)), y=np.ones(2))
    with pytest.raises(ExportError, match="expected an array named features, got x, y"):
        read_rows(tmp_path / "rows.npz", 3)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1,2,3\n", r"expected rows of numbers \[rows, 2\], got float64 of shape \[1, 3\]"),
        ("1,2\n1\n", "expected"),
        ("1,x\n1,y\n", "expected"),
        ("", "expected at least one line"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ExportError, match=told):
        read_rows(path, 2)


def test_rows_must_be_finite_numbers_in_a_file_that_is_known(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.array([[1.0, np.nan]]))
    with pytest.raises(ExportError, match=r"\[0\]\[1\]: expected a finite number, got nan"):
        read_rows(tmp_path / "rows.npy", 2)
    np.save(tmp_path / "rows.npy", np.array([["a", "b"]]))
    with pytest.raises(ExportError, match="expected rows of numbers"):
        read_rows(tmp_path / "rows.npy", 2)
    (tmp_path / "rows.txt").write_text("1 2", encoding="utf-8")
    with pytest.raises(ExportError, match=r"expected rows in \.npy, \.npz or \.csv"):
        read_rows(tmp_path / "rows.txt", 2)
