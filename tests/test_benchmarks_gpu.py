"""The benchmark of a GPU up to the GPU itself: all of it but CUDA runs here, on the CPU's provider.

What is right passes, what TF32 or a wrong row would give is found, and where CUDA is missing the script says so
in one line. No timing is asserted.
"""

import asyncio
import importlib
import itertools
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from service.errors import StartError
from service.heads.graphs import build_linear
from service.heads.repository import Repository
from service.scorer import Scorer

BENCHMARKS = ROOT / "benchmarks"
# The scripts import each other by their bare names, as when one of them is run.
sys.path.insert(0, str(BENCHMARKS))

contract: ModuleType = importlib.import_module("contract")
copying: ModuleType = importlib.import_module("copying")
gpu: ModuleType = importlib.import_module("gpu")
heads: ModuleType = importlib.import_module("heads")

needs_cpu_wheel = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA"
)
QUICK = ["--provider=cpu", "--turns=1", "--threads=1", "--block-bytes=4096", "--rows", "1", "3"]
VECTORS: list[dict[str, Any]] = contract.read_vectors()
FLOAT32 = {"rtol": 1.2e-7, "atol": 1.5e-45, "max_ulp": 1, "rtol_reduced": 2.4e-7}


def named(name: str) -> dict[str, Any]:
    return next(vector for vector in VECTORS if vector["name"] == name)


