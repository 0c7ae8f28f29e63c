"""Keras files, laid out as its versions write them; real ones are in test_frameworks.py."""

import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from sources import BIAS, WEIGHTS

from service.export import keras
from service.export.source import ExportError, Options, Source
from service.heads.graphs import Linear

KERNEL = WEIGHTS.astype(np.float32)
OFFSET = BIAS.astype(np.float32)
DENSE = ("Dense", "out", "softmax")


def config(*layers: tuple[str, str, Any]) -> str:
    described = [
        {"class_name": kind, "config": {"name": name, "activation": end}} for kind, name, end in layers
    ]
    return json.dumps({"class_name": "Sequential", "config": {"layers": described}})


def legacy(path: Path, *layers: tuple[str, str, Any], kernel: Any = KERNEL) -> Path:
    """Write .h5 as Keras 2 does: arrays under the names of layers."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = config(*layers)
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = [name for _, name, _ in layers]
        for kind, name, _ in layers:
            group = weights.create_group(name)
            group.attrs["weight_names"] = [f"{name}/kernel:0", f"{name}/bias:0"] if kind == "Dense" else []
            if kind == "Dense":
                group[f"{name}/kernel:0"], group[f"{name}/bias:0"] = kernel, OFFSET
    return path


def archive(
    path: Path, *layers: tuple[str, str, Any], named: bool = True, arrays: Any = (KERNEL, OFFSET)
) -> Path:
    """Write .keras as Keras 3 does: arrays of the last Dense layer, zeros for the others, counted by class."""
    inner = path.with_suffix(".inner")
    with h5py.File(inner, "w") as file:
        dense = [name for kind, name, _ in layers if kind == "Dense"]
        for number, name in enumerate(dense):
            group = file.create_group(f"layers/dense_{number}/vars" if number else "layers/dense/vars")
            if named:
                group.attrs["name"] = name
            for index, array in enumerate(arrays):
                group[str(index)] = array if name == dense[-1] else np.zeros((2, 2), np.float32)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", config(*layers))
        file.write(inner, "model.weights.h5")
    return path


def read(path: Path, **said: Any) -> Source:
    return keras.read(path, Options(**said))


def check(source: Source) -> None:
    assert isinstance(source.head, Linear)
    np.testing.assert_array_equal(source.head.weights, KERNEL.astype(float))
    np.testing.assert_array_equal(source.head.bias, OFFSET.astype(float))


@pytest.mark.parametrize("write", [legacy, archive, lambda *given: archive(*given, named=False)])
def test_the_last_dense_layer_is_read(tmp_path: Path, write: Callable[..., Path]) -> None:
    layers = [("InputLayer", "in", None), ("Dense", "z", "relu"), ("Dropout", "d", None), DENSE]
    layers = [(kind, name, end or "linear") for kind, name, end in layers]
    source = read(write(tmp_path / "m.keras", *layers, ("Dropout", "last", "linear")))
    check(source)
    assert source.dtype == np.float32
    assert source.notes[-2:] == (
        "features are what enters out",
        "its softmax is left out: the head gives logits",
    )


@pytest.mark.parametrize(
    "ends",
    [
        [("Dense", "out", "linear")],
        [("Dense", "out", "linear"), ("Softmax", "s", None)],
        [("Dense", "out", "linear"), ("Activation", "s", "softmax")],
    ],
)
def test_what_makes_probabilities_of_logits_may_follow(tmp_path: Path, ends: Any) -> None:
    check(read(legacy(tmp_path / "m.h5", *ends)))


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ([("Dense", "out", "relu")], "expected the activation softmax, sigmoid or linear, got relu"),
        ([("Dense", "out", {"class_name": "mine"})], "got of its own"),
        ([DENSE, ("Reshape", "r", "linear")], "but Reshape r follows"),
        ([DENSE, ("Softmax", "s", None)], "but Softmax s follows"),
        ([("Conv2D", "c", "relu")], "expected a Dense layer, got Conv2D"),
    ],
)
def test_what_is_no_head_is_refused(tmp_path: Path, ends: Any, told: str) -> None:
    with pytest.raises(ExportError, match=told):
        read(legacy(tmp_path / "m.h5", *ends))


def test_sigmoids_of_several_classes_are_scores(tmp_path: Path) -> None:
    path = legacy(tmp_path / "m.h5", ("Dense", "out", "sigmoid"))
    with pytest.raises(ExportError, match="each of its 3 classes has a sigmoid of its own"):
        read(path)
    assert not read(path, as_scores=True).calibrated


def test_the_sigmoid_of_one_score_is_two_classes(tmp_path: Path) -> None:
    path = tmp_path / "m.keras"
    archive(path, ("Dense", "out", "sigmoid"), arrays=(KERNEL[:, :1], OFFSET[:1]))
    source = read(path)
    assert (source.num_classes, source.calibrated) == (2, True)


def test_a_layer_can_be_named(tmp_path: Path) -> None:
    path = legacy(
        tmp_path / "m.h5", ("Dense", "a", "linear"), ("Dense", "b", "relu"), ("Flatten", "f", "linear")
    )
    check(read(path, layer="a"))
    with pytest.raises(ExportError, match="got relu"):
        read(path, layer="b")
    with pytest.raises(ExportError, match="--layer f: expected one of a, b"):
        read(path, layer="f")


def test_weights_alone_need_the_name_of_a_layer(tmp_path: Path) -> None:
    with zipfile.ZipFile(archive(tmp_path / "m.keras", DENSE)) as file:
        (tmp_path / "m.weights.h5").write_bytes(file.read("model.weights.h5"))
    with pytest.raises(ExportError, match="of weights alone, name the layer with --layer"):
        read(tmp_path / "m.weights.h5")
    source = read(tmp_path / "m.weights.h5", layer="out")
    check(source)
    assert "the file does not say which activation follows" in source.notes[2]
    with pytest.raises(ExportError, match="x: expected its kernel in the file, got no such layer"):
        read(tmp_path / "m.weights.h5", layer="x")


def test_a_layer_without_a_bias_has_zeros(tmp_path: Path) -> None:
    source = read(archive(tmp_path / "m.keras", DENSE, arrays=(KERNEL,)))
    assert isinstance(source.head, Linear)
    assert source.head.bias.tolist() == [0, 0, 0]


@pytest.mark.parametrize("arrays", [(KERNEL.astype(np.int8), OFFSET), (KERNEL, OFFSET, OFFSET), ()])
def test_quantized_layers_are_refused(tmp_path: Path, arrays: Any) -> None:
    with pytest.raises(ExportError, match="out: expected a kernel and a bias of floats, got "):
        read(archive(tmp_path / "m.keras", DENSE, arrays=arrays))


@pytest.mark.parametrize("how", ["external", "soft", "virtual", "external data", "group", "absent"])
def test_arrays_that_do_not_lie_in_the_file_are_not_followed(tmp_path: Path, how: str) -> None:
    path = legacy(tmp_path / "m.h5", DENSE)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = KERNEL
    with h5py.File(path, "r+") as file:
        group = file["model_weights/out"]
        del group["out/kernel:0"]
        if how == "external":
            group["out/kernel:0"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/secret")
        elif how == "soft":
            group["out/kernel:0"] = h5py.SoftLink("/model_weights/out/out/bias:0")
        elif how == "virtual":
            layout = h5py.VirtualLayout(KERNEL.shape, KERNEL.dtype)
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", KERNEL.shape)
            group.create_virtual_dataset("out/kernel:0", layout)
        elif how == "external data":
            (tmp_path / "raw").write_bytes(KERNEL.tobytes())
            place = [(str(tmp_path / "raw"), 0, KERNEL.nbytes)]
            group.create_dataset("out/kernel:0", KERNEL.shape, KERNEL.dtype, external=place)
        elif how == "group":
            group.create_group("out/kernel:0")
    with pytest.raises(ExportError, match="out/kernel:0: expected an array within the file"):
        read(path)


def test_what_is_no_keras_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    path.write_bytes(b"nothing")
    with pytest.raises(ExportError, match=r"m\.h5: expected HDF5: "):
        read(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", "{}")
    with pytest.raises(ExportError, match=r"expected config\.json and model\.weights\.h5 in it"):
        read(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", "[]")
    with pytest.raises(ExportError, match=r"config\.json: expected a JSON object"):
        read(path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("model.weights.h5", "x" * 100)
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b"[]")] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ExportError, match="expected a readable zip archive: Bad CRC"):
        read(path)


@pytest.mark.parametrize("text", ["{}", '{"config": {"layers": 3}}', '{"config": {"layers": [3]}}'])
def test_a_config_without_layers_is_refused(tmp_path: Path, text: str) -> None:
    with zipfile.ZipFile(archive(tmp_path / "a.keras", DENSE)) as file:
        weights = file.read("model.weights.h5")
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as file:
        file.writestr("config.json", text)
        file.writestr("model.weights.h5", weights)
    with pytest.raises(ExportError, match="config: expected"):
        read(tmp_path / "m.keras")


def test_a_member_that_would_be_too_long_is_not_inflated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras, "CONFIG_LIMIT_BYTES", 10)
    with pytest.raises(ExportError, match=r"config\.json: expected at most 10 bytes, got \d+"):
        read(archive(tmp_path / "m.keras", DENSE))


def test_h5py_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = legacy(tmp_path / "m.h5", DENSE)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ExportError, match=r"m\.h5 needs h5py: pip install h5py"):
        read(path)
