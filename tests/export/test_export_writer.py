"""Where a head is written: the next version, whole or not at all."""

import json
from pathlib import Path

import pytest

from service.export.source import ExportError
from service.export.writer import choose_version, staged, to_json
from service.heads.description import digest_of

DESCRIPTION = {"class_names": ["ä", "b"], "golden": {"features": [[1, 2], [3, 4]], "logits": [[0.5], [1.5]]}}


def write(location: Path, version: int = 1, model: bytes = b"model") -> Path:
    with staged(location, "m", version, (model, DESCRIPTION)) as stage:
        assert stage.name.startswith(".")
        assert not (location / "m" / str(version) / "head.json").exists() or model != b"model"
    return location / "m" / str(version)


def test_json_has_one_key_and_one_row_a_line() -> None:
    text = to_json(DESCRIPTION)
    assert json.loads(text) == DESCRIPTION
    assert text.splitlines() == [
        "{",
        '  "class_names": ["ä", "b"],',
        '  "golden": {',
        '    "features": [',
        "      [1, 2],",
        "      [3, 4]",
        "    ],",
        '    "logits": [',
        "      [0.5],",
        "      [1.5]",
        "    ]",
        "  }",
        "}",
    ]


def test_a_version_is_written_with_its_digest_and_nothing_else(tmp_path: Path) -> None:
    folder = write(tmp_path / "models")
    assert (folder / "model.onnx").read_bytes() == b"model"
    text = (folder / "head.json").read_bytes()
    assert json.loads(text)["digest"] == digest_of(b"model", text)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["m"]
    assert oct(folder.stat().st_mode & 0o077) != "0o0"  # others may serve what was written


def test_what_fails_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), staged(tmp_path, "m", 1, (b"model", DESCRIPTION)):
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
    with pytest.raises(ExportError, match=r"cannot write to .*file"):
        write(tmp_path / "file")


def test_the_next_version_is_one_more_than_the_last(tmp_path: Path) -> None:
    assert choose_version(tmp_path / "absent", "m", None, force=False) == 1
    for version in (2, 10):
        write(tmp_path, version)
    (tmp_path / "m" / "011").mkdir()
    assert choose_version(tmp_path, "m", None, force=False) == 11
    assert choose_version(tmp_path, "m", 5, force=False) == 5
    with pytest.raises(ExportError, match="10 is there already: leave --version out, or say --force"):
        choose_version(tmp_path, "m", 10, force=False)
    assert choose_version(tmp_path, "m", 10, force=True) == 10


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "-x", "a b", "x" * 129])
def test_a_model_has_the_name_of_one_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError, match="--model: expected letters"):
        choose_version(tmp_path, name, None, force=False)
