"""What is noted of requests while they are answered, and counted a moment later beside them.

Labelled rows go into the ledger before their answer is sent, so that none is lost or counted twice whatever dies.
Traffic is only pointed at: what a killed worker saw in its last quarter of a second is not in its shares.
"""

import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeAlias, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from service.numeric import calibration, quality, softmax
from service.numeric.kernel import Float64Array
from service.quality.ledger import Ledger, read_counts
from service.types import FloatArray, HeadInfo, IndexArray, Labels, ScoreRequest

# Of larger batches so many rows are looked at, and one in so many of the others; and no more numbers than this unless
# one row has them. Looking at a row takes half a microsecond, and in a large batch scoring it takes hardly more; in a
# small one, choosing rows would take as long as looking at all of them.
ALL_SEEN = 16
ALWAYS_SEEN, SEEN_OF_OTHERS = 8, 64
MOST_SEEN = 1 << 14
# Beyond so many waiting numbers traffic is not looked at until they are counted: 16 MB in float32.
MOST_WAITING = 1 << 22
# How finely the window slides.
WINDOW_STEPS = 60

_RECORD = struct.Struct("<HIIBd")  # bytes of the key, rows, classes, bytes of a number, temperature
_LENGTH = struct.Struct("<I")
_SUFFIX = "quality"


class Key(NamedTuple):
    """Whose rows they are: of bare logits the operation, without a version and with any number of classes (0)."""

    model: str
    version: str
    digest: str
    num_classes: int


Counts: TypeAlias = dict[Key, Float64Array]


