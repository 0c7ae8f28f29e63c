"""Which module reads a file, and which options it has no use for."""

import re
from pathlib import Path

import numpy as np
import pytest
from sources import BIAS, WEIGHTS

from service.export import formats
from service.export.source import ExportError, Options


@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_format_is_known_by_its_suffixes(name: str) -> None:
    for suffix in formats.FORMATS[name].suffixes:
        assert formats.detect(Path(f"model{suffix}")) == name
        assert formats.detect(Path(f"MODEL{suffix.upper()}")) == name


def test_no_suffix_is_of_two_formats() -> None:
    suffixes = [suffix for known in formats.FORMATS.values() for suffix in known.suffixes]
    assert len(suffixes) == len(set(suffixes))


def test_a_format_that_is_said_needs_no_suffix(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", W=WEIGHTS, b=BIAS)
    (tmp_path / "w.npz").rename(tmp_path / "w")
    with pytest.raises(ExportError, match=r"expected one of \.npz .*another name needs --format npz\|"):
        formats.read(tmp_path / "w", Options())
    assert formats.read(tmp_path / "w", Options(), format_name="npz").num_classes == 3


def test_an_option_that_a_format_does_not_know_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", W=WEIGHTS, b=BIAS)
    with pytest.raises(ExportError, match="--trust-pickle says nothing about npz"):
        formats.read(tmp_path / "w.npz", Options(trust_pickle=True))
    with pytest.raises(ExportError, match="--output says nothing about npz"):
        formats.read(tmp_path / "w.npz", Options(output="x"))


def test_a_folder_is_one_of_hugging_face_unless_it_is_known_to_be_another(tmp_path: Path) -> None:
    assert formats.detect(tmp_path) == "safetensors"
    for file, told in formats.OTHER_FOLDERS.items():
        folder = tmp_path / file.strip("_")
        folder.mkdir()
        (folder / file).touch()
        with pytest.raises(ExportError, match=re.escape(told)):
            formats.read(folder, Options())


def test_nothing_is_said_to_be_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"absent\.npz: expected a file or a folder, got nothing"):
        formats.read(tmp_path / "absent.npz", Options())
    with pytest.raises(ExportError, match="expected a file of npz, got a folder"):
        formats.read(tmp_path, Options(), format_name="npz")
