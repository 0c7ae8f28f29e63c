"""Linear heads as ONNX: built, run by onnxruntime, and read back."""

import hashlib
import subprocess
import sys

import numpy as np
import onnx
import onnx.checker
import onnx.parser
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.external_data_helper import convert_model_to_external_data

from service.heads.graphs import Linear, build_linear, has_external_data, read_linear
from service.types import FloatArray

WEIGHTS = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
BIAS = np.array([0.5, -1], np.float32)
# The same numbers, as the text form of ONNX writes constants.
W = "float[3,2] W = {1, 2, 3, 4, 5, 6}"
W_T = "float[2,3] W = {1, 3, 5, 2, 4, 6}"
B = "float[2] b = {0.5, -1}"


def graph(
    body: str, constants: str, signature: str = "(float[N,3] features) => (float[N,2] logits)"
) -> bytes:
    text = (
        f'<ir_version: 8, opset_import: ["" : 17, "com.other" : 1]> g {signature} <{constants}> {{ {body} }}'
    )
    serialised: bytes = onnx.parser.parse_model(text).SerializeToString()
    return serialised


def read(model: bytes) -> Linear | None:
    return read_linear(model, input_name="features", output_name="logits")


def run(model: bytes, features: FloatArray) -> FloatArray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits: FloatArray = session.run(["logits"], {"features": features})[0]
    return logits


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_built_head_computes_features_times_weights_plus_bias(dtype: type) -> None:
    model = build_linear(Linear(WEIGHTS.astype(dtype), BIAS.astype(dtype)))
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    logits = run(model, np.array([[1, 0, 0], [0, 1, -1]], dtype))
    assert logits.dtype == dtype
    assert logits.tolist() == [[1.5, 1.0], [-1.5, -3.0]]


def test_a_built_head_has_the_names_and_versions_asked_for() -> None:
    model = onnx.load_from_string(build_linear(Linear(WEIGHTS, BIAS), input_name="x", output_name="y"))
    assert [tensor.name for tensor in model.graph.input] == ["x"]
    assert [tensor.name for tensor in model.graph.output] == ["y"]
    assert (model.ir_version, model.opset_import[0].version, model.producer_name) == (8, 17, "logitserve")
    rows, num_features = model.graph.input[0].type.tensor_type.shape.dim
    assert (rows.dim_param, num_features.dim_value) == ("rows", 3)


def test_the_same_weights_give_the_same_bytes_in_any_layout() -> None:
    expected = build_linear(Linear(WEIGHTS, BIAS))
    assert build_linear(Linear(np.asfortranarray(WEIGHTS), BIAS[::-1].copy()[::-1])) == expected
    assert build_linear(Linear(WEIGHTS + np.float32(1), BIAS)) != expected


def test_the_bytes_do_not_change_between_releases() -> None:
    """What ships is compared byte for byte; a library that writes other bytes must be noticed here."""
    digest = hashlib.sha256(build_linear(Linear(WEIGHTS, BIAS))).hexdigest()
    assert digest == "ffd428ab5454d906953254f5f29e9b7003ab596076144999de3eaa71692a362f"


