"""What every source has in common: bounds, drawn rows, the two columns of one score."""

from pathlib import Path

import numpy as np
import pytest
from sources import BIAS, LINEAR, WEIGHTS, a_source

from service.export import source
from service.export.source import ExportError, Float64Array, Graph, Region
from service.heads.graphs import Linear
from service.types import FloatArray


def test_drawn_rows_are_the_same_every_time_and_exact_in_float32() -> None:
    first, second = (Region(5.0, 2.0).draw(200, 3) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, first.astype(np.float32))
    assert first.mean() == pytest.approx(5, abs=0.5)
    assert first.std() == pytest.approx(2, abs=0.3)


def test_drawn_rows_stay_where_features_can_lie() -> None:
    assert Region(0.0, 1.0, lowest=0.0).draw(50, 2).min() == 0


def test_each_feature_has_its_own_region() -> None:
    drawn = Region(np.array([0.0, 1000.0]), np.array([1.0, 0.001])).draw(100, 2)
    assert abs(drawn[:, 1] - 1000).max() < 0.01 < abs(drawn[:, 0]).max()


def test_weights_from_a_file_are_answered_for_by_arithmetic() -> None:
    rows = np.ones((2, 4))
    answers = source.answer_linearly(LINEAR)(rows)
    assert answers.logits is not None
    assert answers.probabilities is not None
    np.testing.assert_allclose(answers.logits, WEIGHTS.sum(axis=0) + BIAS + np.zeros((2, 1)))
    np.testing.assert_allclose(answers.probabilities.sum(axis=1), 1)
    assert answers.classes.tolist() == answers.logits.argmax(axis=1).tolist()


def test_one_score_becomes_two_columns_whose_softmax_is_its_sigmoid() -> None:
    two = source.of_two_classes(Linear(np.array([[2.0], [3.0]]), np.array([0.5])))
    assert two.weights.tolist() == [[0, 2], [0, 3]]
    assert two.bias.tolist() == [0, 0.5]


def rounded(rows: Float64Array) -> FloatArray:
    return source.rounded_to(rows, source.FLOAT32)


def test_a_source_knows_how_wide_it_is() -> None:
    assert (a_source().num_features, a_source().num_classes) == (4, 3)
    graph = a_source(head=Graph(b"", "x", "y", 7, 2, rounded))
    assert (graph.num_features, graph.num_classes) == (7, 2)


def test_what_is_not_finite_is_named_by_its_place() -> None:
    with pytest.raises(ExportError, match=r"^W\[1\]\[0\]: expected a finite number, got nan$"):
        source.check_finite(np.array([[1.0, 2.0], [np.nan, np.inf]]), "W")


def test_a_file_over_the_limit_is_not_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "long"
    file.write_bytes(b"12345")
    assert source.read_bounded(file, 5) == b"12345"
    with pytest.raises(ExportError, match="expected at most 4 bytes, got more"):
        source.read_bounded(file, 4)
    with pytest.raises(ExportError, match=r"cannot read .*absent: No such file"):
        source.read_bounded(tmp_path / "absent")
    with pytest.raises(ExportError, match="W: expected at most"):
        source.check_size(source.WEIGHTS_LIMIT_BYTES + 1, "W")


def test_a_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert source.sha256_of(tmp_path / "file").startswith("ba7816bf")


def test_a_list_of_names_is_bounded() -> None:
    assert source.listed([]) == "none"
    assert source.listed(["a", "b"]) == "a, b"
    assert source.listed(["x" * 500] * 12).endswith(" and 4 more")
    assert len(source.listed(["x" * 500] * 12)) < 700


def test_rounding_to_float32_lets_what_is_too_large_be_infinite() -> None:
    assert source.rounded_to(np.array([1e39]), source.FLOAT32).tolist() == [np.inf]
    assert source.rounded_to(np.array([1e39]), source.FLOAT64).tolist() == [1e39]
