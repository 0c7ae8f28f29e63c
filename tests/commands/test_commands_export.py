"""`logitserve export`: from a file to a head that is served, and one line where it cannot be."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import cli

WEIGHTS = np.random.default_rng(5).normal(size=(4, 3))
BIAS = np.array([0.5, 0.0, -0.5])


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    np.savez(tmp_path / "w.npz", W=WEIGHTS.T, b=BIAS)
    return tmp_path / "w.npz"


def export(path: Path, *more: str) -> int:
    return cli.main(["export", str(path), "--to", str(path.parent / "models"), "--model", "m", *more])


def described(path: Path, version: str = "1") -> Any:
    text = (path.parent / "models" / "m" / version / "head.json").read_text(encoding="utf-8")
    return json.loads(text)


def test_it_writes_a_head_and_says_how_it_compares(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(weights) == 0
    told = capsys.readouterr().out
    assert "│ probabilities" in told
    assert "│ 0 of 256 rows" in told
    assert (
        f"wrote {weights.parent / 'models' / 'm' / '1'}: npz, 4 features, 3 classes, float64, sha256 " in told
    )
    assert "  weights W [3, 4], transposed: the bias has 3" in told
    assert cli.main(["models", "--models", str(weights.parent / "models")]) == 0


def test_its_options_reach_the_head(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = weights.parent / "rows.csv"
    rows.write_text("1,2,3,4\n5,6,7,8\n", encoding="utf-8")
    flags = ["--dtype", "float32", "--class-names", "a, b,c", "--version", "7", "--rows", str(rows)]
    assert export(weights, *flags) == 0
    told = capsys.readouterr().out
    assert "0 of 2 rows" in told
    assert "1e-05" in told
    written = described(weights, "7")
    assert written["class_names"] == ["a", "b", "c"]
    assert written["dtype"] == "float32"
    assert export(weights, "--version", "7") == 1
    assert "is there already" in capsys.readouterr().err
    assert export(weights, "--version", "7", "--force") == 0


@pytest.mark.parametrize("suffix", [".npz", ".csv"])
def test_examples_and_the_image_that_they_are_reach_the_head(weights: Path, suffix: str) -> None:
    held_out = weights.parent / f"held_out{suffix}"
    features: list[list[float]] = [[0, 1, 2.5, 0], [16, 0, 0, 3]]
    if suffix == ".npz":
        np.savez(held_out, features=features, labels=[2, 0])
    else:
        held_out.write_text("0,1,2.5,0,c\n16,0,0,3,a\n", encoding="utf-8")
    flags = ["--class-names", "a,b,c", "--image", "2x2x16", "--examples", str(held_out)]
    assert export(weights, *flags) == 0
    written = described(weights)
    assert written["examples"] == {"features": features, "labels": [2, 0]}
    assert written["image"] == {"height": 2, "width": 2, "largest": 16}
    assert cli.main(["models", "--models", str(weights.parent / "models")]) == 0


def test_whole_numbers_of_examples_are_written_as_they_are(weights: Path) -> None:
    np.savez(weights.parent / "held_out.npz", features=np.arange(4, dtype=np.uint8)[None], labels=[1])
    assert export(weights, "--examples", str(weights.parent / "held_out.npz")) == 0
    text = (weights.parent / "models" / "m" / "1" / "head.json").read_text(encoding="utf-8")
    assert "\n      [0, 1, 2, 3]\n" in text
    assert "image" not in json.loads(text)


@pytest.mark.parametrize(
    ("features", "label", "image", "said"),
    [
        (np.zeros((1001, 4)), 0, "2x2x16", "expected at most 1000 examples, got 1001"),
        (np.zeros((1, 4)), 3, "2x2x16", "labels[0]: expected a class from 0 to 2"),
        (np.zeros((1, 4)), "cat", "2x2x16", "expected the index of a class, got 'cat'"),
        (np.zeros((1, 5)), 0, "2x2x16", "examples.features has 5 features, the model 4"),
        (np.full((1, 4), np.nan), 0, "2x2x16", "examples.features[0][0]: "),
        (
            np.full((1, 4), 17),
            0,
            "2x2x16",
            "expected numbers from 0 to image.largest, 16, got 17",
        ),
        (
            np.zeros((1, 4)),
            0,
            "2x3x16",
            "image has 2 x 3 pixels, but the model has 4 features",
        ),
    ],
)
def test_examples_that_do_not_fit_the_head_are_one_line(
    weights: Path, features: Any, label: Any, image: str, said: str
) -> None:
    held_out = weights.parent / "held_out.npz"
    np.savez(held_out, features=features, labels=[label] * len(features))
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        assert export(weights, "--examples", str(held_out), "--image", image) == 1
    (line,) = errors.getvalue().splitlines()
    assert said in line
    assert not (weights.parent / "models" / "m").exists()


def test_names_of_arrays_and_the_orientation_can_be_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", x=WEIGHTS, y=BIAS, W=np.zeros((2, 2)), b=np.zeros(2))
    assert export(tmp_path / "w.npz", "--weight", "x", "--bias", "y", "--no-transpose") == 0
    assert len(described(tmp_path / "w.npz")["golden"]["logits"][0]) == 3


@pytest.mark.parametrize(
    ("text", "names"),
    [("a\nb\n\nc\n", ["a", "b", "c"]), ('["x, y", "b", "c"]', ["x, y", "b", "c"])],
)
def test_names_of_classes_come_from_a_file(weights: Path, text: str, names: list[str]) -> None:
    file = weights.parent / "names"
    file.write_text(text, encoding="utf-8")
    assert export(weights, "--class-names", str(file)) == 0
    assert described(weights)["class_names"] == names


@pytest.mark.parametrize("text", ["[1, 2, 3]", "[", "[" * 100_000])
def test_a_file_of_names_that_is_none_is_one_line(
    weights: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = weights.parent / "names.json"
    file.write_text(text, encoding="utf-8")
    assert export(weights, "--class-names", str(file)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected a JSON list of names" in line


def test_what_does_not_compare_ends_with_1_and_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "w.npz", W=WEIGHTS, b=BIAS)
    assert export(tmp_path / "w.npz", "--dtype", "float32", "--tolerance", "1e-12") == 1
    told = capsys.readouterr()
    assert "│ 1e-12" in told.out
    (line,) = told.err.splitlines()
    assert line.startswith("logitserve: the head does not answer as its source does: logits differ by ")
    assert not list((tmp_path / "models").iterdir())


def test_scores_are_told_to_be_uncalibrated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import joblib
    from sklearn.svm import LinearSVC

    joblib.dump(LinearSVC().fit(np.eye(4), [0, 1, 2, 0]), tmp_path / "m.joblib")
    assert export(tmp_path / "m.joblib", "--trust-pickle") == 1
    assert "--as-scores" in capsys.readouterr().err
    assert export(tmp_path / "m.joblib", "--trust-pickle", "--as-scores") == 0
    told = capsys.readouterr().out
    assert "its probabilities are not calibrated" in told
    assert "not compared" in told
    assert "uncalibrated" in described(tmp_path / "m.joblib")["source"]["probabilities"]


def test_a_source_that_cannot_be_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "w.npz").write_bytes(b"nothing")
    assert export(tmp_path / "w.npz") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"logitserve: {tmp_path / 'w.npz'}: expected a zip archive")


@pytest.mark.parametrize(
    "flags",
    [
        ["--version", "0"],
        ["--version", "x"],
        ["--tolerance", "-1"],
        ["--tolerance", "x"],
        ["--dtype", "int8"],
        ["--image", "8x8"],
        ["--image", "0x4x1"],
        ["--image", "2x2x-1"],
        ["--image", "2x2xinf"],
        ["--examples", "rows.npy"],
    ],
)
def test_a_wrong_call_ends_with_2(weights: Path, flags: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        export(weights, *flags)
    assert left.value.code == 2
