"""`logitserve evaluate`: what it says of a head with and without a calibration, and of logits of any origin."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MODELS
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, log_loss

from service import cli
from service.heads.writing import write_version
from service.numeric.softmax import softmax


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the shipped head was not fitted to: every fifth image of each class."""
    pixels, labels = load_digits(return_X_y=True)
    held_out = np.concatenate([np.flatnonzero(labels == label)[4::5] for label in range(10)])
    path = tmp_path_factory.mktemp("rows") / "rows.npz"
    np.savez(path, features=pixels[held_out], labels=labels[held_out])
    return path


def evaluate(*flags: str) -> int:
    return cli.main(["evaluate", *flags])


def document(folder: Path, *flags: str) -> dict[str, Any]:
    assert evaluate(*flags, f"--json={folder / 'scores.json'}") == 0
    found: dict[str, Any] = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    return found


def test_the_shipped_head_scores_what_its_description_says(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = document(tmp_path, f"--models={MODELS}", f"--data={rows}")
    metrics = json.loads((MODELS / "digits" / "1" / "head.json").read_text(encoding="utf-8"))["metrics"]
    assert found["raw"]["rows"] == metrics["held_out_rows"]
    assert found["raw"]["accuracy"] == pytest.approx(metrics["held_out_accuracy"], abs=1e-6)
    assert found["raw"]["log_loss"] == pytest.approx(metrics["held_out_loss"], abs=1e-6)
    assert (found["model"], found["version"], len(found["digest"])) == ("digits", "1", 64)
    assert [told["name"] for told in found["raw"]["classes"]][:2] == ["zero", "one"]
    text = capsys.readouterr().out
    for said in ("digits version 1 on ", "log loss", "top 2", "precision", "confusion", "seven"):
        assert said in text
    assert "as served" not in text


def test_a_calibrated_head_is_judged_as_served_and_raw(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = (MODELS / "digits" / "1" / "model.onnx").read_bytes()
    write_version(tmp_path, "digits", model, {"calibration": {"method": "temperature", "temperature": 4}})
    plot = tmp_path / "r.svg"
    found = document(tmp_path, f"--models={tmp_path}", f"--data={rows}", f"--plot={plot}", "--bins=10")
    assert found["as_served"]["log_loss"] > found["raw"]["log_loss"]
    assert found["as_served"]["accuracy"] == found["raw"]["accuracy"]
    assert found["raw"]["bins"] == 10
    assert "as served" in capsys.readouterr().out
    assert "<!-- as served: log loss" in plot.read_text(encoding="utf-8")


def test_logits_need_no_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where there are no models
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(300, 30)).astype(np.float32)
    labels = generator.integers(0, 30, 300)
    np.save("logits.npy", logits)
    np.save("labels.npy", labels)
    found = document(tmp_path, "--data=logits.npy", "--labels=labels.npy", "--logits")
    probabilities = softmax(logits.astype(np.float64))
    assert found.keys() == {"raw"}
    assert found["raw"]["log_loss"] == pytest.approx(
        log_loss(labels, probabilities, labels=range(30)), rel=1e-12
    )
    assert found["raw"]["accuracy"] == accuracy_score(labels, logits.argmax(axis=1))


def test_logits_may_have_the_names_and_the_calibration_of_a_head(rows: Path, tmp_path: Path) -> None:
    shutil.copytree(MODELS / "digits", tmp_path / "models" / "digits")
    logits = np.eye(10)
    np.savez(tmp_path / "logits.npz", logits=logits, labels=np.array(["zero", "two"] * 5))
    found = document(
        tmp_path, f"--data={tmp_path / 'logits.npz'}", "--logits", f"--models={tmp_path / 'models'}"
    )
    assert found["raw"]["classes"][2] == {
        "name": "two", "rows": 5, "predicted": 1, "precision": 0, "recall": 0, "f1": 0,
    }  # fmt: skip


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "too few features": (("narrow.npz",), "features: expected 64 features, got 3"),
    "a word for a number": (("words.csv",), "could not convert string 'x'"),
    "a label that nobody knows": (("stranger.csv",), "got 'eleven'"),
    "labels without an npy": (
        ("narrow.npz", "--labels=y.npy"),
        "--labels FILE.npy goes with --data FILE.npy",
    ),
}


@pytest.mark.parametrize(("flags", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_judged_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("narrow.npz", features=np.zeros((2, 3)), labels=[0, 1])
    Path("words.csv").write_text("1,2,0\n1,x,0\n")
    Path("stranger.csv").write_text(",".join(["0"] * 64) + ",eleven\n")
    assert evaluate(f"--models={MODELS}", f"--data={flags[0]}", *flags[1:]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("logitserve: ")
    assert said in line
