"""One version: what makes it fail, and what a handle runs and explains."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
from folders import BIAS, DESCRIPTION, GOLDEN, LINEAR, WEIGHTS, load, write
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.datasets import load_digits

from service.errors import Invalid, ModelError
from service.heads import sparse
from service.heads.engine import NonFiniteLogits
from service.heads.graphs import Linear, build_linear, read_linear
from service.heads.handle import MOST_GOLDEN_NUMBERS, Head
from service.heads.repository import Repository
from service.types import FloatArray, SparseRows

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module")
def digits() -> Repository:
    return load(MODELS)


def shipped_weights() -> Linear:
    model = (MODELS / "digits" / "1" / "model.onnx").read_bytes()
    linear = read_linear(model, input_name="features", output_name="logits")
    assert linear is not None
    return linear


# What fails


def nudged(row: int, column: int, by: float) -> str:
    golden = json.loads(json.dumps(GOLDEN))
    golden["logits"][row][column] += by
    return json.dumps({**DESCRIPTION, "golden": golden})


def sparse_row(num_features: int) -> dict[str, Any]:
    """One row, [0, 0, 2]."""
    return {"indptr": [0, 1], "indices": [2], "data": [2], "num_features": num_features}


BROKEN: dict[str, tuple[bytes, str | None, str]] = {
    "a truncated file": (LINEAR[:-20], None, "onnxruntime cannot open the model"),
    "an unparsable head.json": (LINEAR, "{", "head.json: Invalid JSON"),
    "a calibration": (LINEAR, '{"calibration": {}}', "head.json: calibration: .*method"),
    "a reference of other classes": (
        LINEAR,
        json.dumps(
            {
                "reference": {
                    "rows": 3,
                    "predicted": [1, 1, 1],
                    **dict.fromkeys(("confidence", "margin", "entropy"), [0] * 20),
                    "energy": [0] * 66,
                }
            }
        ),
        "reference.predicted has 3 numbers, expected 2",
    ),
    "a scale too many": (
        LINEAR,
        '{"calibration": {"method": "vector", "scale": [1, 2, 3], "bias": [0, 0]}}',
        "calibration.scale has 3 numbers, but the model has 2 classes",
    ),
    "no bias for a class": (
        LINEAR,
        '{"calibration": {"method": "vector", "scale": [1, 2], "bias": [0]}}',
        "calibration.bias has 1 numbers, but the model has 2 classes",
    ),
    "another digest": (LINEAR, json.dumps({"digest": "0" * 64}), "do not belong together.*says 000000000000"),
    "one class name too many": (
        LINEAR,
        '{"class_names": ["a", "b", "c"]}',
        "3 class_names, but the model has 2",
    ),
    "another dtype": (
        LINEAR,
        '{"dtype": "float64"}',
        "says dtype float64, but the model computes in float32",
    ),
    "an unknown output": (LINEAR, '{"output": "y"}', "names the output 'y'"),
    "other weights": (
        build_linear(Linear(WEIGHTS + np.float32(1e-4), BIAS)),
        json.dumps(DESCRIPTION),
        r"self-test failed: golden row 0 should give 1 at logits\[1\], but gives 1\.0000999",
    ),
    "a golden logit that is off": (
        LINEAR,
        nudged(1, 1, 1e-4),
        r"golden row 1 should give -2.9999 at logits\[1\], but gives -3",
    ),
    "a golden row too long": (
        LINEAR,
        json.dumps({"golden": {"features": [[1, 2, 3], [1, 2, 3, 4]], "logits": [[1, 2], [1, 2]]}}),
        r"golden.features\[1\] has 4 numbers, the model 3",
    ),
    "golden logits too short": (
        LINEAR,
        json.dumps({"golden": {"features": [[1, 2, 3]], "logits": [[1]]}}),
        r"golden.logits\[0\] has 1 numbers, the model 2",
    ),
    "golden rows without logits": (
        LINEAR,
        json.dumps({"golden": {"features": [[1, 0, 0], [1, 0, 0]], "logits": [[1.5, 1]]}}),
        "golden has 2 rows of features, 1 of logits",
    ),
    "sparse golden rows of another width": (
        LINEAR,
        json.dumps({"golden": {"features": sparse_row(4), "logits": [[1.5, 1]]}}),
        "golden.features has 4 features, the model 3",
    ),
    "sparse golden rows that give something else": (
        LINEAR,
        json.dumps({"golden": {"features": sparse_row(3), "logits": [[1.5, 1]]}}),
        "self-test failed: golden row 0 should give",
    ),
    "examples of another width": (
        LINEAR,
        json.dumps({"examples": {"features": [[1, 2], [3, 4]]}}),
        "examples.features has 2 features, the model 3",
    ),
    "an example of no class": (
        LINEAR,
        json.dumps({"examples": {"features": [[1, 2, 3], [4, 5, 6]], "labels": [1, 2]}}),
        "examples.labels has the class 2, but the model has 2 classes",
    ),
    "an image of other pixels": (
        LINEAR,
        json.dumps({"image": {"height": 2, "width": 2, "largest": 1}}),
        "image has 2 x 2 pixels, but the model has 3 features",
    ),
    "golden features beyond float32": (
        LINEAR,
        json.dumps({"golden": {"features": [[1e39, 0, 0]], "logits": [[1.5, 1]]}}),
        r"self-test failed: the golden rows do not run: features\[0\]",
    ),
}


@pytest.mark.parametrize(("model", "text", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_version_is_named_with_its_reason_in_one_line(
    tmp_path: Path, model: bytes, text: str | None, said: str
) -> None:
    write(tmp_path, "pets", 1)
    write(tmp_path, "pets", 7, model, text)
    with pytest.raises(ModelError, match=said) as raised:
        load(tmp_path)
    assert str(raised.value).startswith("pets version 7: ")
    assert "\n" not in str(raised.value)


def test_the_rules_of_a_decision_must_fit_the_head(tmp_path: Path) -> None:
    text = {**DESCRIPTION, "decision": {"mask": ["cat"], "thresholds": 0.5}}
    write(tmp_path, "pets", text=json.dumps(text))
    decision = load(tmp_path).info("pets", None).decision
    assert decision is not None
    assert decision.masked is not None
    assert decision.masked.tolist() == [True, False]
    write(tmp_path, "pets", 2, text=json.dumps({**text, "decision": {"mask": ["cow"]}}))
    with pytest.raises(ModelError, match=r"head.json: decision.mask\[0\]: expected one of the class names"):
        load(tmp_path)


def test_a_version_without_a_model_is_named(tmp_path: Path) -> None:
    write(tmp_path, "pets", 3, text="{}").joinpath("model.onnx").unlink()
    with pytest.raises(ModelError, match=r"pets version 3: cannot read .*model\.onnx: No such file"):
        load(tmp_path)


def test_golden_rows_may_go_without_their_zeros(tmp_path: Path) -> None:
    logits = (np.array([0, 0, 2]) @ WEIGHTS + BIAS).tolist()
    golden = {"features": sparse_row(3), "logits": [logits]}
    write(tmp_path, "pets", 1, LINEAR, json.dumps({"golden": golden}))
    load(tmp_path).close()


def test_zeros_that_would_take_all_memory_are_not_written_out(tmp_path: Path) -> None:
    width = 1 << 18
    model = build_linear(Linear(np.zeros((width, 2), np.float32), BIAS))
    num_rows = MOST_GOLDEN_NUMBERS // width + 1
    rows = {"indptr": [0] * (num_rows + 1), "indices": [], "data": [], "num_features": width}
    golden = {"features": rows, "logits": [BIAS.tolist()] * num_rows}
    write(tmp_path, "pets", 1, model, json.dumps({"golden": golden}))
    with pytest.raises(ModelError, match=r"golden\.features has more than 16777216 numbers with its zeros"):
        load(tmp_path)


def test_golden_logits_may_differ_by_rounding_but_not_by_class(tmp_path: Path) -> None:
    write(tmp_path / "near", "pets", 1, LINEAR, nudged(0, 0, 0.9e-5))
    assert load(tmp_path / "near").info(None, None).version == "1"
    # Two classes 1e-6 apart: within the tolerance, but the other class wins.
    model = build_linear(Linear(WEIGHTS, np.array([1.000001, 0], np.float32)))
    golden = {"features": [[1, 0, 0]], "logits": [[2, 2.000001]]}
    write(tmp_path / "other", "pets", 1, model, json.dumps({"golden": golden}))
    with pytest.raises(ModelError, match="self-test failed"):
        load(tmp_path / "other")


def test_a_float64_head_is_held_to_float64(tmp_path: Path) -> None:
    model = build_linear(Linear(WEIGHTS.astype(np.float64), BIAS.astype(np.float64)))
    write(tmp_path / "near", "pets", 1, model, nudged(0, 0, 1e-13))
    assert load(tmp_path / "near").info(None, None).dtype == np.float64
    write(tmp_path / "far", "pets", 1, model, nudged(0, 0, 1e-11))
    with pytest.raises(ModelError, match="self-test failed"):
        load(tmp_path / "far")


# What a head explains


def test_contributions_are_features_times_the_weights_of_the_class(tmp_path: Path) -> None:
    write(tmp_path, "pets")
    head = load(tmp_path).head(load(tmp_path).info(None, None))
    features = np.array([[1, 2, 3], [-1, 0, 0.5]], np.float32)
    indices, values = head.contributions(features, np.array([0, 1]), 2)
    assert indices.tolist() == [[2, 1], [2, 1]]
    assert values.tolist() == [[15, 6], [3, 0]]
    assert indices.dtype == np.int64
    assert values.dtype == np.float32


def contributions_of(weights: FloatArray, features: FloatArray, k: int, folder: Path) -> tuple[Any, Any]:
    (folder / "m.onnx").write_bytes(build_linear(Linear(weights, np.zeros_like(weights[0]))))
    repository = load(folder)
    head = repository.head(repository.info(None, None))
    return head.contributions(features, np.zeros(len(features), np.int64), k)


def test_ties_go_to_the_lower_feature_and_zeros_are_equal(tmp_path: Path) -> None:
    weights = np.array([[-0.0], [1], [0], [1], [0]], np.float32)
    indices, _ = contributions_of(weights, np.ones((1, 5), np.float32), 5, tmp_path)
    assert indices.tolist() == [[1, 3, 0, 2, 4]]
    thirds = np.arange(300, dtype=np.float32) % 3
    indices, _ = contributions_of(thirds[:, None], np.ones((1, 300), np.float32), 300, tmp_path)
    assert indices[0].tolist() == sorted(range(300), key=lambda index: -thirds[index])


def test_a_contribution_beyond_the_dtype_is_the_largest_and_warns_nobody(tmp_path: Path) -> None:
    indices, values = contributions_of(WEIGHTS, np.full((1, 3), 1e38, np.float32), 1, tmp_path)
    assert (indices.tolist(), values.tolist()) == ([[2]], [[np.inf]])


@pytest.mark.parametrize(("k", "length"), [(0, 0), (1, 1), (3, 3), (10, 3)])
def test_k_is_at_most_the_number_of_features(tmp_path: Path, k: int, length: int) -> None:
    indices, values = contributions_of(WEIGHTS, np.ones((2, 3), np.float32), k, tmp_path)
    assert indices.shape == values.shape == (2, length)


def test_no_rows_have_no_contributions(tmp_path: Path) -> None:
    indices, values = contributions_of(WEIGHTS, np.empty((0, 3), np.float32), 2, tmp_path)
    assert indices.shape == values.shape == (0, 2)


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_all_contributions_and_the_bias_add_up_to_the_logit(digits: Repository, data: st.DataObject) -> None:
    head = digits.head(digits.info(None, None))
    pixels = data.draw(st.lists(st.integers(0, 16), min_size=64, max_size=64))
    label = data.draw(st.integers(0, 9))
    features = np.array([pixels], np.float32)
    indices, values = head.contributions(features, np.array([label]), 64)
    assert sorted(indices[0]) == list(range(64))
    assert (np.diff(values[0]) <= 0).all()
    linear = shipped_weights()
    # Sums of multiples of 2^-12 are exact.
    assert values.sum() + linear.bias[label] == head.run(features)[0, label]


def test_a_head_that_is_not_linear_says_so_every_time(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }'
    write(tmp_path, "pets", 1, onnx.parser.parse_model(text).SerializeToString())
    repository = load(tmp_path)
    head = repository.head(repository.info(None, None))
    for _ in range(2):
        with pytest.raises(Invalid, match="pets version 1 is not one linear layer") as raised:
            head.contributions(np.ones((1, 3), np.float32), np.array([0]), 1)
        assert raised.value.code == "not_linear"


def test_contributions_explain_the_head_that_was_loaded_not_the_file_of_today(tmp_path: Path) -> None:
    folder = write(tmp_path, "pets")
    repository = load(tmp_path)
    (folder / "model.onnx").write_bytes(b"replaced")
    head = repository.head(repository.info(None, None))
    _, values = head.contributions(np.ones((1, 3), np.float32), np.array([1]), 3)
    assert values.tolist() == [[6, 4, 2]]


def test_contributions_may_be_asked_for_by_several_threads(digits: Repository) -> None:
    head = digits.head(digits.info(None, None))
    found: list[list[int]] = []

    def ask() -> None:
        found.append(head.contributions(np.ones((1, 64), np.float32), np.array([3]), 4)[0][0].tolist())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert found == [found[0]] * 8


# Running


def test_a_head_refuses_what_its_engine_refuses(tmp_path: Path) -> None:
    write(tmp_path, "pets")
    repository = load(tmp_path)
    head = repository.head(repository.info(None, None))
    with pytest.raises(Invalid) as raised:
        head.run(np.ones((2, 4), np.float32))
    assert raised.value.code == "features_shape"
    huge = np.outer([0, 0, 0, 3e38], np.ones(3)).astype(np.float32)
    with pytest.raises(Invalid) as raised:
        head.run(huge)
    assert raised.value.code == "non_finite_logits"
    assert raised.value.offences[0].path == "features[3]"


def test_the_digits_are_exact_in_any_company(digits: Repository) -> None:
    """Pixels are integers and weights multiples of 2^-12: no sum rounds, so rows do not depend on the batch."""
    head = digits.head(digits.info(None, None))
    linear = shipped_weights()
    pixels = load_digits().data.astype(np.float32)
    exact = pixels.astype(np.float64) @ linear.weights.astype(np.float64) + linear.bias
    np.testing.assert_array_equal(head.run(pixels), exact)
    np.testing.assert_array_equal(head.run(pixels[5:6]), exact[5:6])


def test_a_float32_head_keeps_the_accuracy_it_states_on_scaled_digits(digits: Repository) -> None:
    """The bound of `Head.run` on pixels that are no integers, so that sums do round."""
    head = digits.head(digits.info(None, None))
    linear = shipped_weights()
    pixels = (load_digits().data / 7).astype(np.float32)
    weights = linear.weights.astype(np.float64)
    exact = pixels.astype(np.float64) @ weights + linear.bias
    allowed = 65 * 2.0**-24 * (np.abs(pixels) @ np.abs(weights) + np.abs(linear.bias))
    error = np.abs(head.run(pixels) - exact)
    assert (error <= allowed).all()
    assert error.max() > 0


# Sparse rows

RELU = (
    '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] features) => (float[N,2] logits) '
    "<float[3,2] W = {1, 2, 3, 4, 5, 6}> { x = Relu(features) logits = MatMul(x, W) }"
)

SUMS = f"float[20000,2] W = {{{', '.join(['1'] * 40_000)}}}"


def rows_of(dense: FloatArray) -> SparseRows:
    found = csr_array(dense)
    return SparseRows(
        found.indptr.astype(np.int64), found.indices.astype(np.int64), found.data, dense.shape[1]
    )


def wide_head(tmp_path: Path, num_features: int = 20_000) -> tuple[Head, Linear]:
    random = np.random.default_rng(0)
    weights = random.normal(size=(num_features, 8)).astype(np.float32)
    linear = Linear(weights, random.normal(size=8).astype(np.float32))
    write(tmp_path, "texts", model=build_linear(linear))
    repository = load(tmp_path)
    return repository.head(repository.info(None, None)), linear


@pytest.mark.parametrize("density", [0.0, 0.002, 0.5])
@pytest.mark.parametrize("count", [0, 1, 40])
def test_sparse_rows_get_the_logits_of_the_dense_ones_within_the_bound(
    tmp_path: Path, density: float, count: int
) -> None:
    head, linear = wide_head(tmp_path)
    random = np.random.default_rng(1)
    dense = random.normal(size=(count, 20_000)) * (random.random((count, 20_000)) < density)
    dense = dense.astype(np.float32)
    logits = head.run(rows_of(dense))
    weights = linear.weights.astype(np.float64)
    allowed = 20_000 * 2.0**-24 * (np.abs(dense) @ np.abs(weights) + np.abs(linear.bias))
    assert logits.shape == (count, 8)
    assert logits.dtype == np.float32
    for found in (logits, head.run(dense)):
        assert (np.abs(found - (dense @ weights + linear.bias)) <= allowed).all()


def test_a_head_that_is_not_linear_runs_sparse_rows_with_their_zeros(tmp_path: Path) -> None:
    write(tmp_path, "bent", model=onnx.parser.parse_model(RELU).SerializeToString())
    repository = load(tmp_path)
    head = repository.head(repository.info(None, None))
    rows = rows_of(np.array([[0, -1, 2], [0, 0, 0], [3, 0, 0]], np.float32))
    assert [head.is_read] == [False]
    for _ in range(2):
        assert not head.is_linear()
        assert [head.is_read] == [True]
        assert head.run(rows).tolist() == [[10, 12], [0, 0], [3, 6]]


def test_what_sparse_rows_cost_depends_on_what_is_there_only_where_the_head_is_linear(tmp_path: Path) -> None:
    head, _ = wide_head(tmp_path)
    text, full = rows_of(np.eye(1, 20_000, 7, np.float32)), rows_of(np.ones((1, 20_000), np.float32))
    assert head.cost(text) < head.cost(full)
    text_of_bent = RELU.replace("N,3", "N,20000").replace("float[3,2] W = {1, 2, 3, 4, 5, 6}", SUMS)
    write(tmp_path, "bent", model=onnx.parser.parse_model(text_of_bent).SerializeToString())
    repository = load(tmp_path)
    bent = repository.head(repository.info("bent", None))
    assert bent.cost(text) == bent.cost(full)


@pytest.mark.parametrize("density", [0.001, 1.0])
def test_a_sparse_row_that_overflows_is_named_among_all_blocks(
    tmp_path: Path, density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, _ = wide_head(tmp_path)
    monkeypatch.setattr(sparse, "BLOCK_NUMBERS", 40_000)  # two rows at a time
    dense = (np.random.default_rng(0).random((5, 20_000)) < density).astype(np.float32)
    dense[3] *= 3e38
    with pytest.raises(NonFiniteLogits) as raised:
        head.run(rows_of(dense))
    assert raised.value.row == 3
    assert raised.value.offences[0].path == "features[3]"


def test_sparse_contributions_are_the_dense_ones(tmp_path: Path) -> None:
    head, _ = wide_head(tmp_path)
    dense = np.zeros((2, 20_000), np.float32)
    dense[0, [5, 600, 19_999]] = [1, -2, 3]
    classes = np.array([1, 7])
    for found, expected in zip(
        head.contributions(rows_of(dense), classes, 4), head.contributions(dense, classes, 4), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
