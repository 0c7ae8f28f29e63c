"""Quality while it happens: what labelled rows and traffic add to sums that do not grow with the rows.

All sums of one head are one vector of float64, whose parts a `Layout` names: vectors of several workers, replicas or
minutes add up to those of all of them, and their difference is what came in between. All from float64 arithmetic over
probabilities that are not rounded, as in `scores`, so that the same rows give the same numbers. Knows arrays; knows no
head, no request and no clock.
"""

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from service.instruments import BUCKETS_NATS, BUCKETS_SHARE
from service.numeric import losses
from service.numeric.kernel import Float64Array
from service.numeric.scores import DEFAULT_BINS, bin_index, ranks_of
from service.numeric.softmax import Normalised
from service.types import FloatArray, IndexArray, Labels

# Whether the label is among so many best classes.
RANKS = (1, 2, 3, 5)
# Parts of [0, 1] that confidence, margin and relative entropy of traffic are counted in.
SHARE_BINS = len(BUCKETS_SHARE)
ENERGY_BINS = len(BUCKETS_NATS) + 1
# Classes of which each has counts of its own, and of which each pair has: 8 kB and 32 kB.
MOST_CLASSES = 1024
MOST_CONFUSED = 64


class Layout:
    """Which part of a vector is what, for heads of `num_classes` classes, or 0 where requests bring any number.

    Parts
    -----
    rows, loss, brier : one number
        Labelled rows, and their summed log loss (nats) and Brier score.
    correct [len(RANKS)]
        Rows whose label is among the best classes, for each of `RANKS`.
    bin_rows, bin_confidence, bin_correct [DEFAULT_BINS]
        Labelled rows by confidence: how many, their summed confidence, how many predicted the label.
    class_rows, class_predicted, class_correct [num_classes]
        Labelled rows of each class, those predicted to be, and those that are both; none above `MOST_CLASSES`.
    confusion [num_classes²]
        Labelled rows by label and predicted class; none above `MOST_CONFUSED`.
    seen : one number
        Rows of traffic, labelled or not.
    looked : one number
        How many of them were looked at; the parts below stand for all.
    predicted [num_classes]
        Them by predicted class; none above `MOST_CLASSES`.
    confidence, margin, entropy [SHARE_BINS], energy [ENERGY_BINS]
        Them by the largest probability, by its lead over the next, by entropy as a share of log(num_classes), and by
        energy, -log(sum(exp(logits))).
    sums [4]
        The four of them, summed over the rows.
    """

    __slots__ = ("num_classes", "parts", "size")

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        counted = num_classes if num_classes <= MOST_CLASSES else 0
        sizes = {
            "rows": 1,
            "loss": 1,
            "brier": 1,
            "correct": len(RANKS),
            "bin_rows": DEFAULT_BINS,
            "bin_confidence": DEFAULT_BINS,
            "bin_correct": DEFAULT_BINS,
            "class_rows": counted,
            "class_predicted": counted,
            "class_correct": counted,
            "confusion": num_classes**2 if num_classes <= MOST_CONFUSED else 0,
            "seen": 1,
            "looked": 1,
            "predicted": counted,
            "confidence": SHARE_BINS,
            "margin": SHARE_BINS,
            "entropy": SHARE_BINS,
            "energy": ENERGY_BINS,
            "sums": 4,
        }
        ends = np.cumsum(list(sizes.values())).tolist()
        self.parts = {
            name: slice(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)
        }
        self.size: int = ends[-1]

    def of(self, vector: Float64Array, name: str) -> Float64Array:
        return vector[self.parts[name]]

    def length(self, name: str) -> int:
        place: slice = self.parts[name]
        return int(place.stop - place.start)

    def filled(self, parts: Mapping[str, ArrayLike]) -> Float64Array:
        """Make a vector with these parts, all others 0."""
        vector = np.zeros(self.size)
        for name, values in parts.items():
            if self.length(name):
                vector[self.parts[name]] = np.asarray(values, np.float64)
        return vector


@lru_cache(1024)
def layout_of(num_classes: int) -> Layout:
    return Layout(num_classes)


