"""One onnxruntime session: what it opens, what it refuses, what it answers; and that it tells nobody."""

import os
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx.external_data_helper import set_external_data

from service.errors import Invalid, ModelError, StartError
from service.heads.engine import Engine, _compute_on
from service.heads.graphs import Linear, build_linear
from service.types import FloatArray

WEIGHTS = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
BIAS = np.array([0.5, -1], np.float32)
LINEAR = build_linear(Linear(WEIGHTS, BIAS))


def graph(signature: str, body: str, constants: str = "") -> bytes:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g {signature} <{constants}> {{ {body} }}'
    serialised: bytes = onnx.parser.parse_model(text).SerializeToString()
    return serialised


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_engine_knows_its_head(dtype: type) -> None:
    engine = Engine(build_linear(Linear(WEIGHTS.astype(dtype), BIAS.astype(dtype))), provider="cpu")
    assert (engine.num_features, engine.num_classes) == (3, 2)
    assert engine.dtype == dtype
    assert (engine.input_name, engine.output_name, engine.provider) == ("features", "logits", "cpu")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_features_become_rows_of_logits(dtype: type) -> None:
    engine = Engine(build_linear(Linear(WEIGHTS.astype(dtype), BIAS.astype(dtype))), provider="cpu")
    logits = engine.run(np.array([[1, 0, 0], [0, 1, -1]], dtype))
    assert logits.dtype == dtype
    assert logits.tolist() == [[1.5, 1.0], [-1.5, -3.0]]


def test_no_rows_give_no_rows_even_where_the_graph_cannot() -> None:
    """Flattening to (rows, -1), as exporters write it, has no answer where there are no rows."""
    model = graph(
        "(double[N,3] features) => (double[N,C] logits)",
        "logits = Reshape(features, shape)",
        "int64[2] shape = {0, -1}",
    )
    logits = Engine(model).run(np.empty((0, 3)))
    assert logits.shape == (0, 3)
    assert logits.dtype == np.float64


def test_a_session_runs_as_it_was_told_to() -> None:
    session = Engine(LINEAR, threads=2)._session
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    # A run that fails on the GPU must not go on on the CPU; only a GPU could show it from outside.
    assert session._enable_fallback is False


@pytest.mark.parametrize("shape", [(2, 4), (2, 2), (4,), (1, 1, 2), (0, 4), ()])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(Invalid) as raised:
        Engine(LINEAR).run(np.zeros(shape, np.float32))
    assert raised.value.code == "features_shape"
    assert raised.value.offences[0].path == "features"
    assert raised.value.message == f"expected shape [..., 3], got [{', '.join(map(str, shape))}]"


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 2, 3), (2, 0, 3), (0, 3)])
def test_rows_may_come_in_any_number_of_axes(shape: tuple[int, ...]) -> None:
    features = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    logits = Engine(LINEAR).run(features)
    assert logits.shape == (*shape[:-1], len(BIAS))
    np.testing.assert_allclose(logits, features @ WEIGHTS + BIAS, rtol=1e-5)


@pytest.mark.parametrize(
    ("rows", "path"),
    [
        ([1, 3e38, 1, 3e38], "features[1]"),
        ([3e38], "features[0]"),
        ([[1, 1], [1, 3e38]], "features[1][1]"),
        (3e38, "features"),
    ],
)
def test_logits_that_overflow_name_their_row(rows: Any, path: str) -> None:
    features = np.multiply.outer(rows, np.ones(3)).astype(np.float32)
    with pytest.raises(Invalid) as raised:
        Engine(LINEAR).run(features)
    assert raised.value.code == "non_finite_logits"
    assert raised.value.offences[0].path == path


def test_infinities_that_cancel_to_nan_are_refused_too() -> None:
    weights = np.array([[2, 1], [-2, 1]], np.float32)
    with pytest.raises(Invalid, match="logits overflow"):
        Engine(build_linear(Linear(weights, BIAS))).run(np.full((1, 2), 3e38, np.float32))


