"""Scores: how good probabilities are, over all rows of labelled data.

What is kept of a block of rows are sums, and of each row its confidence, its label and its predicted class: `Sums` of
two blocks merge into those of both, so that logits larger than memory are judged block by block. All in float64, from
probabilities that are not rounded. Knows arrays; knows no head and no file.

With p the probabilities of a row, its confidence is the largest of them, at the predicted class; y is its label.
Every binned estimate of a calibration error is biased upwards where rows are few (Kumar et al., "Verified uncertainty
calibration", NeurIPS 2019): its number of rows and of bins belong beside it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from service.numeric import losses
from service.numeric.kernel import Float64Array
from service.numeric.softmax import Normalised
from service.types import IndexArray, Labels

# What the field reports since Guo et al. 2017.
DEFAULT_BINS = 15


class Bins(NamedTuple):
    """Rows of similar probability.

    Parameters
    ----------
    counts : int64 array [..., num_bins]
        How many rows are in each bin.
    probabilities, hits : float64 array [..., num_bins]
        Their summed probabilities, and how many of them have the class that these are of.
    """

    counts: IndexArray
    probabilities: Float64Array
    hits: Float64Array

    @property
    def gaps(self) -> Float64Array:
        """Mean hits less mean probability of each bin; 0 where a bin is empty."""
        return (self.hits - self.probabilities) / np.maximum(self.counts, 1)

    def error(self) -> Float64Array:
        """The expected calibration error along the bins: the mean over the rows of their bin's |gap|, [...]."""
        shares: Float64Array = self.counts / self.counts.sum(axis=-1, keepdims=True)
        return cast("Float64Array", (np.abs(self.gaps) * shares).sum(axis=-1))

    def merged(self, other: "Bins") -> "Bins":
        return Bins(
            self.counts + other.counts, self.probabilities + other.probabilities, self.hits + other.hits
        )


class PerClass(NamedTuple):
    """Each class against all others, [num_classes]; NaN where there is nothing to divide by."""

    rows: IndexArray
    predicted: IndexArray
    precision: Float64Array
    recall: Float64Array
    f1: Float64Array


class BrierParts(NamedTuple):
    """The Brier score and what it is made of: `reliability - resolution + uncertainty + within_bins`."""

    score: float
    reliability: float
    resolution: float
    uncertainty: float
    within_bins: float


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """What is kept of rows; made by `sum_up`, merged by `+`.

    Parameters
    ----------
    loss, brier : float
        Summed over the rows.
    ranks : int64 array [num_classes]
        In how many rows the label's logit came first, second, …; of equal logits the lower index comes first.
    by_class : Bins [num_classes, num_bins]
        All rows binned by the probability of each class.
    confidences, labels, predicted : tuples of arrays [rows]
        Of each row, block by block.
    """

    loss: float
    brier: float
    ranks: IndexArray
    by_class: Bins
    confidences: tuple[Float64Array, ...]
    labels: tuple[NDArray[np.int32], ...]
    predicted: tuple[NDArray[np.int32], ...]

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.loss + other.loss,
            self.brier + other.brier,
            self.ranks + other.ranks,
            self.by_class.merged(other.by_class),
            self.confidences + other.confidences,
            self.labels + other.labels,
            self.predicted + other.predicted,
        )


def sum_up(normalised: Normalised, labels: IndexArray, num_bins: int = DEFAULT_BINS) -> Sums:
    """Sum up a block of rows.

    Parameters
    ----------
    normalised : Normalised
        Of float64 logits [rows, num_classes], at least one row.
    labels : int64 array [rows]
        Classes, checked. A masked one makes the loss infinite.
    num_bins : int
    """
    probabilities = cast("Float64Array", normalised.probabilities())
    truth = Labels(labels, "index", "sum")
    return Sums(
        losses.losses_of(normalised, truth).loss or 0.0,
        float(losses.brier(normalised, truth).sum()),
        np.bincount(ranks_of(normalised, labels), minlength=probabilities.shape[1]),
        _bin_classes(probabilities, labels, num_bins),
        (probabilities[np.arange(len(labels)), normalised.largest],),
        (labels.astype(np.int32),),
        (normalised.largest.astype(np.int32),),
    )


