"""Calibration: what makes a head's probabilities as sure as it is right, applied and fitted.

Temperature scaling divides all logits by one number, vector scaling multiplies each class's logits by a number of
its own and adds another. Both are fitted by minimising the log loss, which is convex in (1 / temperature) and in
(scale, bias): Newton's method finds the one minimum, within bounds that data without a minimum runs into. Knows
arrays; knows no head and no file.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from service.errors import Invalid
from service.numeric import checks, losses, softmax
from service.numeric.kernel import Float64Array, blocks
from service.types import Calibration, FloatArray, IndexArray, LabelFormat, Labels

# A temperature or a scale beyond e^4 and e^-4 says that the data have no minimum, not how sure the head is.
LARGEST_SCALE = float(np.exp(4.0))

# The norm of the gradient at which a fit is done, and how many steps it may take: Newton's method takes 5 to 20.
GRADIENT_TOLERANCE = 1e-10
MOST_STEPS = 100
# A step is damped until it lowers the loss by at least this share of what the gradient promises: from next to nothing,
# which keeps directions without any curvature, such as a bias for all classes, to steps along the gradient. In units
# in which no curvature exceeds 1.
DAMPINGS = 10.0 ** np.arange(-13, 9)
PROMISE_KEPT = 1e-4
# Near the minimum losses differ by their rounding alone, and the gradient says which is better.
LOSS_ROUNDING = 1e-14

# The curvature of vector scaling is a matrix of four times the squared classes: 128 MB for so many.
MOST_CLASSES = 2048

Watch: TypeAlias = Callable[[int, float], None]


class Fit(NamedTuple):
    """A calibration, and how good it is on the rows that it was fitted to.

    Parameters
    ----------
    calibration : Calibration
    rows : int
        How many rows had weight.
    loss_before, loss_after : float
        The mean log loss, in nats, without and with the calibration; the second is never the larger.
    gradient_norm : float
        Of the mean loss at the minimum, along the directions that bounds leave free.
    steps : int
        How many steps of Newton's method it took.
    at_bound : tuple of str
        Which numbers stand at their bound, such as `temperature` or `scale[3]`: the loss would fall further beyond it.
    """

    calibration: Calibration
    rows: int
    loss_before: float
    loss_after: float
    gradient_norm: float
    steps: int
    at_bound: tuple[str, ...]


def apply(logits: FloatArray, calibration: Calibration | None) -> tuple[FloatArray, float]:
    """Calibrate logits as far as softmax does not do it itself.

    Parameters
    ----------
    logits : float array [..., num_classes]
    calibration : Calibration or None

    Returns
    -------
    tuple of float array [..., num_classes] and float
        What softmax takes: logits, and the temperature to divide them by. With a scale they are float64, rounded
        twice each, and infinite or NaN where float64 cannot hold them.
    """
    if calibration is None:
        return logits, 1.0
    if calibration.scale is None:
        return logits, calibration.temperature
    with np.errstate(over="ignore", invalid="ignore"):  # as said above
        calibrated = logits.astype(np.float64)
        calibrated *= calibration.scale
        calibrated += 0.0 if calibration.bias is None else calibration.bias
    return calibrated, calibration.temperature


def fit_temperature(
    logits: FloatArray,
    labels: NDArray[Any],
    sample_weight: NDArray[Any] | None = None,
    watch: Watch = lambda _step, _gradient_norm: None,
) -> Fit:
    """Find the temperature whose log loss is the least.

    Parameters
    ----------
    logits : float array [rows, num_classes]
        Gone over in blocks, so that a memory-mapped file need not fit into memory. -infinity masks a class.
    labels : integer array [rows], or float array [rows, num_classes]
        Class indices, or target probabilities.
    sample_weight : array [rows], optional
        What each row counts in the mean; at least one is above 0.
    watch : callable
        Hears the number of the step and the norm of the gradient before each.

    Returns
    -------
    Fit
        The temperature lies within e^-4 and e^4. Where rows are right throughout it is the least, where logits say
        nothing of the labels the largest, and `at_bound` names it.

    Raises
    ------
    Invalid
        What `checks` refuses of logits, labels and weights; `infinite_loss` where a label is masked.

    References
    ----------
    C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural networks", ICML 2017.

    Examples
    --------
    Logits that are twice as sure as the labels bear out:

    >>> logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])
    >>> fit = fit_temperature(logits, np.array([0, 0, 0, 1]))
    >>> round(fit.calibration.temperature, 6)
    2.0
    """
    rows = _Rows.of(logits, labels, sample_weight)
    before, found = _fit_temperature(rows, watch)
    temperature = float(1 / found.place[0])
    at_bound = ("temperature",) if temperature in (1 / LARGEST_SCALE, 1 / (1 / LARGEST_SCALE)) else ()
    return _fit(Calibration(temperature), rows, before, found, at_bound)


def fit_vector(
    logits: FloatArray,
    labels: NDArray[Any],
    sample_weight: NDArray[Any] | None = None,
    watch: Watch = lambda _step, _gradient_norm: None,
) -> Fit:
    """Find the scale and the bias of each class whose log loss is the least.

    Parameters and errors are those of `fit_temperature`; logits are finite, and classes at most `MOST_CLASSES`. The
    predicted class of a row may change.

    Returns
    -------
    Fit
        Biases sum to 0, as adding one number to all of them changes nothing. Scales lie within -e^4 and e^4, biases
        within that times the largest logit.

    References
    ----------
    C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural networks", ICML 2017.
    D. P. Bertsekas, "Projected Newton methods for optimization problems with simple constraints", 1982: the bounds.
    """
    rows = _Rows.of(logits, labels, sample_weight)
    num_classes = logits.shape[1]
    if num_classes > MOST_CLASSES:
        message = f"vector scaling takes at most {MOST_CLASSES} classes, got {num_classes}: fit a temperature"
        raise Invalid("logits_type", message, path="logits")
    if any(np.isneginf(block).any() for block, _, _ in rows.blocks()):
        raise Invalid("non_finite_logits", "vector scaling takes finite logits, got -Infinity", path="logits")
    largest = rows.largest_logit()
    upper = np.repeat([LARGEST_SCALE, LARGEST_SCALE * max(1.0, largest)], num_classes)
    within = _Within(-upper, upper, np.repeat([largest, 1.0], num_classes))
    before = rows.by_vector(np.repeat([1.0, 0.0], num_classes))
    # Where logits are far too sure the loss has next to no curvature; at the best temperature it has.
    _, by_temperature = _fit_temperature(rows, watch=lambda _step, _norm: None)
    start = np.repeat([by_temperature.place[0], 0.0], num_classes)
    found = _minimise(rows.by_vector, start, rows.by_vector(start), within, watch)
    if found.at.loss > before.loss:  # by rounding
        start = np.repeat([1.0, 0.0], num_classes)
        found = _Minimum(start, before, within.norm(start, before), 0)
    scale, bias = found.place[:num_classes].copy(), found.place[num_classes:].copy()
    names = [f"{name}[{index}]" for name in ("scale", "bias") for index in range(num_classes)]
    at_bound = tuple(names[index] for index in np.flatnonzero(np.abs(found.place) == upper))
    return _fit(Calibration(1.0, scale, bias), rows, before, found, at_bound)


class _At(NamedTuple):
    """The mean loss at a place, its gradient [n] and its curvature [n, n]."""

    loss: float
    gradient: Float64Array
    curvature: Float64Array


class _Minimum(NamedTuple):
    place: Float64Array
    at: _At
    gradient_norm: float
    steps: int


class _Within(NamedTuple):
    """Bounds of a place, and units [n] in which no curvature exceeds 1."""

    lower: Float64Array
    upper: Float64Array
    units: Float64Array

    def free(self, place: Float64Array, at: _At) -> NDArray[np.bool_]:
        """Where no bound holds back what would lower the loss."""
        held = (place <= self.lower) & (at.gradient > 0) | (place >= self.upper) & (at.gradient < 0)
        return ~held

    def norm(self, place: Float64Array, at: _At) -> float:
        return float(np.linalg.norm(at.gradient[self.free(place, at)]))


_Step: TypeAlias = tuple[Float64Array, _At] | None


class _Rows(NamedTuple):
    """Labelled rows of logits, checked; `weight` sums to 1."""

    logits: FloatArray
    labels: IndexArray | FloatArray
    weight: Float64Array

    @classmethod
    def of(cls, logits: FloatArray, labels: NDArray[Any], sample_weight: NDArray[Any] | None) -> "_Rows":
        if logits.ndim != 2:
            raise Invalid(
                "rank", f"expected logits [rows, num_classes], got {logits.ndim} axes", path="logits"
            )
        _check_blocks(logits)
        checked: IndexArray | FloatArray
        if labels.ndim == 1:
            checked = checks.check_index_labels(labels, logits.shape, 1, ignore_index=None, squeeze=False)
        else:
            float64 = np.dtype(np.float64)
            checked = checks.check_dense_labels(
                labels, logits.shape, 1, float64, broadcast=False, validate=True
            )
        weight = np.ones(len(logits))
        if sample_weight is not None:
            shape = logits.shape[:1]
            weight = weight * checks.check_sample_weight(sample_weight, shape, np.dtype(np.float64))
        if not weight.any():
            raise Invalid("sample_weight_value", "expected a row with weight, got none", path="sample_weight")
        return cls(logits, checked, weight / weight.sum())

    def largest_logit(self) -> float:
        """Of those not masked, in magnitude."""
        largest = np.finfo(np.float64).tiny
        for logits, _, _ in self.blocks():
            largest = max(largest, np.abs(logits, where=logits > -np.inf, out=np.zeros_like(logits)).max())
        return float(largest)

    def blocks(self) -> Iterator[tuple[Float64Array, Labels, Float64Array]]:
        form: LabelFormat = "index" if self.labels.ndim == 1 else "dense"
        for rows in blocks(*self.logits.shape):
            logits = np.ascontiguousarray(self.logits[rows], np.float64)
            yield logits, Labels(self.labels[rows], form, "none"), self.weight[rows]

    def by_temperature(self, place: Float64Array) -> _At:
        """The loss by 1 / temperature, [1]."""
        loss, gradient, curvature = 0.0, 0.0, 0.0
        for logits, labels, weight in self.blocks():
            normalised = softmax.normalise(logits, temperature=1 / float(place[0]), with_others=True)
            probabilities = normalised.probabilities()
            loss += _weighed(weight, normalised, labels)
            # Of what is added to a whole row nothing depends; without it nothing cancels.
            spread = logits - logits.max(axis=1, keepdims=True)
            np.copyto(spread, 0.0, where=np.isneginf(spread))  # masked: there p is 0
            gradient += float(weight @ (_residual(probabilities, labels) * spread).sum(axis=1))
            mean = (probabilities * spread).sum(axis=1, keepdims=True)
            curvature += float(weight @ (probabilities * np.square(spread - mean)).sum(axis=1))
        return _At(loss, np.array([gradient]), np.array([[curvature]]))

    def by_vector(self, place: Float64Array) -> _At:
        """The loss by the scales and the biases, [2 num_classes]."""
        num_classes = self.logits.shape[1]
        calibration = Calibration(1.0, place[:num_classes], place[num_classes:])
        loss, gradient = 0.0, np.zeros(2 * num_classes)
        curvature = np.zeros((2 * num_classes, 2 * num_classes))
        # With p of a row and x its logits, the curvature is diag(p) - p pᵀ for biases, times x for each scale in it.
        diagonals = np.zeros((2, 2, num_classes))
        for logits, labels, weight in self.blocks():
            normalised = softmax.normalise(apply(logits, calibration)[0], with_others=True)
            probabilities = normalised.probabilities()
            loss += _weighed(weight, normalised, labels)
            residual = _residual(probabilities, labels)
            gradient += np.concatenate([weight @ (residual * logits), weight @ residual])
            products = np.concatenate([probabilities * logits, probabilities], axis=1)
            curvature -= products.T @ (products * weight[:, None])
            first = weight @ (probabilities * logits)
            diagonals += [
                [weight @ (probabilities * np.square(logits)), first],
                [first, weight @ probabilities],
            ]
        each = np.arange(num_classes)
        for row in (0, 1):
            for column in (0, 1):
                curvature[each + row * num_classes, each + column * num_classes] += diagonals[row, column]
        # One number added to all biases changes no loss: this keeps their sum at 0 where they begin.
        curvature[num_classes:, num_classes:] += 1 / num_classes
        return _At(loss, gradient, curvature)


def _check_blocks(logits: FloatArray) -> None:
    for rows in blocks(*logits.shape):
        try:
            checks.check_logits(logits[rows], 1)
        except Invalid:
            checks.check_logits(logits[: rows.stop], 1)  # counts rows from the first
            raise


def _weighed(weight: Float64Array, normalised: softmax.Normalised, labels: Labels) -> float:
    per_row = losses.losses_of(normalised, labels).losses.astype(np.float64, copy=False)
    counted = weight > 0
    if not np.isfinite(per_row[counted]).all():
        raise Invalid("infinite_loss", "expected finite losses, but a row's label is masked", path="labels")
    return float(weight[counted] @ per_row[counted])


def _residual(probabilities: FloatArray, labels: Labels) -> Float64Array:
    """Subtract the labels from the probabilities: p - Y."""
    if labels.format == "dense":
        return cast("Float64Array", probabilities - labels.values)
    residual = probabilities.astype(np.float64)
    residual[np.arange(len(residual)), cast("IndexArray", labels.values)] -= 1.0
    return residual


def _fit_temperature(rows: _Rows, watch: Watch) -> tuple[_At, _Minimum]:
    """Give the loss at the temperature 1, and the minimum by 1 / temperature."""
    lower, upper, one = np.array([1 / LARGEST_SCALE]), np.array([LARGEST_SCALE]), np.ones(1)
    before = rows.by_temperature(one)
    slope = before.gradient[0]
    if not slope:
        return before, _Minimum(one, before, 0.0, 0)
    # Downhill the gradient may vanish long before the bound is reached, so the bound comes first.
    bound = upper if slope < 0 else lower
    there = rows.by_temperature(bound)
    if there.gradient[0] * slope >= 0:
        return before, _Minimum(bound, there, 0.0, 0)
    within = _Within(lower, upper, np.array([2 * rows.largest_logit()]))
    found = _minimise(rows.by_temperature, one, before, within, watch)
    if found.at.loss > before.loss:  # by rounding
        return before, _Minimum(one, before, abs(slope), 0)
    return before, found


def _minimise(
    function: Callable[[Float64Array], _At], place: Float64Array, at: _At, within: _Within, watch: Watch
) -> _Minimum:
    """Minimise a convex function between bounds: Newton's method along what no bound holds back."""
    steps = 0
    while True:
        norm = within.norm(place, at)
        watch(steps, norm)
        better = None
        if norm > GRADIENT_TOLERANCE and steps < MOST_STEPS:
            better = _step(function, place, at, within)
        if better is None:
            return _Minimum(place, at, norm, steps)
        place, at = better
        steps += 1


