"""The reliability diagram: how often rows of a confidence are right, and how many there are.

A. H. Murphy and R. L. Winkler, "Reliability of subjective probability forecasts", 1977; in this form C. Guo et al., "On
calibration of modern neural networks", 2017.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from service.numeric.scores import Scores

# A pair that colour-blind readers tell apart, as does a grey print.
ACCURACY, GAP = "#0072B2", "#D55E00"
PANEL_INCHES = 4.6
HEIGHT_INCHES = 5.8


def draw(columns: Mapping[str, Scores], title: str, path: Path) -> None:
    """Write a diagram for each of the scores side by side, as PNG or SVG by the path's suffix."""
    figure = Figure(figsize=(PANEL_INCHES * len(columns), HEIGHT_INCHES), dpi=150, layout="constrained")
    figure.suptitle(title, fontsize=12, fontweight="bold")
    panels = figure.subplots(2, len(columns), height_ratios=(4, 1), sharex=True, squeeze=False)
    for column, (name, scores) in enumerate(columns.items()):
        _draw_reliability(panels[0][column], name, scores)
        _draw_counts(panels[1][column], scores)
    panels[0][0].set_ylabel("accuracy of the bin")
    panels[1][0].set_ylabel("rows")
    panels[0][0].legend(loc="upper left", fontsize=9, framealpha=1)
    figure.savefig(path)


def _draw_reliability(axes: Axes, name: str, scores: Scores) -> None:
    """Draw the accuracy of each bin of confidences, and the gap between it and their mean."""
    bins, width = scores.equal_width, 1 / scores.num_bins
    filled = np.flatnonzero(bins.counts)
    counts = bins.counts[filled]
    accuracy, confidence = bins.hits[filled] / counts, bins.probabilities[filled] / counts
    lefts = filled * width
    axes.bar(
        lefts,
        accuracy,
        width,
        align="edge",
        color=to_rgba(ACCURACY, 0.75),
        edgecolor="white",
        label="accuracy",
    )
    axes.bar(
        lefts,
        confidence - accuracy,
        width,
        accuracy,
        align="edge",
        color=to_rgba(GAP, 0.3),
        edgecolor=GAP,
        hatch="///",
        linewidth=0.8,
        label="gap to the mean confidence",
    )
    axes.plot([0, 1], [0, 1], color="0.35", linestyle="--", linewidth=1, label="as sure as right")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_title(
        f"{name}: log loss {scores.log_loss:.4f}, ECE {scores.ece_equal_width:.4f}, MCE {scores.mce:.4f}",
        fontsize=9,
    )
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)


def _draw_counts(axes: Axes, scores: Scores) -> None:
    """Draw how many rows each bin has: the gap of a bin with a single row says nothing."""
    bins, width = scores.equal_width, 1 / scores.num_bins
    filled = np.flatnonzero(bins.counts)
    axes.bar(filled * width, bins.counts[filled], width, align="edge", color="0.7", edgecolor="white")
    for value, colour, style, name in (
        (scores.accuracy, ACCURACY, "-", "accuracy"),
        (float(bins.probabilities.sum()) / scores.rows, GAP, "--", "mean confidence"),
    ):
        axes.axvline(value, color=colour, linestyle=style, linewidth=1.4, label=f"{name} {value:.3f}")
    # Most rows are in the last bin, and those that are not matter too.
    axes.set(
        yscale="log",
        ylim=(0.7, scores.rows * 1.5),
        xlabel=f"confidence, {scores.num_bins} bins of {scores.rows:,} rows",
    )
    axes.legend(loc="upper left", fontsize=8, framealpha=1)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
