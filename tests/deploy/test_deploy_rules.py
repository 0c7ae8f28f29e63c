"""The rules for Prometheus: what it makes of them, that every alert has its cases, and that they know the service."""

import re
from typing import Any

import httpx
import pytest
import yaml
from conftest import ROOT, running_service
from metric_names import unknown
from watching import PROMETHEUS, needs_prometheus, promtool, rules

ALERTS = {rule["alert"]: rule for rule in rules("alert")}
CASES = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text(encoding="utf-8"))["tests"]


@needs_prometheus
def test_prometheus_reads_its_configuration_and_the_rules() -> None:
    said = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert f"{len(ALERTS) + len(rules('record'))} rules found" in said
    assert "valid prometheus config" in said


@needs_prometheus
def test_the_alerts_fire_and_do_not_fire_as_their_cases_say() -> None:
    assert "SUCCESS" in promtool("test", "rules", PROMETHEUS / "rules_test.yml")


def named(expr: str) -> list[str]:
    found = re.search(r'alertname=~?"([^"]+)"', expr)
    return found[1].split("|") if found else []


def expected(alert: str) -> list[list[dict[str, Any]]]:
    """What the cases expect of an alert: a list for each time that it is looked at."""
    tests = [test for case in CASES for test in case["promql_expr_test"] if alert in named(test["expr"])]
    return [
        [sample for sample in test.get("exp_samples", ()) if f'"{alert}"' in sample["labels"]]
        for test in tests
    ]


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_case_that_fires_and_one_that_does_not(alert: str) -> None:
    fires = [bool(samples) for samples in expected(alert)]
    assert True in fires
    assert False in fires


def test_every_case_is_of_an_alert_that_there_is() -> None:
    asked = {name for case in CASES for test in case["promql_expr_test"] for name in named(test["expr"])}
    assert asked == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_an_operator_is_told_what_happened_and_where_to_look(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"warning", "critical"}
    told = rule["annotations"]
    assert set(told) == {"summary", "description", "runbook_url"}
    assert re.search(r"\b[Ll]ook", told["description"]), "it says what to look at"
    assert 80 < len(told["description"]) < 400, "a few lines of a pager"
    assert len(told["summary"]) < 120, "one line"


@pytest.mark.parametrize("alert", ALERTS)
def test_the_words_use_labels_that_the_alert_has(alert: str) -> None:
    """A label that is missing would leave a gap in the sentence, and nobody would be told."""
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(ALERTS[alert]["annotations"].values())))
    fired = [sample["labels"] for samples in expected(alert) for sample in samples]
    for labels in fired:
        assert used <= set(re.findall(r'(\w+)="', labels))


@pytest.mark.parametrize("alert", ALERTS)
def test_the_runbook_has_a_section_for_it(alert: str) -> None:
    page, _, anchor = ALERTS[alert]["annotations"]["runbook_url"].partition("#")
    text = (ROOT / page).read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
    assert f"`{alert}`" in text


@pytest.mark.parametrize("alert", ALERTS)
def test_every_threshold_has_its_reason_beside_it(alert: str) -> None:
    text = (PROMETHEUS / "rules.yml").read_text(encoding="utf-8")
    rule = text.partition(f"- alert: {alert}\n")[2].partition("annotations:")[0]
    assert " # " in rule


@pytest.mark.parametrize(
    "rule", [*rules("alert"), *rules("record")], ids=lambda rule: rule.get("alert") or rule["record"]
)
def test_rules_ask_for_what_the_service_has(rule: dict[str, Any]) -> None:
    assert unknown(rule["expr"]) == []


def test_an_unknown_name_or_label_is_found() -> None:
    assert unknown('rate(logitserve_row_total{model="a"}[5m])') == ["there is no logitserve_row_total"]
    assert unknown('logitserve_rows_total{route=~"/.*", instance="a"}') == [
        "logitserve_rows_total has no label route"
    ]
    assert unknown("job:logitserve_rows:rate5m > 0") == [], "what a rule records is no metric of the service"


def test_names_that_rules_use_are_recorded() -> None:
    recorded = {rule["record"] for rule in rules("record")}
    asked = [rule["expr"] for rule in (*rules("alert"), *rules("record"))]
    used = {name for expr in asked for name in re.findall(r"\w+:\w+:\w+", expr)}
    assert used == recorded, "each is there, and none for nothing"


@needs_prometheus
def test_prometheus_finds_no_fault_with_what_a_running_service_tells() -> None:
    with running_service() as service, httpx.Client(base_url=service.url) as client:
        client.post("/softmax", json={"logits": [[1, 2, 3]]}).raise_for_status()
        client.post("/predict", json={"model": "digits", "features": [[0] * 64]}).raise_for_status()
        client.post("/predict", json={"model": "digits", "features": [[0]]})
        text = client.get("/metrics").text
    assert 'logitserve_rows_total{model="digits"' in text
    assert promtool("check", "metrics", text=text) == "", "no complaint and no advice"