class Scores:
    """The scores of the rows that were summed up: each property one of them."""

    def __init__(self, sums: Iterable[Sums]) -> None:
        first, *others = sums
        self._sums = sum(others, first)
        self._confidences = np.concatenate(self._sums.confidences)
        self._labels = np.concatenate(self._sums.labels)
        self._predicted = np.concatenate(self._sums.predicted)
        self._hits = self._labels == self._predicted
        self.rows = len(self._hits)
        self.num_classes, self.num_bins = self._sums.by_class.counts.shape

    @property
    def log_loss(self) -> float:
        """The mean cross-entropy, in nats."""
        return self._sums.loss / self.rows

    @property
    def accuracy(self) -> float:
        """The share of rows whose predicted class is the label."""
        return int(np.count_nonzero(self._hits)) / self.rows

    def top_k_accuracy(self, k: int) -> float:
        """The share of rows whose label is among the k best classes."""
        return int(self._sums.ranks[:k].sum()) / self.rows

    @cached_property
    def equal_width(self) -> Bins:
        """Rows binned by their confidence, in bins (0, 1/M], (1/M, 2/M], …; a confidence of 0 is in the first."""
        index = bin_index(self._confidences, self.num_bins)
        return _bins(index, self._confidences, self._hits, self.num_bins)

    @cached_property
    def equal_mass(self) -> Bins:
        """Rows sorted by their confidence and cut into bins whose sizes differ by one at most, larger ones first."""
        order = np.argsort(self._confidences, kind="stable")
        sizes = [len(part) for part in np.array_split(order, self.num_bins)]
        index = np.empty(self.rows, np.int64)
        index[order] = np.repeat(np.arange(self.num_bins), sizes)
        return _bins(index, self._confidences, self._hits, self.num_bins)

    @property
    def ece_equal_width(self) -> float:
        """The expected calibration error, the mean gap between confidence and accuracy of a row's bin.

        References
        ----------
        M. P. Naeini, G. F. Cooper, M. Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning",
        AAAI 2015; C. Guo et al., "On calibration of modern neural networks", ICML 2017, equation 3.
        """
        return float(self.equal_width.error())

    @property
    def ece_equal_mass(self) -> float:
        """The same with as many rows in each bin.

        References
        ----------
        J. Nixon et al., "Measuring calibration in deep learning", 2019, arXiv:1904.01685.
        """
        return float(self.equal_mass.error())

    @property
    def ece_classwise(self) -> float:
        """The mean over the classes of the error of each class's own probability, over all rows.

        References
        ----------
        M. Kull et al., "Beyond temperature scaling", NeurIPS 2019; Nixon et al. call it the static calibration error.
        """
        return float(self._sums.by_class.error().mean())

    @property
    def mce(self) -> float:
        """The maximum calibration error: the largest gap of an equal-width bin (Naeini et al. 2015)."""
        return float(np.abs(self.equal_width.gaps).max())

    @cached_property
    def brier(self) -> BrierParts:
        """The mean Brier score, the sum over the classes of (p - Y)², and its parts.

        The parts are summed over the classes, each with its own equal-width bins. Reliability is the squared gap,
        0 where probabilities mean what they say; resolution is how far what happens in bins lies from what happens
        overall; uncertainty is the spread of the labels, which no head changes. `within_bins` is what binning
        leaves out: 0 where all probabilities of a bin are equal.

        References
        ----------
        G. W. Brier, "Verification of forecasts expressed in terms of probability", 1950. A. H. Murphy, "A new vector
        partition of the probability score", 1973. D. B. Stephenson, C. A. S. Coelho, I. T. Jolliffe, "Two extra
        components in the Brier score decomposition", 2008: the variance and covariance that `within_bins` is.
        """
        bins, rows = self._sums.by_class, self.rows
        counts = np.maximum(bins.counts, 1)
        rates = bins.hits.sum(axis=1) / rows
        reliability = float((bins.counts * np.square(bins.gaps)).sum() / rows)
        resolution = float((bins.counts * np.square(bins.hits / counts - rates[:, None])).sum() / rows)
        uncertainty = float((rates * (1 - rates)).sum())
        score = self._sums.brier / rows
        return BrierParts(
            score, reliability, resolution, uncertainty, score - (reliability - resolution + uncertainty)
        )

    @cached_property
    def per_class(self) -> PerClass:
        """Precision, recall and their harmonic mean, class by class."""
        rows, predicted, right = (
            np.bincount(classes, minlength=self.num_classes)
            for classes in (self._labels, self._predicted, self._labels[self._hits])
        )
        with np.errstate(invalid="ignore"):  # NaN is what is promised
            return PerClass(rows, predicted, right / predicted, right / rows, 2 * right / (rows + predicted))

    def confusion(self) -> IndexArray:
        """How many rows of each label (first axis) were predicted as each class, [num_classes, num_classes]."""
        matrix = np.zeros((self.num_classes, self.num_classes), np.int64)
        np.add.at(matrix, (self._labels, self._predicted), 1)
        return matrix

    def confused(self) -> list[tuple[int, int, int]]:
        """The label, the predicted class and the number of rows of each mistake, the most frequent first."""
        wrong = np.stack([self._labels[~self._hits], self._predicted[~self._hits]], axis=1)
        pairs, counts = np.unique(wrong, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return [(int(pairs[i, 0]), int(pairs[i, 1]), int(counts[i])) for i in order]


def ranks_of(normalised: Normalised, labels: IndexArray) -> IndexArray:
    """How many classes come before the label in each row."""
    logits = normalised.logits
    own = logits[np.arange(len(labels)), labels][:, None]
    before = (logits == own) & (np.arange(logits.shape[1]) < labels[:, None])
    return cast("IndexArray", np.count_nonzero((logits > own) | before, axis=1))


def _bin_classes(probabilities: Float64Array, labels: IndexArray, num_bins: int) -> Bins:
    num_classes = probabilities.shape[1]
    index = bin_index(probabilities, num_bins) + np.arange(num_classes) * num_bins
    hits = np.zeros(probabilities.shape, np.bool_)
    hits[np.arange(len(labels)), labels] = True
    flat = _bins(index.ravel(), probabilities.ravel(), hits.ravel(), num_classes * num_bins)
    shape = num_classes, num_bins
    return Bins(flat.counts.reshape(shape), flat.probabilities.reshape(shape), flat.hits.reshape(shape))


def bin_index(probabilities: Float64Array, num_bins: int) -> IndexArray:
    """The bin of each: (m/M, (m+1)/M] is m, 0 is in the first; edges are the quotients in float64."""
    edges = np.arange(1, num_bins) / num_bins
    return np.searchsorted(edges, probabilities, side="left")


def _bins(index: IndexArray, probabilities: Float64Array, hits: NDArray[np.bool_], num_bins: int) -> Bins:
    return Bins(
        np.bincount(index, minlength=num_bins),
        np.bincount(index, probabilities, num_bins).astype(np.float64, copy=False),
        np.bincount(index, hits, num_bins).astype(np.float64, copy=False),
    )
