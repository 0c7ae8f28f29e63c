"""Which versions lie in a folder."""

from pathlib import Path

import pytest

from service.errors import ModelError, StartError
from service.heads import storage
from service.heads.storage import (
    DESCRIPTION_LIMIT_BYTES,
    MODEL_LIMIT_BYTES,
    Folder,
    StoredVersion,
    list_versions,
)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def unmarked(location: Path) -> list[StoredVersion]:
    return [stored._replace(mark="") for stored in list_versions(location)]


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
    assert unmarked(tmp_path) == [
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
    assert unmarked(tmp_path) == [StoredVersion("cats.v2", 1, path, None)]


def test_a_bare_file_of_the_usual_name_has_its_description_beside_it(tmp_path: Path) -> None:
    path, other = touch(tmp_path / "model.onnx"), touch(tmp_path / "cats.onnx")
    bare = StoredVersion("cats", 1, other, None)
    assert unmarked(tmp_path) == [bare, StoredVersion("model", 1, path, None)]
    described = touch(tmp_path / "head.json")
    assert unmarked(tmp_path) == [bare, StoredVersion("model", 1, path, described)]
    assert unmarked(path) == [StoredVersion("model", 1, path, described)]


def test_the_location_may_be_one_file(tmp_path: Path) -> None:
    path = touch(tmp_path / "cats.onnx")
    touch(tmp_path / "dogs.onnx")
    assert unmarked(path) == [StoredVersion("cats", 1, path, None)]


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


# What tells files from others in their place


def mark(location: Path) -> str:
    (stored,) = list_versions(location)
    return stored.mark


def test_a_mark_changes_with_the_files_and_only_with_them(tmp_path: Path) -> None:
    model = touch(tmp_path / "digits" / "1" / "model.onnx")
    marks = [mark(tmp_path)]
    touch(tmp_path / "digits" / "1" / "notes.txt")
    assert mark(tmp_path) == marks[0]
    model.write_bytes(b"longer")
    marks.append(mark(tmp_path))
    replaced = touch(tmp_path / "new")
    replaced.write_bytes(b"others")  # as many
    replaced.replace(model)
    marks.append(mark(tmp_path))
    described = touch(tmp_path / "digits" / "1" / "head.json")
    marks.append(mark(tmp_path))
    described.write_bytes(b"{}")
    marks.append(mark(tmp_path))
    model.unlink()
    marks.append(mark(tmp_path))
    assert len(set(marks)) == len(marks)


# What is refused


def refusal(location: Path) -> str:
    (stored,) = list_versions(location)
    with pytest.raises(ModelError) as raised:
        Folder(location).fetch(stored)
    return str(raised.value)


def test_what_lies_in_the_folder_may_be_read(tmp_path: Path) -> None:
    model = touch(tmp_path / "..data" / "1" / "model.onnx")
    touch(model.with_name("head.json"))
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "1").symlink_to("../..data/1")  # as a volume of Kubernetes has it
    (tmp_path / "cats.onnx").symlink_to(model)
    (tmp_path / "link").symlink_to(tmp_path)
    for location in (tmp_path, tmp_path / "link"):
        for stored in Folder(location).versions():
            Folder(location).fetch(stored)
    for location in (tmp_path / "cats.onnx", model):
        (stored,) = Folder(location).versions()
        Folder(location).fetch(stored)


@pytest.mark.parametrize("link", ["digits/1/model.onnx", "digits/1/head.json", "digits/1", "digits"])
def test_a_link_that_leads_out_is_refused(tmp_path: Path, link: str) -> None:
    """Whoever may write into the folder must not have other files read through it."""
    models = tmp_path / "models"
    outside = tmp_path / "outside"
    for name in ("model.onnx", "head.json"):
        touch(models / "digits" / "1" / name)
    (models / link).rename(outside)
    (models / link).symlink_to(outside)
    reason = refusal(models)
    assert f"leads out of {models}, to {outside}" in reason
    assert reason.endswith("put the file itself there, or serve what it leads to")


def test_a_bare_model_that_leads_out_is_refused_unless_it_is_the_location(tmp_path: Path) -> None:
    outside = touch(tmp_path / "outside.onnx")
    (tmp_path / "models").mkdir()
    link = tmp_path / "models" / "digits.onnx"
    link.symlink_to(outside)
    assert "leads out of" in refusal(tmp_path / "models")
    (stored,) = Folder(link).versions()
    Folder(link).fetch(stored)


def test_a_file_that_has_gone_or_is_none_is_refused(tmp_path: Path) -> None:
    model = touch(tmp_path / "digits" / "1" / "model.onnx")
    model.unlink()
    assert refusal(tmp_path) == f"cannot read {model}: No such file or directory"
    model.mkdir()
    assert refusal(tmp_path) == f"cannot read {model}: it is no file"
    model.rmdir()
    model.symlink_to(model)
    assert refusal(tmp_path).startswith(f"cannot read {model}: ")


@pytest.mark.parametrize(
    ("name", "limit_bytes"),
    [("model.onnx", MODEL_LIMIT_BYTES), ("head.json", DESCRIPTION_LIMIT_BYTES)],
)
def test_a_file_over_the_limit_is_refused_before_it_is_read(
    tmp_path: Path, name: str, limit_bytes: int
) -> None:
    touch(tmp_path / "digits" / "1" / "model.onnx")
    with (tmp_path / "digits" / "1" / name).open("wb") as file:
        file.truncate(limit_bytes)  # takes no room
        Folder(tmp_path).fetch(list_versions(tmp_path)[0])
        file.truncate(limit_bytes + 1)
    expected = f"{name} is too large: expected at most {limit_bytes} bytes, got {limit_bytes + 1}"
    assert refusal(tmp_path) == expected


@pytest.mark.parametrize(
    "name", ["a b", "a?b", "a#b", "50%", "a:b", "a\\b", "a\nb", "a\x7fb", "a\u200bb", "a\u2028b"]
)
def test_a_name_that_cannot_stand_in_a_url_is_refused(tmp_path: Path, name: str) -> None:
    touch(tmp_path / name / "1" / "model.onnx")
    assert refusal(tmp_path).startswith("the model's name cannot stand in a URL: expected no spaces")


def test_a_name_of_other_bytes_than_text_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / b"\xff".decode(errors="surrogateescape") / "1" / "model.onnx")
    reason = refusal(tmp_path)
    assert reason.isprintable()
    reason.encode()  # as an answer must


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a"])
def test_names_that_are_paths_are_refused_wherever_they_come_from(name: str) -> None:
    with pytest.raises(ModelError, match="cannot stand in a URL"):
        storage.check_name(name)


@pytest.mark.parametrize("name", ["digits", "a.b-c_d", "Ziffern-ä", "数字", "x" * 200])
def test_other_names_are_served(tmp_path: Path, name: str) -> None:
    touch(tmp_path / name[:60] / "1" / "model.onnx")
    Folder(tmp_path).fetch(list_versions(tmp_path)[0])