@pytest.mark.parametrize(
    ("weights", "bias", "said"),
    [
        (WEIGHTS[0], BIAS, r"weights \[F, C\]"),
        (WEIGHTS, BIAS[:1], r"bias \[C\]"),
        (WEIGHTS, BIAS.astype(np.float64), "both float32 or both float64"),
        (WEIGHTS.astype(np.float16), BIAS.astype(np.float16), "got float16"),
    ],
)
def test_weights_that_are_no_linear_head_are_refused(
    weights: FloatArray, bias: FloatArray, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        build_linear(Linear(weights, bias))


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=30, deadline=None)
def test_what_is_built_is_read_back_bit_for_bit(shape: tuple[int, int], dtype: type, seed: int) -> None:
    random = np.random.default_rng(seed)
    linear = Linear(random.normal(size=shape).astype(dtype), random.normal(size=shape[1]).astype(dtype))
    found = read(build_linear(linear))
    assert found is not None
    for got, expected in zip(found, linear, strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


LINEAR = {
    "gemm": ("logits = Gemm(features, W, b)", f"{W}, {B}", 1, 1),
    "gemm, transB": ("logits = Gemm <transB = 1> (features, W, b)", f"{W_T}, {B}", 1, 1),
    "gemm, alpha": ("logits = Gemm <alpha = 2.0> (features, W, b)", f"{W}, {B}", 2, 1),
    "gemm, beta": ("logits = Gemm <beta = 0.5> (features, W, b)", f"{W}, {B}", 1, 0.5),
    "gemm, all": (
        "logits = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (features, W, b)",
        f"{W_T}, {B}",
        0.5,
        2,
    ),
    "gemm, no bias": ("logits = Gemm(features, W)", W, 1, 0),
    "gemm, bias [1, C]": ("logits = Gemm(features, W, b)", f"{W}, float[1,2] b = {{0.5, -1}}", 1, 1),
    "matmul": ("logits = MatMul(features, W)", W, 1, 0),
    "matmul, add": ("x = MatMul(features, W) logits = Add(x, b)", f"{W}, {B}", 1, 1),
    "add the other way": ("x = MatMul(features, W) logits = Add(b, x)", f"{W}, {B}", 1, 1),
}


@pytest.mark.parametrize(("body", "constants", "alpha", "beta"), LINEAR.values(), ids=LINEAR)
def test_every_form_of_a_linear_layer_is_read(body: str, constants: str, alpha: float, beta: float) -> None:
    model = graph(body, constants)
    found = read(model)
    assert found is not None
    np.testing.assert_array_equal(found.weights, alpha * WEIGHTS)
    np.testing.assert_array_equal(found.bias, beta * BIAS)
    assert found.weights.flags.c_contiguous
    features = np.array([[1, -2, 3], [0.5, 0, 4]], np.float32)
    np.testing.assert_array_equal(features @ found.weights + found.bias, run(model, features))


@pytest.mark.parametrize("bias", ["float b = {0.5}", "float[1] b = {0.5}", "float[1,1] b = {0.5}"])
def test_one_bias_for_all_classes_is_read_as_one_each(bias: str) -> None:
    found = read(graph("logits = Gemm(features, W, b)", f"{W}, {bias}"))
    assert found is not None
    assert found.bias.tolist() == [0.5, 0.5]


def test_a_float64_head_is_read_in_float64() -> None:
    constants = "double[3,2] W = {0.1, 2, 3, 4, 5, 6}, double[2] b = {0.5, -1}"
    signature = "(double[N,3] features) => (double[N,2] logits)"
    found = read(graph("logits = Gemm(features, W, b)", constants, signature))
    assert found is not None
    assert found.weights.dtype == found.bias.dtype == np.float64
    assert found.weights[0, 0] == 0.1


STORED_AS_FLOAT16 = {
    "matmul": "W = Cast <to = 1> (H) b = Cast <to = 1> (c) x = MatMul(features, W) logits = Add(x, b)",
    "gemm": "W = Cast <to = 1> (H) b = Cast <to = 1> (c) logits = Gemm(features, W, b)",
}


@pytest.mark.parametrize("body", STORED_AS_FLOAT16.values(), ids=STORED_AS_FLOAT16)
def test_weights_stored_as_float16_are_read_in_the_type_that_is_computed_in(body: str) -> None:
    # The text form of ONNX takes the bits of a float16, not its value.
    bits = {float(x): int(np.float16(x).view(np.uint16)) for x in (0.5, -1, 1, 2, 3, 4, 5, 6)}
    constants = (
        f"float16[3,2] H = {{{', '.join(str(bits[x]) for x in (1, 2, 3, 4, 5, 6))}}}, "
        f"float16[2] c = {{{bits[0.5]}, {bits[-1]}}}"
    )
    model = graph(body, constants)
    found = read(model)
    assert found is not None
    assert found.weights.dtype == found.bias.dtype == np.float32
    np.testing.assert_array_equal(found.weights, WEIGHTS)
    np.testing.assert_array_equal(found.bias, BIAS)
    features = np.array([[1, -2, 3], [0.5, 0, 4]], np.float32)
    np.testing.assert_array_equal(features @ found.weights + found.bias, run(model, features))


SQUARE = "float[3,3] V = {1, 0, 0, 0, 1, 0, 0, 0, 1}"
NOT_LINEAR = {
    "relu after": ("x = Gemm(features, W, b) logits = Relu(x)", f"{W}, {B}"),
    "identity after": ("x = Gemm(features, W, b) logits = Identity(x)", f"{W}, {B}"),
    "relu before gemm": ("x = Relu(features) logits = Gemm(x, W, b)", f"{W}, {B}"),
    "relu before matmul": ("x = Relu(features) logits = MatMul(x, W)", W),
    "two layers": ("x = MatMul(features, V) logits = MatMul(x, W)", f"{W}, {SQUARE}"),
    "features on both sides": ("x = MatMul(features, W) y = MatMul(features, W) logits = Add(x, y)", W),
    "bias that is computed": ("x = MatMul(features, W) c = Neg(b) logits = Add(x, c)", f"{W}, {B}"),
    "gemm bias that is computed": ("c = Neg(b) logits = Gemm(features, W, c)", f"{W}, {B}"),
    "weights that are computed": ("V = Neg(W) logits = Gemm(features, V, b)", f"{W}, {B}"),
    "features rounded to float16": (
        "h = Cast <to = 10> (features) x = Cast <to = 1> (h) logits = Gemm(x, W, b)",
        f"{W}, {B}",
    ),
    "weights cast from integers": (
        "W = Cast <to = 1> (V) logits = MatMul(features, W)",
        "int32[3,2] V = {1, 2, 3, 4, 5, 6}",
    ),
    "a sum of constants": ("logits = Add(b, b)", B),
    "another maker's gemm": ("logits = com.other.Gemm(features, W, b)", f"{W}, {B}"),
    "features turned": ("logits = Gemm <transA = 1> (features, W, b)", f"{W}, {B}"),
    "a bias a row": ("logits = Gemm(features, W, b)", f"{W}, float[2,1] b = {{0.5, -1}}"),
    "a bias a cell": ("logits = Gemm(features, W, b)", f"{W}, float[2,2] b = {{0.5, -1, 2, 3}}"),
    "weights of rank 1": ("logits = MatMul(features, W)", "float[3] W = {1, 2, 3}"),
    "weights of integers": ("logits = MatMul(features, W)", "int32[3,2] W = {1, 2, 3, 4, 5, 6}"),
}


@pytest.mark.parametrize(("body", "constants"), NOT_LINEAR.values(), ids=NOT_LINEAR)
def test_anything_else_is_not_linear(body: str, constants: str) -> None:
    assert read(graph(body, constants)) is None


def test_an_output_that_nothing_makes_is_not_linear() -> None:
    model = build_linear(Linear(WEIGHTS, BIAS), output_name="scores")
    assert read(model) is None
    assert read_linear(model, input_name="features", output_name="scores") is not None


def test_a_second_output_does_not_hide_the_linear_one() -> None:
    signature = "(float[N,3] features) => (float[N,2] logits, float[N,2] probabilities)"
    body = "logits = Gemm(features, W, b) probabilities = Softmax(logits)"
    model = graph(body, f"{W}, {B}", signature)
    assert read(model) is not None
    assert read_linear(model, input_name="features", output_name="probabilities") is None


def test_external_data_is_seen_in_initializers() -> None:
    model = onnx.load_from_string(build_linear(Linear(WEIGHTS, BIAS)))
    convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    assert has_external_data(model.SerializeToString())


def test_external_data_is_seen_in_a_constant_inside_a_subgraph() -> None:
    model = onnx.load_from_string(build_linear(Linear(WEIGHTS, BIAS)))
    hidden = onnx.TensorProto(data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
    hidden.external_data.add(key="location", value="/etc/passwd")
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Constant", [], ["c"], value=hidden)], "inner", [], []
    )
    model.graph.node.append(onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner))
    assert has_external_data(model.SerializeToString())


def test_a_model_in_one_file_has_no_external_data() -> None:
    assert not has_external_data(build_linear(Linear(WEIGHTS, BIAS)))
    assert not has_external_data(build_linear(Linear(WEIGHTS, BIAS), input_name="location"))


def test_onnx_is_not_imported_until_it_is_needed() -> None:
    code = (
        "import sys; from service.heads import graphs; assert 'onnx' not in sys.modules; "
        "graphs.has_external_data(b'no such letters'); assert 'onnx' not in sys.modules; print('ok')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("ok\n", "")
