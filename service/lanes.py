"""What waits for heads: which batches there are, what runs in them, and where.

Requests share a batch where it holds what all of them are made of. It knows heads and arrays; it knows no request
and not what is made of the arrays.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from service.finishing import calibrate
from service.heads.batcher import Batcher
from service.heads.handle import Head
from service.heads.repository import Repository
from service.numeric import softmax
from service.types import Features, FloatArray, HeadInfo, SparseRows

Names: TypeAlias = tuple[str, ...]
Saw: TypeAlias = Callable[[HeadInfo, FloatArray], None] | None

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

# Heads of at most so many weights together, 4 MB in float32, are scored by one product, whose weights are held once
# more. With more of them the product itself takes the time, and side by side it takes no less.
JOINED_WEIGHTS = 1 << 20
# Callers choose which heads go together; the sets that come when there are so many run head by head.
JOINED_SETS = 16


class BatchLimits(NamedTuple):
    """See `Batcher`; `queue_rows` is this worker's share.

    `elements` is how many numbers sparse rows may have with their zeros, where a head needs those.
    """

    batch_rows: int = 1024
    queue_rows: int = 1024**2
    delay_s: float = 0.0
    elements: int = sys.maxsize


class Lane(NamedTuple):
    """What waits for the same arrays of one head, named in the order in which they are answered."""

    batcher: Batcher
    names: Names


class _Layouts(NamedTuple):
    """Dense rows do not stack with sparse ones."""

    dense: dict[Names, Lane]
    sparse: dict[Names, Lane]


class Lanes:
    """The lanes of all heads; `observe` hears of which model and version how many rows ran together.

    `saw` hears of the logits of every batch.
    """

    def __init__(
        self,
        repository: Repository,
        limits: BatchLimits,
        observe: Callable[[str, str, int], None],
        saw: Saw = None,
    ) -> None:
        self._repository = repository
        self._limits = limits
        self._observe = observe
        self._saw = saw
        # Lanes belong to loaded handles and go with them, so a batch never mixes versions; a head has at most as
        # many as there are sets of arrays.
        self._of: dict[Head, _Layouts] = {}
        self._joined: dict[tuple[Head, ...], tuple[Batcher, Batcher]] = {}

    def find(self, head: Head, outputs: Names, *, sparse: bool) -> Lane:
        """Find the lane whose batches hold what these outputs are made of: all requests of one share it."""
        layouts = self._of.get(head)
        if layouts is None:
            self.release()
            layouts = self._of[head] = _Layouts({}, {})
        lanes = layouts.sparse if sparse else layouts.dense
        return lanes.get(outputs) or self._begin(head, lanes, outputs, sparse=sparse)

    def unready(self, heads: Sequence[Head]) -> Callable[[], object] | None:
        """Return what must be done in a thread before it is known which of these heads are scored together."""
        unread = [head for head in heads if _weights_of(head) <= JOINED_WEIGHTS and not head.is_read]
        if unread:
            return lambda: [head.is_linear() for head in unread]
        for places in _groups(heads):
            together = tuple(heads[place] for place in places)
            if together not in self._joined and len(self._joined) < JOINED_SETS:
                return partial(self._join, together)
        return None

    def joined(self, heads: Sequence[Head], *, sparse: bool) -> Iterator[tuple[list[int], Batcher]]:
        """Find who is scored together: places among these heads, and the batcher that answers logits for each."""
        for places in _groups(heads):
            both = self._joined.get(tuple(heads[place] for place in places))
            if both is not None:
                yield places, both[sparse]

    def batchers(self) -> set[Batcher]:
        alone = {
            lane.batcher for layouts in self._of.values() for lanes in layouts for lane in lanes.values()
        }
        return alone.union(*self._joined.values())

    def release(self) -> None:
        """Let go of the lanes of heads that serve no more; what waits in them is still answered."""
        for head in [head for head in self._of if not self._repository.holds(head)]:
            del self._of[head]
        for heads in list(self._joined):  # another thread may add to it
            if not all(map(self._repository.holds, heads)):
                del self._joined[heads]

    def _begin(self, head: Head, lanes: dict[Names, Lane], outputs: Names, *, sparse: bool) -> Lane:
        wanted = {"classes" if name == "predicted_names" else name for name in outputs}
        names = tuple(name for name in BATCHED if name in wanted) if wanted.issubset(BATCHED) else LOGITS
        lane = lanes.get(names)
        if lane is None:
            observe = partial(self._observe, head.info.model, head.info.version)
            batcher = self._batcher(head, partial(_run, head, names, self._saw), observe, sparse=sparse)
            lane = lanes[names] = Lane(batcher, names)
        if names != LOGITS:  # in any order, and with names
            lanes[outputs] = lane
        return lane

    def _join(self, heads: tuple[Head, ...]) -> None:
        if heads in self._joined:
            return
        joined = self._repository.join(heads)
        run = partial(_run_joined, joined, [head.info for head in heads], self._saw)

        def observe(rows: int) -> None:
            for head in heads:
                self._observe(head.info.model, head.info.version, rows)

        self._joined[heads] = (
            self._batcher(joined, run, observe, sparse=False),
            self._batcher(joined, run, observe, sparse=True),
        )

    def _batcher(
        self,
        head: Head,
        function: Callable[[Features], tuple[NDArray[np.generic], ...]],
        observe: Callable[[int], None],
        *,
        sparse: bool,
    ) -> Batcher:
        info, limits = head.info, self._limits
        row_cost = info.num_classes * (1 + info.num_features / MULTIPLICATIONS_PER_LOGIT)

        def weigh(rows: SparseRows) -> float:
            cost = len(rows) * info.num_classes + head.cost(rows) / MULTIPLICATIONS_PER_LOGIT
            return cost / row_cost

        return Batcher(
            function,
            observe=observe,
            inline_rows=int(INLINE_COST / row_cost),
            max_batch_rows=limits.batch_rows,
            max_queue_rows=limits.queue_rows,
            delay_s=limits.delay_s,
            stack=SparseRows.stack if sparse else np.concatenate,
            weigh=weigh if sparse else None,
        )


def _weights_of(head: Head) -> int:
    return head.info.num_features * head.info.num_classes


def _groups(heads: Sequence[Head]) -> list[list[int]]:
    """Group the places of small linear heads by dtype, in an order that is not the caller's choice."""
    groups: dict[object, list[int]] = {}
    for place, head in enumerate(heads):
        if _weights_of(head) <= JOINED_WEIGHTS and head.is_linear():
            groups.setdefault(head.info.dtype, []).append(place)
    for places in groups.values():
        places.sort(key=lambda place: heads[place].info.model)
    return [
        places
        for places in groups.values()
        if len(places) > 1 and sum(_weights_of(heads[place]) for place in places) <= JOINED_WEIGHTS
    ]