def tf32(values: Any) -> Any:
    """Round float32 to the 10 bits of fraction that TF32 keeps, ties to even as the tensor cores' inputs."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0xFFF + ((bits >> np.uint32(13)) & np.uint32(1))) & np.uint32(0xFFFFE000)
    return rounded.view(np.float32)


def error_of(tmp_path: Path, vector: dict[str, Any]) -> float:
    """What the service on the CPU makes of one vector."""
    contract.write_identities(tmp_path, [vector])
    repository = Repository(tmp_path, provider="cpu")
    repository.load()

    async def answer() -> float:
        scorer = Scorer(repository)
        try:
            return float(await contract.error_of(scorer, vector))
        finally:
            scorer.close()

    return asyncio.run(answer())


# The contract's vectors


def test_every_vector_that_a_head_computes_something_for_is_checked() -> None:
    lines = contract.VECTORS.read_text(encoding="utf-8").splitlines()
    left_out = {vector["name"]: vector for vector in map(json.loads, lines)}
    for vector in VECTORS:
        del left_out[vector["name"]]
    assert len(VECTORS) == 50
    for name, vector in left_out.items():
        masked = "Infinity" in json.dumps(vector["logits"])
        assert "error" in vector["expected"] or masked or name == "empty_batch", name


def test_the_service_on_the_cpu_answers_every_vector_rightly() -> None:
    checked = contract.check_vectors("cpu")
    assert (checked.cases, checked.failed) == (50, ())
    assert 0 < checked.largest <= 1


@pytest.mark.parametrize("vector", VECTORS, ids=[str(vector["name"]) for vector in VECTORS])
def test_whatever_a_vector_knows_is_asked_for(vector: dict[str, Any]) -> None:
    asked = set(contract.outputs_of(vector))
    expected = vector["expected"]
    assert ("losses" in asked) == ("loss" in expected) == ("count" in asked)
    assert ("log_probabilities" in asked) == ("log_probabilities" in expected)
    assert ("top_classes" in asked) == ("top_k" in expected)
    if expected.get("reduced") is not None:
        assert "loss" in asked


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("seed_softmax_f32", "probabilities"),
        ("seed_softmax_f64", "log_probabilities"),
        ("optax_int", "loss"),
        ("axis0", "probabilities"),
        ("axis0", "loss"),
    ],
)
def test_one_wrong_number_of_an_answer_is_found(tmp_path: Path, name: str, field: str) -> None:
    vector = named(name)
    assert error_of(tmp_path / "right", vector) <= 1
    wrong = np.array(vector["expected"][field])
    wrong[(0,) * wrong.ndim] *= 1 + 1e-6
    changed = {**vector, "expected": {**vector["expected"], field: wrong.tolist()}}
    assert error_of(tmp_path / "wrong", changed) > 1


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("seed_softmax_f32", "classes", [0, 1]),
        ("seed_ce_index_mean", "reduced", None),
        ("seed_ce_index_mean", "reduced", 0.8393433),
        ("seed_ce_index_mean", "count", 3),
        ("ignore_all_mean_is_null", "reduced", 0.0),
        ("tie_first_index", "top_k", {"indices": [[1, 0, 2]] * 2, "probabilities": [[0.25] * 3] * 2}),
    ],
)
def test_a_wrong_integer_or_mean_is_found(tmp_path: Path, name: str, field: str, value: Any) -> None:
    vector = named(name)
    changed = {**vector, "expected": {**vector["expected"], field: value}}
    assert error_of(tmp_path, changed) > 1


def test_a_vector_that_the_service_refuses_is_broken(tmp_path: Path) -> None:
    refused = {**named("seed_ce_index_mean"), "labels": [1, 3]}
    assert error_of(tmp_path, refused) == float("inf")


def test_logits_that_tf32_has_rounded_break_the_contract(tmp_path: Path) -> None:
    """What a head that hands logits on would do to them with TF32 on."""
    broken, changed = set(), set()
    for vector in (one for one in VECTORS if one["dtype"] == "float32"):
        rounded = tf32(vector["logits"])
        if not np.array_equal(rounded, np.float32(vector["logits"])):
            changed.add(vector["name"])
        if error_of(tmp_path / vector["name"], {**vector, "logits": rounded.tolist()}) > 1:
            broken.add(vector["name"])
    # Its two logits become equal, which changes no answer.
    assert broken == changed - {"tie_in_probability_not_in_logits"}
    assert len(broken) == 9


@given(value=st.floats(2.0**-100, 1, width=32), ulps=st.integers(0, 4))
def test_errors_count_in_what_is_allowed(value: float, ulps: int) -> None:
    found = np.float32(value)
    for _ in range(ulps):
        found = np.nextafter(found, np.float32(np.inf))
    error = contract.excess(np.array([found]), [value], FLOAT32, "float32")
    assert (error <= 1) == (ulps <= 1)


def test_another_shape_or_type_is_an_infinite_error() -> None:
    right = np.ones(2, np.float32)
    assert contract.excess(right, [1.0, 1.0], FLOAT32, "float32") == 0
    for wrong in (right[None], right[:1], right.astype(np.float64)):
        assert contract.excess(wrong, [1.0, 1.0], FLOAT32, "float32") == float("inf")


def test_a_check_without_a_number_has_failed() -> None:
    checked = contract.judge("what", [("good", 1.0), ("bad", 1.01), ("nan", float("nan"))])
    assert checked.failed == ("bad", "nan")
    assert not checked.passed
    assert contract.judge("what", [("good", 0.5)]) == contract.Check("what", 1, 0.5, ())


# The bound of a product


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_heads_on_the_cpu_keep_their_bound(dtype: str) -> None:
    checked = contract.check_bound("cpu", dtype, threads=1)
    assert checked.passed
    assert checked.cases == 2 * len(contract.BOUND_ROWS[dtype])


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_product_in_tf32_exceeds_the_bound(name: str) -> None:
    linear = heads.linear(name)
    for rows in contract.BOUND_ROWS["float32"]:
        features = contract.features_for(name, rows, "float32")
        exactly = features @ linear.weights + linear.bias
        roughly = tf32(features) @ tf32(linear.weights) + linear.bias
        assert contract.bound_excess(exactly, linear, features) <= 1
        assert contract.bound_excess(roughly, linear, features) > 1


def test_logits_of_other_rows_exceed_the_bound_by_far() -> None:
    linear = heads.linear("b")
    features = contract.features_for("b", 2, "float32")
    logits = features @ linear.weights + linear.bias
    assert contract.bound_excess(logits[::-1], linear, features) > 1000


def test_runs_of_several_threads_are_each_checked() -> None:
    checked = contract.check_threads("cpu", threads=1)
    assert checked.passed
    assert checked.cases == contract.THREADS * contract.RUNS_OF_A_THREAD
    assert not np.array_equal(
        contract.features_for("b", 1, "float32", seed=0), contract.features_for("b", 1, "float32", seed=1)
    )


# Copies and bytes


def test_what_is_copied_back_is_what_the_device_holds() -> None:
    value = onnxruntime.OrtValue.ortvalue_from_shape_and_type([5], np.float32, "cpu", 0)
    back = np.zeros(5, np.float32)
    copy_back = copying.copying_back("cpu", value, back)
    for number in (1, 2):
        value.update_inplace(np.full(5, number, np.float32))
        copy_back()
        assert back.tolist() == [number] * 5


def test_a_bandwidth_is_measured_both_ways() -> None:
    bandwidth = copying.measure("cpu", 1 << 12, 3)
    assert bandwidth.to_device > 0
    assert bandwidth.to_host > 0


def test_a_copy_that_does_not_copy_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "copying_back", lambda *_: lambda: None)
    with pytest.raises(RuntimeError, match="not what it was"):
        copying.measure("cpu", 1 << 12, 1)


@pytest.mark.parametrize(("head", "there", "back"), [("a", 256, 40), ("b", 3072, 4000)])
def test_a_row_s_bytes_are_its_float32_features_and_logits(head: str, there: int, back: int) -> None:
    rate = gpu.Rate(head, 8, run_s=0.5, cpu_run_s=2.0, over_cpu=4.0)
    assert (rate.to_device_bytes, rate.to_host_bytes) == (8 * there, 8 * back)
    assert (rate.rows_per_s, rate.cpu_rows_per_s) == (16, 4)
    features = contract.features_for(head, 8, "float32")
    assert features.nbytes == rate.to_device_bytes


def test_the_share_is_the_time_of_the_copies_over_that_of_the_run() -> None:
    bandwidth = copying.Bandwidth(to_device=256.0, to_host=20.0)
    assert bandwidth.seconds(256, 40) == 3.0
    assert gpu.Rate("a", 1, run_s=6.0, cpu_run_s=1.0, over_cpu=1.0).share(bandwidth) == 0.5


def test_works_take_turns() -> None:
    done: list[str] = []
    seen = gpu.take_turns([lambda: done.append("x"), lambda: done.append("y")], 3)
    assert np.shape(seen) == (3, 2)
    assert done[:2] == ["x", "y"]
    assert sum(one != other for one, other in itertools.pairwise(done)) == 9


def test_a_head_is_measured_on_both() -> None:
    rate = gpu.measure("a", 3, "cpu", turns=1, threads=1)
    assert (rate.head, rate.rows) == ("a", 3)
    assert min(rate.run_s, rate.cpu_run_s, rate.over_cpu) > 0


# Where there is no GPU


@needs_cpu_wheel
def test_without_cuda_the_script_ends_in_one_clear_line() -> None:
    """Run as a user would, away from the tests."""
    variables = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "COLUMNS": "40"}
    command = [sys.executable, str(BENCHMARKS / "gpu.py")]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == ""
    assert done.stdout == (
        "provider cuda was asked for, but this onnxruntime has no CUDA: install logitserve[cuda] in place of "
        "logitserve[cpu], or ask for provider cpu\n"
    )


@needs_cpu_wheel
def test_cuda_that_does_not_start_ends_in_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Told to claim CUDA, onnxruntime falls back in silence, as it does where libraries are missing."""
    offered = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert gpu.main([]) == 1
    said = capsys.readouterr().out
    assert said.startswith("onnxruntime has CUDA but could not start it: check the NVIDIA driver")
    assert said.count("\n") == 1


