"""A shadow: a version that is scored beside the one that answers, and compared with it, row by row.

Is B better? It is asked of the same rows at the same time, so the answer is a paired one. The shadow is scored after
the answer has been begun and in a thread of its own; where too much waits for it, rows are dropped and counted, and no
answer waits. Nothing is kept of a row but its part in seven sums, which workers and replicas may add up.
"""

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import numpy as np

from service.finishing import finish
from service.heads.handle import Head
from service.heads.repository import Repository
from service.instruments import SHADOW_DROPPED, SHADOW_SUMS, Labels
from service.types import HeadInfo, ScoreRequest

_log = logging.getLogger("logitserve")

# More rows than may wait for the shadow: a second of work for most heads, and little memory.
WAITING_ROWS = 8192
# Of a normal distribution: 95 % lie within so many standard deviations of the mean.
DEVIATIONS = 1.959963984540054

Values = Mapping[str, Mapping[Labels, float]]


class Sums(NamedTuple):
    """What was compared, in the order of `SHADOW_SUMS`; differences are those of the shadow from the live version."""

    rows: float
    disagreements: float
    divergence_nats: float
    labelled_rows: float
    gain_nats: float
    harm_nats: float
    squares: float


class Shadow:
    """Compares on the side; `count` and `drop` hear of sums and of rows that were left out."""

    def __init__(
        self,
        repository: Repository,
        count: Callable[[Labels, Sequence[float]], None],
        drop: Callable[[Labels, int], None],
    ) -> None:
        self._repository = repository
        self._count = count
        self._drop = drop
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._lock = threading.Lock()
        self._waiting_rows = 0

    def offer(self, request: ScoreRequest) -> None:
        """Take a request to a head that is being answered; its shadow, if it has one, is scored later."""
        info = request.head
        shadow = None if info is None else self._repository.shadows.get(info.model)
        if info is None or shadow is None or shadow.info.version == info.version:
            return
        if not _are_comparable(info, shadow.info):
            return
        rows = math.prod(request.values.shape[:-1])
        with self._lock:
            if self._waiting_rows + rows > WAITING_ROWS:
                self._drop(_key(info, shadow.info), rows)
                return
            self._waiting_rows += rows
        self._thread.submit(self._compare, request, info, shadow, rows)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _compare(self, request: ScoreRequest, info: HeadInfo, shadow: Head, rows: int) -> None:
        try:
            sums = compare(request, self._repository.head(info), shadow)
            self._count(_key(info, shadow.info), sums)
        except Exception:  # noqa: BLE001 - what fails for the one who asked is told to him, and nobody else asked
            _log.debug("a comparison with the shadow failed", exc_info=True)
            with self._lock:
                self._drop(_key(info, shadow.info), rows)
        finally:
            with self._lock:
                self._waiting_rows -= rows


def compare(request: ScoreRequest, live: Head, shadow: Head) -> Sums:
    """Score the rows of a request with both versions; what follows their logits is done in float64.

    Raises
    ------
    Invalid
        What the request itself would be answered with, such as `infinite_loss`.
    """
    one, other = (_outputs(request, head) for head in (live, shadow))
    logarithms, others = one["log_probabilities"], other["log_probabilities"]
    probabilities = np.exp(logarithms)
    with np.errstate(invalid="ignore"):
        divergences = np.where(probabilities > 0, probabilities * (logarithms - others), 0.0)
    disagreements = int((one["classes"] != other["classes"]).sum())
    differences = other["losses"] - one["losses"] if "losses" in one else np.empty(0)
    return Sums(
        one["classes"].size,
        disagreements,
        float(divergences.sum()),
        float(one["count"]) if "count" in one else 0.0,
        float(-differences[differences < 0].sum()),
        float(differences[differences > 0].sum()),
        float((differences**2).sum()),
    )


def summary(values: Values, model: str) -> list[dict[str, Any]]:
    """Tell of each pair of live and shadow version of a model what the sums say.

    The mean difference in loss is that of the shadow less that of the live version: below 0 the shadow is better. Its
    interval holds the true mean in 95 of 100 such comparisons, rows being independent of each other.
    """
    pairs = sorted(key for key in values.get(SHADOW_SUMS[0].name, {}) if key[0] == model)
    return [_summary(values, key) for key in pairs]


def _summary(values: Values, key: Labels) -> dict[str, Any]:
    sums = Sums(*(values.get(instrument.name, {}).get(key, 0.0) for instrument in SHADOW_SUMS))
    told: dict[str, Any] = {
        "version": key[1],
        "shadow": key[2],
        "rows": int(sums.rows),
        "dropped_rows": int(values.get(SHADOW_DROPPED.name, {}).get(key, 0)),
        "disagreement": sums.disagreements / sums.rows if sums.rows else None,
        "divergence_nats": sums.divergence_nats / sums.rows if sums.rows else None,
        "labelled_rows": int(sums.labelled_rows),
        "loss_difference_nats": None,
        "loss_difference_interval_nats": None,
    }
    n = sums.labelled_rows
    if n:
        mean = (sums.harm_nats - sums.gain_nats) / n
        told["loss_difference_nats"] = mean
        if n > 1:
            variance = max(0.0, (sums.squares - n * mean**2) / (n - 1))
            half = DEVIATIONS * math.sqrt(variance / n)
            told["loss_difference_interval_nats"] = [mean - half, mean + half]
    return told


def _outputs(request: ScoreRequest, head: Head) -> dict[str, Any]:
    names = ("classes", "log_probabilities") + (
        ("losses", "count") if request.labels and request.judged else ()
    )
    calibration = request.calibration
    if request.head is not None and calibration is request.head.calibration and request.temperature == 1:
        calibration = head.info.calibration  # to each version its own
    asked = request._replace(
        outputs=names,
        dtype=np.dtype(np.float64),
        head=head.info,
        top_k=None,
        decision=None,
        calibration=calibration,
    )
    return cast("dict[str, Any]", finish(asked, head.run(request.values), head))


def _are_comparable(live: HeadInfo, shadow: HeadInfo) -> bool:
    """Whether both take the same rows to the same classes."""
    one = (live.num_features, live.num_classes, live.dtype, live.class_names)
    return one == (shadow.num_features, shadow.num_classes, shadow.dtype, shadow.class_names)


def _key(live: HeadInfo, shadow: HeadInfo) -> Labels:
    return (live.model, live.version, shadow.version)
