"""What `export` says of torch files where torch is not; with it, they are read in test_frameworks.py."""

import sys
from pathlib import Path

import pytest

from service.export import torch
from service.export.source import ExportError, Options


def test_torch_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ExportError, match=r"m\.pt needs torch: pip install torch"):
        torch.read(tmp_path / "m.pt", Options())