def judged(layout: Layout, normalised: Normalised, labels: IndexArray) -> Float64Array:
    """Count labelled rows.

    Parameters
    ----------
    layout : Layout
    normalised : Normalised
        Of float64 logits [rows, num_classes], at least one row.
    labels : int64 array [rows]
        Classes. A row whose loss is infinite is left out: no mean would ever be finite again.

    Returns
    -------
    float64 array [layout.size]
    """
    truth = Labels(labels, "index", "none")
    row_losses = losses.losses_of(normalised, truth).losses
    finite = np.isfinite(row_losses)
    places = np.arange(len(labels))
    predicted = normalised.largest
    confidence = np.asarray(normalised.probabilities(), np.float64)[places, predicted][finite]
    ranks = ranks_of(normalised, labels)[finite]
    brier = losses.brier(normalised, truth)[finite]
    labels, predicted = labels[finite], predicted[finite]
    right = labels == predicted
    bins = bin_index(confidence, DEFAULT_BINS)
    parts: dict[str, ArrayLike] = {
        "rows": len(labels),
        "loss": float(row_losses[finite].sum(dtype=np.float64)),
        "brier": float(brier.sum(dtype=np.float64)),
        "correct": [np.count_nonzero(ranks < rank) for rank in RANKS],
        "bin_rows": np.bincount(bins, minlength=DEFAULT_BINS),
        "bin_confidence": np.bincount(bins, confidence, DEFAULT_BINS),
        "bin_correct": np.bincount(bins, right, DEFAULT_BINS),
    }
    if layout.length("class_rows"):
        for name, classes in (
            ("class_rows", labels),
            ("class_predicted", predicted),
            ("class_correct", labels[right]),
        ):
            parts[name] = np.bincount(classes, minlength=layout.num_classes)
    if layout.length("confusion"):
        pairs = labels * layout.num_classes + predicted
        parts["confusion"] = np.bincount(pairs, minlength=layout.num_classes**2)
    return layout.filled(parts)


def observed(layout: Layout, logits: FloatArray, weights: Float64Array | None = None) -> Float64Array:
    """Count rows of traffic.

    Parameters
    ----------
    layout : Layout
    logits : float array [rows, num_classes]
        What the softmax takes, at least one row and one class.
    weights : float64 array [rows], optional
        How many rows each stands for, where only some of them were looked at.

    Returns
    -------
    float64 array [layout.size]
    """
    exact = logits.astype(np.float64)
    predicted = exact.argmax(axis=1)
    rows = np.arange(len(exact))
    largest = exact[rows, predicted]
    shifted = exact - largest[:, None]
    powers = np.exp(shifted)
    totals = powers.sum(axis=1)
    confidence = 1 / totals
    with np.errstate(invalid="ignore"):  # a masked class has no part in the entropy
        weighed = np.where(powers > 0, powers * shifted, 0.0).sum(axis=1)
    entropy = (np.log(totals) - weighed / totals) / (math.log(exact.shape[1]) or 1.0)
    shifted[rows, predicted] = -np.inf
    margin = confidence * (1 - np.exp(shifted.max(axis=1, initial=-np.inf)))
    energy = -(largest + np.log(totals))
    each = np.ones(len(exact)) if weights is None else weights
    parts: dict[str, ArrayLike] = {
        "seen": each.sum(),
        "looked": len(exact),
        "energy": np.bincount(np.searchsorted(BUCKETS_NATS, energy), each, ENERGY_BINS),
        "sums": [float(values @ each) for values in (confidence, margin, entropy, energy)],
    }
    if layout.length("predicted"):
        parts["predicted"] = np.bincount(predicted, each, layout.num_classes)
    for name, values in (("confidence", confidence), ("margin", margin), ("entropy", entropy)):
        bins = np.minimum(bin_index(values, SHARE_BINS), SHARE_BINS - 1)
        parts[name] = np.bincount(bins, each, SHARE_BINS)
    return layout.filled(parts)


def stability_index(reference: Float64Array, counts: Float64Array) -> float:
    """The population stability index of counts against a reference, both of any sum above 0.

    It is the sum over the bins of (a - b) · log(a / b), a and b being their shares; a share below 1e-4 counts as that,
    so that one row in a bin that was empty does not decide alone. Below 0.1 nothing has changed, above 0.25 much has:
    the thresholds of credit scoring, where it comes from.
    """
    shares = [np.maximum(part / part.sum(), 1e-4) for part in (reference, counts)]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def kolmogorov_smirnov(reference: Float64Array, counts: Float64Array) -> float:
    """The Kolmogorov-Smirnov distance of two histograms over the same ordered bins: at most what the rows' own is."""
    one, other = (np.cumsum(part) / part.sum() for part in (reference, counts))
    return float(np.abs(one - other).max())


def drift(
    layout: Layout, reference: Float64Array, vector: Float64Array
) -> Iterator[tuple[str, float, float | None]]:
    """Compare traffic with a reference: of what, its stability index, and its distance where bins have an order."""
    for name in ("predicted", "confidence", "margin", "entropy", "energy"):
        one, other = layout.of(reference, name), layout.of(vector, name)
        if one.sum() > 0 and other.sum() > 0:
            distance = None if name == "predicted" else kolmogorov_smirnov(one, other)
            yield name, stability_index(one, other), distance
