"""torch: a state_dict, read with weights_only=True, which runs nothing that is in the file."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.export.source import ExportError, Options, Source, answer_linearly, not_installed
from service.export.tensors import Shelf, as_float, find_linear
from service.types import FloatArray

UNDERSTOOD = frozenset({"weight", "bias", "transpose", "as_scores"})
# Where training loops keep the state_dict in their checkpoints.
INNER = ("state_dict", "model_state_dict", "model")


def read(path: Path, options: Options) -> Source:
    """Read the last Linear of a state_dict, or the arrays that are named."""
    tensors = _load(path)
    shelf = Shelf(
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        lambda name: _as_array(tensors[name], name),
        ordered=True,
        classes_first=True,
    )
    linear, dtype, notes = find_linear(shelf, options)
    return Source(
        "torch",
        linear,
        dtype,
        answer_linearly(linear),
        file=path,
        notes=notes,
        calibrated=not options.as_scores,
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        import torch  # noqa: PLC0415 - see the docstring of the package
    except ImportError as error:
        raise not_installed("torch", package="torch", what=path.name) from error
    try:
        # Mapped, only the arrays that are chosen are read; files from before torch 1.6 cannot be.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch's errors share no base class
        raise ExportError(
            f"{path}: expected a state_dict, as torch.save(model.state_dict(), ...) writes it: {_reason(error)}"
        ) from error
    for key in INNER:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise ExportError(f"{path}: expected a state_dict, got {type(loaded).__name__}")
    return {str(name): value for name, value in loaded.items() if isinstance(value, torch.Tensor)}


def _as_array(tensor: Any, name: str) -> FloatArray:
    if not tensor.is_floating_point() or tensor.is_sparse or tensor.is_quantized:
        raise ExportError(
            f"{name[:80]}: expected a dense tensor of floats, got {tensor.dtype}, {tensor.layout}"
        )
    # numpy has no bfloat16.
    wide = tensor.double() if tensor.element_size() == 8 else tensor.float()
    return as_float(wide.numpy(), name)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
