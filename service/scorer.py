"""The core: score(ScoreRequest) -> ScoreResult.

It picks the head, lets what waits run together, and hands the logits to the finishing step. It knows arrays
and heads; it knows no bytes, no HTTP and no settings.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar, cast

from numpy.typing import NDArray

from service.errors import DeadlineExceeded, TooLarge
from service.finishing import finish, names_of
from service.heads.batcher import Batched
from service.heads.engine import NonFiniteLogits
from service.heads.handle import Head
from service.heads.repository import Repository
from service.lanes import INLINE_COST, LOGITS, BatchLimits, Lanes
from service.outcomes import Deliver, Gone, awaited, gathered, never
from service.types import Features, FloatArray, HeadInfo, Output, ScoreRequest, ScoreResult, SparseRows

__all__ = ["INLINE_COST", "BatchLimits", "Scorer"]

T = TypeVar("T")

DEFAULT_LIMITS = BatchLimits()


class Scorer:
    """Scores requests: cheap ones on the event loop, dear ones in a thread beside it, heads in batches.

    `observe_batch` hears of which model and version how many rows ran together, each time some did; `saw` of the
    logits of every batch; `answered` of each request with labels that are to be judged by and of its logits, before its answer is there.
    """

    def __init__(
        self,
        repository: Repository,
        limits: BatchLimits = DEFAULT_LIMITS,
        observe_batch: Callable[[str, str, int], None] = lambda _model, _version, _rows: None,
        *,
        saw: Callable[[HeadInfo, FloatArray], None] | None = None,
        answered: Callable[[ScoreRequest, FloatArray], None] | None = None,
    ) -> None:
        self._repository = repository
        self.head_info: Callable[[str | None, str | None], HeadInfo] = repository.info
        self._limits = limits
        # Hears of requests to heads once they are on their way, while anybody wants to.
        self.observe_request: Callable[[ScoreRequest], None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scorer")
        self._lanes = Lanes(repository, limits, observe_batch, saw)
        self._answered = answered

    @property
    def queue_rows(self) -> int:
        return sum(batcher.queue_rows for batcher in self._lanes.batchers())

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
            self.run(request.values.size, deadline_s, deliver, self._finish, request, time.monotonic())
            return
        try:
            rows = request.values
            head = self._repository.head(request.head)
            if (sparse := isinstance(rows, SparseRows)) and not self._is_known(head, rows):
                again = partial(self._begin_again, partial(self.begin, request), deadline_s, deliver, gone)
                self.offload(deadline_s, again, head.is_linear)
                return
            plain = (
                request.labels is None  # which are held against logits, whatever is answered
                and request.temperature == 1
                and request.dtype == request.head.dtype
                and request.calibration is request.head.calibration
            )
            lane = self._lanes.find(head, request.outputs if plain else LOGITS, sparse=sparse)
            batched = self._batched(request, head, deadline_s, deliver, lane.names)
            lane.batcher.enter(_flat(request), deadline_s, batched, gone)
            if self.observe_request is not None:
                self.observe_request(request)
        except Exception as error:  # noqa: BLE001 - it is the outcome
            deliver(error)

    def begin_each(
        self,
        requests: tuple[ScoreRequest, ...],
        deadline_s: float,
        deliver: Deliver[tuple[ScoreResult, ...]],
        gone: Gone = never,
    ) -> None:
        """Deliver what each of several requests names, each to another head and all about the same features.

        Small linear heads of one dtype are scored by one product, the others beside it. Fails as `begin` does,
        with what the first of them fails with.
        """
        try:
            heads = [self._repository.head(cast("HeadInfo", request.head)) for request in requests]
            unready = self._lanes.unready(heads)
            if unready is not None:
                again = partial(
                    self._begin_again, partial(self.begin_each, requests), deadline_s, deliver, gone
                )
                self.offload(deadline_s, again, unready)
                return
        except Exception as error:  # noqa: BLE001 - it is the outcome
            deliver(error)
            return
        shares = gathered(len(requests), deliver)
        left = set(range(len(requests)))
        sparse = type(requests[0].values) is SparseRows
        for places, batcher in self._lanes.joined(heads, sparse=sparse):
            left.difference_update(places)
            batched = [
                self._batched(requests[place], heads[place], deadline_s, shares[place], LOGITS)
                for place in places
            ]
            try:
                batcher.enter(_flat(requests[places[0]]), deadline_s, partial(_divide, batched), gone)
                if self.observe_request is not None:
                    for place in places:
                        self.observe_request(requests[place])
            except Exception as error:  # noqa: BLE001 - it is the outcome
                _divide(batched, error)
        for place in sorted(left):
            self.begin(requests[place], deadline_s, shares[place], gone)

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
        self._lanes.release()

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        for batcher in self._lanes.batchers():
            batcher.close()

    def _is_known(self, head: Head, rows: SparseRows) -> bool:
        """Whether it is known how sparse rows will be run; `TooLarge` where they need too many zeros for it."""
        if not head.is_read:
            return False
        numbers = math.prod(rows.shape)
        if numbers > self._limits.elements and not head.is_linear():
            message = (
                f"expected at most {self._limits.elements} numbers (LOGITSERVE_ELEMENTS_LIMIT) with the zeros, "
                f"since the head is not linear, got {numbers}"
            )
            raise TooLarge("elements_too_many", message, path="features")
        return True

    def _begin_again(
        self,
        begin: Callable[[float, Deliver[T], Gone], None],
        deadline_s: float,
        deliver: Deliver[T],
        gone: Gone,
        outcome: object,
    ) -> None:
        """Begin once what was needed for it is there."""
        if isinstance(outcome, Exception):
            deliver(outcome)
        else:
            begin(deadline_s, deliver, gone)

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
                self.run(
                    logits.size, deadline_s, deliver, self._finish_batched, request, outcome, logits, head
                )

        return batched

    def _finish_batched(
        self, request: ScoreRequest, batched: Batched, logits: FloatArray, head: Head
    ) -> ScoreResult:
        result = _result(request, batched, finish(request, logits, head))
        if self._answered is not None and request.labels is not None and request.judged:
            self._answered(request, logits)
        return result

    def _finish(self, request: ScoreRequest, asked_s: float) -> ScoreResult:
        begun_s = time.monotonic()
        shape = request.values.shape
        rows = math.prod(shape[: request.axis] + shape[request.axis + 1 :])
        outputs = finish(request, request.dense)
        if self._answered is not None and request.labels is not None and request.judged:
            self._answered(request, request.dense)
        return ScoreResult(outputs, rows, batch_rows=rows, seconds_queued=begun_s - asked_s)


def _attempt(deadline_s: float, work: Callable[..., T], arguments: tuple[object, ...]) -> T | Exception:
    try:
        if time.monotonic() > deadline_s:
            raise DeadlineExceeded("deadline", "the time allowed passed before the work was begun")  # noqa: TRY301 - the outcome
        return work(*arguments)
    except Exception as error:  # noqa: BLE001 - it is the outcome
        return error


def _flat(request: ScoreRequest) -> Features:
    """Lay features out as rows."""
    rows = request.values
    return rows if rows.ndim == 2 else cast("FloatArray", request.dense.reshape(-1, rows.shape[-1]))


def _divide(shares: Sequence[Deliver[Batched]], outcome: Batched | Exception) -> None:
    """Give each head its own logits of a batch that was run for all of them, or what went wrong."""
    for place, deliver in enumerate(shares):
        if isinstance(outcome, Exception):
            deliver(outcome)
        else:
            deliver(outcome._replace(arrays=outcome.arrays[place : place + 1]))


def _plain_result(request: ScoreRequest, batched: Batched, names: tuple[str, ...]) -> ScoreResult:
    made: dict[str, NDArray[Any]] = dict(zip(names, batched.arrays, strict=True))
    batch_shape = request.values.shape[:-1]
    outputs: dict[str, Output] = {}
    for name in request.outputs:
        if name == "predicted_names":
            outputs[name] = names_of(request.class_names or (), made["classes"].reshape(batch_shape))
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