def test_a_float64_head_has_room_where_a_float32_head_overflows() -> None:
    engine = Engine(build_linear(Linear(WEIGHTS.astype(np.float64), BIAS.astype(np.float64))))
    assert engine.run(np.full((1, 3), 3e38))[0, 0] == pytest.approx(2.7e39)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_engine_runs_in_several_threads_at_once(threads: int) -> None:
    engine = Engine(LINEAR, threads=threads)
    wrong: list[int] = []

    def work(seed: int) -> None:
        features = np.random.default_rng(seed).integers(-9, 9, (50, 3)).astype(np.float32)
        expected = features @ WEIGHTS + BIAS
        wrong.extend(seed for _ in range(50) if not np.array_equal(engine.run(features), expected))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


# IO binding, which runs on CUDA go through; onnxruntime's CPU takes it as well


def bound(model: bytes, threads: int = 1) -> Engine:
    """An engine on the CPU that runs as one on CUDA does."""
    engine = Engine(model, provider="cpu", threads=threads)
    engine._compute = _compute_on(engine._session, "cuda")
    return engine


def random_linear(num_features: int, num_classes: int, dtype: Any) -> Linear:
    random = np.random.default_rng([num_features, num_classes])
    weights = random.normal(size=(num_features, num_classes)).astype(dtype)
    return Linear(weights, random.normal(size=num_classes).astype(dtype))


def test_a_run_on_the_cpu_is_the_session_s_own() -> None:
    engine = Engine(LINEAR, provider="cpu")
    assert engine._compute == engine._session.run
    assert bound(LINEAR)._compute != engine._session.run


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(7,), (1, 7), (33, 7), (2, 3, 7), (256, 7)])
def test_a_bound_run_gives_the_same_bits(dtype: Any, shape: tuple[int, ...]) -> None:
    model = build_linear(random_linear(7, 5, dtype))
    features = np.random.default_rng(0).normal(size=shape).astype(dtype)
    expected = Engine(model, provider="cpu").run(features)
    logits = bound(model).run(features)
    assert logits.dtype == dtype
    assert logits.shape == (*shape[:-1], 5)
    assert logits.tobytes() == expected.tobytes()


@pytest.mark.parametrize("layout", ["columns", "every second row"])
def test_a_bound_run_takes_features_of_any_layout(layout: str) -> None:
    rows = np.arange(24, dtype=np.float32).reshape(8, 3)
    features = np.asfortranarray(rows) if layout == "columns" else rows[::2]
    assert not features.flags.c_contiguous
    np.testing.assert_array_equal(bound(LINEAR).run(features), features @ WEIGHTS + BIAS)


def test_what_a_bound_run_gave_is_not_written_again() -> None:
    engine = bound(LINEAR)
    features = np.ones((4, 3), np.float32)
    first = engine.run(features)
    features[:] = 2  # the caller's own again
    second = engine.run(features)
    del engine
    third = bound(LINEAR).run(0 * features)
    for logits, value in ((first, 1), (second, 2), (third, 0)):
        np.testing.assert_array_equal(logits, value * np.ones((4, 3)) @ WEIGHTS + BIAS)


def test_a_bound_run_gives_no_features_away_where_the_graph_only_hands_them_on() -> None:
    engine = bound(graph("(float[N,3] features) => (float[N,3] logits)", "logits = Identity(features)"))
    features = np.ones((2, 3), np.float32)
    logits = engine.run(features)
    features[:] = 2
    np.testing.assert_array_equal(logits, np.ones((2, 3)))


def test_a_bound_run_of_several_outputs_gives_the_one_asked_for() -> None:
    model = graph("(float[N,3] features) => (float[N,3] other, float[N,3] logits)", TWO_OUTPUTS)
    engine = bound(model)
    features = np.full((2, 3), 4, np.float32)
    np.testing.assert_array_equal(engine.run(features), features)
    both = engine._compute(["other", "logits"], {"features": features})
    np.testing.assert_array_equal(both[0], -both[1])


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3)])
def test_no_rows_are_not_bound(shape: tuple[int, ...]) -> None:
    logits = bound(LINEAR).run(np.empty(shape, np.float32))
    assert logits.shape == (*shape[:-1], 2)


