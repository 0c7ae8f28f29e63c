"""Every instrument, and how the counts of several workers become one text.

Counts are plain numbers in dictionaries: a request pays for a few dictionary updates, never for a call
into prometheus_client, whose multi-process mode costs 3 µs an update and drops the gauges of dead workers.
Each worker publishes a snapshot into a memory-mapped file of the run folder (`Board`); whoever answers
`/metrics` sums all of them. prometheus_client only writes the text.
"""

import mmap
import os
import struct
import time
import zlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

Labels: TypeAlias = tuple[str, ...]
# The values of one process: instrument -> label values -> a number, or the counts of a histogram.
Values: TypeAlias = dict[str, dict[Labels, float]]


class Instrument(NamedTuple):
    """What is measured; time series appear per label set on first use."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: Labels
    help: str


REQUESTS = Instrument(
    "logitserve_requests", "counter", ("route", "method", "status"), "Requests answered, by path template."
)
DURATION = Instrument(
    "logitserve_request_duration_seconds",
    "histogram",
    ("route",),
    "From the first byte of a request read to the last of its answer handed to the socket.",
)
ROWS = Instrument("logitserve_rows", "counter", ("model", "version"), "Examples scored, by model.")
STAGES = Instrument(
    "logitserve_stage_duration_seconds",
    "histogram",
    ("model", "version", "stage"),
    "What a scored request spent in decode, queue, infer and encode.",
)
FAILURES = Instrument(
    "logitserve_failure_duration_seconds",
    "histogram",
    ("model", "version"),
    "Requests that were decoded and then failed, and how long they had taken.",
)
LAST_SCORED = Instrument(
    "logitserve_last_scored_timestamp_seconds",
    "gauge",
    ("model", "version"),
    "When a model last scored a request.",
)
ERRORS = Instrument("logitserve_errors", "counter", ("route", "code"), "Errors answered, by code.")
BATCH_ROWS = Instrument(
    "logitserve_batch_rows", "histogram", ("model", "version"), "Rows that ran through a head together."
)
QUEUE_ROWS = Instrument("logitserve_queue_rows", "gauge", (), "Rows that wait for a head now.")
REJECTED = Instrument(
    "logitserve_rejected",
    "counter",
    ("reason",),
    "Requests turned away or dropped before they were computed.",
)
INFLIGHT = Instrument("logitserve_inflight_requests", "gauge", (), "Requests being answered now.")
WORKERS = Instrument("logitserve_workers", "gauge", (), "Worker processes that are serving.")
MODEL_INFO = Instrument(
    "logitserve_model_info",
    "gauge",
    ("model", "version", "digest", "provider"),
    "1 for each version of a head that is served.",
)
INSTRUMENTS = (
    REQUESTS,
    DURATION,
    ROWS,
    STAGES,
    FAILURES,
    LAST_SCORED,
    ERRORS,
    REJECTED,
    BATCH_ROWS,
    QUEUE_ROWS,
    INFLIGHT,
    WORKERS,
    MODEL_INFO,
)
# Gauges of which the greatest of the workers' values is the service's; their sum would say nothing.
GREATEST_OF_WORKERS = frozenset({MODEL_INFO.name, LAST_SCORED.name})

# Upper bounds in seconds. A small request takes 50 to 500 µs, so most of the bounds lie below 10 ms.
BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
# A stage of a small request takes 5 to 50 µs.
BUCKETS_STAGE_S = (0.00001, 0.000025, 0.00005, *BUCKETS_S)
BUCKETS_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
BUCKETS: dict[str, Sequence[float]] = {
    DURATION.name: BUCKETS_S,
    STAGES.name: BUCKETS_STAGE_S,
    FAILURES.name: BUCKETS_S,
    BATCH_ROWS.name: BUCKETS_ROWS,
}
SUM = "sum"
STAGE_NAMES = ("decode", "queue", "infer", "encode")


class _Histogram:
    """How many values fell into each bucket, the last one without a bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def series(self, *labels: str) -> dict[Labels, float]:
        places = {(*labels, str(place)): float(count) for place, count in enumerate(self._counts) if count}
        return {**places, (*labels, SUM): self._sum} if places else {}


class _Scored:
    """What one model has scored: rows, times by stage, when last."""

    __slots__ = ("decode", "encode", "infer", "last_s", "queue", "rows")

    def __init__(self) -> None:
        self.rows = 0
        self.last_s = 0.0
        self.decode, self.queue, self.infer, self.encode = (_Histogram(BUCKETS_STAGE_S) for _ in STAGE_NAMES)


