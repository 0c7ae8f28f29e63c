"""Writes logitserve.json, the dashboard, beside this file: python deploy/grafana/dashboard.py.

Every expression sums over replicas first and divides afterwards. What is chosen above (`instance`, `model`, `version`)
is in every selector that can have it.
"""

import json
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

DASHBOARD = Path(__file__).with_name("logitserve.json")

REPLICAS = 'instance=~"$instance"'
HEADS = f'{REPLICAS}, model=~"$model", version=~"$version"'
SCORED_BY = "by (model, version)"
# The panels of a row, each a third of Grafana's 24 columns wide.
WIDTH, HEIGHT, COLUMNS = 8, 8, 3
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

Json: TypeAlias = dict[str, Any]


class Line(NamedTuple):
    """An expression and the name of the lines that it gives."""

    expr: str
    legend: str


class Panel(NamedTuple):
    """Lines over time, or a `heatmap` of one expression by `le`; `help` says how to read it."""

    title: str
    unit: str
    help: str
    lines: tuple[Line, ...]
    kind: str = "timeseries"


def rate(metric: str, selector: str = REPLICAS, by: str = "") -> str:
    return f"sum {by} (rate({metric}{{{selector}}}[$__rate_interval]))".replace("sum  (", "sum (")


def increase(metric: str, selector: str = HEADS, by: str = SCORED_BY) -> str:
    """How much a counter grew in the window chosen above: labels are too few for the rate of a moment."""
    return f"sum {by} (increase({metric}{{{selector}}}[$window]))"


def quantile(share: float, metric: str, selector: str, by: str) -> str:
    labels = f"by ({by}, le)" if by else "by (le)"
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', selector, labels)})"


def mean(metric: str, rows: str) -> str:
    return f"{increase(metric)} / {increase(rows)}"


def share(part: str, whole: str) -> str:
    """Count a part that never happened, and has no counter yet, as 0."""
    return f"({part} or 0 * {whole}) / {whole}"


def traffic() -> list[Panel]:
    return [
        Panel(
            "Requests by route",
            "reqps",
            "Requests answered, by path template.",
            (Line(rate("logitserve_requests_total", by="by (route)"), "{{route}}"),),
        ),
        Panel(
            "Rows by head",
            "short",
            "Examples scored a second; softmax and loss are bare logits.",
            (Line(rate("logitserve_rows_total", HEADS, SCORED_BY), "{{model}}/{{version}}"),),
        ),
        Panel(
            "Requests in flight",
            "short",
            "Requests being answered now, by replica.",
            (Line(f"sum by (instance) (logitserve_inflight_requests{{{REPLICAS}}})", "{{instance}}"),),
        ),
    ]


def latency() -> list[Panel]:
    stage = "logitserve_stage_duration_seconds"
    spent = rate(f"{stage}_sum", HEADS, "by (stage)")
    requests = rate(f"{stage}_count", HEADS, "by (stage)")
    duration = "logitserve_request_duration_seconds"
    return [
        Panel(
            "Requests: p50, p99, p99.9",
            "s",
            "From the first byte of a request read to the last of its answer handed over, all routes together.",
            tuple(Line(quantile(q, duration, REPLICAS, ""), f"p{q * 100:g}") for q in (0.5, 0.99, 0.999)),
        ),
        Panel(
            "Requests: p99 by route",
            "s",
            "The alert begins at 250 ms.",
            (Line(quantile(0.99, duration, REPLICAS, "route"), "{{route}}"),),
        ),
        Panel(
            "All durations",
            "s",
            "Where requests lie, bucket by bucket.",
            (Line(rate(f"{duration}_bucket", REPLICAS, "by (le)"), "{{le}}"),),
            "heatmap",
        ),
        Panel(
            "Mean by stage",
            "s",
            "Where queue grows there are too few CPUs; where infer does a head or its batches have grown.",
            (Line(f"{spent} / {requests}", "{{stage}}"),),
        ),
        Panel(
            "p99 by stage",
            "s",
            "The slowest 1 % of each stage; they need not be the same requests.",
            (Line(quantile(0.99, stage, HEADS, "stage"), "{{stage}}"),),
        ),
        Panel(
            "Inference p99 by head",
            "s",
            "Which head is slow.",
            (
                Line(
                    quantile(0.99, stage, f'{HEADS}, stage="infer"', "model, version"),
                    "{{model}}/{{version}}",
                ),
            ),
        ),
    ]


