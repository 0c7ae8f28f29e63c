"""The whole way: what is written is served, answers as its source does, and is the same every time."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sources import BIAS, LINEAR, WEIGHTS, a_source

from service.errors import ModelError, StartError
from service.export.exporter import DECIMALS, GOLDEN_ROWS, export
from service.export.parity import ParityError
from service.export.source import Answers, ExportError, Region, answer_linearly
from service.heads.description import digest_of
from service.heads.graphs import Linear, read_linear
from service.heads.handle import GOLDEN_TOLERANCE
from service.heads.repository import Repository

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def described(folder: Path) -> Any:
    return json.loads((folder / "head.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
def test_a_head_is_written_that_the_repository_serves(tmp_path: Path, dtype: Any) -> None:
    exported = export(
        a_source(notes=("a note",)), tmp_path, model="m", dtype=dtype, class_names=("a", "b", "c")
    )
    assert exported.folder == tmp_path / "m" / "1"
    repository = Repository(tmp_path, provider="cpu")
    repository.load()
    head = repository.head(repository.info("m", None))
    assert (head.info.class_names, head.info.dtype) == (("a", "b", "c"), dtype)
    assert head.info.digest == exported.head.info.digest
    rows = np.random.default_rng(0).normal(size=(20, 4)).astype(dtype)
    np.testing.assert_allclose(head.run(rows), rows @ WEIGHTS + BIAS, rtol=1e-5, atol=1e-5)
    model = (exported.folder / "model.onnx").read_bytes()
    linear = read_linear(model, input_name="features", output_name="logits")
    assert linear is not None
    assert linear.weights.tolist() == WEIGHTS.astype(dtype).tolist()


def test_head_json_says_everything(tmp_path: Path) -> None:
    (tmp_path / "w.npz").write_bytes(b"abc")
    source = a_source(file=tmp_path / "w.npz", notes=("one", "two"), class_names=("x", "y", "z"))
    told = described(export(source, tmp_path / "models", model="m").folder)
    assert list(told) == [
        "class_names",
        "input",
        "output",
        "dtype",
        "calibration",
        "decision",
        "golden",
        "source",
        "digest",
    ]
    assert told["class_names"] == ["x", "y", "z"]
    assert told["dtype"] == "float64"
    assert told["source"]["format"] == "test"
    assert told["source"]["file"] == "w.npz"
    assert told["source"]["sha256"].startswith("ba7816bf")
    assert told["source"]["notes"] == "one; two"
    text = (tmp_path / "models" / "m" / "1" / "head.json").read_bytes()
    assert told["digest"] == digest_of((tmp_path / "models" / "m" / "1" / "model.onnx").read_bytes(), text)


def test_what_there_is_to_show_is_kept_and_held_against_the_head(tmp_path: Path) -> None:
    examples = {"features": [[0, 1, 2.5, 0], [3, 0, 0, 0]], "labels": [2, 0]}
    image = {"height": 2, "width": 2, "largest": 3}
    exported = export(a_source(), tmp_path, model="m", shown={"examples": examples, "image": image})
    told = described(exported.folder)
    assert (told["examples"], told["image"]) == (examples, image)
    with pytest.raises(ExportError, match=r"cannot be served: .*head\.json: image has 3 x 2 pixels"):
        export(a_source(), tmp_path, model="m", shown={"image": {**image, "height": 3}})
    with pytest.raises(ModelError, match=r"head\.json: examples\.features\[1\]: expected numbers from 0 to"):
        export(
            a_source(), tmp_path, model="m", shown={"examples": examples, "image": {**image, "largest": 2.5}}
        )
    assert [folder.name for folder in (tmp_path / "m").iterdir()] == ["1"]


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (export(a_source(), tmp_path, model="m").folder for _ in range(2))
    assert (first.name, second.name) == ("1", "2")
    for name in ("model.onnx", "head.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
def test_golden_rows_meet_every_class_and_are_right_far_within_the_tolerance(
    tmp_path: Path, dtype: Any
) -> None:
    golden = described(export(a_source(), tmp_path, model="m", dtype=dtype).folder)["golden"]
    features, logits = (np.array(golden[key]) for key in ("features", "logits"))
    assert len(features) == len(logits) == GOLDEN_ROWS
    assert set(logits.argmax(axis=1).tolist()) == {0, 1, 2}
    exact = features.astype(dtype).astype(float) @ WEIGHTS.astype(dtype).astype(float)
    exact += BIAS.astype(dtype).astype(float)
    allowed = GOLDEN_TOLERANCE[dtype] * np.maximum(1, np.abs(exact))
    assert (np.abs(logits - exact) / allowed).max() < 0.1
    digits = [len(repr(value).partition(".")[2]) for row in golden["logits"] for value in row]
    assert max(digits) <= DECIMALS[str(dtype)]
    np.testing.assert_array_equal(features, features.astype(dtype).astype(str).astype(float))


def test_golden_rows_lie_where_the_features_do(tmp_path: Path) -> None:
    source = a_source(region=Region(1000.0, 1.0))
    golden = described(export(source, tmp_path, model="m").folder)["golden"]
    assert np.abs(np.array(golden["features"]) - 1000).max() < 10


def test_golden_rows_are_such_that_float32_holds_their_logits(tmp_path: Path) -> None:
    weights = np.array([[1e4, -1e4, 0.5], [-1e4, 1e4, 0.25], [1e4, 1e4, 1.0], [-1e4, 1e4, 0.0]])
    linear = Linear(np.repeat(weights, 16, axis=0), np.array([0.5, -0.5, 0.0]))
    source = a_source(head=linear, answer=answer_linearly(linear))
    golden = described(export(source, tmp_path, model="m", dtype=FLOAT32, tolerance=1).folder)["golden"]
    rows, logits = (np.array(golden[key]) for key in ("features", "logits"))
    summed = np.abs(rows) @ np.abs(linear.weights) + np.abs(linear.bias)
    assert (summed * 4 * np.finfo(np.float32).eps <= 2e-5 * np.maximum(1, np.abs(logits))).all()
    assert set(logits.argmax(axis=1).tolist()) >= {0, 1}


def test_rows_of_a_wide_head_are_few_entries_and_kept_so(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    linear = Linear(random.normal(size=(20_000, 3)), np.zeros(3))
    exported = export(a_source(head=linear, answer=answer_linearly(linear)), tmp_path, model="m")
    golden = described(exported.folder)["golden"]["features"]
    assert golden["num_features"] == 20_000
    assert len(golden["indptr"]) == GOLDEN_ROWS + 1
    assert 20 * GOLDEN_ROWS < len(golden["data"]) < 150 * GOLDEN_ROWS
    assert min(golden["data"]) > 0
    assert (exported.folder / "head.json").stat().st_size < 100_000


def test_a_head_that_never_knows_still_has_golden_rows(tmp_path: Path) -> None:
    nothing = Linear(np.zeros((4, 3)), np.zeros(3))
    source = a_source(head=nothing, answer=answer_linearly(nothing))
    golden = described(export(source, tmp_path, model="m").folder)["golden"]
    assert golden["logits"] == [[0.0] * 3] * GOLDEN_ROWS


def test_a_head_that_differs_from_its_source_is_not_written(tmp_path: Path) -> None:
    other = Linear(WEIGHTS, BIAS + np.array([0.0, 0.001, 0.0]))
    source = a_source(answer=answer_linearly(other))
    with pytest.raises(ParityError, match=r"logits differ by 0\.001") as raised:
        export(source, tmp_path, model="m")
    assert raised.value.parity.rows == 256
    assert list(tmp_path.iterdir()) == []
    assert export(source, tmp_path, model="m", tolerance=0.01).parity.holds


def test_the_rows_given_are_what_is_compared(tmp_path: Path) -> None:
    asked: list[Any] = []

    def answer(rows: Any) -> Answers:
        asked.append(rows)
        return answer_linearly(LINEAR)(rows)

    rows = np.full((3, 4), 0.125)
    parity = export(a_source(answer=answer), tmp_path, model="m", rows=rows).parity
    assert parity.rows == 3
    np.testing.assert_array_equal(asked[-1], rows)
    assert 0.125 not in described(tmp_path / "m" / "1")["golden"]["features"][0]


def test_rows_that_overflow_the_head_are_told_of(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"the head does not run on the rows: .*overflow"):
        export(a_source(), tmp_path, model="m", dtype=FLOAT32, rows=np.full((1, 4), 3e38))


def test_weights_that_float32_cannot_hold_need_float64(tmp_path: Path) -> None:
    large = Linear(WEIGHTS * 1e39, BIAS)
    source = a_source(head=large, answer=answer_linearly(large))
    with pytest.raises(ExportError, match=r"expected numbers that float32 can hold.*try --dtype float64"):
        export(source, tmp_path, model="m", dtype=FLOAT32)
    assert export(source, tmp_path, model="m").head.info.dtype == FLOAT64


def test_logits_of_differences_too_small_for_float32_need_float64(tmp_path: Path) -> None:
    # Of features near 1e6 the sums are of that size too, and the logits what is left of them.
    near = Linear(np.array([[0.1, 0.0], [-0.1, 0.0]]), np.zeros(2))
    source = a_source(head=near, answer=answer_linearly(near), region=Region(1e6, 1.0))
    with pytest.raises(ExportError, match="--dtype float64"):
        export(source, tmp_path, model="m", dtype=FLOAT32)


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "b"), ("a", "b", "")])
def test_names_of_classes_are_distinct_and_as_many(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(ExportError, match="--class-names: expected 3 distinct names, got 2"):
        export(a_source(), tmp_path, model="m", class_names=names)
    with pytest.raises(ExportError, match="class_names of the source: expected 3"):
        export(a_source(class_names=names), tmp_path, model="m")


def test_a_version_that_is_there_is_only_replaced_by_force(tmp_path: Path) -> None:
    export(a_source(), tmp_path, model="m")
    with pytest.raises(StartError, match="is there already"):
        export(a_source(), tmp_path, model="m", version=1)
    export(a_source(), tmp_path, model="m", version=1, dtype=FLOAT32, force=True)
    assert described(tmp_path / "m" / "1")["dtype"] == "float32"


def test_scores_are_told_of_in_head_json(tmp_path: Path) -> None:
    exported = export(a_source(calibrated=False), tmp_path, model="m")
    assert "uncalibrated" in described(exported.folder)["source"]["probabilities"]
    assert exported.parity.probabilities is None
