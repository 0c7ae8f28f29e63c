"""Flax files, packed as flax.serialization packs them; real ones are in test_frameworks.py."""

import sys
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from sources import BIAS, WEIGHTS

from service.export import flax
from service.export.source import ExportError, Options, Source
from service.heads.graphs import Linear


def packed(array: Any, dtype: str | None = None, shape: Any = None) -> msgpack.ExtType:
    parts = (shape or array.shape, dtype or array.dtype.name, array.tobytes())
    return msgpack.ExtType(1, msgpack.packb(parts, use_bin_type=True))


def dense(weights: Any = WEIGHTS, bias: Any = BIAS) -> dict[str, Any]:
    return {"kernel": packed(weights), "bias": packed(bias)}


def write(path: Path, tree: Any) -> Path:
    path.write_bytes(msgpack.packb(tree, use_bin_type=True))
    return path


def read(path: Path, tree: Any, **said: Any) -> Source:
    return flax.read(write(path / "m.msgpack", tree), Options(**said))


def weights(source: Source) -> Any:
    assert isinstance(source.head, Linear)
    return source.head.weights


def test_the_only_kernel_is_the_head(tmp_path: Path) -> None:
    source = read(tmp_path, {"params": {"Dense_0": dense()}})
    np.testing.assert_array_equal(weights(source), WEIGHTS)
    assert source.notes[:2] == ("weights params/Dense_0/kernel", "bias params/Dense_0/bias")
    assert source.dtype == np.float64


def test_a_state_of_training_has_its_parameters_read_and_not_its_moments(tmp_path: Path) -> None:
    moments = {"0": {"mu": {"head": dense(WEIGHTS * 0, BIAS)}, "count": msgpack.ExtType(3, b"x"), "z": 1}}
    tree = {"step": 3, "params": {"head": dense()}, "opt_state": moments}
    np.testing.assert_array_equal(weights(read(tmp_path, tree)), WEIGHTS)


def test_several_kernels_are_not_guessed_among(tmp_path: Path) -> None:
    tree = {"Dense_0": dense(), "Dense_1": dense(WEIGHTS * 2)}
    with pytest.raises(ExportError, match="which are the weights"):
        read(tmp_path, tree)
    source = read(tmp_path, tree, weight="Dense_1/kernel")
    np.testing.assert_array_equal(weights(source), WEIGHTS * 2)


def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path: Path) -> None:
    upper = (WEIGHTS.astype(np.float32).view(np.uint32) >> 16).astype("<u2")
    tree = {"head": {"kernel": packed(upper, "bfloat16"), "bias": packed(BIAS.astype(np.float16))}}
    source = read(tmp_path, tree)
    np.testing.assert_allclose(weights(source), WEIGHTS, rtol=2**-7)
    assert source.dtype == np.float32


@pytest.mark.parametrize(
    ("kernel", "told"),
    [
        (packed(WEIGHTS, shape=(4, 4)), "kernel: expected 128 bytes of data, got 96"),
        (packed(WEIGHTS, shape=(2**40, 2**40)), "kernel: expected at most"),
        (packed(WEIGHTS.astype(np.int64)), "kernel: expected one of .* got 'int64'"),
        (packed(WEIGHTS, shape=(-4, -3)), r"kernel: expected an array .* got shape \[-4, -3\]"),
        (msgpack.ExtType(1, b"\x01"), "expected what flax.serialization.to_bytes writes"),
    ],
)
def test_an_array_that_lies_is_refused(tmp_path: Path, kernel: Any, told: str) -> None:
    with pytest.raises(ExportError, match=told):
        read(tmp_path, {"kernel": kernel, "bias": packed(BIAS)})


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x91" * 100_000, b"\x81"])
def test_what_is_no_msgpack_is_one_line(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "m.msgpack").write_bytes(body)
    with pytest.raises(ExportError, match=r"expected what flax\.serialization\.to_bytes writes: "):
        flax.read(tmp_path / "m.msgpack", Options())
    with pytest.raises(ExportError, match="cannot read"):
        flax.read(tmp_path / "absent.msgpack", Options())


def test_no_tree_has_no_arrays(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="expected one array"):
        read(tmp_path, [1, 2])


def test_a_tree_of_any_depth_is_read_or_refused(tmp_path: Path) -> None:
    tree: Any = dense()
    for _ in range(400):
        tree = {"a": tree}
    np.testing.assert_array_equal(weights(read(tmp_path, tree)), WEIGHTS)


def test_msgpack_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "m.msgpack", {})
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(ExportError, match=r"m\.msgpack needs msgpack: pip install msgpack"):
        flax.read(path, Options())