def batching() -> list[Panel]:
    queue = f"sum by (instance) (logitserve_queue_rows{{{REPLICAS}}})"
    rows = rate("logitserve_rows_total", REPLICAS, "by (instance)")
    batch = "logitserve_batch_rows"
    return [
        Panel("Rows that wait", "short", "For a head, now.", (Line(queue, "{{instance}}"),)),
        Panel(
            "How long a new row waits",
            "s",
            "Rows that wait, divided by rows scored a second. The alert begins at 1 s.",
            (Line(f"{queue} / {rows}", "{{instance}}"),),
        ),
        Panel(
            "Rows of a batch",
            "short",
            "Mean and p99: they grow by themselves under load.",
            (
                Line(
                    f"{rate(f'{batch}_sum', HEADS, SCORED_BY)} / {rate(f'{batch}_count', HEADS, SCORED_BY)}",
                    "{{model}}/{{version}} mean",
                ),
                Line(quantile(0.99, batch, HEADS, "model, version"), "{{model}}/{{version}} p99"),
            ),
        ),
    ]


def errors() -> list[Panel]:
    requests = rate("logitserve_requests_total")
    failed = rate("logitserve_requests_total", f'{REPLICAS}, status=~"5.."')
    failures = "logitserve_failure_duration_seconds"
    return [
        Panel(
            "Requests that fail",
            "percentunit",
            "Answered with 5xx, health checks included. The alert, without them, begins at 1 %.",
            (Line(f"({failed} or vector(0)) / {requests}", "5xx"),),
        ),
        Panel(
            "Answers by status",
            "reqps",
            "4xx are callers' mistakes, 429 a full queue.",
            (Line(rate("logitserve_requests_total", by="by (status)"), "{{status}}"),),
        ),
        Panel(
            "Errors by code",
            "reqps",
            "docs/http.md explains each code.",
            (Line(rate("logitserve_errors_total", by="by (route, code)"), "{{code}} {{route}}"),),
        ),
        Panel(
            "Rejections",
            "reqps",
            "Turned away or dropped before they were computed.",
            (Line(rate("logitserve_rejected_total", by="by (reason)"), "{{reason}}"),),
        ),
        Panel(
            "Failures by head",
            "reqps",
            "Requests that were decoded and then failed.",
            (Line(rate(f"{failures}_count", HEADS, SCORED_BY), "{{model}}/{{version}}"),),
        ),
        Panel(
            "How long failures took, p99",
            "s",
            "Near the time that requests are allowed: they waited in vain.",
            (Line(quantile(0.99, failures, HEADS, "model, version"), "{{model}}/{{version}}"),),
        ),
    ]


def models() -> list[Panel]:
    return [
        Panel(
            "Replicas that serve each version",
            "short",
            "All lines at the number of replicas, or they answer differently.",
            (
                Line(
                    f"count by (model, version) (group by (instance, model, version) (logitserve_model_info{{{HEADS}}}))",
                    "{{model}}/{{version}}",
                ),
            ),
        ),
        Panel(
            "Versions that cannot be loaded",
            "short",
            "GET /models says why.",
            (
                Line(
                    f'max by (instance, model) (logitserve_failed_versions{{{REPLICAS}, model=~"$model"}})',
                    "{{model}} on {{instance}}",
                ),
            ),
        ),
        Panel(
            "Since a request was scored",
            "s",
            "A version that nobody asks for any more can be unloaded.",
            (
                Line(
                    f"time() - max by (model, version) (logitserve_last_scored_timestamp_seconds{{{HEADS}}})",
                    "{{model}}/{{version}}",
                ),
            ),
        ),
    ]


