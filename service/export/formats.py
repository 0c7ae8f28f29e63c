"""Which module reads a file: by its name, or by the format that was said."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from service.export import flax, keras, npz, onnx, safetensors, sklearn, torch
from service.export.source import ExportError, Options, Source


class Format(NamedTuple):
    """How files of a format are named, what reads them, and which options it understands."""

    suffixes: tuple[str, ...]
    read: Callable[[Path, Options], Source]
    understood: frozenset[str]


FORMATS: dict[str, Format] = {
    "npz": Format((".npz",), npz.read, npz.UNDERSTOOD),
    "safetensors": Format((".safetensors",), safetensors.read, safetensors.UNDERSTOOD),
    "sklearn": Format((".skops", ".joblib", ".pkl", ".pickle"), sklearn.read, sklearn.UNDERSTOOD),
    "torch": Format((".pt", ".pth", ".bin", ".ckpt"), torch.read, torch.UNDERSTOOD),
    "keras": Format((".keras", ".h5", ".hdf5"), keras.read, keras.UNDERSTOOD),
    "flax": Format((".msgpack",), flax.read, flax.UNDERSTOOD),
    "onnx": Format((".onnx",), onnx.read, onnx.UNDERSTOOD),
}
# Folders of others, known by a file in them, and what to do with them.
OTHER_FOLDERS = {
    "saved_model.pb": "a SavedModel of TensorFlow: save the model as .keras, or make ONNX of it with tf2onnx",
    "_METADATA": "a checkpoint of orbax: restore it, and save its kernel and bias with numpy.savez",
}


def read(path: Path, options: Options, *, format_name: str | None = None) -> Source:
    """Read a source; `ExportError` where its format is not known, or has no use for an option that was given."""
    if not path.exists():
        raise ExportError(f"{path}: expected a file or a folder, got nothing")
    name = detect(path) if format_name is None else format_name
    chosen = FORMATS[name]
    for option in fields(Options):
        if getattr(options, option.name) != option.default and option.name not in chosen.understood:
            raise ExportError(f"--{option.name.replace('_', '-')} says nothing about {name}")
    if path.is_dir() and name != "safetensors":
        raise ExportError(f"{path}: expected a file of {name}, got a folder")
    return chosen.read(path, options)


def detect(path: Path) -> str:
    if path.is_dir():
        for file, told in OTHER_FOLDERS.items():
            if (path / file).is_file():
                raise ExportError(f"{path}: {told}")
        return "safetensors"  # as Hugging Face's models are saved
    for name, candidate in FORMATS.items():
        if path.suffix.lower() in candidate.suffixes:
            return name
    known = " ".join(suffix for candidate in FORMATS.values() for suffix in candidate.suffixes)
    raise ExportError(f"{path}: expected one of {known}; another name needs --format {'|'.join(FORMATS)}")
