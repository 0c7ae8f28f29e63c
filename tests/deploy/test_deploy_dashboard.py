"""The dashboard: what its script makes, and expressions that Prometheus reads and the service answers."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from metric_names import unknown
from watching import DASHBOARD, DEPLOY, EXPRESSIONS, PANELS, VARIABLES, chosen, needs_prometheus, promtool

SCRIPT = DEPLOY / "grafana" / "dashboard.py"
# Units of Grafana, by its own ids.
UNITS = {"reqps", "short", "s", "percentunit", "bytes", "none"}


def test_the_dashboard_is_what_its_script_makes() -> None:
    spec = importlib.util.spec_from_file_location("deploy_dashboard", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert json.loads(module.text()) == DASHBOARD, "run python deploy/grafana/dashboard.py"


@needs_prometheus
def test_prometheus_reads_every_expression(tmp_path: Path) -> None:
    recorded = [
        {"record": f"panel:{number}", "expr": chosen(expr)} for number, expr in enumerate(EXPRESSIONS)
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}), encoding="utf-8")
    assert f"SUCCESS: {len(EXPRESSIONS)} rules found" in promtool("check", "rules", file)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_asks_for_what_the_service_has_and_says_how_to_read_it(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        expr = chosen(target["expr"])
        assert unknown(expr) == []
        assert "$" not in expr, "every variable is one of the dashboard's"
        assert target["datasource"]["uid"] == "${datasource}"
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_replicas_are_put_together_and_lines_named_by_labels_that_they_keep(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        expr, shown = target["expr"], set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        if expr.startswith("up{"):
            continue  # one a replica as it is
        assert re.search(r"\b(sum|max|count)\b", expr)
        kept = {label.strip() for by in re.findall(r"by \(([^)]*)\)", expr) for label in by.split(",")}
        assert shown <= kept


def test_what_is_chosen_is_in_every_selector_that_can_have_it() -> None:
    for expr in EXPRESSIONS:
        for name, chosen_by in re.findall(r"(logitserve_\w+)\{([^}]*)\}", expr):
            assert 'instance=~"$instance"' in chosen_by, name
    assert all(name in " ".join(EXPRESSIONS) for name in ("$model", "$version", "$window"))


def test_the_variables_can_be_chosen_together_and_leave_nothing_out() -> None:
    assert VARIABLES["datasource"]["type"] == "datasource"
    for name in ("instance", "model", "version"):
        assert VARIABLES[name]["multi"]
        assert VARIABLES[name]["allValue"] == ".*"
        assert unknown(chosen(VARIABLES[name]["definition"])) == []


def test_panels_lie_beside_each_other_in_their_rows() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_there_is_a_row_for_everything_that_is_watched() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == [
        "Traffic",
        "Latency by stage",
        "Batching and queue",
        "Errors and rejections",
        "Models and versions",
        "Quality",
        "Calibration",
        "Drift",
        "Shadow",
        "Feedback",
        "Process",
    ]
