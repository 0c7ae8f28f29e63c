"""Which arrays are the head: by name, by shape, by order, or by what was said."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from service.export.source import ExportError, Options
from service.export.tensors import Found, Shelf, find_linear

W = np.arange(12.0).reshape(4, 3)
B = np.array([1.0, 2.0, 3.0])


def find(
    arrays: Mapping[str, Any], *, ordered: bool = False, first: bool | None = None, **said: Any
) -> Found:
    shelf = Shelf(
        {name: np.shape(array) for name, array in arrays.items()}, arrays.__getitem__, ordered, first
    )
    return find_linear(shelf, Options(**said))


@pytest.mark.parametrize(
    "names", [("W", "b"), ("weights", "bias"), ("kernel", "bias"), ("coef_", "intercept_"), ("w", "biases")]
)
def test_usual_names_are_known_and_the_bias_tells_the_orientation(names: tuple[str, str]) -> None:
    for weights in (W, W.T):
        found = find({names[0]: weights, names[1]: B})
        assert found.linear.weights.tolist() == W.tolist()
        assert found.linear.bias.tolist() == B.tolist()
        assert found.dtype == np.float64
    assert "transposed: the bias has 3" in found.notes[0]


@pytest.mark.parametrize(
    "layer", ["classifier", "model.score", "fc", "backbone/head", "net.logits", "Classifier"]
)
def test_the_layer_that_makes_logits_is_known_among_others(layer: str) -> None:
    word = "kernel" if "/" in layer else "weight"
    join = "/" if "/" in layer else "."
    arrays = {
        "encoder.dense.weight": np.zeros((4, 4)),
        f"{layer}{join}{word}": W.T,
        f"{layer}{join}bias": B,
        "encoder.dense.bias": np.zeros(4),
    }
    found = find(arrays, first=True)
    assert found.linear.weights.tolist() == W.tolist()
    assert found.notes[-1].startswith("features are what enters ")


def test_the_last_layer_is_taken_where_the_order_is_that_of_layers() -> None:
    arrays = {"0.weight": np.ones((5, 4)), "0.bias": np.ones(5), "2.weight": np.ones((3, 5)), "2.bias": B}
    found = find(arrays, ordered=True, first=True)
    assert found.linear.weights.shape == (5, 3)
    assert found.notes == (
        "weights 2.weight",
        "bias 2.bias",
        "the last of 2 layers that could be it",
        "features are what enters 2",
    )
    with pytest.raises(ExportError, match=r"name one with --weight: 0\.weight \[5, 4\], 2\.weight \[3, 5\]"):
        find(arrays, first=True)


def test_arrays_that_are_named_are_taken() -> None:
    arrays = {"a": W, "b": np.zeros(9), "c": B, "weight": np.zeros((2, 2))}
    found = find(arrays, weight="a", bias="c")
    assert found.linear.weights.tolist() == W.tolist()
    with pytest.raises(ExportError, match=r"--weight z: expected one of a \[4, 3\], b \[9\]"):
        find(arrays, weight="z")
    with pytest.raises(ExportError, match="--bias z: expected one of"):
        find(arrays, weight="a", bias="z")


def test_without_a_bias_the_orientation_must_be_said() -> None:
    with pytest.raises(ExportError, match=r"W \[4, 3\]: is it .* say --no-transpose or --transpose"):
        find({"W": W})
    found = find({"W": W}, transpose=True)
    assert found.linear.weights.tolist() == W.T.tolist()
    assert found.linear.bias.tolist() == [0] * 4
    assert found.notes == ("weights W [4, 3], transposed as asked", "no bias, zeros in its place")
    assert find({"W": W}, transpose=False).linear.weights.tolist() == W.tolist()


def test_square_weights_are_not_guessed_at() -> None:
    square = np.arange(9.0).reshape(3, 3)
    with pytest.raises(ExportError, match="say --no-transpose or --transpose"):
        find({"W": square, "b": B})
    assert find({"W": square, "b": B}, transpose=True).linear.weights.tolist() == square.T.tolist()


def test_a_bias_of_another_length_is_refused() -> None:
    with pytest.raises(ExportError, match=r"as many numbers as W \[4, 3\] has classes, got 5"):
        find({"W": W, "b": np.zeros(5)})
    with pytest.raises(ExportError, match=r"^b: expected 4 numbers, one a class of W, got 3$"):
        find({"W": W, "b": B}, transpose=True)
    with pytest.raises(ExportError, match="which is the bias of W"):
        find({"W": W, "b": B, "bias": B})


def test_one_score_becomes_two_classes() -> None:
    found = find(
        {"classifier.weight": np.array([[2.0, 3.0]]), "classifier.bias": np.array([1.0])}, first=True
    )
    assert found.linear.weights.tolist() == [[0, 2], [0, 3]]
    assert "sigmoid" in found.notes[-1]


def test_a_bias_kept_as_one_row_is_a_bias() -> None:
    assert find({"W": W, "b": B[None, :]}).linear.bias.tolist() == B.tolist()


@pytest.mark.parametrize("arrays", [{}, {"x": W}, {"W": np.zeros((2, 2, 2)), "b": B}])
def test_nothing_that_could_be_weights_is_said(arrays: dict[str, Any]) -> None:
    with pytest.raises(ExportError, match=r"expected one array .* name it with --weight"):
        find(arrays)


def test_weights_must_be_a_matrix_of_finite_numbers() -> None:
    with pytest.raises(ExportError, match=r"x: expected an array .*, got shape \[3\]"):
        find({"x": B}, weight="x")
    with pytest.raises(ExportError, match=r"x: expected an array .*, got shape \[0, 3\]"):
        find({"x": np.zeros((0, 3))}, weight="x")
    with pytest.raises(ExportError, match=r"W\[0\]\[1\]: expected a finite number, got inf"):
        find({"W": np.array([[1, np.inf]]), "b": np.zeros(2)})


def test_weights_too_large_for_a_model_are_refused_by_their_shape() -> None:
    shelf = Shelf({"W": (2**20, 2**20), "b": (2**20,)}, pytest.fail)
    with pytest.raises(ExportError, match="W: expected at most"):
        find_linear(shelf, Options())


def test_the_type_is_float32_unless_a_float64_is_in_it() -> None:
    assert find({"W": W.astype(np.float32), "b": B.astype(np.float32)}).dtype == np.float32
    assert find({"W": W.astype(np.float32), "b": B}).dtype == np.float64
