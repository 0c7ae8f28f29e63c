"""The peers of the conformance table: their models, their files, and one of them asked from start to end."""

import importlib
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from conftest import ROOT

from service.conformance.examination import Check
from service.conformance.report import Report
from service.conformance.vectors import read

BENCHMARKS = ROOT / "benchmarks"
# The scripts import each other by their bare names, as when one of them is run.
sys.path.insert(0, str(BENCHMARKS))

adapters: ModuleType = importlib.import_module("adapters")
conformance_peers: ModuleType = importlib.import_module("conformance_peers")
operations: ModuleType = importlib.import_module("operations")
peers: ModuleType = importlib.import_module("peers")

LOGITS = [[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]]
LOSSES = [0.47901069674771035, 1.199675981209848]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("operations")
    names = operations.write(folder)
    assert {path.stem for path in folder.iterdir()} == set(names)
    return folder


def run(models: Path, name: str, **tensors: Any) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(str(models / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    outputs = [one.name for one in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, tensors), strict=True))


@pytest.mark.parametrize(("bits", "rtol"), [("32", 1e-6), ("64", 1e-14)])
def test_the_models_compute_what_they_are_named_for(models: Path, bits: str, rtol: float) -> None:
    logits = np.array(LOGITS, f"float{bits}")
    softmax = run(models, f"softmax{bits}", logits=logits)
    assert softmax["classes"].tolist() == [1, 0]
    np.testing.assert_allclose(np.log(softmax["probabilities"]), softmax["log_probabilities"], rtol=rtol)
    by_index = run(models, f"loss{bits}", logits=logits, labels=np.array([1, 2]))
    rows = np.eye(3, dtype=logits.dtype)[[1, 2]]
    by_row = run(models, f"soft_loss{bits}", logits=logits, labels=rows)
    for answered in (by_index, by_row):
        np.testing.assert_allclose(answered["losses"], LOSSES, rtol=rtol)
        np.testing.assert_allclose(answered["loss"], np.mean(LOSSES), rtol=rtol)


def test_the_models_are_the_same_bytes_each_time() -> None:
    for name in operations.operations():
        assert operations.build(name, "64") == operations.build(name, "64")


def test_the_models_that_are_asked_are_those_that_are_served(models: Path) -> None:
    asked = {name for names in conformance_peers.MODELS.targets.values() for name in names}
    assert asked == {path.stem for path in models.iterdir()}


@pytest.mark.parametrize("name", conformance_peers.PEERS)
def test_every_peer_can_be_started_in_the_environment_of_the_bench(name: str, tmp_path: Path) -> None:
    peer, forms = conformance_peers.PEERS[name]
    assert forms
    assert peer.packages == adapters.named(name).packages
    place = adapters.Place(tmp_path / "bin", tmp_path, 4000)
    peer.write_files(place)
    for argument in peer.command(place)[1:]:
        path = Path(argument.partition("=")[2] or argument)
        assert path.exists() or not path.is_relative_to(BENCHMARKS), argument


def test_mlserver_is_told_the_tensors_of_each_model(tmp_path: Path) -> None:
    peer, _ = conformance_peers.PEERS["mlserver"]
    peer.write_files(adapters.Place(tmp_path / "bin", tmp_path, 4000))
    assert not (tmp_path / "model-settings.json").exists()
    said = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("*/model-settings.json")}
    assert said.keys() == {name for names in conformance_peers.MODELS.targets.values() for name in names}
    assert [(one["datatype"], one["shape"]) for one in said["loss32"]["inputs"]] == [
        ("FP32", [-1, -1]),
        ("INT64", [-1]),
    ]
    assert [one["datatype"] for one in said["soft_loss64"]["inputs"]] == ["FP64", "FP64"]
    assert len(said["softmax64"]["inputs"]) == 1


def test_a_peer_is_asked_from_start_to_end_and_told_apart_from_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # What plain FastAPI needs is in our own environment.
    monkeypatch.setattr(peers, "install", lambda *_: Path(sys.executable).parent)
    monkeypatch.setattr(peers, "interpreter_for", lambda _: sys.executable)
    assert conformance_peers.main(["--peers=plainfastapi", f"--json={tmp_path / 'found'}"]) == 0
    printed = capsys.readouterr().out
    assert "|  | logitserve, JSON | logitserve, V2 binary | plain FastAPI, JSON |" in printed
    assert "| **all** | **245 of 245** | **250 of 250** |" in printed
    said = json.loads((tmp_path / "found" / "plain-fastapi-json.json").read_text(encoding="utf-8"))
    assert said["broken"] > 0
    assert said["held"] > 100
    assert any(version.startswith("fastapi ") for version in said["versions"])
    assert (tmp_path / "found" / "logitserve-v2-binary.json").exists()


def test_a_peer_that_cannot_be_installed_is_named_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: object) -> str:
        raise peers.Uninstalled("no interpreter for it")

    monkeypatch.setattr(peers, "interpreter_for", refuse)
    monkeypatch.setattr(conformance_peers, "examine_ours", lambda _: iter(()))
    assert conformance_peers.main(["--peers=mlserver"]) == 1
    assert "mlserver: no interpreter for it" in capsys.readouterr().out


def test_an_unknown_peer_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert conformance_peers.main(["--peers=tensorflowserving"]) == 1
    assert "pytriton, mlserver, plainfastapi" in capsys.readouterr().out


def test_the_table_has_a_column_for_each_server() -> None:
    held = Check(read()[0], "probabilities", "held", 0.25, "")
    found = [
        conformance_peers.Examined(name, (), Report("", name, checks))
        for name, checks in (("ours", [held, held]), ("theirs", [held, held._replace(state="broken")]))
    ]
    lines = conformance_peers.table(found).splitlines()
    assert lines[0] == "|  | ours | theirs |"
    assert "| published examples | 2 of 2 | 1 of 2 |" in lines
    assert "| ties | - | - |" in lines
    assert "| broken | 0 | 1 |" in lines
    assert "| worst ulp, float64 | 0.25 | 0.25 |" in lines


def test_the_apps_of_peers_need_no_module_of_ours() -> None:
    for path in adapters.APPS.glob("operation_*.py"):
        assert "from service" not in path.read_text(encoding="utf-8"), path.name
    assert os.access(adapters.APPS / "operation_session.py", os.R_OK)