class Metrics:
    """The counts of this process, in the form that is fastest to count in; `values` tells them."""

    def __init__(self) -> None:
        self._inflight = 0
        self._queue_rows = 0
        self._requests: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        self._durations: dict[str, _Histogram] = {}
        self._batches: dict[Labels, _Histogram] = {}
        self._scored: dict[Labels, _Scored] = {}
        self._failures: dict[Labels, _Histogram] = {}
        self._errors: defaultdict[Labels, int] = defaultdict(int)
        self._rejected: defaultdict[Labels, int] = defaultdict(int)
        self._models: dict[Labels, float] = {}
        self._inherited: Values = {}

    @property
    def values(self) -> Values:
        """The counts as they are now, with those taken over."""
        own: Values = {
            REQUESTS.name: {(route, method, str(s)): n for (route, method, s), n in self._requests.items()},
            DURATION.name: _series({(route,): found for route, found in self._durations.items()}),
            ROWS.name: {key: scored.rows for key, scored in self._scored.items()},
            STAGES.name: dict(
                item
                for key, scored in self._scored.items()
                for stage in STAGE_NAMES
                for item in getattr(scored, stage).series(*key, stage).items()
            ),
            FAILURES.name: _series(self._failures),
            LAST_SCORED.name: {key: scored.last_s for key, scored in self._scored.items()},
            ERRORS.name: dict(self._errors),
            REJECTED.name: dict(self._rejected),
            BATCH_ROWS.name: _series(self._batches),
            QUEUE_ROWS.name: {(): self._queue_rows},
            INFLIGHT.name: {(): self._inflight},
            WORKERS.name: {(): 1},
            MODEL_INFO.name: dict(self._models),
        }
        return summed([self._inherited, own])

    def request_started(self) -> None:
        self._inflight += 1

    def request_finished(self, route: str, method: str, status: int, duration_s: float) -> None:
        self._inflight -= 1
        self._requests[route, method, status] += 1
        durations = self._durations.get(route)
        if durations is None:
            durations = self._durations[route] = _Histogram(BUCKETS_S)
        durations.observe(duration_s)

    def batch(self, model: str, version: str, rows: int) -> None:
        _observe(self._batches, (model, version), rows, BUCKETS_ROWS)

    def queue_rows(self, rows: int) -> None:
        self._queue_rows = rows

    def rejected(self, reason: str) -> None:
        self._rejected[(reason,)] += 1

    def error(self, route: str, code: str) -> None:
        self._errors[route, code] += 1

    def scored(self, key: Labels, rows: int, seconds: tuple[float, float, float, float]) -> None:
        """Count a request that model and version in `key` have scored; `seconds` are those of its stages."""
        scored = self._scored.get(key)
        if scored is None:
            scored = self._scored[key] = _Scored()
        scored.rows += rows
        scored.last_s = time.time()
        decode_s, queue_s, infer_s, encode_s = seconds
        scored.decode.observe(decode_s)
        scored.queue.observe(queue_s)
        scored.infer.observe(infer_s)
        scored.encode.observe(encode_s)

    def failed(self, key: Labels, duration_s: float) -> None:
        """Count a request that could be read and not be answered."""
        _observe(self._failures, key, duration_s, BUCKETS_S)

    def models(self, infos: Iterable[tuple[str, str, str, str]]) -> None:
        """Take what is served now, each with its model, version, digest and provider."""
        self._models = dict.fromkeys(infos, 1)

    def continue_from(self, values: Values) -> None:
        """Take over the counts of a dead worker, so that counters never go down; gauges die with it."""
        self._inherited = {i.name: dict(values.get(i.name, {})) for i in INSTRUMENTS if i.kind != "gauge"}


def _observe(found: dict[Labels, _Histogram], key: Labels, value: float, bounds: Sequence[float]) -> None:
    histogram = found.get(key)
    if histogram is None:
        histogram = found[key] = _Histogram(bounds)
    histogram.observe(value)


def _series(found: dict[Labels, _Histogram]) -> dict[Labels, float]:
    return {labels: n for key, histogram in found.items() for labels, n in histogram.series(*key).items()}


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
        for path in sorted(self._folder.glob("worker-*.metrics")):
            if path == self._path:
                continue
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
                found = self._read(memory)
            if found:
                pid, values = found
                alive = _alive(pid)
                yield {i.name: values.get(i.name, {}) for i in INSTRUMENTS if alive or i.kind != "gauge"}

    def close(self) -> None:
        self._memory.close()

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


class Exposition:
    """Writes values as Prometheus text, by a registry that a test may give."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry or CollectorRegistry()
        self._values: Values = {}
        self._registry.register(self)

    CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

    def text(self, values: Values) -> bytes:
        self._values = values
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        return []  # nothing is collected at registration

    def collect(self) -> Iterator[Metric]:
        for instrument in INSTRUMENTS:
            series = self._values.get(instrument.name, {})
            if instrument.kind == "histogram":
                yield _histogram(instrument, series)
                continue
            family = CounterMetricFamily if instrument.kind == "counter" else GaugeMetricFamily
            metric = family(instrument.name, instrument.help, labels=instrument.labels)
            for labels, value in sorted(series.items()):
                metric.add_metric(labels, value)
            yield metric


def _histogram(instrument: Instrument, series: dict[Labels, float]) -> HistogramMetricFamily:
    metric = HistogramMetricFamily(instrument.name, instrument.help, labels=instrument.labels)
    for labels in sorted({key[:-1] for key in series}):
        cumulative, buckets = 0.0, []
        for place, bound in enumerate((*map(str, BUCKETS[instrument.name]), "+Inf")):
            cumulative += series.get((*labels, str(place)), 0)
            buckets.append((bound, cumulative))
        metric.add_metric(labels, buckets, sum_value=series.get((*labels, SUM), 0))
    return metric
