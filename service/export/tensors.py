"""Which of many named arrays are the weights and the bias of a linear head, and which way round they lie.

Knows names and shapes as frameworks write them; reads only the arrays that it has chosen, and knows no file.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.export.source import (
    FLOAT32,
    FLOAT64,
    ExportError,
    Options,
    check_finite,
    check_size,
    listed,
    of_two_classes,
)
from service.heads.graphs import Linear
from service.types import FloatArray, FloatType

WEIGHT_WORDS = {"w", "weight", "weights", "kernel", "coef", "coef_"}
BIAS_WORDS = {"b", "bias", "biases", "intercept", "intercept_"}
# As model libraries call the layer that makes logits: `classifier` and `score` in Hugging Face's, `fc` and
# `classifier` in torchvision's, `head` in timm's.
HEAD_LAYERS = {"classifier", "score", "fc", "head", "logits"}


class Shelf(NamedTuple):
    """Named arrays that are read one by one.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        In the order of the file.
    read : function of a name
        Gives a float array of that shape; float16 and bfloat16 come as float32.
    ordered : bool
        Whether the order is that of the layers, so that the last one is the head.
    classes_first : bool or None
        Whether weights of this source lie as [num_classes, num_features]; None where their name must tell.
    """

    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], FloatArray]
    ordered: bool = False
    classes_first: bool | None = None


class Found(NamedTuple):
    """A linear head in float64, the type that it was written in, and what was chosen on the way."""

    linear: Linear
    dtype: FloatType
    notes: tuple[str, ...]


def find_linear(shelf: Shelf, options: Options) -> Found:
    """Find, read, turn and check the weights and the bias; `ExportError` says which it could not tell."""
    name, notes = _choose_weight(shelf, options)
    bias_name = _choose_bias(shelf, name, options)
    weights, bias = _read(shelf, name, rank=2), None
    if bias_name is not None:
        bias = _read(shelf, bias_name, rank=1)
    turn, said = _decide(shelf, name, weights.shape, bias, options)
    if turn:
        weights = weights.T
    if bias is None:
        bias = np.zeros(weights.shape[1], weights.dtype)
    if len(bias) != weights.shape[1]:
        raise ExportError(
            f"{bias_name}: expected {weights.shape[1]} numbers, one a class of {name}, got {len(bias)}"
        )
    dtype = FLOAT64 if np.float64 in (weights.dtype, bias.dtype) else FLOAT32
    linear = Linear(np.ascontiguousarray(weights, np.float64), bias.astype(np.float64))
    told = [f"weights {name}{said}", f"bias {bias_name}" if bias_name else "no bias, zeros in its place"]
    if len(linear.bias) == 1:
        linear = of_two_classes(linear)
        told.append("one score z became the logits [0, z] of two classes: their softmax is its sigmoid")
    return Found(linear, dtype, (*told, *notes))


def as_float(array: NDArray[Any], name: str) -> FloatArray:
    """Make float32 of what is narrower, and float64 of whole numbers; `ExportError` for other types."""
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.kind in "iu":
        return array.astype(np.float64)
    if array.dtype not in (FLOAT32, np.float64):
        raise ExportError(f"{name[:80]}: expected numbers of at most 64 bits, got {array.dtype}")
    return array


def widen_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Make float32 of bfloat16, which is its upper half."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _choose_weight(shelf: Shelf, options: Options) -> tuple[str, list[str]]:
    if options.weight is not None:
        return _named(shelf, options.weight, "--weight"), []
    found = [
        name
        for name, shape in shelf.shapes.items()
        if len(shape) == 2 and _words(name)[-1].lower() in WEIGHT_WORDS
    ]
    if len(found) == 1:
        return found[0], []
    heads = [name for name in found if _layer(name) in HEAD_LAYERS]
    if len(heads) == 1:
        return heads[0], [_what_enters(heads[0])]
    if shelf.ordered and found:
        return found[-1], [f"the last of {len(found)} layers that could be it", _what_enters(found[-1])]
    if not found:
        raise ExportError(
            f"expected one array [num_features, num_classes] named weight, kernel, coef_ or W, got "
            f"{listed(_shown(shelf, list(shelf.shapes)))}; name it with --weight"
        )
    raise ExportError(f"which are the weights? name one with --weight: {listed(_shown(shelf, found))}")


def _choose_bias(shelf: Shelf, weight: str, options: Options) -> str | None:
    if options.bias is not None:
        return _named(shelf, options.bias, "--bias")
    near = [
        name
        for name in shelf.shapes
        if _words(name)[-1].lower() in BIAS_WORDS and _words(name)[:-1] == _words(weight)[:-1]
    ]
    if len(near) > 1:
        raise ExportError(f"which is the bias of {weight[:80]}? name one with --bias: {listed(near)}")
    return near[0] if near else None


def _decide(
    shelf: Shelf, name: str, shape: tuple[int, ...], bias: FloatArray | None, options: Options
) -> tuple[bool, str]:
    """Decide whether the weights must be turned, and say by what that was known."""
    first, second = shape
    written = f"{name} {list(shape)}"
    if options.transpose is not None:
        return options.transpose, f" {list(shape)}, {'' if options.transpose else 'not '}transposed as asked"
    if shelf.classes_first is not None:
        return shelf.classes_first, ""
    if bias is not None and first != second and len(bias) in (first, second):
        turned = len(bias) == first
        return (
            turned,
            f" {list(shape)}, {'transposed' if turned else 'as they are'}: the bias has {len(bias)}",
        )
    if bias is not None and len(bias) not in (first, second):
        raise ExportError(f"the bias: expected as many numbers as {written} has classes, got {len(bias)}")
    raise ExportError(
        f"{written}: is it [num_features, num_classes] or turned? say --no-transpose or --transpose"
    )


def _read(shelf: Shelf, name: str, *, rank: int) -> FloatArray:
    shape = shelf.shapes[name]
    # A bias may have been kept as one row.
    if rank == 1 and len(shape) == 2 and shape[0] == 1:
        return _read(shelf, name, rank=2).reshape(-1)
    if len(shape) != rank or min(shape) < 1:
        expected = "[num_features, num_classes]" if rank == 2 else "[num_classes]"
        raise ExportError(f"{name[:80]}: expected an array {expected}, got shape {list(shape)}")
    check_size(8 * math.prod(shape), name)
    array = shelf.read(name)
    check_finite(array, name)
    return array


def _named(shelf: Shelf, name: str, flag: str) -> str:
    if name not in shelf.shapes:
        raise ExportError(f"{flag} {name[:80]}: expected one of {listed(_shown(shelf, list(shelf.shapes)))}")
    return name


def _shown(shelf: Shelf, names: list[str]) -> list[str]:
    return [f"{name[:80]} {list(shelf.shapes[name])}" for name in names]


def _words(name: str) -> list[str]:
    return re.split(r"[./]", name)


def _layer(name: str) -> str:
    return _words(name)[-2].lower() if len(_words(name)) > 1 else ""


def _what_enters(name: str) -> str:
    layer = ".".join(_words(name)[:-1])
    return f"features are what enters {layer}"
