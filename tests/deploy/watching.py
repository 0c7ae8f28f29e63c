"""What tests of deploy/ share: where its files lie, and Prometheus's own tools."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="prometheus is not on the PATH: make alerts says how to get it",
)


def rules(kind: str) -> list[dict[str, Any]]:
    """The rules of a kind, `alert` or `record`, in the order of the file."""
    read = yaml.safe_load((PROMETHEUS / "rules.yml").read_text(encoding="utf-8"))
    return [rule for group in read["groups"] for rule in group["rules"] if kind in rule]


def promtool(*arguments: str | Path, text: str = "") -> str:
    """Run promtool, which must be content; return what it says."""
    done = subprocess.run(
        ["promtool", *map(str, arguments)], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return f"{done.stdout}{done.stderr}"
