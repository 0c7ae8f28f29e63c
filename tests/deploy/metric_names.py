"""The names of metrics and labels in expressions, and those that the service has."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from service.instruments import INSTRUMENTS, Instrument

# Being added elsewhere: delete what `service.instruments` has by now, and this whole set once it is empty.
COMING: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        (
            "logitserve_quality_rows_total",
            "logitserve_quality_loss_nats_total",
            "logitserve_quality_brier_total",
            "logitserve_prediction_confidence_bucket",
            "logitserve_prediction_margin_bucket",
            "logitserve_prediction_entropy_bucket",
            "logitserve_prediction_energy_nats_bucket",
        ),
        frozenset({"model", "version"}),
    ),
    "logitserve_quality_correct_total": frozenset({"model", "version", "k"}),
    **dict.fromkeys(
        (
            "logitserve_quality_confidence_rows_total",
            "logitserve_quality_confidence_total",
            "logitserve_quality_confidence_correct_total",
        ),
        frozenset({"model", "version", "bin"}),
    ),
    **dict.fromkeys(
        (
            "logitserve_quality_class_rows_total",
            "logitserve_quality_class_predicted_total",
            "logitserve_quality_class_correct_total",
            "logitserve_predictions_total",
        ),
        frozenset({"model", "version", "class"}),
    ),
    "logitserve_quality_confusions_total": frozenset({"model", "version", "label", "predicted"}),
    "logitserve_drift_psi": frozenset({"model", "version", "of"}),
    "logitserve_drift_ks": frozenset({"model", "version", "of"}),
    "logitserve_feedback_rows_total": frozenset({"outcome"}),
    "logitserve_failed_versions": frozenset({"model"}),
    "logitserve_resident_memory_bytes": frozenset(),
}

# Those that Prometheus adds to every target, and to the buckets of a histogram.
ADDED = frozenset({"job", "instance", "le"})

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def exposed(instrument: Instrument) -> dict[str, frozenset[str]]:
    """The series of an instrument, as /metrics names them, with their labels."""
    return {f"{instrument.name}{end}": frozenset(instrument.labels) for end in SUFFIXES[instrument.kind]}


SERVED = {name: labels for instrument in INSTRUMENTS for name, labels in exposed(instrument).items()}
KNOWN = {**SERVED, **COMING}


class Selector(NamedTuple):
    name: str
    labels: frozenset[str]


def selectors(expr: str) -> Iterator[Selector]:
    """Each metric of the service in an expression, with the labels it is chosen by; what rules record has colons."""
    for found in re.finditer(r"(?<![\w:])(logitserve_\w+)(?![\w:])(?:\{([^}]*)\})?", expr):
        yield Selector(found[1], frozenset(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", found[2] or "")))


def unknown(expr: str) -> list[str]:
    """What an expression asks for that the service does not have."""
    wrong = []
    for name, labels in selectors(expr):
        if name not in KNOWN:
            wrong.append(f"there is no {name}")
        elif not labels <= KNOWN[name] | ADDED:
            wrong.append(f"{name} has no label {', '.join(sorted(labels - KNOWN[name] - ADDED))}")
    return wrong
