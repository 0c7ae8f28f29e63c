"""What is counted, and how the counts of several workers become one text.

Counts are plain numbers in dictionaries: a request pays for a few dictionary updates, never for a call
into prometheus_client, whose multi-process mode costs 3 µs an update and drops the gauges of dead workers.
Each worker publishes a snapshot into a memory-mapped file of the run folder (`Board`); whoever answers
`/metrics` sums all of them.
"""

import mmap
import os
import struct
import time
import zlib
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from service.instruments import (
    BATCH_ROWS,
    BUCKETS,
    DECISION_LOG_DROPPED,
    DURATION,
    ERRORS,
    FAILED_VERSIONS,
    FAILURES,
    FEEDBACK_ROWS,
    GREATEST_OF_WORKERS,
    INFLIGHT,
    INSTRUMENTS,
    LAST_SCORED,
    MEMORY,
    MODEL_INFO,
    QUEUE_ROWS,
    REJECTED,
    REQUESTS,
    ROWS,
    SHADOW_DROPPED,
    SHADOW_SUMS,
    STAGE_NAMES,
    STAGES,
    SUM,
    WORKERS,
    Labels,
    Seconds,
)

# The values of one process: instrument -> label values -> a number, or the counts of a histogram.
Values: TypeAlias = dict[str, dict[Labels, float]]


