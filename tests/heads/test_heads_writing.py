"""New versions on disk: numbered after the newest, whole or not at all, with a digest that holds."""

import json
from pathlib import Path

import pytest
from conftest import MODELS
from folders import DESCRIPTION, LINEAR, load

from service.errors import ModelError, StartError
from service.heads.writing import to_json, write_version


def test_a_version_is_numbered_after_the_newest(tmp_path: Path) -> None:
    assert write_version(tmp_path, "pets", LINEAR, {}) == tmp_path / "pets" / "1"
    (tmp_path / "pets" / "9").mkdir()
    (tmp_path / "pets" / "notes").mkdir()
    assert write_version(tmp_path, "pets", LINEAR, {}) == tmp_path / "pets" / "10"


def test_a_bare_model_is_version_1(tmp_path: Path) -> None:
    (tmp_path / "pets.onnx").write_bytes(LINEAR)
    assert write_version(tmp_path, "pets", LINEAR, {}).name == "2"


def test_what_was_written_is_served(tmp_path: Path) -> None:
    calibration = {"method": "vector", "scale": [2, 0.5], "bias": [0, 1]}
    write_version(tmp_path, "pets", LINEAR, {**DESCRIPTION, "calibration": calibration, "digest": "0" * 64})
    repository = load(tmp_path)
    head = repository.head(repository.info(None, None))
    written = json.loads((tmp_path / "pets" / "1" / "head.json").read_text(encoding="utf-8"))
    assert written["digest"] == head.info.digest
    assert written["golden"] == DESCRIPTION["golden"]
    assert head.info.calibration is not None
    assert head.info.calibration.scale is not None
    assert head.info.calibration.scale.tolist() == [2, 0.5]
    repository.close()


def test_equal_heads_are_equal_bytes(tmp_path: Path) -> None:
    folders = [write_version(tmp_path, name, LINEAR, DESCRIPTION) for name in ("a", "b")]
    for file in ("model.onnx", "head.json"):
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()


def test_a_description_that_would_not_be_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"head\.json: calibration"):
        write_version(tmp_path, "pets", LINEAR, {"calibration": {"method": "magic"}})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "pets").write_text("a file")
    with pytest.raises(StartError, match="cannot write to"):
        write_version(tmp_path, "pets", LINEAR, {})


def test_what_an_interrupted_write_left_is_no_version_and_in_nobodys_way(tmp_path: Path) -> None:
    left = tmp_path / "pets" / ".1.unfinished"
    left.mkdir(parents=True)
    (left / "model.onnx").write_bytes(b"half of")
    version = write_version(tmp_path, "pets", LINEAR, {})
    assert sorted(entry.name for entry in version.parent.iterdir()) == ["1"]
    assert (version / "model.onnx").read_bytes() == LINEAR


def test_the_shipped_description_is_laid_out_so() -> None:
    text = (MODELS / "digits" / "1" / "head.json").read_text(encoding="utf-8")
    assert to_json(json.loads(text)) == text


def test_every_row_is_a_line_and_everything_reads_back() -> None:
    description = {
        "rows": [[1, 2], [3, 4]],
        "empty": [],
        "none": {},
        "names": ["é", "b"],
        "deep": {"x": {"y": None}},
    }
    text = to_json(description)
    assert json.loads(text) == description
    assert "    [1, 2],\n    [3, 4]\n" in text
    assert '"é"' in text
