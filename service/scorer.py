"""The core: score(ScoreRequest) -> ScoreResult.

The one place where features become logits, logits become probabilities and a loss is taken. It knows
arrays and heads; it knows no bytes, no HTTP and no settings.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from service.errors import MAX_OFFENCES, DeadlineExceeded, Invalid, Offence
from service.heads.repository import Head, Repository
from service.numeric import losses, softmax
from service.types import FloatArray, HeadInfo, Labels, Output, ScoreRequest, ScoreResult

T = TypeVar("T")

# Below this many numbers (or bytes of text) work takes under a millisecond or so, and handing it to a
# thread would cost more than it frees; above, other requests and the health checks must get their turn.
INLINE_COST = 1 << 16


class Scorer:
    """Scores requests: cheap ones at once on the event loop, dear ones in one thread beside it."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scorer")

    def head_info(self, model: str | None, version: str | None) -> HeadInfo:
        return self._repository.info(model, version)

    async def score(self, request: ScoreRequest, deadline_s: float | None = None) -> ScoreResult:
        """Answer what `request.outputs` names.

        `deadline_s` is on the clock of `time.monotonic`; work whose deadline has passed is dropped before it
        is computed, with `DeadlineExceeded`. A request to a head raises `NotReady` or `NotFound` if its
        version has gone.
        """
        asked_s = time.monotonic()
        return await self.run(request.values.size, deadline_s, self._score, request, asked_s)

    async def run(self, cost: int, deadline_s: float | None, work: Callable[..., T], *arguments: object) -> T:
        """Do `work`: here where it is cheap, else in the scoring thread, never after its deadline."""

        def in_time() -> T:
            if deadline_s is not None and time.monotonic() > deadline_s:
                raise DeadlineExceeded("deadline", "the time allowed passed before the work was begun")
            return work(*arguments)

        if cost <= INLINE_COST:
            return in_time()
        return await asyncio.get_running_loop().run_in_executor(self._thread, in_time)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _score(self, request: ScoreRequest, asked_s: float) -> ScoreResult:
        begun_s = time.monotonic()
        finish = Finish(request, self._repository)
        outputs: dict[str, Output] = {}
        for name in request.outputs:
            if name == "contributions":
                outputs["contributions.features"], outputs["contributions.values"] = finish.contributions
            else:
                outputs[name] = OUTPUTS[name](finish)
        return ScoreResult(
            outputs=outputs,
            rows=finish.rows,
            head=request.head,
            seconds_queued=begun_s - asked_s,
            seconds_inferring=time.monotonic() - begun_s,
        )


class Finish:
    """The finishing step of one request; each intermediate is made once, when an output first asks for it."""

    def __init__(self, request: ScoreRequest, repository: Repository) -> None:
        self.request = request
        self._repository = repository
        shape = request.values.shape
        self.rows = int(np.prod(shape[: request.axis] + shape[request.axis + 1 :]))

    @cached_property
    def head_logits(self) -> FloatArray:
        """The head's raw output `[…, num_classes]`, in the head's dtype."""
        return self._head.run(self.request.values)

    @cached_property
    def logits(self) -> FloatArray:
        if self.request.head is None:
            return self.request.values
        return cast("FloatArray", self.head_logits.astype(self.request.dtype, copy=False))

    @cached_property
    def normalised(self) -> softmax.Normalised:
        return softmax.normalise(self.logits, self.request.axis, self.request.temperature)

    @property
    def classes(self) -> NDArray[np.int64]:
        return self.normalised.classes

    @cached_property
    def top_classes(self) -> NDArray[np.int64]:
        return softmax.top_k(self.logits, self.request.top_k or 1, self.request.axis)

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
        self._refuse_infinite("gradient", gradient)
        return gradient

    @cached_property
    def contributions(self) -> tuple[NDArray[np.int64], FloatArray]:
        request = self.request
        return self._head.contributions(request.values, self.classes, request.top_contributions)

    @property
    def _head(self) -> Head:
        assert self.request.head is not None  # noqa: S101 - assemble lets only heads have these outputs
        return self._repository.head(self.request.head)

    def names(self, classes: NDArray[np.int64]) -> Output:
        names: Output = np.asarray(self.request.class_names, dtype=np.str_)[classes].tolist()
        return names

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


OUTPUTS: dict[str, Callable[[Finish], Output]] = {
    "probabilities": lambda f: f.normalised.probabilities(),
    "log_probabilities": lambda f: f.normalised.log_probabilities(),
    "classes": lambda f: f.classes,
    "predicted_names": lambda f: f.names(f.classes),
    "one_hot": lambda f: softmax.one_hot(
        f.classes, f.logits.shape[f.request.axis], f.request.axis, f.request.dtype
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
    "logits": lambda f: f.head_logits,
}
