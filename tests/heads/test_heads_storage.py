"""Which versions lie in a folder."""

from pathlib import Path

import pytest

from service.errors import StartError
from service.heads.storage import StoredVersion, list_versions


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def names(location: Path) -> list[tuple[str, int]]:
    return [(stored.model, stored.version) for stored in list_versions(location)]


def test_versions_are_sorted_as_numbers_and_models_by_name(tmp_path: Path) -> None:
    for version in ("2", "10", "1"):
        touch(tmp_path / "digits" / version / "model.onnx")
    touch(tmp_path / "cats" / "3" / "model.onnx")
    assert names(tmp_path) == [("cats", 3), ("digits", 1), ("digits", 2), ("digits", 10)]


def test_a_version_knows_its_files(tmp_path: Path) -> None:
    model = touch(tmp_path / "digits" / "1" / "model.onnx")
    described = touch(tmp_path / "digits" / "2" / "head.json")
    assert list_versions(tmp_path) == [
        StoredVersion("digits", 1, model, None),
        StoredVersion("digits", 2, described.with_name("model.onnx"), described),
    ]


@pytest.mark.parametrize("name", ["0", "-1", "01", "1.0", "v2", "latest", "1a", "", "١", "²", ".1", "1 "])  # noqa: RUF001 - digits of other scripts are the point
def test_a_folder_that_is_no_positive_integer_is_no_version(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "digits" / "7" / "model.onnx")
    touch(tmp_path / "digits" / name / "model.onnx")
    assert names(tmp_path) == [("digits", 7)]


def test_what_else_lies_beside_the_models_is_ignored(tmp_path: Path) -> None:
    touch(tmp_path / "digits" / "1" / "model.onnx")
    touch(tmp_path / "digits" / "2")
    touch(tmp_path / "README.md")
    touch(tmp_path / "build.py")
    touch(tmp_path / "__pycache__" / "build.pyc")
    touch(tmp_path / ".hidden" / "1" / "model.onnx")
    touch(tmp_path / ".hidden.onnx")
    (tmp_path / "empty").mkdir()
    assert names(tmp_path) == [("digits", 1)]


def test_a_bare_file_is_version_1_without_a_description(tmp_path: Path) -> None:
    path = touch(tmp_path / "cats.v2.onnx")
    touch(tmp_path / "head.json")
    assert list_versions(tmp_path) == [StoredVersion("cats.v2", 1, path, None)]


def test_a_bare_file_of_the_usual_name_has_its_description_beside_it(tmp_path: Path) -> None:
    path, other = touch(tmp_path / "model.onnx"), touch(tmp_path / "cats.onnx")
    bare = StoredVersion("cats", 1, other, None)
    assert list_versions(tmp_path) == [bare, StoredVersion("model", 1, path, None)]
    described = touch(tmp_path / "head.json")
    assert list_versions(tmp_path) == [bare, StoredVersion("model", 1, path, described)]
    assert list_versions(path) == [StoredVersion("model", 1, path, described)]


def test_the_location_may_be_one_file(tmp_path: Path) -> None:
    path = touch(tmp_path / "cats.onnx")
    touch(tmp_path / "dogs.onnx")
    assert list_versions(path) == [StoredVersion("cats", 1, path, None)]


def test_a_bare_file_and_a_folder_are_versions_of_one_model(tmp_path: Path) -> None:
    touch(tmp_path / "digits.onnx")
    touch(tmp_path / "digits" / "2" / "model.onnx")
    assert names(tmp_path) == [("digits", 1), ("digits", 2)]


def test_a_version_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "digits.onnx")
    touch(tmp_path / "digits" / "1" / "model.onnx")
    with pytest.raises(StartError, match=r"version 1 of digits is there twice.*digits\.onnx"):
        list_versions(tmp_path)


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    touch(tmp_path / "store" / "..data" / "model.onnx")
    models = tmp_path / "models"
    (models / "digits").mkdir(parents=True)
    (models / "digits" / "1").symlink_to(tmp_path / "store" / "..data")
    (models / "other").symlink_to(models / "digits")
    (models / "bare.onnx").symlink_to(tmp_path / "store" / "..data" / "model.onnx")
    (tmp_path / "link").symlink_to(models)
    assert names(tmp_path / "link") == [("bare", 1), ("digits", 1), ("other", 1)]


def test_a_broken_link_is_ignored(tmp_path: Path) -> None:
    touch(tmp_path / "digits" / "1" / "model.onnx")
    (tmp_path / "digits" / "2").symlink_to(tmp_path / "nowhere")
    (tmp_path / "gone.onnx").symlink_to(tmp_path / "nowhere")
    assert names(tmp_path) == [("digits", 1)]


@pytest.mark.parametrize("present", [(), ("README.md",), ("digits/model.onnx",), ("digits/v1/model.onnx",)])
def test_a_location_without_heads_says_what_is_expected_there(
    tmp_path: Path, present: tuple[str, ...]
) -> None:
    for name in present:
        touch(tmp_path / name)
    with pytest.raises(StartError) as raised:
        list_versions(tmp_path)
    assert str(raised.value).startswith(f"no heads in {tmp_path}: expected ")
    assert f"{tmp_path}/<model>/<version>/model.onnx" in str(raised.value)


def test_a_file_that_is_no_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="no heads in"):
        list_versions(touch(tmp_path / "model.pkl"))


def test_a_missing_location_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StartError) as raised:
        list_versions(tmp_path / "nowhere")
    assert str(raised.value) == (
        f"cannot read the models at {tmp_path}/nowhere: No such file or directory; "
        "set --models to the folder that has them"
    )
