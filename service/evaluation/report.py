"""What is said of scores: tables for a terminal, and everything as JSON values.

Knows scores and names of classes; knows neither files nor heads.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from service.numeric.scores import Bins, Scores

# Of more classes than this the table of classes shows those with the least F1, and the confusion matrix gives way to a
# list of the most frequent mistakes.
SHOWN_CLASSES = 20
SHOWN_CONFUSIONS = 12
SHOWN_MISTAKES = 10
# Longer names of classes would leave no room for numbers.
NAME_CHARACTERS = 24
TOP_K = (1, 2, 3, 5, 10)

SCORES: dict[str, Callable[[Scores], float]] = {
    "log loss": lambda scores: scores.log_loss,
    "ECE, equal width": lambda scores: scores.ece_equal_width,
    "ECE, equal mass": lambda scores: scores.ece_equal_mass,
    "ECE, classwise": lambda scores: scores.ece_classwise,
    "MCE": lambda scores: scores.mce,
    "Brier score": lambda scores: scores.brier.score,
    "  reliability": lambda scores: scores.brier.reliability,
    "  resolution": lambda scores: scores.brier.resolution,
    "  uncertainty": lambda scores: scores.brier.uncertainty,
    "  within bins": lambda scores: scores.brier.within_bins,
    "accuracy": lambda scores: scores.accuracy,
}


def compared(columns: Mapping[str, Scores]) -> Table:
    """Lay scores side by side, a column for each."""
    table = Table("")
    for name in columns:
        table.add_column(name, justify="right")
    table.add_row("rows", *(f"{scores.rows:,}" for scores in columns.values()))
    table.add_row("bins of ECE and MCE", *(f"{scores.num_bins:,}" for scores in columns.values()))
    for name, score in SCORES.items():
        table.add_row(name, *(f"{score(scores):z.4f}" for scores in columns.values()))
    return table


def by_class(scores: Scores, class_names: Sequence[str] | None = None) -> RenderableType:
    """Lay out what there is to say of single classes: top-k accuracy, precision, recall, F1, and mistakes."""
    best = Table(show_header=False, title="top-k accuracy", title_justify="left")
    for k in _top_ks(scores):
        best.add_row(f"top {k}", f"{scores.top_k_accuracy(k):.4f}")
    names = names_of(scores.num_classes, class_names)
    mistakes = (
        _confusion(scores, names) if scores.num_classes <= SHOWN_CONFUSIONS else _mistakes(scores, names)
    )
    return Group(best, _classes(scores, names), mistakes)


def document(scores: Scores, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """Everything that is known, as JSON values; null is a quotient of nothing."""
    names = names_of(scores.num_classes, class_names)
    per_class = scores.per_class
    return {
        "rows": scores.rows,
        "bins": scores.num_bins,
        "log_loss": scores.log_loss,
        "accuracy": scores.accuracy,
        "top_k_accuracy": {str(k): scores.top_k_accuracy(k) for k in _top_ks(scores)},
        "ece_equal_width": scores.ece_equal_width,
        "ece_equal_mass": scores.ece_equal_mass,
        "ece_classwise": scores.ece_classwise,
        "mce": scores.mce,
        "brier": scores.brier._asdict(),
        "equal_width_bins": _bins(scores.equal_width),
        "equal_mass_bins": _bins(scores.equal_mass),
        "classes": [
            {
                "name": name,
                "rows": int(per_class.rows[index]),
                "predicted": int(per_class.predicted[index]),
                "precision": _quotient(per_class.precision[index]),
                "recall": _quotient(per_class.recall[index]),
                "f1": _quotient(per_class.f1[index]),
            }
            for index, name in enumerate(names)
        ],
        "mistakes": [
            {"label": names[label], "predicted": names[predicted], "rows": rows}
            for label, predicted, rows in scores.confused()
        ],
    }


def names_of(num_classes: int, class_names: Sequence[str] | None) -> Sequence[str]:
    return [str(index) for index in range(num_classes)] if class_names is None else class_names


def _classes(scores: Scores, names: Sequence[str]) -> Table:
    table = Table(title="classes", title_justify="left")
    table.add_column("class")
    for heading in ("rows", "predicted", "precision", "recall", "F1"):
        table.add_column(heading, justify="right")
    per_class = scores.per_class
    shown = range(scores.num_classes)
    if scores.num_classes > SHOWN_CLASSES:
        worst = np.argsort(per_class.f1, kind="stable")[:SHOWN_CLASSES]  # NaN, of no rows at all, comes last
        shown = worst.tolist()
        table.caption = f"the {SHOWN_CLASSES} of {scores.num_classes} classes with the least F1"
    for index in shown:
        quotients = (per_class.precision[index], per_class.recall[index], per_class.f1[index])
        counts = (per_class.rows[index], per_class.predicted[index])
        table.add_row(
            _short(names[index]),
            *(f"{count:,}" for count in counts),
            *("-" if math.isnan(value) else f"{value:.4f}" for value in quotients),
        )
    return table


def _confusion(scores: Scores, names: Sequence[str]) -> Table:
    table = Table(title="confusion: labels down, predicted classes across", title_justify="left")
    table.add_column("")
    for name in names:
        table.add_column(_short(name), justify="right")
    for index, row in enumerate(scores.confusion().tolist()):
        cells = [Text(f"{n:,}" if n else "·", "bold" if i == index else "") for i, n in enumerate(row)]
        table.add_row(_short(names[index]), *cells)
    return table


def _mistakes(scores: Scores, names: Sequence[str]) -> Table:
    mistakes = scores.confused()
    table = Table(title="most frequent mistakes", title_justify="left")
    table.add_column("label")
    table.add_column("predicted")
    table.add_column("rows", justify="right")
    for label, predicted, rows in mistakes[:SHOWN_MISTAKES]:
        table.add_row(_short(names[label]), _short(names[predicted]), f"{rows:,}")
    if len(mistakes) > SHOWN_MISTAKES:
        table.caption = f"of {len(mistakes):,} pairs"
    return table


def _top_ks(scores: Scores) -> list[int]:
    return [k for k in TOP_K if k < scores.num_classes]


def _bins(bins: Bins) -> list[dict[str, Any]]:
    """Bins with rows, lowest confidence first."""
    return [
        {"rows": int(count), "confidence": float(probability / count), "accuracy": float(hits / count)}
        for count, probability, hits in zip(*bins, strict=True)
        if count
    ]


def _quotient(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _short(name: str) -> Text:
    return Text(name if len(name) <= NAME_CHARACTERS else name[: NAME_CHARACTERS - 1] + "…")