@pytest.mark.parametrize("shape", [(2, 4), (3, 2), (4,), ()])
def test_features_of_another_shape_are_refused_before_they_are_bound(shape: tuple[int, ...]) -> None:
    with pytest.raises(Invalid, match=r"expected shape \[\.\.\., 3\]"):
        bound(LINEAR).run(np.zeros(shape, np.float32))


def test_logits_of_a_bound_run_that_overflow_name_their_row() -> None:
    features = np.ones((2, 3, 3), np.float32)
    features[1, 0] = 3e38
    with pytest.raises(Invalid) as raised:
        bound(LINEAR).run(features)
    assert raised.value.code == "non_finite_logits"
    assert raised.value.offences[0].path == "features[1][0]"


def test_a_bound_run_that_fails_raises_and_the_next_one_runs() -> None:
    model = graph(
        "(float[N,3] features) => (float[N,3] logits)",
        "logits = Reshape(features, shape)",
        "int64[2] shape = {-1, 3}",
    )
    engine = bound(model)
    with pytest.raises(RuntimeError, match="invalid dimensions"):
        engine._compute(["logits"], {"features": np.zeros((2, 5), np.float32)})
    assert engine.run(np.ones((2, 3), np.float32)).tolist() == [[1, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("threads", [1, 2])
def test_bound_runs_of_several_threads_do_not_mix(threads: int) -> None:
    engine = bound(LINEAR, threads)
    wrong: list[int] = []
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        start.wait()
        for rows in random.integers(1, 300, 100):
            features = random.integers(-9, 9, (int(rows), 3)).astype(np.float32)
            if not np.array_equal(engine.run(features), features @ WEIGHTS + BIAS):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


# Which tensors are the features and the logits


def test_the_only_output_is_the_logits_whatever_its_name() -> None:
    assert Engine(build_linear(Linear(WEIGHTS, BIAS), output_name="scores")).output_name == "scores"


TWO_OUTPUTS = "logits = Relu(features) other = Neg(features)"


def test_of_several_outputs_logits_is_taken_unless_another_is_named() -> None:
    model = graph("(float[N,3] features) => (float[N,3] other, float[N,3] logits)", TWO_OUTPUTS)
    assert Engine(model).run(np.ones((1, 3), np.float32))[0, 0] == 1
    assert Engine(model, output_name="other").run(np.ones((1, 3), np.float32))[0, 0] == -1


def test_classes_are_counted_by_running_where_the_graph_does_not_say() -> None:
    model = graph("(float[N,3] features) => (float[N,C] logits)", "logits = Relu(features)")
    assert Engine(model).num_classes == 3


def test_constants_that_are_inputs_too_are_no_further_inputs() -> None:
    model = onnx.load_from_string(LINEAR)
    model.graph.input.append(onnx.helper.make_tensor_value_info("weights", 1, [3, 2]))
    assert Engine(model.SerializeToString()).num_features == 3


IDENTITY = "logits = Relu(features)"
REFUSED = {
    "nothing": (b"", "cannot open the model"),
    "no model": (b"garbage", "cannot open the model"),
    "a truncated model": (LINEAR[:-20], "cannot open the model"),
    "an unknown operator": (
        graph("(float[N,3] features) => (float[N,3] logits)", "logits = Frobnicate(features)"),
        "cannot open the model.*Frobnicate",
    ),
    "two inputs": (
        graph(
            "(float[N,3] features, float[N,3] mask) => (float[N,3] logits)", "logits = Add(features, mask)"
        ),
        "expected one input, the features, got 2: 'features', 'mask'",
    ),
    "no input": (
        graph("() => (float[2] logits)", "logits = Identity(b)", "float[2] b = {1, 2}"),
        "expected one input, the features, got 0: none",
    ),
    "integers": (
        graph("(int64[N,3] features) => (float[N,3] logits)", "logits = Cast <to = 1> (features)"),
        "expected float32 or float64, got tensor\\(int64\\)",
    ),
    "float16": (
        graph("(float16[N,3] features) => (float16[N,3] logits)", "logits = Identity(features)"),
        "expected float32 or float64, got tensor\\(float16\\)",
    ),
    "rank 1": (
        graph("(float[3] features) => (float[3] logits)", IDENTITY),
        "expected rank 2.*got shape \\[3\\]",
    ),
    "rank 4": (
        graph("(float[N,3,8,8] features) => (float[N,3,8,8] logits)", IDENTITY),
        "expected rank 2.*got shape \\['N', 3, 8, 8\\]",
    ),
    "a fixed batch": (
        graph("(float[1,3] features) => (float[1,3] logits)", IDENTITY),
        "expected any number of rows, got 1: export with a dynamic batch axis",
    ),
    "any number of features": (
        graph("(float[N,F] features) => (float[N,F] logits)", IDENTITY),
        "expected a fixed number of features, got 'F'",
    ),
    "two outputs of other names": (
        graph(
            "(float[N,3] features) => (float[N,3] a, float[N,3] b)", "a = Relu(features) b = Neg(features)"
        ),
        "which output are the logits\\? name one in head.json: 'a', 'b'",
    ),
    "logits of rank 1": (
        graph(
            "(float[N,3] features) => (float[N] logits)",
            "logits = ReduceSum <keepdims = 0> (features, a)",
            "int64[1] a = {1}",
        ),
        "expected logits \\[rows, num_classes\\], got shape \\[1\\] for 1 rows",
    ),
    "logits of another type": (
        graph("(float[N,3] features) => (double[N,3] logits)", "logits = Cast <to = 11> (features)"),
        "output 'logits': expected float32 like the input, got float64",
    ),
    "a graph that runs with one row only": (
        graph(
            "(float[N,3] features) => (float[M,K] logits)",
            "logits = Reshape(features, shape)",
            "int64[2] shape = {1, 3}",
        ),
        "does not run on 2 rows of zeros",
    ),
    "rows that are joined": (
        graph(
            "(float[N,3] features) => (float[M,K] logits)",
            "logits = Reshape(features, shape)",
            "int64[2] shape = {1, -1}",
        ),
        "expected logits \\[rows, num_classes\\], got shape \\[1, 6\\] for 2 rows",
    ),
    "no classes": (
        build_linear(Linear(WEIGHTS[:, :0], BIAS[:0])),
        "expected logits \\[rows, num_classes\\], got shape \\[1, 0\\]",
    ),
}


@pytest.mark.parametrize(("model", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_head_is_refused_with_a_reason_in_one_line(model: bytes, said: str) -> None:
    with pytest.raises(ModelError) as raised:
        Engine(model, provider="cpu")
    assert re.search(said, str(raised.value)), str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 450


def test_names_that_the_model_does_not_have_are_refused() -> None:
    with pytest.raises(ModelError, match=r"head\.json names the input 'x', but the model has 'features'"):
        Engine(LINEAR, input_name="x")
    with pytest.raises(ModelError, match=r"head\.json names the output 'y', but the model has 'logits'"):
        Engine(LINEAR, output_name="y")


def test_weights_in_another_file_are_refused_even_where_the_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Linear(np.ones((300, 200), np.float32), np.zeros(200, np.float32))
    model = onnx.load_from_string(build_linear(large))
    weights = model.graph.initializer[0]
    (tmp_path / "weights.bin").write_bytes(weights.raw_data)
    set_external_data(weights, "weights.bin")
    weights.ClearField("raw_data")
    written = model.SerializeToString()
    monkeypatch.chdir(tmp_path)
    onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])  # it reads the file
    with pytest.raises(ModelError, match="keeps weights in another file: save it as one file"):
        Engine(written)


@pytest.mark.parametrize("location", ["/etc/passwd", "../outside.bin", "model.onnx", "file:///etc/passwd"])
@pytest.mark.parametrize("place", ["initializer", "constant", "sparse"])
def test_weights_anywhere_else_are_refused_wherever_the_model_names_them(place: str, location: str) -> None:
    model = onnx.load_from_string(LINEAR)
    named = onnx.numpy_helper.from_array(np.ones((3, 2), np.float32), "elsewhere")
    set_external_data(named, location)
    named.ClearField("raw_data")
    if place == "initializer":
        model.graph.initializer.append(named)
    elif place == "constant":
        model.graph.node.append(onnx.helper.make_node("Constant", [], ["elsewhere"], value=named))
    else:
        model.graph.sparse_initializer.add().values.CopyFrom(named)
    with pytest.raises(ModelError, match="keeps weights in another file: save it as one file"):
        Engine(model.SerializeToString())


def custom(operator: str, domain: str, *domains: str, **attributes: Any) -> bytes:
    rows = [onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["rows", 3])]
    logits = [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["rows", 2])]
    node = onnx.helper.make_node(operator, ["features"], ["logits"], domain=domain, **attributes)
    graph = onnx.helper.make_graph([node], "custom", rows, logits)
    opsets = [
        onnx.helper.make_opsetid(name, version) for name, version in [("", 17), *((d, 1) for d in domains)]
    ]
    serialised: bytes = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return serialised