def quality() -> list[Panel]:
    rows = "logitserve_quality_rows_total"
    of_class = "by (model, version, class)"
    right = increase("logitserve_quality_class_correct_total", by=of_class)
    actual = increase("logitserve_quality_class_rows_total", by=of_class)
    predicted = increase("logitserve_quality_class_predicted_total", by=of_class)
    return [
        Panel(
            "Labelled rows",
            "short",
            "In the window; the alerts want 1000 in an hour.",
            (Line(increase(rows), "{{model}}/{{version}}"),),
        ),
        Panel(
            "Log loss",
            "none",
            "Mean over the labelled rows, in nats.",
            (Line(mean("logitserve_quality_loss_nats_total", rows), "{{model}}/{{version}}"),),
        ),
        Panel(
            "Brier score",
            "none",
            "Mean over the labelled rows.",
            (Line(mean("logitserve_quality_brier_total", rows), "{{model}}/{{version}}"),),
        ),
        Panel(
            "Accuracy, also of the best k",
            "percentunit",
            "The share of labelled rows whose label is among the k best classes.",
            (
                Line(
                    f"{increase('logitserve_quality_correct_total', by='by (model, version, k)')}"
                    f" / on (model, version) group_left () {increase(rows)}",
                    "{{model}}/{{version}} best {{k}}",
                ),
            ),
        ),
        Panel(
            "Recall of the ten worst classes",
            "percentunit",
            "Of the rows that are of a class, those predicted so.",
            (
                Line(
                    f"bottomk(10, {share(right, actual)})",
                    "{{model}}/{{version}} {{class}}",
                ),
            ),
        ),
        Panel(
            "Precision of the ten worst classes",
            "percentunit",
            "Of the rows predicted as a class, those that are.",
            (
                Line(
                    f"bottomk(10, {share(right, predicted)})",
                    "{{model}}/{{version}} {{class}}",
                ),
            ),
        ),
        Panel(
            "Ten most frequent confusions",
            "short",
            "Label and what was predicted in its place.",
            (
                Line(
                    f"topk(10, {increase('logitserve_quality_confusions_total', by='by (model, version, label, predicted)')})",
                    "{{model}}/{{version}} {{label}} as {{predicted}}",
                ),
            ),
        ),
    ]


def calibration() -> list[Panel]:
    in_bin = "by (model, version, bin)"
    rows = increase("logitserve_quality_confidence_rows_total", by=in_bin)
    confidence = increase("logitserve_quality_confidence_total", by=in_bin)
    # A bin in which nothing was ever right has no counter of it.
    right = f"({increase('logitserve_quality_confidence_correct_total', by=in_bin)} or 0 * {confidence})"
    gap = f"sum {SCORED_BY} (abs({confidence} - {right}))"
    return [
        Panel(
            "Expected calibration error",
            "percentunit",
            "By how much confidence and accuracy differ, bin by bin. The alert, over a day, begins at 10 %.",
            (Line(f"{gap} / sum {SCORED_BY} ({rows})", "{{model}}/{{version}}"),),
        ),
        Panel(
            "Confidence less accuracy, by bin",
            "percentunit",
            "Above 0 a head is surer than it is right.",
            (Line(f"({confidence} - {right}) / {rows}", "{{model}}/{{version}} bin {{bin}}"),),
        ),
        Panel(
            "Labelled rows by bin",
            "short",
            "A bin with few rows says little.",
            (Line(rows, "{{model}}/{{version}} bin {{bin}}"),),
        ),
    ]


