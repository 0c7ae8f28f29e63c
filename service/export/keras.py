"""Keras: the Dense layer that makes the logits, from .keras or .h5, without Keras or TensorFlow.

What a file says of its layers is JSON, and their arrays are HDF5; code that a model may bring is not looked at.
"""

import io
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

from service.export.source import (
    CONFIG_LIMIT_BYTES,
    ExportError,
    Options,
    Source,
    answer_linearly,
    check_size,
    listed,
    not_installed,
    read_json,
)
from service.export.tensors import Shelf, as_float, find_linear
from service.types import FloatArray

UNDERSTOOD = frozenset({"layer", "as_scores"})
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.weights.h5"
# Layers that change nothing when a model answers.
IDLE = {"Dropout", "ActivityRegularization", "GaussianNoise", "GaussianDropout", "AlphaDropout"}


class Layer(NamedTuple):
    """A layer of the model, with the activation at its end."""

    kind: str
    name: str
    activation: str


def read(path: Path, options: Options) -> Source:
    """Read the last Dense layer, or the one that is named."""
    archived = zipfile.is_zipfile(path)
    config, weights = _read_archive(path) if archived else (None, None)
    try:
        import h5py  # noqa: PLC0415 - see the docstring of the package
    except ImportError as error:
        raise not_installed("h5py", package="h5py", what=path.name) from error
    try:
        file = h5py.File(weights or path, "r")
    except OSError as error:
        raise ExportError(f"{path}: expected HDF5: {str(error)[:80]}") from error
    with file:
        if "model_config" in file.attrs:
            config = read_json(_text(file.attrs["model_config"]), f"{path}: model_config")
        layers = [] if config is None else _layers(config)
        layer, activation, notes = _choose(path, layers, options)
        arrays = _find_arrays(file, layer, [known.name for known in layers if known.kind == "Dense"])
        shelf = Shelf(
            {name: array.shape for name, array in arrays.items()},
            lambda name: _read_array(arrays[name], name),
            classes_first=False,
        )
        linear, dtype, told = find_linear(shelf, Options())
    calibrated = _check_activation(layer, activation, arrays, options)
    return Source(
        "keras",
        linear,
        dtype,
        answer_linearly(linear),
        file=path,
        notes=(*told, *notes),
        calibrated=calibrated,
    )


def _read_archive(path: Path) -> tuple[dict[str, Any], IO[bytes]]:
    try:
        with zipfile.ZipFile(path) as archive:
            config = read_json(_member(archive, CONFIG_FILE, CONFIG_LIMIT_BYTES), f"{path}: {CONFIG_FILE}")
            info = archive.getinfo(WEIGHTS_FILE)
            check_size(info.file_size, f"{path}: {WEIGHTS_FILE}")
            return config, io.BytesIO(_member(archive, WEIGHTS_FILE, info.file_size))
    except KeyError as error:
        raise ExportError(f"{path}: expected {CONFIG_FILE} and {WEIGHTS_FILE} in it: {error}") from error
    except (
        zipfile.BadZipFile,
        EOFError,
        NotImplementedError,
        RuntimeError,
        OSError,
        zlib.error,
    ) as error:
        raise ExportError(f"{path}: expected a readable zip archive: {str(error)[:80]}") from error


def _member(archive: zipfile.ZipFile, name: str, limit_bytes: int) -> bytes:
    info = archive.getinfo(name)
    if info.file_size > limit_bytes:
        raise ExportError(f"{name}: expected at most {limit_bytes} bytes, got {info.file_size}")
    # No more is inflated than the directory says.
    return archive.read(info)


def _layers(config: dict[str, Any]) -> list[Layer]:
    described = config.get("config")
    inner = described.get("layers") if isinstance(described, dict) else None
    if not isinstance(inner, list):
        raise ExportError("config: expected a Sequential or Functional model with its layers")
    found = []
    for layer in inner:
        settings = layer.get("config") if isinstance(layer, dict) else None
        if not isinstance(settings, dict):
            raise ExportError("config: expected layers with a class_name and a config")
        kind, name = str(layer.get("class_name")), str(settings.get("name", layer.get("name")))
        activation = settings.get("activation", "linear")
        if kind == "Softmax":
            activation = "softmax"
        found.append(Layer(kind, name, activation if isinstance(activation, str) else "of its own"))
    return found


