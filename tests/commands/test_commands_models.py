"""`logitserve models`: what it lists, and how it says that a model is broken."""

import json
import shutil
from pathlib import Path

import pytest

from service import cli

MODELS = Path(__file__).parent.parent.parent / "models"


def test_the_table_has_a_row_for_each_version(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for version in ("1", "2"):
        shutil.copytree(MODELS / "digits" / "1", tmp_path / "digits" / version)
    assert cli.main(["models", "--models", str(tmp_path)]) == 0
    rows = [
        line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines() if "digits" in line
    ]
    described = json.loads((MODELS / "digits" / "1" / "head.json").read_text(encoding="utf-8"))
    metrics = described["metrics"]
    for row, version in zip(rows, ("1", "2"), strict=True):
        assert row[:5] == ["digits", version, "ready", "10", "64"]
        assert float(row[5]) == pytest.approx(metrics["held_out_accuracy"], abs=1e-4)
        assert float(row[6]) == pytest.approx(metrics["held_out_loss"], abs=1e-4)
        assert len(row[7]) == 12
        assert row[8:] == ["cpu", "all"]


def test_a_head_without_metrics_leaves_their_cells_empty(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copy(MODELS / "digits" / "1" / "model.onnx", tmp_path / "bare.onnx")
    assert cli.main(["models", "--models", str(tmp_path)]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "bare" in line]
    assert len(row.replace("│", " ").split()) == 8


def test_json_has_everything_that_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models", "--models", str(MODELS), "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)
    assert model["name"] == "digits"
    (version,) = model["versions"]
    assert version["state"] == "ready"
    assert len(version["digest"]) == 64
    assert len(version["class_names"]) == 10


def test_the_folder_comes_from_the_environment_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOGITSERVE_MODELS", str(tmp_path / "absent"))
    assert cli.main(["models"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"logitserve: cannot read the models at {tmp_path / 'absent'}")


def test_a_broken_model_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    assert cli.main(["models", "--models", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("logitserve: broken version 1: ")


def test_a_provider_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there is one")
    assert cli.main(["models", "--models", str(MODELS), "--provider", "cuda"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("logitserve: ")
    assert "cuda" in line.lower()
