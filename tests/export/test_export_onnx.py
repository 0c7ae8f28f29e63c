"""ONNX graphs: which output, what is cut off its end, and what is refused."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx.external_data_helper import convert_model_to_external_data
from sources import BIAS, LINEAR, WEIGHTS

from service.export import onnx as reader
from service.export.exporter import export
from service.export.source import ExportError, Graph, Options, Region, Source
from service.heads.graphs import Linear, build_linear

W = "float[3,2] W = {1, 2, 3, 4, 5, 6}"
W1 = "float[3,1] W = {1, -2, 3}"
B = "float[2] b = {0.5, -1}"
ROWS = Region().draw(20, 3)
LOGITS = ROWS @ np.array([[1.0, 2], [3, 4], [5, 6]]) + np.array([0.5, -1])


def write(
    folder: Path,
    body: str,
    constants: str = f"{W}, {B}",
    outputs: str = "float[N,2] y",
    domain: str = "com.other",
) -> Path:
    text = (
        f'<ir_version: 8, opset_import: ["" : 17, "{domain}" : 1]> g (float[N,3] x) => ({outputs}) '
        f"<{constants}> {{ {body} }}"
    )
    path = folder / "m.onnx"
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return path


def read(path: Path, **said: Any) -> Source:
    return reader.read(path, Options(**said))


def softmax(logits: Any) -> Any:
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True)


def test_one_linear_layer_becomes_weights(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(build_linear(LINEAR))
    source = read(tmp_path / "m.onnx")
    assert isinstance(source.head, Linear)
    assert source.head.weights.tolist() == WEIGHTS.tolist()
    assert source.head.bias.tolist() == BIAS.tolist()
    head = export(source, tmp_path, model="m", dtype=np.dtype(np.float32)).head
    assert head.info.dtype == np.float32


@pytest.mark.parametrize(
    ("end", "operator"),
    [
        ("y = Softmax<axis=1>(z)", "Softmax"),
        ("y = Softmax(z)", "Softmax"),
        ("y = LogSoftmax<axis=-1>(z)", "LogSoftmax"),
        ("p = Softmax(z) q = Identity(p) y = Identity(q)", "Softmax"),
    ],
)
def test_a_softmax_at_the_end_is_cut_off(tmp_path: Path, end: str, operator: str) -> None:
    source = read(write(tmp_path, f"z = Gemm(x, W, b) {end}"))
    assert source.notes == (f"{operator} at the end was cut off: the head gives logits",)
    exported = export(source, tmp_path / "models", model="m", rows=ROWS)
    np.testing.assert_allclose(exported.head.run(ROWS.astype(np.float32)), LOGITS, rtol=1e-5)
    assert exported.parity.probabilities is not None
    assert source.calibrated


def test_a_graph_of_more_layers_is_kept_and_what_nothing_needs_is_dropped(tmp_path: Path) -> None:
    body = "h = Gemm(x, W, b) t = Tanh(h) z = Mul(t, s) y = Softmax(z) c = ArgMax<axis=1>(y)"
    path = write(
        tmp_path, body, f"{W}, {B}, float s = {{3}}, float[2] unused = {{1, 2}}", "float[N,2] y, int64[N,1] c"
    )
    source = read(path)
    assert isinstance(source.head, Graph)
    kept = onnx.load_from_string(source.head.model).graph
    assert [node.op_type for node in kept.node] == ["Gemm", "Tanh", "Mul"]
    assert [tensor.name for tensor in kept.initializer] == ["W", "b", "s"]
    assert source.notes[0] == "output y, the only one of floats [rows, classes]"
    exported = export(source, tmp_path / "models", model="m", rows=ROWS)
    np.testing.assert_allclose(exported.head.run(ROWS.astype(np.float32)), 3 * np.tanh(LOGITS), atol=1e-5)
    assert exported.head.description.output == "z"
    with pytest.raises(ExportError, match="the graph computes in float32"):
        export(source, tmp_path / "models", model="m", dtype=np.dtype(np.float64))


def test_what_a_graph_inside_needs_is_kept(tmp_path: Path) -> None:
    body = (
        "h = Gemm(x, W, b) two = Constant<value_float = 2.0>() yes = Constant<value = bool {1}>() "
        "y = If(yes) <then_branch = t () => (float[N,2] a) { a = Mul(h, two) }, "
        "else_branch = e () => (float[N,2] a) { a = Identity(h) }>"
    )
    source = read(write(tmp_path, body))
    exported = export(source, tmp_path / "models", model="m", rows=ROWS)
    np.testing.assert_allclose(exported.head.run(ROWS.astype(np.float32)), 2 * LOGITS, rtol=1e-5)


@pytest.mark.parametrize("end", ["y = Sigmoid(z)", "y = Identity(z)"])
def test_one_score_becomes_two_classes(tmp_path: Path, end: str) -> None:
    source = read(write(tmp_path, f"z = MatMul(x, W) {end}", W1, "float[N,1] y"))
    exported = export(source, tmp_path / "models", model="m", rows=ROWS)
    score = ROWS @ [1.0, -2, 3]
    given = softmax(exported.head.run(ROWS.astype(np.float32)))
    np.testing.assert_allclose(given[:, 1], 1 / (1 + np.exp(-score)), atol=1e-6)
    assert exported.head.info.num_classes == 2


def test_sigmoids_of_several_classes_are_scores(tmp_path: Path) -> None:
    path = write(tmp_path, "z = Gemm(x, W, b) y = Sigmoid(z)")
    with pytest.raises(ExportError, match="each of the 2 classes has a sigmoid of its own"):
        read(path)
    source = read(path, as_scores=True)
    assert not source.calibrated
    assert export(source, tmp_path / "models", model="m").parity.classes == 0


def test_probabilities_without_a_softmax_are_recognised(tmp_path: Path) -> None:
    body = "z = Gemm(x, W, b) e = Exp(z) s = ReduceSum(e, a) r = Reciprocal(s) y = Mul(e, r)"
    path = write(tmp_path, body, f"{W}, {B}, int64[1] a = {{1}}")
    with pytest.raises(ExportError, match="output y looks like probabilities, not logits"):
        read(path)
    assert not read(path, as_scores=True).calibrated


@pytest.mark.parametrize(
    "power",
    [
        "m = ReduceMax<axes=[1]>(z) d = Sub(z, m) p = Exp(d) e = Identity(p)",
        "e = Exp(z)",
    ],
)
@pytest.mark.parametrize("total", ["s = ReduceSum(e, a)", "t = ReduceSum(e, a) s = Expand(t, c)"])
def test_a_softmax_that_is_written_out_is_cut_off_too(tmp_path: Path, power: str, total: str) -> None:
    body = f"h = Gemm(x, W, b) z = Tanh(h) {power} {total} y = Div(e, s)"
    source = read(write(tmp_path, body, f"{W}, {B}, int64[1] a = {{1}}, int64[2] c = {{1, 2}}"))
    assert source.notes == ("Softmax at the end was cut off: the head gives logits",)
    exported = export(source, tmp_path / "models", model="m", rows=ROWS)
    np.testing.assert_allclose(exported.head.run(ROWS.astype(np.float32)), np.tanh(LOGITS), rtol=1e-5)
    assert exported.parity.probabilities is not None


@pytest.mark.parametrize(
    "end",
    [
        "e = Exp(z) f = Exp(x) s = ReduceSum(f, a) y = Div(e, s)",  # the sum of something else
        "s = ReduceSum(z, a) y = Div(z, s)",
        "e = Exp(z) y = Div(e, b)",
    ],
)
def test_another_division_is_no_softmax(tmp_path: Path, end: str) -> None:
    path = write(tmp_path, f"z = Gemm(x, W, b) {end}", f"{W}, {B}, int64[1] a = {{1}}")
    assert not read(path, as_scores=True).notes


def test_a_graph_of_integers_takes_floats_that_are_whole(tmp_path: Path) -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (int32[N,3] x) => (float[N,2] y) '
        "<float[9,2] E = {1,2, 3,4, 5,6, 7,8, 9,10, 11,12, 13,14, 15,16, 17,18}, int64[1] a = {1}, "
        "bool t = {1}, int32 zero = {0}, int32 last = {8}> "
        "{ i = Clip(x, zero, last) e = Gather(E, i) s = ReduceSum<keepdims=0>(e, a) "
        "y = If(t) <then_branch = g1 () => (float[N,2] r) { f = Cast<to=1>(x) k = ReduceMax<axes=[1]>(f) "
        "r = Add(s, k) }, else_branch = g2 () => (float[N,2] q) { q = Identity(s) }> }"
    )
    (tmp_path / "m.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    source = read(tmp_path / "m.onnx")
    assert source.notes == ("input x takes INT32: features are cut to whole numbers",)
    exported = export(source, tmp_path / "models", model="m")
    found = exported.head.run(np.array([[0, 1, 2.9], [8, 8, 8]], np.float32))
    np.testing.assert_array_equal(found, [[9 + 2, 12 + 2], [51 + 8, 54 + 8]])
    golden = json.loads((exported.folder / "head.json").read_bytes())["golden"]["features"]
    assert all(number == int(number) >= 0 for row in golden for number in row)


def test_the_output_can_be_said(tmp_path: Path) -> None:
    body = "y = Gemm(x, W, b) t = Tanh(y)"
    path = write(tmp_path, body, outputs="float[N,2] t, float[N,2] y")
    with pytest.raises(ExportError, match="which output are the logits\\? name one with --output: t, y"):
        read(path)
    source = read(path, output="y")
    assert isinstance(source.head, Linear)
    with pytest.raises(ExportError, match="--output z: expected one of t, y"):
        read(path, output="z")
    path = write(
        tmp_path, "logits = Gemm(x, W, b) t = Tanh(logits)", outputs="float[N,2] t, float[N,2] logits"
    )
    assert isinstance(read(path).head, Linear)


@pytest.mark.parametrize(
    ("body", "outputs", "told"),
    [
        (
            "z = Gemm(x, W, b) y = Softmax<axis=0>(z)",
            "float[N,2] y",
            "expected Softmax over the classes, got axis 0",
        ),
        (
            "z = Gemm(x, W, b) y = ArgMax<axis=1>(z)",
            "int64[N,1] y",
            "expected float32 like the input, got int64",
        ),
        (
            "z = Gemm(x, W, b) y = ReduceMean<axes=[1], keepdims=0>(z)",
            "float[N] y",
            r"expected logits \[rows, num_classes\]",
        ),
        (
            "y = com.other.Magic(x)",
            "float[N,2] y",
            r"expected operators of ONNX and onnxruntime, got com\.other\.Magic",
        ),
    ],
)
def test_what_is_no_head_is_refused(tmp_path: Path, body: str, outputs: str, told: str) -> None:
    with pytest.raises(ExportError, match=told):
        read(write(tmp_path, body, outputs=outputs))


def outside(folder: Path, location: str = "weights.bin") -> Path:
    model = onnx.load_from_string(build_linear(LINEAR))
    convert_model_to_external_data(model, location=location, size_threshold=0, convert_attribute=False)
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def test_weights_in_a_file_beside_it_are_taken_in(tmp_path: Path) -> None:
    source = read(outside(tmp_path))
    assert isinstance(source.head, Linear)
    assert source.head.weights.tolist() == WEIGHTS.tolist()
    assert export(source, tmp_path / "models", model="m").parity.holds


def test_weights_in_a_file_elsewhere_are_not_read(tmp_path: Path) -> None:
    path = outside(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ExportError, match=r"expected weights in files beside it, got 'weights\.bin'"):
        read(path)
    model = path.read_bytes()
    for name in ("../a/weigh", "/etc/passwd"):
        path.write_bytes(model.replace(b"weights.bin", name.ljust(11, "t").encode()))
        with pytest.raises(ExportError, match="expected weights in files beside it"):
            read(path)


def test_weights_that_are_a_link_to_elsewhere_are_not_read(tmp_path: Path) -> None:
    path = outside(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "weights.bin").rename(tmp_path / "elsewhere" / "weights.bin")
    (tmp_path / "weights.bin").symlink_to(tmp_path / "elsewhere" / "weights.bin")
    with pytest.raises(ExportError, match="its weights lie in other files, which cannot be read"):
        read(path)


@pytest.mark.parametrize("body", [b"nothing", b"\x08", b""])
def test_what_is_no_model_is_one_line(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(body)
    with pytest.raises(ExportError, match=r"m\.onnx: "):
        read(tmp_path / "m.onnx")


def test_onnx_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExportError, match=r"m\.onnx needs onnx: pip install onnx"):
        read(tmp_path / "m.onnx")
