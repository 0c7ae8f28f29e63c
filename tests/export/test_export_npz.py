"""npz: read within bounds, never unpickled."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sources import BIAS, WEIGHTS

from service.export import npz
from service.export.source import ExportError, Options
from service.heads.graphs import Linear


def test_weights_and_bias_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", W=WEIGHTS, b=BIAS)
    source = npz.read(tmp_path / "w.npz", Options())
    assert isinstance(source.head, Linear)
    np.testing.assert_array_equal(source.head.weights, WEIGHTS)
    assert (source.format, source.file) == ("npz", tmp_path / "w.npz")
    assert source.dtype == np.float64


def test_a_compressed_archive_and_a_kernel_of_flax_are_read(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"params/Dense_0/kernel": WEIGHTS, "params/Dense_0/bias": BIAS}
    np.savez_compressed(tmp_path / "w.npz", **arrays)
    assert npz.read(tmp_path / "w.npz", Options()).num_classes == 3


def test_what_is_narrower_than_float32_is_widened_and_whole_numbers_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", W=WEIGHTS.astype(np.float16), b=BIAS.astype(np.float16))
    assert npz.read(tmp_path / "w.npz", Options()).dtype == np.float32
    np.savez(tmp_path / "w.npz", W=np.arange(12).reshape(4, 3), b=np.arange(3))
    assert npz.read(tmp_path / "w.npz", Options()).dtype == np.float64


def test_other_types_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", W=WEIGHTS.astype(complex), b=BIAS)
    with pytest.raises(ExportError, match="W: expected numbers of at most 64 bits, got complex128"):
        npz.read(tmp_path / "w.npz", Options())
    np.savez(tmp_path / "w.npz", W=np.array([{}], dtype=object))
    with pytest.raises(ExportError, match="unpickled"):
        npz.read(tmp_path / "w.npz", Options())


def test_what_is_no_archive_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "w.npz").write_bytes(b"nothing")
    with pytest.raises(ExportError, match=r"w\.npz: expected a zip archive"):
        npz.read(tmp_path / "w.npz", Options())