@pytest.mark.parametrize(
    ("operator", "domain"), [("Run", "com.example"), ("StringConcat", "ai.onnx.contrib"), ("PyOp", "pyop")]
)
def test_operators_of_other_libraries_are_refused_by_name(operator: str, domain: str) -> None:
    with pytest.raises(ModelError) as raised:
        Engine(custom(operator, domain, domain))
    assert f"{domain}:{operator}" in str(raised.value)
    assert str(raised.value).endswith("; operators from other libraries are not loaded")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (custom("Run", "com.example"), "No opset import for domain 'com.example'"),
        (custom("Run", ""), "No Op registered for Run"),
        # What is compiled for a device lies in a file that this operator names.
        (
            custom(
                "EPContext", "com.microsoft", "com.microsoft", embed_mode=0, ep_cache_context="/etc/passwd"
            ),
            "EPContext",
        ),
    ],
)
def test_operators_that_nobody_has_are_refused_in_words(model: bytes, said: str) -> None:
    with pytest.raises(ModelError, match="onnxruntime cannot open the model") as raised:
        Engine(model)
    assert said in str(raised.value)


# Providers


needs_cpu_wheel = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA"
)


@needs_cpu_wheel
def test_cuda_that_is_not_installed_ends_the_start() -> None:
    with pytest.raises(StartError, match=r"install logitserve\[cuda\] in place of logitserve\[cpu\]"):
        Engine(LINEAR, provider="cuda")


