"""The finishing step: logits and labels -> the outputs that were asked for, and nothing else.

The one place where logits become probabilities and a loss is taken. Pure: where the logits come from, and
when this runs, is not known here.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from service.errors import MAX_OFFENCES, Invalid, Offence
from service.heads.engine import NonFiniteLogits
from service.heads.handle import Head
from service.numeric import calibration, decisions, losses, softmax
from service.numeric.checks import all_finite
from service.types import Calibration, FloatArray, Labels, Output, ScoreRequest


def finish(request: ScoreRequest, raw_logits: FloatArray, head: Head | None = None) -> dict[str, Output]:
    """Make the outputs that `request` names, in its order.

    Raises `Invalid` with `infinite_loss`, or `not_linear` where the head cannot say what contributed.
    """
    step = _Finish(request, raw_logits, head)
    outputs: dict[str, Output] = {}
    for name in request.outputs:
        if name == "contributions":
            outputs["contributions.features"], outputs["contributions.values"] = step.contributions
        else:
            outputs[name] = OUTPUTS[name](step)
    return outputs


def calibrate(logits: FloatArray, by: Calibration | None) -> tuple[FloatArray, float]:
    """Give the logits that softmax takes, and their temperature.

    Raises `NonFiniteLogits` where a float64 head's logits overflow; float32 ones have room.
    """
    calibrated, temperature = calibration.apply(logits, by)
    if logits.dtype == np.float64 and calibrated is not logits and not all_finite(calibrated):
        rows = np.isfinite(calibrated).all(axis=-1)
        raise NonFiniteLogits(int(np.argmin(rows)), rows.shape)
    return calibrated, temperature


def names_of(names: Sequence[str], classes: NDArray[np.int64]) -> Output:
    """Name classes of any shape, as nested lists."""
    # Not as numpy's text, which gives every name the room of the longest.
    named = np.asarray(names, np.object_)
    found: Output = named[classes].tolist() if classes.ndim else named[int(classes)]
    return found


class _Finish:
    """One request's logits and what is made of them, each intermediate once, when an output first asks.

    Parameters
    ----------
    request : ScoreRequest
    raw_logits : float array […, num_classes, …]
        The request's own logits, or the head's output in the head's dtype.
    head : Head or None
        What explains its own logits.
    """

    def __init__(self, request: ScoreRequest, raw_logits: FloatArray, head: Head | None) -> None:
        self.request = request
        self.raw_logits = raw_logits
        self._head = head

    @cached_property
    def calibrated(self) -> tuple[FloatArray, float]:
        logits = cast("FloatArray", self.raw_logits.astype(self.request.dtype, copy=False))
        if self.request.calibration is None:
            return logits, self.request.temperature
        return calibrate(logits, self.request.calibration)

    @cached_property
    def normalised(self) -> softmax.Normalised:
        return softmax.normalise(
            self.calibrated[0],
            self.request.axis,
            self.calibrated[1],
            self.request.dtype,
            with_logarithms="log_probabilities" in self.request.outputs,
            with_others=self.request.labels is not None,
        )

    @property
    def classes(self) -> NDArray[np.int64]:
        return self.normalised.classes

    @cached_property
    def top_classes(self) -> NDArray[np.int64]:
        return softmax.top_k(self.calibrated[0], self.request.top_k or 1, self.request.axis)

    @property
    def labels(self) -> Labels:
        assert self.request.labels is not None  # noqa: S101 - assemble refuses these outputs without labels
        return self.request.labels

    @cached_property
    def losses(self) -> losses.Losses:
        found = losses.losses_of(self.normalised, self.labels)
        self._refuse_infinite("losses", found.losses)
        if found.loss is not None:
            self._refuse_infinite("loss", np.asarray(found.loss))
        return found

    @cached_property
    def gradient(self) -> FloatArray:
        gradient = losses.gradient(self.normalised, self.labels)
        by = self.request.calibration
        if by is not None and by.scale is not None:  # with respect to the logits before they were scaled
            with np.errstate(over="ignore", invalid="ignore"):  # infinity is refused, 0 is mended
                gradient = cast("FloatArray", (gradient * by.scale).astype(gradient.dtype))
            gradient[..., by.scale == 0] = 0.0
        self._refuse_infinite("gradient", gradient)
        return gradient

    @cached_property
    def contributions(self) -> tuple[NDArray[np.int64], FloatArray]:
        assert self._head is not None  # noqa: S101 - assemble lets only heads have this output
        request = self.request
        return self._head.contributions(request.values, self.classes, request.top_contributions)

    @cached_property
    def adjusted(self) -> NDArray[np.float64]:
        """The probabilities that a decision goes by; zeros where the mask leaves nothing of a row."""
        assert self.request.decision is not None  # noqa: S101 - assemble refuses these outputs without one
        logits, temperature = self.calibrated
        exact = softmax.normalise(
            cast("FloatArray", logits.astype(np.float64)),
            self.request.axis,
            temperature,
            with_logarithms=True,
            with_others=False,
        )
        logarithms = cast("NDArray[np.float64]", exact.log_probabilities())
        moved = decisions.adjusted_logits(logarithms, self.request.decision)
        empty = np.isneginf(moved).all(axis=-1, keepdims=True)
        adjusted = np.asarray(softmax.softmax(np.where(empty, 0.0, moved)), np.float64)
        return np.where(empty, 0.0, adjusted)

    @cached_property
    def decided(self) -> decisions.Decided:
        assert self.request.decision is not None  # noqa: S101 - as above
        return decisions.decide(self.adjusted, self.request.decision)

    def decided_names(self) -> Output:
        """Name what was decided on; the last name, which is empty, is that of no decision."""
        return names_of([*(self.request.class_names or ()), ""], self.decided.classes)

    def names(self, classes: NDArray[np.int64]) -> Output:
        return names_of(self.request.class_names or (), classes)

    def _refuse_infinite(self, name: str, values: NDArray[np.generic]) -> None:
        if self.labels.non_finite == "string" or np.isfinite(values).all():
            return
        message = (
            "expected a finite loss, got infinity: a label has weight on a class whose probability is 0; "
            'with "non_finite": "string" the answer has the string "Infinity" there'
        )
        places = np.argwhere(~np.isfinite(values))[:MAX_OFFENCES].tolist()
        offences = [Offence(name + "".join(f"[{i}]" for i in place), message) for place in places]
        raise Invalid("infinite_loss", message, offences=offences)


OUTPUTS: dict[str, Callable[[_Finish], Output]] = {
    "probabilities": lambda f: f.normalised.probabilities(),
    "log_probabilities": lambda f: f.normalised.log_probabilities(),
    "classes": lambda f: f.classes,
    "predicted_names": lambda f: f.names(f.classes),
    "one_hot": lambda f: softmax.one_hot(
        f.classes, f.raw_logits.shape[f.request.axis], f.request.axis, f.request.dtype
    ),
    "entropy": lambda f: f.normalised.entropy(),
    "top_classes": lambda f: f.top_classes,
    "top_probabilities": lambda f: np.take_along_axis(
        f.normalised.probabilities(), f.top_classes, f.request.axis
    ),
    "top_names": lambda f: f.names(f.top_classes),
    # An array, so that float32 is written with float32's digits, as its losses are.
    "loss": lambda f: None if f.losses.loss is None else np.asarray(f.losses.loss, f.request.dtype),
    "losses": lambda f: f.losses.losses,
    "count": lambda f: f.losses.count,
    "accuracy": lambda f: losses.accuracy(f.normalised, f.labels),
    "brier": lambda f: losses.brier(f.normalised, f.labels),
    "gradient": lambda f: f.gradient,
    "logits": lambda f: f.raw_logits,
    "decisions": lambda f: f.decided.classes,
    "decided_names": lambda f: f.decided_names(),
    "expected_costs": lambda f: cast("NDArray[np.float64]", f.decided.expected_costs).astype(f.request.dtype),
    "adjusted_probabilities": lambda f: f.adjusted.astype(f.request.dtype),
}
