"""`logitserve calibrate`: a head that is far too sure becomes as sure as it is right, and is served so."""

import json
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import overconfident
import pytest
from conftest import Serve

from service import cli
from service.heads.description import TemperatureScaling, VectorScaling, parse
from service.heads.storage import list_versions
from service.numeric.softmax import softmax


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("overconfident")
    overconfident.write(folder)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def calibrate(folder: Path, *flags: str) -> int:
    data = () if "--data" in flags else ("--data", str(folder / "rows.npz"))
    return cli.main(["calibrate", f"--models={folder / 'models'}", *data, *flags])


def document(folder: Path, *flags: str) -> dict[str, Any]:
    assert calibrate(folder, f"--json={folder / 'found.json'}", *flags) == 0
    found: dict[str, Any] = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    return found


def test_the_loss_of_rows_held_out_falls_and_the_head_is_as_sure_as_right(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = document(here)
    raw, calibrated = (found["held_out"][kind] for kind in ("raw", "calibrated"))
    assert raw["log_loss"] > 2 * calibrated["log_loss"]
    assert raw["ece_equal_mass"] > 1.5 * calibrated["ece_equal_mass"]
    assert raw["brier"]["score"] > calibrated["brier"]["score"]
    assert raw["accuracy"] == calibrated["accuracy"]
    assert found["calibration"]["temperature"] > 2
    assert found["gradient_norm"] < 1e-10
    text = capsys.readouterr().out
    assert "held out, calibrated" in text
    assert "temperature scaling: temperature " in text
    assert f"wrote {here / 'models' / 'digits' / '2'}" in text
    assert "note:" not in text


async def served(serve: Serve, folder: Path, body: dict[str, Any]) -> Any:
    async with serve(models=folder / "models") as client:
        answer = await client.post("/predict", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["temperature", "vector"])
async def test_rows_that_nobody_has_seen_are_served_with_less_loss(
    here: Path, serve: Serve, method: str
) -> None:
    assert calibrate(here, f"--method={method}") == 0
    with np.load(here / "test.npz") as test:
        body = {"features": test["features"].tolist(), "labels": test["labels"].tolist(), "outputs": ["loss"]}
    calibrated = await served(serve, here, body)
    raw = await served(serve, here, body | {"calibration": "none"})
    assert calibrated["version"] == raw["version"] == "2"
    assert calibrated["loss"] < 0.6 * raw["loss"]
    first = await served(serve, here, body | {"version": "1"})
    assert first["loss"] == raw["loss"]


def test_the_new_version_is_the_old_model_with_a_new_description(here: Path) -> None:
    found = document(here)
    old, new = (here / "models" / "digits" / version for version in ("1", "2"))
    assert found["written"] == str(new)
    assert (new / "model.onnx").read_bytes() == (old / "model.onnx").read_bytes()
    before, after = (json.loads((folder / "head.json").read_text(encoding="utf-8")) for folder in (old, new))
    assert after["golden"] == before["golden"]
    assert (after["image"], len(after["examples"]["labels"])) == (overconfident.IMAGE, 3)
    assert after["examples"] == before["examples"]
    assert after["class_names"] == before["class_names"]
    assert after["digest"] != before["digest"]
    assert after["calibration"] == found["calibration"]
    fitted = after["calibration"]["fitted"]
    assert fitted["rows"] + fitted["held_out_rows"] == 800
    assert fitted["loss_after"] == pytest.approx(found["fitted_to"]["calibrated"]["log_loss"], rel=1e-12)
    assert fitted["held_out_loss_before"] == found["held_out"]["raw"]["log_loss"]
    by = parse((new / "head.json").read_bytes()).calibration
    assert isinstance(by, TemperatureScaling)


def test_the_same_rows_give_the_same_bytes(here: Path) -> None:
    for _ in range(2):
        assert calibrate(here, "--version=1", "--method=vector") == 0
    second, third = (here / "models" / "digits" / version / "head.json" for version in ("2", "3"))
    assert second.read_bytes() == third.read_bytes()
    assert isinstance(parse(second.read_bytes()).calibration, VectorScaling)


def test_a_head_with_a_calibration_is_fitted_anew_from_its_raw_logits(here: Path) -> None:
    first, again = document(here), document(here)
    assert again["written"].endswith("/digits/3")
    assert again["calibration"] == first["calibration"]


def test_logits_do_for_features_and_csv_for_npz(here: Path) -> None:
    expected = document(here, "--version=1")["calibration"]
    (stored, *_) = list_versions(here / "models")
    from service.evaluation.judging import logits_of, open_version
    from service.heads.storage import Folder

    head = open_version(Folder(here / "models"), stored.model, 1, provider="cpu").head
    with np.load(here / "rows.npz") as rows:
        features, labels = rows["features"], rows["labels"]
    np.save(here / "logits.npy", np.asarray(logits_of(head, features)))
    np.save(here / "labels.npy", labels)
    flags = ("--version=1", "--logits", "--data", str(here / "logits.npy"), f"--labels={here / 'labels.npy'}")
    assert document(here, *flags)["calibration"] == expected
    lines = [
        ",".join([f"{x:g}" for x in row] + [overconfident.NAMES[y]])
        for row, y in zip(features, labels, strict=True)
    ]
    (here / "rows.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert document(here, "--version=1", "--data", str(here / "rows.csv"))["calibration"] == expected


def test_rows_of_their_own_may_be_held_out(here: Path) -> None:
    found = document(here, f"--held-out={here / 'test.npz'}")
    assert found["fitted_to"]["raw"]["rows"] == 800
    assert found["held_out"]["raw"]["rows"] == 597
    assert found["held_out"]["raw"]["log_loss"] > 2 * found["held_out"]["calibrated"]["log_loss"]


def test_another_folder_gets_its_first_version(here: Path) -> None:
    assert calibrate(here, f"--out={here / 'other'}") == 0
    assert (here / "other" / "digits" / "1" / "head.json").is_file()
    assert not (here / "models" / "digits" / "2").exists()


def test_a_head_at_a_url_is_fetched_and_written_to_a_folder(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = fsspec.filesystem("memory")
    store.put(str(here / "models"), "/heads", recursive=True)
    flags = [
        "calibrate",
        "--models=memory://heads",
        f"--cache-dir={here / 'cache'}",
        f"--data={here / 'rows.npz'}",
    ]
    try:
        assert cli.main(flags) == 1
        assert "--out DIR is needed, since memory://heads" in capsys.readouterr().err
        assert cli.main([*flags, f"--out={here / 'other'}"]) == 0
    finally:
        store.rm("/heads", recursive=True)
    found = parse((here / "other" / "digits" / "1" / "head.json").read_bytes())
    assert found.calibration is not None


def test_a_bare_file_needs_a_folder_to_write_to(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = here / "bare.onnx"
    shutil.copy(here / "models" / "digits" / "1" / "model.onnx", bare)
    flags = ["calibrate", f"--models={bare}", f"--data={here / 'rows.npz'}"]
    assert cli.main(flags) == 1
    assert "--out DIR is needed" in capsys.readouterr().err
    assert cli.main([*flags, f"--out={here / 'other'}"]) == 0
    described = parse((here / "other" / "bare" / "1" / "head.json").read_bytes())
    assert described.calibration is not None


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_diagram_shows_both(here: Path, suffix: str) -> None:
    path = here / f"reliability.{suffix}"
    assert calibrate(here, f"--plot={path}") == 0
    if suffix == "png":
        assert path.read_bytes().startswith(b"\x89PNG")
    else:
        svg = path.read_text(encoding="utf-8")
        for text in (
            "digits version 2: temperature scaling, rows held out",
            "raw: log loss",
            "calibrated: log loss",
        ):
            assert f"<!-- {text}" in svg


def notes_of(text: str) -> list[str]:
    return [line.removeprefix("note: ") for line in text.splitlines() if line.startswith("note: ")]


def save(folder: Path, logits: Any, labels: Any) -> tuple[str, ...]:
    np.savez(folder / "made.npz", logits=logits, labels=labels)
    return ("--logits", "--data", str(folder / "made.npz"))


def test_rows_that_are_all_right_are_remarked_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logits = np.random.default_rng(0).normal(size=(50, 10))
    assert calibrate(here, *save(here, logits, logits.argmax(axis=1))) == 0
    (note,) = notes_of(capsys.readouterr().out)
    assert note.startswith("temperature stopped at a bound")
    described = parse((here / "models" / "digits" / "2" / "head.json").read_bytes())
    assert described.calibration is not None
    assert described.calibration.fitted is not None
    assert described.calibration.fitted.at_bound == ("temperature",)


def test_rows_that_mislead_and_classes_without_rows_are_remarked_on(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(30, 10)), generator.integers(0, 3, 30)
    assert calibrate(here, "--method=vector", *save(here, logits, labels)) == 0
    notes = notes_of(capsys.readouterr().out)
    assert any("7 of 10 classes have no row to fit to" in note for note in notes)
    np.savez(here / "opposite.npz", logits=-5 * logits, labels=(-logits).argmax(axis=1))
    np.savez(here / "made.npz", logits=logits, labels=logits.argmin(axis=1))
    flags = ("--method=vector", "--logits", "--data", str(here / "made.npz"))
    assert calibrate(here, *flags, f"--held-out={here / 'opposite.npz'}") == 0
    notes = notes_of(capsys.readouterr().out)
    assert any("the log loss of rows held out rises" in note for note in notes)
    assert any("the accuracy of rows held out falls from 1.0000" in note for note in notes)


def test_too_few_rows_to_hold_one_out_are_remarked_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate(here, *save(here, softmax(np.eye(10)), [0, 1, 2, 3, 4, 5, 6, 7, 8, 0])) == 0
    text = capsys.readouterr().out
    assert "no class has the five rows" in notes_of(text)[-1]
    assert "held out, raw" not in text


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "no such file": (("--data", "absent.npz"), "cannot read absent.npz: No such file"),
    "no such model": (("--model=trees",), "no model 'trees'"),
    "no such version": (("--version=7",), "no version 7 of digits: there are 1"),
    "a folder that is not there": (("--json=absent/x.json",), "expected a folder that exists"),
    "features for logits": (("--logits",), "expected an array logits"),
}


@pytest.mark.parametrize(("flags", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_done_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str
) -> None:
    assert calibrate(here, *flags) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("logitserve: ")
    assert said in line
    assert not (here / "models" / "digits" / "2").exists()


def test_logits_of_another_head_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate(here, *save(here, np.eye(3), [0, 1, 2])) == 1
    assert "expected logits of the 10 classes of digits, got 3 columns" in capsys.readouterr().err


def test_labels_that_are_no_classes_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate(here, *save(here, np.eye(10), np.arange(10) + 1)) == 1
    assert "labels[9]: expected a class from 0 to 9" in capsys.readouterr().err


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["calibrate", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert "logitserve calibrate --data validation.npz" in text