@needs_cpu_wheel
def test_auto_takes_the_cpu_where_there_is_nothing_else() -> None:
    assert Engine(LINEAR, provider="auto").provider == "cpu"


@needs_cpu_wheel
def test_cuda_that_is_offered_but_does_not_start_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to claim CUDA, onnxruntime falls back in silence, as it does where libraries are missing."""
    offered = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(StartError, match="could not start it: check the NVIDIA driver"):
            Engine(LINEAR, provider="cuda")
        assert Engine(LINEAR, provider="auto").provider == "cpu"
        with pytest.raises(ModelError, match="cannot open the model"):
            Engine(b"garbage", provider="auto")


def test_a_missing_onnxruntime_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(StartError) as raised:
        Engine(LINEAR)
    assert str(raised.value) == (
        "onnxruntime is not installed: install logitserve[cpu], or logitserve[cuda] for an NVIDIA GPU"
    )


# What onnxruntime does beside computing


def run_python(code: str, home: Path, **environment: str) -> str:
    """Run code in a process with an empty home and no variables but these."""
    variables = {"HOME": str(home), "PATH": os.defpath, **environment}
    command = [sys.executable, "-c", code, *map(str, [home])]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


OPEN_ENGINE = """
from service.heads.engine import Engine, _compute_on
from service.heads.graphs import Linear, build_linear
import numpy as np
model = build_linear(Linear(np.ones((3, 2), np.float32), np.ones(2, np.float32)))
assert Engine(model).run(np.ones((1, 3), np.float32)).tolist() == [[4, 4]]
"""


@pytest.mark.parametrize("environment", [{}, {"ORT_DISABLE_TELEMETRY": "0"}], ids=["unset", "set to 0"])
def test_an_engine_leaves_nothing_in_the_home(tmp_path: Path, environment: dict[str, str]) -> None:
    run_python(OPEN_ENGINE, tmp_path, **environment)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.skipif(sys.platform != "linux", reason="other platforms keep the id elsewhere")
def test_onnxruntime_alone_leaves_an_id_in_the_home(tmp_path: Path) -> None:
    """Shows that the test above can fail."""
    run_python("import onnxruntime", tmp_path)
    left = list(tmp_path.rglob(".onnxruntime"))
    assert len(left) == 1
    assert (left[0] / "deviceid").is_file()


ON_STDERR = {
    "a broken model": LINEAR[:-9],
    "an initializer that nothing uses": graph(
        "(float[N,3] features) => (float[N,3] logits)", "logits = Relu(features)", "float[1] unused = {1}"
    ),
    "a run that fails": graph(
        "(float[N,3] features) => (float[M,K] logits)",
        "logits = Reshape(features, shape)",
        "int64[2] shape = {1, 3}",
    ),
}


@pytest.mark.parametrize("model", ON_STDERR.values(), ids=ON_STDERR)
def test_what_onnxruntime_raises_or_minds_is_not_logged_as_well(tmp_path: Path, model: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(model)
    code = (
        "import sys; from pathlib import Path; from service.errors import ModelError\n"
        "from service.heads.engine import Engine\n"
        "try:\n    Engine(Path(sys.argv[1], 'm.onnx').read_bytes())\nexcept ModelError:\n    pass"
    )
    assert run_python(code, tmp_path) == ""


def test_importing_the_engine_does_not_import_onnxruntime(tmp_path: Path) -> None:
    code = "import sys, service.heads.repository; print({'onnx', 'onnxruntime'} & set(sys.modules))"
    assert run_python(code, tmp_path) == "set()\n"


def test_serving_a_head_does_not_import_onnx(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(LINEAR)
    code = (
        "import sys; from pathlib import Path; from service.heads.engine import Engine\n"
        "Engine(Path(sys.argv[1], 'm.onnx').read_bytes()); print('onnx' in sys.modules)"
    )
    assert run_python(code, tmp_path) == "False\n"


# Accuracy


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("num_features", "num_classes"), [(1, 1), (7, 3), (64, 10), (768, 1000), (2048, 5)])
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_logits_lie_as_near_the_exact_ones_as_stated(
    dtype: Any, num_features: int, num_classes: int, scale: float
) -> None:
    random = np.random.default_rng(num_features)
    weights: FloatArray = random.normal(size=(num_features, num_classes)).astype(dtype)
    features: FloatArray = (scale * random.normal(size=(17, num_features))).astype(dtype)
    engine = Engine(build_linear(Linear(weights, np.zeros(num_classes, dtype))))
    exact = features.astype(np.longdouble) @ weights.astype(np.longdouble)
    magnitudes = np.abs(features).astype(np.longdouble) @ np.abs(weights).astype(np.longdouble)
    unit = 2.0**-24 if dtype is np.float32 else 2.0**-53
    assert (np.abs(engine.run(features) - exact) <= num_features * unit * magnitudes).all()
