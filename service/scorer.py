"""The core: score(ScoreRequest) -> ScoreResult.

It picks the head, lets what waits run together, and hands the logits to the finishing step. It knows arrays
and heads; it knows no bytes, no HTTP and no settings.
"""

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from service.errors import DeadlineExceeded
from service.finishing import calibrate, finish, names_of
from service.heads.batcher import Batched, Batcher
from service.heads.engine import NonFiniteLogits
from service.heads.handle import Head
from service.heads.repository import Repository
from service.numeric import softmax
from service.outcomes import Deliver, Gone, awaited, never
from service.types import FloatArray, HeadInfo, Output, ScoreRequest, ScoreResult

T = TypeVar("T")

# Costs are counted in numbers that a pass or two of arithmetic handles in about 10 ns each. Up to so many take
# under a millisecond, and handing them to a thread would cost more than it frees; above, other requests and the
# health checks must get a turn.
INLINE_COST = 1 << 16
# A multiplication of a head costs so much less than finishing one of its logits.
MULTIPLICATIONS_PER_LOGIT = 400

# What is made for a whole batch at once where a request changes nothing about it, such as the head's calibration;
# names are looked up by class.
BATCHED = ("probabilities", "classes", "log_probabilities", "logits")
LOGITS = ("logits",)


class BatchLimits(NamedTuple):
    """See `Batcher`; `queue_rows` is this worker's share."""

    batch_rows: int = 1024
    queue_rows: int = 1024**2
    delay_s: float = 0.0


DEFAULT_LIMITS = BatchLimits()


class _Lane(NamedTuple):
    """What waits for the same arrays of one head, named in the order in which they are answered."""

    batcher: Batcher
    names: tuple[str, ...]


class Scorer:
    """Scores requests: cheap ones on the event loop, dear ones in a thread beside it, heads in batches.

    `observe_batch` hears of which model and version how many rows ran together, each time some did.
    """

    def __init__(
        self,
        repository: Repository,
        limits: BatchLimits = DEFAULT_LIMITS,
        observe_batch: Callable[[str, str, int], None] = lambda _model, _version, _rows: None,
    ) -> None:
        self._repository = repository
        self.head_info: Callable[[str | None, str | None], HeadInfo] = repository.info
        self._limits = limits
        self._observe_batch = observe_batch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scorer")
        # Lanes belong to one loaded handle and go with it, so a batch never mixes versions; there are at most as
        # many as there are sets of arrays.
        self._lanes: dict[Head, dict[tuple[str, ...], _Lane]] = {}

    @property
    def queue_rows(self) -> int:
        return sum(batcher.queue_rows for batcher in self._batchers())

    async def score(self, request: ScoreRequest, deadline_s: float = math.inf) -> ScoreResult:
        """Answer what `request.outputs` names, or raise what `begin` would deliver."""
        return await awaited(partial(self.begin, request, deadline_s))

    def begin(
        self, request: ScoreRequest, deadline_s: float, deliver: Deliver[ScoreResult], gone: Gone = never
    ) -> None:
        """Deliver what `request.outputs` names.

        `deadline_s` is on the clock of `time.monotonic`; work whose deadline has passed is dropped before it
        is computed, with `DeadlineExceeded`, and so it is, with `Abandoned`, where `gone` says that nobody waits
        any more. Requests to a head fail with `NotReady` if its version has gone, and with `QueueFull` where
        too much waits for it.
        """
        if request.head is None:
            self.run(request.values.size, deadline_s, deliver, _finish, request, time.monotonic())
            return
        try:
            head = self._repository.head(request.head)
            lanes = self._lanes.get(head) or self._lanes_of(head)
            plain = (
                request.temperature == 1
                and request.dtype == request.head.dtype
                and request.calibration is request.head.calibration
            )
            lane = lanes.get(request.outputs) if plain else None
            lane = lane or self._lane(head, lanes, request.outputs if plain else LOGITS)
            batched = self._batched(request, head, deadline_s, deliver, lane.names)
            rows = request.values
            if rows.ndim != 2:
                rows = cast("FloatArray", rows.reshape(-1, rows.shape[-1]))
            lane.batcher.enter(rows, deadline_s, batched, gone)
        except Exception as error:  # noqa: BLE001 - it is the outcome
            deliver(error)

    def run(
        self, cost: float, deadline_s: float, deliver: Deliver[T], work: Callable[..., T], *arguments: object
    ) -> None:
        """Do `work`: here where it is cheap, else in the scoring thread, never after its deadline."""
        if cost <= INLINE_COST:
            deliver(_attempt(deadline_s, work, arguments))
        else:
            self.offload(deadline_s, deliver, work, *arguments)

    def offload(
        self, deadline_s: float, deliver: Deliver[T], work: Callable[..., T], *arguments: object
    ) -> None:
        """Do `work` in the scoring thread, but not after its deadline."""
        loop = asyncio.get_running_loop()

        def deliver_from_thread(done: Future[T | Exception]) -> None:
            if not done.cancelled():  # by `close`, when nobody is left to hear of it
                loop.call_soon_threadsafe(deliver, done.result())

        self._thread.submit(_attempt, deadline_s, work, arguments).add_done_callback(deliver_from_thread)

    def release(self) -> None:
        """Let go of the lanes of heads that serve no more; what waits in them is still answered."""
        for head in [head for head in self._lanes if not self._repository.holds(head)]:
            del self._lanes[head]

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        for batcher in self._batchers():
            batcher.close()

    def _batchers(self) -> set[Batcher]:
        return {lane.batcher for lanes in self._lanes.values() for lane in lanes.values()}

    def _batched(
        self,
        request: ScoreRequest,
        head: Head,
        deadline_s: float,
        deliver: Deliver[ScoreResult],
        names: tuple[str, ...],
    ) -> Deliver[Batched]:
        """Make what takes a request's share of a batch, arrays of these names, and finishes what they are not."""

        def batched(outcome: Batched | Exception) -> None:
            shape = request.values.shape[:-1]
            if isinstance(outcome, NonFiniteLogits):
                deliver(NonFiniteLogits(outcome.row, shape))
            elif isinstance(outcome, Exception):
                deliver(outcome)
            elif names == request.outputs and len(shape) == 1:  # as they are
                outputs: dict[str, Output] = dict(zip(names, outcome.arrays, strict=True))
                deliver(
                    ScoreResult(outputs, shape[0], request.head, outcome.batch_rows, outcome.seconds_queued)
                )
            elif names != LOGITS:
                deliver(_attempt(math.inf, _plain_result, (request, outcome, names)))
            else:
                logits = cast("FloatArray", outcome.arrays[0].reshape(*shape, head.info.num_classes))
                self.run(logits.size, deadline_s, deliver, _finish_batched, request, outcome, logits, head)

        return batched

    def _lanes_of(self, head: Head) -> dict[tuple[str, ...], _Lane]:
        """Begin the lanes of a head, and drop those of heads that serve no more."""
        self.release()
        return self._lanes.setdefault(head, {})

    def _lane(self, head: Head, lanes: dict[tuple[str, ...], _Lane], outputs: tuple[str, ...]) -> _Lane:
        """Find the lane whose batches hold what these outputs are made of: all requests of one share it."""
        wanted = {"classes" if name == "predicted_names" else name for name in outputs}
        names = tuple(name for name in BATCHED if name in wanted) if wanted.issubset(BATCHED) else LOGITS
        lane = lanes.get(names)
        if lane is None:
            lane = lanes[names] = _Lane(self._batcher(head, names), names)
        if names != LOGITS:  # in any order, and with names
            lanes[outputs] = lane
        return lane

    def _batcher(self, head: Head, names: tuple[str, ...]) -> Batcher:
        info, limits = head.info, self._limits
        row_cost = info.num_classes * (1 + info.num_features / MULTIPLICATIONS_PER_LOGIT)

        return Batcher(
            partial(_run_head, head, names),
            observe=partial(self._observe_batch, info.model, info.version),
            inline_rows=int(INLINE_COST / row_cost),
            max_batch_rows=limits.batch_rows,
            max_queue_rows=limits.queue_rows,
            delay_s=limits.delay_s,
        )