@needs_cpu_wheel
def test_a_head_of_which_the_cpu_would_compute_a_node_is_refused() -> None:
    """Without CUDA that is every node."""
    model = build_linear(heads.linear("a"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(
            StartError, match=r"CUDA does not compute the whole head: .*assigned to the default CPU"
        ):
            gpu.refuse_cpu(model)


def test_the_cpu_is_always_there() -> None:
    gpu.require("cpu")


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("echo 'NVIDIA H100, 570.1'", "NVIDIA H100, 570.1"),
        ("echo one; echo two", "one; two"),
        ("echo 'no devices were found'; exit 6", "none found"),
        (None, "none found"),
    ],
)
def test_the_gpu_is_named_as_nvidia_smi_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, name: str
) -> None:
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu.gpu_name() == name


# The whole script


def test_the_script_runs_whole_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gpu.json"
    assert gpu.main([*QUICK, f"--json={file}"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("kept") == 4
    assert "b: 768 → 1000" in printed
    said = json.loads(file.read_text(encoding="utf-8"))
    assert said["provider"] == "cpu"
    assert said["machine"]["gpu"]
    assert said["machine"]["onnxruntime"] == onnxruntime.__version__
    assert [one["passed"] for one in said["checks"]] == [True] * 4
    assert set(said["bandwidth"]) == {"to_device", "to_host"}
    assert [(rate["head"], rate["rows"]) for rate in said["rates"]] == [
        ("a", 1),
        ("a", 3),
        ("b", 1),
        ("b", 3),
    ]
    for rate in said["rates"]:
        assert rate["rows_per_s"] == rate["rows"] / rate["run_s"]
        copied_s = rate["to_device_bytes"] / said["bandwidth"]["to_device"]
        copied_s += rate["to_host_bytes"] / said["bandwidth"]["to_host"]
        assert rate["share"] == pytest.approx(copied_s / rate["run_s"])


def test_nothing_is_timed_where_a_result_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = {**named("seed_ce_index_mean"), "name": "refused", "labels": [1, 3]}
    vectors = tmp_path / "vectors.jsonl"
    vectors.write_text(json.dumps(refused), encoding="utf-8")
    monkeypatch.setattr(contract, "VECTORS", vectors)
    file = tmp_path / "gpu.json"
    assert gpu.main([*QUICK, f"--json={file}"]) == 1
    printed = capsys.readouterr().out
    assert "broken: refused" in printed
    assert "Nothing is timed" in printed
    said = json.loads(file.read_text(encoding="utf-8"))
    assert (said["bandwidth"], said["rates"]) == (None, [])
    assert said["checks"][0]["largest"] is None


def test_the_default_rows_are_those_of_the_page() -> None:
    options = gpu.parse_arguments([])
    assert (options.provider, tuple(options.rows)) == ("cuda", (1, 32, 256, 1024, 8192))
    assert options.threads == len(os.sched_getaffinity(0))