# So many numbers are noted before they are counted: counting one by one would cost a request as much as all else that
# is counted of it, and counting far more at once would keep others waiting.
NOTED = 2048

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class _Histogram:
    """How many values fell into each bucket, the last one without a bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = np.asarray(bounds)
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0

    @property
    def count(self) -> int:
        return int(self._counts.sum())

    def observe(self, values: NDArray[np.float64]) -> None:
        places = np.searchsorted(self._bounds, values)
        self._counts += np.bincount(places, minlength=self._counts.size)
        self._sum += float(values.sum())

    def series(self, *labels: str) -> dict[Labels, float]:
        counts = self._counts.tolist()
        places = {(*labels, str(place)): float(count) for place, count in enumerate(counts) if count}
        return {**places, (*labels, SUM): self._sum} if places else {}


class _Noted:
    """Rows of numbers, a histogram for each column, counted once there are many."""

    __slots__ = ("_histograms", "_numbers")

    def __init__(self, bounds: Sequence[float], columns: int = 1) -> None:
        self._numbers = array("d")
        self._histograms = [_Histogram(bounds) for _ in range(columns)]

    def note(self, row: Iterable[float]) -> None:
        self._numbers.extend(row)
        if len(self._numbers) >= NOTED:
            self._count()

    def histograms(self) -> list[_Histogram]:
        self._count()
        return self._histograms

    def _count(self) -> None:
        if self._numbers:
            numbers = np.array(self._numbers).reshape(-1, len(self._histograms))
            del self._numbers[:]
            for column, histogram in zip(numbers.T, self._histograms, strict=True):
                histogram.observe(column)


class _Scored(_Noted):
    """What one model and version has scored."""

    __slots__ = ("ended_s", "rows")

    def __init__(self) -> None:
        super().__init__(BUCKETS[STAGES.name], len(STAGE_NAMES))
        self.rows = 0
        self.ended_s = 0.0


class Metrics:
    """The counts of this process, in the form that is fastest to count in; `values` tells them."""

    def __init__(self) -> None:
        self._inflight = 0
        self._queue_rows = 0
        self._finished: dict[tuple[str, str, int], _Noted] = {}
        self._scored: dict[Labels, _Scored] = {}
        self._failed: dict[Labels, _Noted] = {}
        self._batches: dict[Labels, _Noted] = {}
        self._errors: defaultdict[Labels, int] = defaultdict(int)
        self._rejected: defaultdict[Labels, int] = defaultdict(int)
        self._shadows: dict[str, defaultdict[Labels, float]] = {
            instrument.name: defaultdict(float) for instrument in (*SHADOW_SUMS, SHADOW_DROPPED)
        }
        self._feedback: defaultdict[Labels, int] = defaultdict(int)
        self._models: dict[Labels, float] = {}
        self._failed_versions: dict[Labels, float] = {}
        self._dropped_decisions = 0
        self._inherited: Values = {}

    @property
    def values(self) -> Values:
        """The counts as they are now, with those taken over."""
        own: Values = {
            **self._requests(),
            **self._of_models(),
            ERRORS.name: dict(self._errors),
            REJECTED.name: dict(self._rejected),
            FEEDBACK_ROWS.name: dict(self._feedback),
            FAILURES.name: _series(self._failed),
            BATCH_ROWS.name: _series(self._batches),
            QUEUE_ROWS.name: {(): self._queue_rows},
            INFLIGHT.name: {(): self._inflight},
            WORKERS.name: {(): 1},
            MODEL_INFO.name: dict(self._models),
            FAILED_VERSIONS.name: dict(self._failed_versions),
            MEMORY.name: {(): resident_bytes()},
            DECISION_LOG_DROPPED.name: {(): self._dropped_decisions},
            **{name: dict(series) for name, series in self._shadows.items()},
        }
        return summed([self._inherited, own])

    def request_started(self) -> None:
        self._inflight += 1

    def request_finished(self, route: str, method: str, status: int, duration_s: float) -> None:
        self._inflight -= 1
        key = (route, method, status)
        noted = self._finished.get(key)
        if noted is None:
            noted = self._finished[key] = _Noted(BUCKETS[DURATION.name])
        noted.note((duration_s,))

    def scored(self, key: Labels, rows: int, seconds: Seconds, ended_s: float) -> None:
        """Count a request that model and version in `key` have scored; `seconds` are those of its stages.

        `ended_s` is on the clock of `time.monotonic`.
        """
        scored = self._scored.get(key)
        if scored is None:
            scored = self._scored[key] = _Scored()
        scored.rows += rows
        scored.ended_s = ended_s
        scored.note(seconds)

    def failed(self, key: Labels, duration_s: float) -> None:
        """Count a request that could be read and not be answered."""
        self._failed.setdefault(key, _Noted(BUCKETS[FAILURES.name])).note((duration_s,))

    def batch(self, model: str, version: str, rows: int) -> None:
        noted = self._batches.get((model, version))
        if noted is None:
            noted = self._batches[model, version] = _Noted(BUCKETS[BATCH_ROWS.name])
        noted.note((rows,))

    def shadowed(self, key: Labels, sums: Sequence[float]) -> None:
        """Count what a shadow version made of rows; `sums` are in the order of `SHADOW_SUMS`."""
        for instrument, value in zip(SHADOW_SUMS, sums, strict=True):
            self._shadows[instrument.name][key] += value

    def shadow_dropped(self, key: Labels, rows: int) -> None:
        self._shadows[SHADOW_DROPPED.name][key] += rows

    def feedback(self, outcome: str, rows: int) -> None:
        self._feedback[(outcome,)] += rows

    def decision_dropped(self) -> None:
        self._dropped_decisions += 1

    def queue_rows(self, rows: int) -> None:
        self._queue_rows = rows

    def rejected(self, reason: str) -> None:
        self._rejected[(reason,)] += 1

    def error(self, route: str, code: str) -> None:
        self._errors[route, code] += 1

    def models(self, infos: Iterable[tuple[str, str, str, str]]) -> None:
        """Say what is served now: model, version, digest and provider of each."""
        self._models = dict.fromkeys(infos, 1.0)

    def failed_versions(self, counts: Iterable[tuple[str, int]]) -> None:
        """Say how many versions of each model cannot be loaded now."""
        self._failed_versions = {(model,): float(count) for model, count in counts}

    def continue_from(self, values: Values) -> None:
        """Take over the counts of a dead worker, so that counters never go down; gauges die with it."""
        self._inherited = {i.name: dict(values.get(i.name, {})) for i in INSTRUMENTS if i.kind != "gauge"}

    def _requests(self) -> Values:
        requests: dict[Labels, float] = {}
        durations: dict[Labels, float] = {}
        for (route, method, status), noted in self._finished.items():
            (histogram,) = noted.histograms()
            requests[route, method, str(status)] = histogram.count
            for labels, value in histogram.series(route).items():
                _add(durations, labels, value)
        return {REQUESTS.name: requests, DURATION.name: durations}

    def _of_models(self) -> Values:
        ahead_s = time.time() - time.monotonic()
        stages: dict[Labels, float] = {}
        for key, scored in self._scored.items():
            for stage, histogram in zip(STAGE_NAMES, scored.histograms(), strict=True):
                stages |= histogram.series(*key, stage)
        return {
            ROWS.name: {key: scored.rows for key, scored in self._scored.items()},
            LAST_SCORED.name: {key: ahead_s + scored.ended_s for key, scored in self._scored.items()},
            STAGES.name: stages,
        }


def resident_bytes() -> float:
    """What this process has in memory; 0 where the system does not tell it as Linux does."""
    try:
        with Path("/proc/self/statm").open("rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def _series(found: Mapping[Labels, _Noted]) -> dict[Labels, float]:
    return {
        labels: value
        for key, noted in found.items()
        for histogram in noted.histograms()
        for labels, value in histogram.series(*key).items()
    }


def _add(series: dict[Labels, float], labels: Labels, value: float) -> None:
    series[labels] = series.get(labels, 0) + value


class Board:
    """The run folder's snapshots: one memory-mapped file a worker slot.

    A reader may come upon a half-written snapshot; the checksum says so and it reads again.
    """

    # Label sets are few (routes, statuses, codes, heads), a snapshot takes some kB; a file this large
    # holds ten thousand of them and costs only the pages written.
    CAPACITY_BYTES = 1 << 20
    _HEADER = struct.Struct("<III")  # checksum, length, pid
    _READ_ATTEMPTS = 16

    def __init__(self, folder: Path, slot: int) -> None:
        self._folder = folder
        self._path = folder / f"worker-{slot}.metrics"
        with self._path.open("a+b") as file:
            file.truncate(self.CAPACITY_BYTES)
            self._memory = mmap.mmap(file.fileno(), self.CAPACITY_BYTES)
        self._last: dict[Path, Values] = {}

    def own(self) -> Values:
        """What the slot's file holds: nothing, or the last snapshot of the worker that had it before."""
        found = self._read(self._memory)
        return found[1] if found else {}

    def publish(self, values: Values) -> None:
        payload = orjson.dumps(
            {name: [[*key, value] for key, value in s.items()] for name, s in values.items()}
        )
        if len(payload) > self.CAPACITY_BYTES - self._HEADER.size:
            return  # the last snapshot that did fit stays; no request may fail for a metric
        self._memory[self._HEADER.size : self._HEADER.size + len(payload)] = payload
        self._memory[: self._HEADER.size] = self._HEADER.pack(zlib.crc32(payload), len(payload), os.getpid())

    def others(self) -> Iterator[Values]:
        """The snapshots of the other slots; of a dead worker its counters only."""
        return (values for path, values in self._snapshots() if path != self._path)

    def published(self) -> Values:
        """Sum up the snapshots of all slots, from any thread but one at a time.

        Where one is being written for long, the one before it stands in: what is compared over time may not go down.
        """
        self._last.update(self._snapshots())
        return summed(self._last.values())

    def close(self) -> None:
        self._memory.close()

    def _snapshots(self) -> Iterator[tuple[Path, Values]]:
        for path in sorted(self._folder.glob("worker-*.metrics")):
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
                found = self._read(memory)
            if found:
                pid, values = found
                alive = _alive(pid)
                yield (
                    path,
                    {i.name: values.get(i.name, {}) for i in INSTRUMENTS if alive or i.kind != "gauge"},
                )

    def _read(self, memory: mmap.mmap) -> tuple[int, Values] | None:
        for _ in range(self._READ_ATTEMPTS):
            checksum, length, pid = self._HEADER.unpack(memory[: self._HEADER.size])
            payload = memory[self._HEADER.size : self._HEADER.size + length]
            if length and zlib.crc32(payload) == checksum:
                parsed: dict[str, list[list[str | float]]] = orjson.loads(payload)
                return pid, {
                    name: {tuple(map(str, row[:-1])): float(row[-1]) for row in rows}
                    for name, rows in parsed.items()
                }
        return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def summed(snapshots: Iterable[Values]) -> Values:
    total: Values = {instrument.name: {} for instrument in INSTRUMENTS}
    for snapshot in snapshots:
        for name, series in snapshot.items():
            for labels, value in series.items():
                if name in GREATEST_OF_WORKERS:
                    total[name][labels] = max(value, total[name].get(labels, value))
                else:
                    _add(total[name], labels, value)
    return total