def drift() -> list[Panel]:
    def of(metric: str) -> Line:
        return Line(
            f"max by (model, version, of) ({metric}{{{HEADS}}})",
            "{{model}}/{{version}} {{of}}",
        )

    def distribution(title: str, unit: str, metric: str) -> Panel:
        lines = tuple(
            Line(quantile(q, metric, HEADS, "model, version"), f"{{{{model}}}}/{{{{version}}}} p{q * 100:g}")
            for q in (0.1, 0.5, 0.9)
        )
        return Panel(title, unit, "Of all predictions, with labels or without: p10, p50 and p90.", lines)

    predictions = increase("logitserve_predictions_total", by="by (model, version, class)")
    every = increase("logitserve_predictions_total")
    return [
        Panel(
            "PSI",
            "none",
            "Worst replica; 0.1 is moderate, the alert begins at 0.25.",
            (of("logitserve_drift_psi"),),
        ),
        Panel(
            "Kolmogorov-Smirnov",
            "none",
            "The largest gap between the two distributions.",
            (of("logitserve_drift_ks"),),
        ),
        Panel(
            "Predicted classes",
            "percentunit",
            "The ten most frequent and their shares.",
            (
                Line(
                    f"topk(10, {predictions} / on (model, version) group_left () {every})",
                    "{{model}}/{{version}} {{class}}",
                ),
            ),
        ),
        distribution("Confidence", "percentunit", "logitserve_prediction_confidence"),
        distribution("Margin", "percentunit", "logitserve_prediction_margin"),
        distribution("Entropy", "percentunit", "logitserve_prediction_entropy"),
        distribution("Energy", "none", "logitserve_prediction_energy_nats"),
    ]


def shadow() -> list[Panel]:
    pair = "by (model, version, shadow)"
    name = "{{model}}: {{shadow}} beside {{version}}"
    rows = increase("logitserve_shadow_rows_total", by=pair)
    harm = increase("logitserve_shadow_loss_harm_nats_total", by=pair)
    gain = increase("logitserve_shadow_loss_gain_nats_total", by=pair)
    labelled = increase("logitserve_shadow_labelled_rows_total", by=pair)
    return [
        Panel(
            "Rows of the shadow",
            "short",
            "Scored, and left out since too many waited.",
            (
                Line(rows, name),
                Line(increase("logitserve_shadow_dropped_rows_total", by=pair), f"{name}, left out"),
            ),
        ),
        Panel(
            "Disagreement and divergence",
            "none",
            "Share of rows with another class; mean Kullback-Leibler divergence in nats.",
            (
                Line(share(increase("logitserve_shadow_disagreements_total", by=pair), rows), name),
                Line(
                    f"{increase('logitserve_shadow_divergence_nats_total', by=pair)} / {rows}",
                    f"{name}, nats",
                ),
            ),
        ),
        Panel(
            "Loss of the shadow less that of the answer",
            "none",
            "Mean in nats over labelled rows; below 0 the shadow is better. GET /models/{model}/shadow has the interval.",
            (Line(f"(({harm} or 0 * {labelled}) - ({gain} or 0 * {labelled})) / {labelled}", name),),
        ),
    ]


def feedback() -> list[Panel]:
    rows = "logitserve_feedback_rows_total"
    joined = increase(rows, f'{REPLICAS}, outcome="joined"', "by (instance)")
    every = increase(rows, f'{REPLICAS}, outcome!="repeated"', "by (instance)")
    return [
        Panel(
            "Labels by outcome",
            "short",
            "Labels that came later, and whether their rows were still there.",
            (Line(increase(rows, REPLICAS, "by (outcome)"), "{{outcome}}"),),
        ),
        Panel(
            "Labels that found their rows",
            "percentunit",
            "The alert, over all replicas, begins below 90 %.",
            (Line(share(joined, every), "{{instance}}"),),
        ),
    ]