def _run(head: Head, names: Names, saw: Saw, rows: Features) -> tuple[NDArray[np.generic], ...]:
    logits = head.run(rows)
    if saw is not None:
        saw(head.info, logits)
    if names == LOGITS:
        return (logits,)
    calibrated, temperature = calibrate(logits, head.info.calibration)
    normalised = softmax.normalise(
        calibrated, temperature=temperature, dtype=logits.dtype, with_logarithms="log_probabilities" in names
    )
    return tuple(logits if name == "logits" else _NORMALISED[name](normalised) for name in names)


def _run_joined(
    head: Head, infos: Sequence[HeadInfo], saw: Saw, rows: Features
) -> tuple[NDArray[np.generic], ...]:
    bounds = np.cumsum([info.num_classes for info in infos])[:-1]
    parts = [np.ascontiguousarray(part) for part in np.split(head.run(rows), bounds, axis=1)]
    if saw is not None:
        for info, part in zip(infos, parts, strict=True):
            saw(info, cast("FloatArray", part))
    return tuple(parts)


_NORMALISED: dict[str, Callable[[softmax.Normalised], NDArray[np.generic]]] = {
    "probabilities": softmax.Normalised.probabilities,
    "classes": lambda normalised: normalised.classes,
    "log_probabilities": softmax.Normalised.log_probabilities,
}