def _attempt(deadline_s: float, work: Callable[..., T], arguments: tuple[object, ...]) -> T | Exception:
    try:
        if time.monotonic() > deadline_s:
            raise DeadlineExceeded("deadline", "the time allowed passed before the work was begun")  # noqa: TRY301 - the outcome
        return work(*arguments)
    except Exception as error:  # noqa: BLE001 - it is the outcome
        return error


def _run_head(head: Head, names: tuple[str, ...], rows: FloatArray) -> tuple[NDArray[np.generic], ...]:
    logits = head.run(rows)
    if names == LOGITS:
        return (logits,)
    calibrated, temperature = calibrate(logits, head.info.calibration)
    normalised = softmax.normalise(
        calibrated, temperature=temperature, dtype=logits.dtype, with_logarithms="log_probabilities" in names
    )
    return tuple(logits if name == "logits" else _NORMALISED[name](normalised) for name in names)


_NORMALISED: dict[str, Callable[[softmax.Normalised], NDArray[np.generic]]] = {
    "probabilities": softmax.Normalised.probabilities,
    "classes": lambda normalised: normalised.classes,
    "log_probabilities": softmax.Normalised.log_probabilities,
}


def _plain_result(request: ScoreRequest, batched: Batched, names: tuple[str, ...]) -> ScoreResult:
    made: dict[str, NDArray[Any]] = dict(zip(names, batched.arrays, strict=True))
    batch_shape = request.values.shape[:-1]
    outputs: dict[str, Output] = {}
    for name in request.outputs:
        if name == "predicted_names":
            outputs[name] = names_of(request, made["classes"].reshape(batch_shape))
        elif name == "classes":
            outputs[name] = made[name].reshape(batch_shape)
        else:
            outputs[name] = made[name].reshape(*batch_shape, made[name].shape[-1])
    return _result(request, batched, outputs)


def _result(request: ScoreRequest, batched: Batched, outputs: dict[str, Output]) -> ScoreResult:
    return ScoreResult(
        outputs,
        rows=math.prod(request.values.shape[:-1]),
        head=request.head,
        batch_rows=batched.batch_rows,
        seconds_queued=batched.seconds_queued,
    )


def _finish_batched(request: ScoreRequest, batched: Batched, logits: FloatArray, head: Head) -> ScoreResult:
    return _result(request, batched, finish(request, logits, head))


def _finish(request: ScoreRequest, asked_s: float) -> ScoreResult:
    begun_s = time.monotonic()
    shape = request.values.shape
    rows = math.prod(shape[: request.axis] + shape[request.axis + 1 :])
    outputs = finish(request, request.values)
    return ScoreResult(outputs, rows, batch_rows=rows, seconds_queued=begun_s - asked_s)
