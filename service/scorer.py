"""The core: score(ScoreRequest) -> ScoreResult.

It picks the head, lets what waits run together, and hands the logits to the finishing step. It knows arrays
and heads; it knows no bytes, no HTTP and no settings.
"""

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from service.errors import DeadlineExceeded
from service.finishing import finish, names_of
from service.heads.batcher import Batched, Batcher
from service.heads.engine import NonFiniteLogits
from service.heads.repository import Head, Repository
from service.numeric import softmax
from service.types import FloatArray, HeadInfo, Output, ScoreRequest, ScoreResult

T = TypeVar("T")

# Up to so many numbers (or bytes of text), at about 10 ns each, work takes under a millisecond, and handing
# it to a thread would cost more than it frees; above, other requests and the health checks must get a turn.
INLINE_COST = 1 << 16
# A multiplication of a head costs so much less than finishing one of its logits.
MULTIPLICATIONS_PER_LOGIT = 400

# What a request asks for when it says nothing: made once for a whole batch.
PLAIN_OUTPUTS = frozenset({"probabilities", "classes", "predicted_names"})


class BatchLimits(NamedTuple):
    """See `Batcher`; `queue_rows` is this worker's share."""

    batch_rows: int = 1024
    queue_rows: int = 1024**2
    delay_s: float = 0.0


DEFAULT_LIMITS = BatchLimits()


class _Lanes(NamedTuple):
    """A head's two batchers: requests with options of their own share logits, all others everything."""

    plain: Batcher
    logits: Batcher


class Scorer:
    """Scores requests: cheap ones on the event loop, dear ones in a thread beside it, heads in batches.

    `observe_batch` hears how many rows ran together, each time some did.
    """

    def __init__(
        self,
        repository: Repository,
        limits: BatchLimits = DEFAULT_LIMITS,
        observe_batch: Callable[[int], None] = lambda _rows: None,
    ) -> None:
        self._repository = repository
        self._limits = limits
        self._observe_batch = observe_batch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scorer")
        # A batcher belongs to one loaded handle and goes with it, so a batch never mixes versions.
        self._lanes: WeakKeyDictionary[Head, _Lanes] = WeakKeyDictionary()

    @property
    def queue_rows(self) -> int:
        return sum(lane.queue_rows for lanes in self._lanes.values() for lane in lanes)

    def head_info(self, model: str | None, version: str | None) -> HeadInfo:
        return self._repository.info(model, version)

    async def score(self, request: ScoreRequest, deadline_s: float = math.inf) -> ScoreResult:
        """Answer what `request.outputs` names.

        `deadline_s` is on the clock of `time.monotonic`; work whose deadline has passed is dropped before it
        is computed, with `DeadlineExceeded`. Requests to a head raise `NotReady` if its version has gone, and
        `QueueFull` where too much waits for it.
        """
        asked_s = time.monotonic()
        if request.head is not None:
            return await self._predict(request, request.head, deadline_s)
        outputs, begun_s = await self.run(request.values.size, deadline_s, _timed_finish, request)
        shape = request.values.shape
        rows = math.prod(shape[: request.axis] + shape[request.axis + 1 :])
        return ScoreResult(
            outputs=outputs,
            rows=rows,
            batch_rows=rows,
            seconds_queued=begun_s - asked_s,
        )

    async def run(self, cost: int, deadline_s: float, work: Callable[..., T], *arguments: object) -> T:
        """Do `work`: here where it is cheap, else in the scoring thread, never after its deadline."""

        def in_time() -> T:
            if time.monotonic() > deadline_s:
                raise DeadlineExceeded("deadline", "the time allowed passed before the work was begun")
            return work(*arguments)

        if cost <= INLINE_COST:
            return in_time()
        return await asyncio.get_running_loop().run_in_executor(self._thread, in_time)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        for lanes in self._lanes.values():
            for lane in lanes:
                lane.close()

    async def _predict(self, request: ScoreRequest, info: HeadInfo, deadline_s: float) -> ScoreResult:
        head = self._repository.head(info)
        batch_shape = request.values.shape[:-1]
        lanes = self._lanes_of(head)
        plain = (
            PLAIN_OUTPUTS.issuperset(request.outputs)
            and request.temperature == 1
            and request.dtype == info.dtype
        )
        batched = await _submit(lanes.plain if plain else lanes.logits, request, deadline_s)
        if plain:
            outputs = _plain_outputs(request, batched)
        else:
            logits = cast("FloatArray", batched.arrays[0].reshape(*batch_shape, info.num_classes))
            outputs = await self.run(logits.size, deadline_s, finish, request, logits, head)
        return ScoreResult(
            outputs=outputs,
            rows=math.prod(batch_shape),
            batch_rows=batched.batch_rows,
            head=info,
            seconds_queued=batched.seconds_queued,
        )

    def _lanes_of(self, head: Head) -> _Lanes:
        lanes = self._lanes.get(head)
        if lanes is None:
            lanes = self._lanes[head] = _Lanes(self._batcher(head, _plain), self._batcher(head, _logits))
        return lanes

    def _batcher(
        self, head: Head, function: Callable[[Head, FloatArray], tuple[NDArray[np.generic], ...]]
    ) -> Batcher:
        info, limits = head.info, self._limits
        row_cost = info.num_classes * (1 + info.num_features / MULTIPLICATIONS_PER_LOGIT)

        return Batcher(
            partial(function, head),
            observe=self._observe_batch,
            inline_rows=int(INLINE_COST / row_cost),
            max_batch_rows=limits.batch_rows,
            max_queue_rows=limits.queue_rows,
            delay_s=limits.delay_s,
        )


def _plain(head: Head, rows: FloatArray) -> tuple[NDArray[np.generic], ...]:
    normalised = softmax.normalise(head.run(rows))
    return normalised.probabilities(), normalised.classes


def _logits(head: Head, rows: FloatArray) -> tuple[NDArray[np.generic], ...]:
    return (head.run(rows),)


def _plain_outputs(request: ScoreRequest, batched: Batched) -> dict[str, Output]:
    batch_shape = request.values.shape[:-1]
    probabilities, classes = batched.arrays
    made: dict[str, Output] = {}
    for name in request.outputs:
        if name == "probabilities":
            made[name] = probabilities.reshape(*batch_shape, -1)
        elif name == "classes":
            made[name] = classes.reshape(batch_shape)
        else:
            made[name] = names_of(request, classes.reshape(batch_shape))
    return made


async def _submit(lane: Batcher, request: ScoreRequest, deadline_s: float) -> Batched:
    rows = request.values.reshape(-1, request.values.shape[-1])
    try:
        return await lane.submit(rows, deadline_s)
    except NonFiniteLogits as error:
        raise NonFiniteLogits(error.row, request.values.shape[:-1]) from None


def _timed_finish(request: ScoreRequest) -> tuple[dict[str, Output], float]:
    begun_s = time.monotonic()
    return finish(request, request.values), begun_s