def _step(function: Callable[[Float64Array], _At], place: Float64Array, at: _At, within: _Within) -> _Step:
    """Take the least damped step that lowers the loss as promised; None where rounding leaves nothing to gain."""
    free = within.free(place, at)
    curvature, gradient = at.curvature[np.ix_(free, free)], at.gradient[free]
    for damping in DAMPINGS:
        direction = np.zeros_like(place)
        direction[free] = np.linalg.solve(curvature + np.diag(damping * within.units[free] ** 2), -gradient)
        tried = np.clip(place + direction, within.lower, within.upper)
        there = function(tried)
        promised = float(at.gradient @ (tried - place))
        if there.loss < at.loss and there.loss <= at.loss + PROMISE_KEPT * min(0.0, promised):
            return tried, there
        close = there.loss <= at.loss + LOSS_ROUNDING * max(1.0, at.loss)
        if close and within.norm(tried, there) < 0.5 * within.norm(place, at):
            return tried, there
    return None


def _fit(
    calibration: Calibration, rows: _Rows, before: _At, found: _Minimum, at_bound: tuple[str, ...]
) -> Fit:
    counted = int(np.count_nonzero(rows.weight))
    return Fit(calibration, counted, before.loss, found.at.loss, found.gradient_norm, found.steps, at_bound)