class Quality:
    """The counts of this worker, and those of all of them.

    Parameters
    ----------
    folder : Path or None
        Where workers meet; None for one that is alone.
    slot : int
        This worker's number in it. It counts on from what the slot's last worker has left there.
    window_s : float
        How far back the sliding window reaches.
    clock : function
        Seconds of a clock that does not jump.
    """

    def __init__(
        self,
        folder: Path | None,
        slot: int,
        *,
        window_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._path = folder / f"worker-{slot}.{_SUFFIX}" if folder else None
        self._window_s = window_s
        self._clock = clock
        self._ledger = Ledger(self._path)
        self._counting = threading.Lock()
        self._seen: list[tuple[HeadInfo, FloatArray, float]] = []
        self._seen_numbers = 0
        self._offset = 0
        self._counted = -1
        self._life, _ = _decoded(self._ledger.counts())
        self._past: deque[tuple[float, Counts]] = deque([(clock(), dict(self._life))])
        self.count()

    def saw(self, info: HeadInfo, logits: FloatArray) -> None:
        """Note a batch that a head has scored, [rows, num_classes]; from any thread."""
        rows, weight = len(logits), 1.0
        if rows > ALL_SEEN or logits.size > MOST_SEEN:
            # Each time one row further on, around the end: in the long run all rows are looked at equally often.
            places = _places(rows, logits.shape[1])
            logits = logits[(places + self._offset) % rows]
            self._offset += 1
            weight = rows / len(places)
        if self._seen_numbers < MOST_WAITING:
            self._seen_numbers += logits.size
            self._seen.append((info, logits, weight))

    def answered(self, request: ScoreRequest, logits: FloatArray) -> None:
        """Note a request with labels and its raw logits, in the request's shape, before its answer is sent."""
        assert request.labels is not None  # noqa: S101 - what is asked for by the caller
        rows = np.moveaxis(logits, request.axis, -1).reshape(-1, logits.shape[request.axis])
        known, labels = _classes(request.labels, rows.shape[1])
        if known.any():
            self.label(request.head, rows[known], labels, request.temperature)

    def label(
        self, head: HeadInfo | None, logits: FloatArray, labels: IndexArray, temperature: float = 1.0
    ) -> None:
        """Note labelled rows.

        Parameters
        ----------
        head : HeadInfo or None
            What scored them, whose calibration they are judged with whatever a request asked for; None for bare logits
            of a caller, which are divided by `temperature`.
        logits : float array [rows, num_classes]
            As they were before any calibration.
        labels : int64 array [rows]
        temperature : float
        """
        key = Key("loss", "", "", 0) if head is None else key_of(head)
        if head is not None:
            logits, temperature = calibration.apply(logits, head.calibration)
        said = orjson.dumps(tuple(key))
        record = (
            _RECORD.pack(len(said), *logits.shape, logits.itemsize, temperature) + said,
            logits.tobytes(),
            labels.tobytes(),
        )
        if self._ledger.append(*record):
            return
        self.count()
        if not self._ledger.append(*record):  # it is larger than all the room
            with self._counting:
                self._counted = self._add_waiting()
                self._judge([b"".join(record)])
                self._keep(self._counted)

    def count(self) -> None:
        """Count what was noted, and keep the counts where others and successors find them."""
        with self._counting:
            seen, self._seen, self._seen_numbers = self._seen, [], 0
            before = self._counted
            self._counted = self._add_waiting()
            self._add_seen(seen)
            if self._slide() or seen or self._counted != before:
                self._keep(self._counted)

    def totals(self) -> tuple[Counts, Counts]:
        """The counts of all workers: since start, and within the window."""
        self.count()
        with self._counting:
            life, window = dict(self._life), self._window()
        for other in self._others():
            for total, part in zip((life, window), other, strict=True):
                for key, vector in part.items():
                    total[key] = total[key] + vector if key in total else vector
        return life, window

    def close(self) -> None:
        self.count()
        self._ledger.close()

    def _others(self) -> Iterator[tuple[Counts, Counts]]:
        if self._folder is not None:
            for path in sorted(self._folder.glob(f"worker-*.{_SUFFIX}")):
                if path != self._path:
                    yield _decoded(read_counts(path))

    def _add_waiting(self) -> int:
        """Count the records that wait, and say where they end."""
        counted, records = self._ledger.waiting()
        self._judge(records)
        return counted

    def _judge(self, records: Iterable[bytes]) -> None:
        """Count records, those of one head in one go."""
        together: dict[tuple[Key, int, float], list[tuple[FloatArray, IndexArray]]] = {}
        for record in records:
            key, temperature, logits, labels = _read(record)
            together.setdefault((key, logits.shape[1], temperature), []).append((logits, labels))
        for (key, _, temperature), parts in together.items():
            logits = cast("FloatArray", np.concatenate([part[0] for part in parts], dtype=np.float64))
            normalised = softmax.normalise(logits, temperature=temperature, with_others=True)
            labels = np.concatenate([part[1] for part in parts])
            self._add(key, quality.judged(quality.layout_of(key.num_classes), normalised, labels))

    def _add(self, key: Key, vector: Float64Array) -> None:
        self._life[key] = self._life[key] + vector if key in self._life else vector

    def _add_seen(self, seen: Iterable[tuple[HeadInfo, FloatArray, float]]) -> None:
        together: dict[int, tuple[HeadInfo, list[FloatArray], list[float]]] = {}
        for info, logits, weight in seen:
            _, parts, weights = together.setdefault(id(info), (info, [], []))
            parts.append(logits)
            weights.append(weight)
        for info, parts, weights in together.values():
            logits, temperature = calibration.apply(
                cast("FloatArray", np.concatenate(parts)), info.calibration
            )
            rows = cast("FloatArray", logits.astype(np.float64) / temperature)
            finite = np.isfinite(rows).all(axis=1)
            if finite.any():
                each = np.repeat(np.array(weights), [len(part) for part in parts])
                found = quality.observed(quality.layout_of(info.num_classes), rows[finite], each[finite])
                self._add(key_of(info), found)

    def _slide(self) -> bool:
        """Remember the counts from time to time, as long as the window is; whether it has moved."""
        now_s = self._clock()
        moved = now_s - self._past[-1][0] >= self._window_s / WINDOW_STEPS
        if moved:
            self._past.append((now_s, dict(self._life)))
        while len(self._past) > 1 and self._past[1][0] <= now_s - self._window_s:
            self._past.popleft()
        return moved

    def _window(self) -> Counts:
        before = self._past[0][1]
        return {key: vector - before[key] if key in before else vector for key, vector in self._life.items()}

    def _keep(self, counted: int) -> None:
        self._ledger.keep(counted, _encoded(self._life, self._window()))


@lru_cache(1024)
def _places(rows: int, num_classes: int) -> IndexArray:
    """Choose rows of a batch that lie equally far apart."""
    wanted = ALWAYS_SEEN + max(0, rows - ALWAYS_SEEN) // SEEN_OF_OTHERS
    wanted = max(1, min(rows, wanted, MOST_SEEN // num_classes))
    return np.arange(wanted) * (rows // wanted)


def key_of(info: HeadInfo) -> Key:
    return Key(info.model, info.version, info.digest, info.num_classes)


def _classes(labels: Labels, num_classes: int) -> tuple[NDArray[np.bool_], IndexArray]:
    """Which rows have one class as their label, and which: not those to be ignored, nor shares of several classes."""
    if labels.format == "index":
        values = cast("IndexArray", labels.values).reshape(-1)
        known = (
            np.ones(len(values), np.bool_) if labels.ignore_index is None else values != labels.ignore_index
        )
        return known, values[known]
    targets = labels.values.reshape(-1, num_classes)
    known = (np.count_nonzero(targets, axis=1) == 1) & (targets.max(axis=1) == 1)
    return known, targets[known].argmax(axis=1)


def _read(record: bytes) -> tuple[Key, float, FloatArray, IndexArray]:
    length, rows, num_classes, itemsize, temperature = _RECORD.unpack_from(record)
    at = _RECORD.size
    key = Key(*orjson.loads(record[at : at + length]))
    at += length
    dtype = np.float32 if itemsize == 4 else np.float64
    logits = np.frombuffer(record, dtype, rows * num_classes, at).reshape(rows, num_classes)
    labels = np.frombuffer(record, np.int64, rows, at + logits.nbytes)
    return key, temperature, cast("FloatArray", logits), labels


def _encoded(life: Counts, window: Counts) -> bytes:
    said = orjson.dumps([tuple(key) for key in life])
    vectors = [counts[key].tobytes() for counts in (life, window) for key in life]
    return b"".join([_LENGTH.pack(len(said)), said, *vectors])


def _decoded(kept: bytes) -> tuple[Counts, Counts]:
    life: Counts = {}
    window: Counts = {}
    if not kept:
        return life, window
    (length,) = _LENGTH.unpack_from(kept)
    at = _LENGTH.size + length
    keys = [Key(*said) for said in orjson.loads(kept[_LENGTH.size : at])]
    for counts in (life, window):
        for key in keys:
            size = quality.layout_of(key.num_classes).size
            counts[key] = np.frombuffer(kept, np.float64, size, at).copy()
            at += 8 * size
    return life, window
