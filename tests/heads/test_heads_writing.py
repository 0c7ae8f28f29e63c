"""New versions on disk: numbered after the newest, whole or not at all, with a digest that holds."""

import json
from pathlib import Path

import pytest
from conftest import MODELS
from folders import DESCRIPTION, LINEAR, load

from service.errors import ModelError, StartError
from service.heads.description import digest_of
from service.heads.writing import choose_version, staged, to_json, write_version


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
    left = tmp_path / ".unfinished-x" / "pets" / "1"
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


# Into a place

NAMED = {"class_names": ["ä", "b"], "golden": {"features": [[1, 2], [3, 4]], "logits": [[0.5, 1], [1.5, 2]]}}


def write(location: Path, version: int = 1, model: bytes = b"model") -> Path:
    with staged(location, "m", version, model, NAMED) as stage:
        assert stage.name.startswith(".")
        assert not (location / "m" / str(version) / "head.json").exists() or model != b"model"
    return location / "m" / str(version)


def test_a_version_is_written_with_its_digest_and_nothing_else(tmp_path: Path) -> None:
    folder = write(tmp_path / "models")
    assert (folder / "model.onnx").read_bytes() == b"model"
    text = (folder / "head.json").read_bytes()
    assert json.loads(text)["digest"] == digest_of(b"model", text)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["m"]
    assert oct(folder.stat().st_mode & 0o077) != "0o0"  # others may serve what was written


def test_what_fails_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), staged(tmp_path, "m", 1, b"model", NAMED):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_version_is_replaced_whole(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "notes.txt").write_text("old", encoding="utf-8")
    write(tmp_path, model=b"other")
    assert sorted(path.name for path in folder.iterdir()) == ["head.json", "model.onnx"]
    assert (folder / "model.onnx").read_bytes() == b"other"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StartError, match=r"cannot write to .*file"):
        write(tmp_path / "file")


def test_the_next_version_is_one_more_than_the_last(tmp_path: Path) -> None:
    assert choose_version(tmp_path / "absent", "m", None, force=False) == 1
    for version in (2, 10):
        write(tmp_path, version)
    (tmp_path / "m" / "011").mkdir()
    assert choose_version(tmp_path, "m", None, force=False) == 11
    assert choose_version(tmp_path, "m", 5, force=False) == 5
    with pytest.raises(StartError, match="10 is there already: leave --version out, or say --force"):
        choose_version(tmp_path, "m", 10, force=False)
    assert choose_version(tmp_path, "m", 10, force=True) == 10


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "-x", "a b", "x" * 129])
def test_a_model_has_the_name_of_one_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(StartError, match="--model: expected letters"):
        choose_version(tmp_path, name, None, force=False)
