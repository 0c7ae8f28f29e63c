"""What tests of deploy/ share: where its files lie, Prometheus's own tools, and the dashboard's expressions."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "logitserve.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}

needs_prometheus = pytest.mark.skipif(
    "WITH_PROMETHEUS" not in os.environ or shutil.which("promtool") is None,
    reason="it takes long, and a promtool: make alerts gets one",
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


def chosen(expr: str) -> str:
    """The expression that Grafana would send with everything chosen."""
    for name, value in {"$__rate_interval": "5m", "$window": "1h"}.items():
        expr = expr.replace(name, value)
    return re.sub(r"\$(\w+)", lambda found: ".*" if found[1] in VARIABLES else found[0], expr)