def process() -> list[Panel]:
    return [
        Panel(
            "Replicas that answer",
            "short",
            "1 is up.",
            (Line(f'up{{job="logitserve", {REPLICAS}}}', "{{instance}}"),),
        ),
        Panel(
            "Workers",
            "short",
            "Processes that serve; a dip is one that died and was replaced.",
            (Line(f"sum by (instance) (logitserve_workers{{{REPLICAS}}})", "{{instance}}"),),
        ),
        Panel(
            "Memory",
            "bytes",
            "Resident, of all workers of a replica.",
            (Line(f"sum by (instance) (logitserve_resident_memory_bytes{{{REPLICAS}}})", "{{instance}}"),),
        ),
    ]


ROWS = {
    "Traffic": traffic,
    "Latency by stage": latency,
    "Batching and queue": batching,
    "Errors and rejections": errors,
    "Models and versions": models,
    "Quality": quality,
    "Calibration": calibration,
    "Drift": drift,
    "Shadow": shadow,
    "Feedback": feedback,
    "Process": process,
}


def drawn(panel: Panel, number: int, x: int, y: int) -> Json:
    heatmap = panel.kind == "heatmap"
    targets = [
        {
            "refId": chr(ord("A") + place),
            "datasource": DATASOURCE,
            "expr": line.expr,
            "legendFormat": line.legend,
            "format": "heatmap" if heatmap else "time_series",
        }
        for place, line in enumerate(panel.lines)
    ]
    options: Json = {"calculate": False, "yAxis": {"unit": panel.unit}}
    if not heatmap:
        legend = {"showLegend": True, "displayMode": "list", "placement": "bottom"}
        options = {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.help,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": options,
        "targets": targets,
    }


def laid_out() -> list[Json]:
    """All panels below the headings of their rows, from left to right and downwards."""
    numbers, y, shown = count(1), 0, []
    for title, made in ROWS.items():
        heading = {"x": 0, "y": y, "w": WIDTH * COLUMNS, "h": 1}
        shown.append(
            {
                "id": next(numbers),
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": heading,
                "panels": [],
            }
        )
        y += 1
        panels = made()
        for place, panel in enumerate(panels):
            down, across = divmod(place, COLUMNS)
            shown.append(drawn(panel, next(numbers), across * WIDTH, y + down * HEIGHT))
        y += HEIGHT * -(-len(panels) // COLUMNS)
    return shown


def labelled(name: str, of: str) -> Json:
    """A variable with the values of a label; all of them unless some are chosen."""
    return {
        "name": name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": f"label_values({of}, {name})", "refId": name},
        "definition": f"label_values({of}, {name})",
        "refresh": 2,  # whenever the time range changes: versions come and go
        "multi": True,
        "includeAll": True,
        "allValue": ".*",  # bare logits have an empty version, which a list of values would leave out
        "current": {"text": "All", "value": "$__all"},
        "sort": 3,  # as numbers
    }


def variables() -> list[Json]:
    windows = ("15m", "1h", "6h", "1d")
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "data source"},
        labelled("instance", 'up{job="logitserve"}'),
        labelled("model", f"logitserve_rows_total{{{REPLICAS}}}"),
        labelled("version", f'logitserve_rows_total{{{REPLICAS}, model=~"$model"}}'),
        {
            "name": "window",
            "label": "window of quality",
            "type": "custom",
            "query": ",".join(windows),
            "options": [{"text": window, "value": window, "selected": window == "1h"} for window in windows],
            "current": {"text": "1h", "value": "1h"},
        },
    ]


def dashboard() -> Json:
    return {
        "uid": "logitserve",
        "title": "logitserve",
        "tags": ["logitserve"],
        "schemaVersion": 38,  # Grafana 10; later ones bring it up to date as they load it
        "editable": True,
        "graphTooltip": 1,  # one cursor in all panels
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": variables()},
        "panels": laid_out(),
    }


def text() -> str:
    return f"{json.dumps(dashboard(), indent=1)}\n"


if __name__ == "__main__":
    DASHBOARD.write_text(text(), encoding="utf-8")
