"""safetensors, read by hand: as its own library writes it, as Hugging Face lays folders out, and damaged."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from sources import BIAS, WEIGHTS, write_safetensors

from service.export import safetensors as reader
from service.export.source import ExportError, Options, Source
from service.heads.graphs import Linear

W32, B32 = np.ascontiguousarray(WEIGHTS.T, np.float32), BIAS.astype(np.float32)
HEAD = {"classifier.weight": ("F32", W32), "classifier.bias": ("F32", B32)}


def read(path: Path, **said: Any) -> Source:
    return reader.read(path, Options(**said))


def linear(source: Source) -> Linear:
    assert isinstance(source.head, Linear)
    return source.head


def folder(root: Path, config: Any, tensors: Any = HEAD) -> Path:
    write_safetensors(root / "model.safetensors", tensors)
    (root / "config.json").write_text(
        config if isinstance(config, str) else json.dumps(config), encoding="utf-8"
    )
    return root


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    arrays = {"fc.weight": W32, "fc.bias": B32, "layer.weight": np.zeros((2, 2), np.float32)}
    safetensors.numpy.save_file(arrays, tmp_path / "m.safetensors", {"by": "a test"})
    source = read(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(linear(source).weights, W32.T.astype(np.float64))
    np.testing.assert_array_equal(linear(source).bias, BIAS)
    assert source.dtype == np.float32
    assert source.file == tmp_path / "m.safetensors"


def test_halves_are_widened_exactly(tmp_path: Path) -> None:
    halves = {"fc.weight": ("F16", W32.astype("<f2")), "fc.bias": ("F16", B32.astype("<f2"))}
    source = read(write_safetensors(tmp_path / "m.safetensors", halves))
    np.testing.assert_array_equal(linear(source).weights, W32.T.astype(np.float16).astype(np.float64))
    assert source.dtype == np.float32


def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path: Path) -> None:
    upper = (W32.view(np.uint32) >> 16).astype("<u2")
    tensors = {"fc.weight": ("BF16", upper), "fc.bias": ("F64", BIAS)}
    source = read(write_safetensors(tmp_path / "m.safetensors", tensors))
    expected = (upper.astype(np.uint32) << 16).view(np.float32).T
    np.testing.assert_array_equal(linear(source).weights, expected.astype(np.float64))
    np.testing.assert_allclose(linear(source).weights, WEIGHTS, rtol=2**-7)
    assert source.dtype == np.float64


def test_a_folder_names_its_classes(tmp_path: Path) -> None:
    config = {
        "id2label": {"1": "neutral", "0": "bad", "2": "good"},
        "problem_type": "single_label_classification",
    }
    source = read(folder(tmp_path, config))
    assert source.class_names == ("bad", "neutral", "good")
    assert source.file == tmp_path / "model.safetensors"


def test_a_folder_may_keep_its_weights_in_parts(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"backbone.weight": ("F32", np.zeros((9, 9), np.float32))})
    write_safetensors(tmp_path / "b.safetensors", HEAD)
    parts = {
        "backbone.weight": "a.safetensors",
        "classifier.weight": "b.safetensors",
        "classifier.bias": "b.safetensors",
    }
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": parts}), encoding="utf-8")
    source = read(tmp_path)
    assert source.file == tmp_path / "b.safetensors"
    assert source.num_classes == 3
    for part in ("../b.safetensors", "absent.safetensors"):
        index.write_text(json.dumps({"weight_map": {"x": part}}), encoding="utf-8")
        with pytest.raises(ExportError, match="expected files beside it, got"):
            read(tmp_path)
    index.write_text("{}", encoding="utf-8")
    with pytest.raises(ExportError, match="expected an object weight_map"):
        read(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"expected model\.safetensors or model\.safetensors\.index\.json in it"
    ):
        read(tmp_path)


@pytest.mark.parametrize("labels", [{"0": "a", "1": "b"}, {"0": "a", "1": "b", "x": "c"}, ["a", "b", "c"], 3])
def test_labels_must_be_those_of_the_classes(tmp_path: Path, labels: Any) -> None:
    with pytest.raises(ExportError, match=r"config\.json: id2label: expected the keys 0 to 2, got"):
        read(folder(tmp_path, {"id2label": labels}))


def test_a_model_of_several_labels_is_served_as_scores_only(tmp_path: Path) -> None:
    several = folder(tmp_path, {"problem_type": "multi_label_classification"})
    with pytest.raises(ExportError, match="each class has a sigmoid of its own; --as-scores"):
        read(several)
    assert not read(several, as_scores=True).calibrated
    regression = folder(tmp_path, {"problem_type": "regression"})
    with pytest.raises(ExportError, match=r"got regression: no classes$"):
        read(regression, as_scores=True)


@pytest.mark.parametrize("config", ["[]", "{", '{"a": 1, "a": 2}', "[" * 100_000])
def test_a_config_that_is_no_object_is_refused(tmp_path: Path, config: str) -> None:
    with pytest.raises(ExportError, match=r"config\.json: expected a JSON object"):
        read(folder(tmp_path, config))


def test_types_that_are_no_floats_are_refused(tmp_path: Path) -> None:
    tensors = {"fc.weight": ("I32", np.ones((3, 4), np.int32)), "fc.bias": ("F32", B32)}
    with pytest.raises(ExportError, match=r"fc\.weight: expected one of F64, F32, F16, BF16, got 'I32'"):
        read(write_safetensors(tmp_path / "m.safetensors", tensors))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"data_offsets": [0, 10**9]}, "expected data within the file, got bytes 0 to 1000000000"),
        ({"data_offsets": [8, 4]}, "expected data within the file"),
        ({"data_offsets": [0]}, "expected dtype, shape and data_offsets"),
        ({"shape": [-1, 4]}, "expected dtype, shape and data_offsets"),
        ({"shape": [True, 4]}, "expected dtype, shape and data_offsets"),
        ({"shape": "big"}, "expected dtype, shape and data_offsets"),
        ({"dtype": 4}, "expected dtype, shape and data_offsets"),
        ({"shape": [3, 5]}, "expected 60 bytes of data, got 48"),
        ({"shape": [2**40, 2**40]}, "expected at most"),
    ],
)
def test_a_header_that_lies_is_refused_before_memory_is_taken(
    tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", {"fc.weight": ("F32", W32)}, **changed)
    with pytest.raises(ExportError, match=rf"fc\.weight: {told}"):
        read(path)


def test_a_header_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    for text in (b"", b"1234", (2**60).to_bytes(8, "little"), (9).to_bytes(8, "little") + b"{}"):
        path.write_bytes(text)
        with pytest.raises(ExportError, match="expected a header of at most"):
            read(path)
    path.write_bytes((9).to_bytes(8, "little") + b'{"a":  1}')
    with pytest.raises(ExportError, match="a: expected dtype, shape and data_offsets"):
        read(path)
    with pytest.raises(ExportError, match=r"cannot read .*absent"):
        read(tmp_path / "absent.safetensors")


@given(place=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_damaged_file_is_read_or_refused_but_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    path = write_safetensors(tmp_path_factory.mktemp("damaged") / "m.safetensors", HEAD)
    body = bytearray(path.read_bytes())
    body[place % len(body)] = byte
    path.write_bytes(body)
    with suppress(ExportError):
        assert read(path).num_features == 4