def _choose(path: Path, layers: list[Layer], options: Options) -> tuple[str, str, list[str]]:
    """Choose the layer; give its name, the activation behind it, and what to say of both."""
    dense = [layer.name for layer in layers if layer.kind == "Dense"]
    if options.layer is not None:
        if layers and options.layer not in dense:
            raise ExportError(f"--layer {options.layer[:80]}: expected one of {listed(dense)}")
        activation = next((each.activation for each in layers if each.name == options.layer), "linear")
        said = [] if layers else ["the file does not say which activation follows: it was taken for none"]
        return options.layer, activation, [*said, *_said(options.layer, activation)]
    if not dense:
        what = "a Dense layer" if layers else "a whole model: of weights alone, name the layer with --layer"
        raise ExportError(f"{path}: expected {what}, got {listed([layer.kind for layer in layers])}")
    last = max(index for index, layer in enumerate(layers) if layer.kind == "Dense")
    activation = layers[last].activation
    for layer in layers[last + 1 :]:
        if layer.kind in {"Softmax", "Activation"} and activation == "linear":
            activation = layer.activation
        elif layer.kind not in IDLE:
            raise ExportError(
                f"{path}: expected the logits to come from the last Dense layer, but {layer.kind} {layer.name[:80]} "
                "follows; --layer takes one all the same"
            )
    return dense[-1], activation, _said(dense[-1], activation)


def _said(layer: str, activation: str) -> list[str]:
    said = [f"features are what enters {layer}"]
    return said if activation == "linear" else [*said, f"its {activation} is left out: the head gives logits"]


def _check_activation(layer: str, activation: str, arrays: dict[str, Any], options: Options) -> bool:
    """Whether softmax of the logits is what the model answers; `ExportError` where nobody knows."""
    units = arrays[f"{layer}/kernel"].shape[-1]
    if activation in {"linear", "softmax"} or (activation == "sigmoid" and units == 1):
        return True
    if activation != "sigmoid":
        raise ExportError(
            f"{layer}: expected the activation softmax, sigmoid or linear, got {activation[:40]}"
        )
    if not options.as_scores:
        raise ExportError(
            f"{layer}: each of its {units} classes has a sigmoid of its own, and their softmax is no probability; "
            "--as-scores serves it all the same"
        )
    return False


def _find_arrays(file: Any, layer: str, dense: list[str]) -> dict[str, Any]:
    """Find the kernel and the bias of a layer, as Keras 3 or as the versions before it keep them."""
    group = _find_group(file, layer, dense)
    if group is None:
        raise ExportError(f"{layer}: expected its kernel in the file, got no such layer")
    if "weight_names" in group.attrs:
        names = [_text(name).decode() for name in group.attrs["weight_names"]]
    else:
        names = sorted(group)
    found = [_dataset(group, name) for name in names]
    if len(found) not in {1, 2} or any(array.dtype.kind != "f" for array in found):
        raise ExportError(
            f"{layer}: expected a kernel and a bias of floats, got "
            f"{listed([f'{array.dtype} {list(array.shape)}' for array in found])}"
        )
    return dict(zip((f"{layer}/kernel", f"{layer}/bias"), found, strict=False))


def _find_group(file: Any, layer: str, dense: list[str]) -> Any:
    legacy = file.get("model_weights", file)
    if "layer_names" in legacy.attrs:
        return legacy.get(layer)
    groups = file.get("layers", {})
    for group in groups.values():
        if "vars" in group and _text(group["vars"].attrs.get("name", b"")).decode() == layer:
            return group["vars"]
    # The first versions of Keras 3 do not write names: they count layers of a class.
    if layer not in dense or any("name" in group["vars"].attrs for group in groups.values()):
        return None
    number = dense.index(layer)
    return groups.get("dense" if number == 0 else f"dense_{number}", {}).get("vars")


def _dataset(group: Any, name: str) -> Any:
    """An array that lies in this very file: HDF5 can name others, which would be read."""
    import h5py  # noqa: PLC0415 - see the docstring of the package

    place = group
    for part in name.split("/"):
        if not isinstance(place, h5py.Group) or not isinstance(place.get(part, getlink=True), h5py.HardLink):
            raise ExportError(f"{name[:80]}: expected an array within the file")
        place = place[part]
    if not isinstance(place, h5py.Dataset) or place.external or place.is_virtual:
        raise ExportError(f"{name[:80]}: expected an array within the file")
    return place


def _read_array(dataset: Any, name: str) -> FloatArray:
    return as_float(dataset[()], name)


def _text(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)
