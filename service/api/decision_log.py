"""The decision log: what was predicted for whom and by which version, for those who must account for it.

NDJSON, one record a request to a head, in a file of each worker that is rotated by its size. It holds no features, at
most their sha256. Records are made and written by a thread of their own; where too much waits for it, or the disk
takes no more, they are dropped and counted, and no answer waits.
"""

import hashlib
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import orjson

from service.api.exchange import Exchange
from service.errors import StartError
from service.finishing import finish
from service.heads.handle import Head
from service.logs import rfc3339
from service.types import Features, FloatArray, HeadInfo, Output, ScoreRequest, ScoreResult, SparseRows

# Most that may wait: so many records, and as many numbers as the largest tensor has by default (64 MiB of float64).
WAITING_RECORDS = 8192
WAITING_NUMBERS = 8 * 1024**2
# Besides the file that is written: with the default limit they hold some million records of one row.
OLD_FILES = 4
# How long the end waits for a disk that hangs: less than what a worker is given beyond its drain timeout.
FLUSH_S = 2.0

_log = logging.getLogger("logitserve")


class Scored(NamedTuple):
    """One request to a head, as it waits to be written."""

    time_s: float
    request_id: str
    key_name: str | None
    request: ScoreRequest
    result: ScoreResult

    @property
    def numbers(self) -> int:
        arrays = (value.size for value in self.result.outputs.values() if isinstance(value, np.ndarray))
        return self.request.values.size + sum(arrays)


class DecisionLog:
    """`ratio` is the share of requests that is written; `count_dropped` hears of each that could not be.

    `head_of` finds the handle of a version, to predict what a request did not ask for.
    """

    def __init__(
        self,
        folder: Path,
        slot: int,
        *,
        ratio: float,
        limit_bytes: int,
        with_hashes: bool,
        head_of: Callable[[HeadInfo], Head],
        count_dropped: Callable[[], None],
    ) -> None:
        self._file = RotatedFile(folder, f"worker-{slot}", limit_bytes)
        self._ratio = ratio
        self._with_hashes = with_hashes
        self._head_of = head_of
        self._count_dropped = count_dropped
        self._waiting: queue.SimpleQueue[Scored | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._records = self._numbers = 0
        self._failing = False
        self._thread = threading.Thread(target=self._write_all, name="decision log", daemon=True)

    def start(self) -> None:
        """Open the file of this worker.

        Raises
        ------
        StartError
        """
        try:
            self._file.open()
        except OSError as error:
            message = f"decision_log: {self._file.path} cannot be written: {error.strerror}"
            raise StartError(message) from error
        self._thread.start()

    def close(self) -> None:
        """Write what is left, but wait for no disk that hangs."""
        if self._thread.ident is not None:
            self._waiting.put(None)
            self._thread.join(FLUSH_S)

    def observe(self, exchange: Exchange, _ended_s: float) -> None:
        """Take what was answered to a request."""
        course = exchange.course
        if course is None or exchange.failure is not None or random.random() >= self._ratio:
            return
        now_s = time.time()
        for request, result in zip(course.requests, course.results, strict=False):
            if request.head is not None:
                self._offer(Scored(now_s, exchange.request_id, exchange.key_name, request, result))

    def _offer(self, scored: Scored) -> None:
        numbers = scored.numbers
        with self._lock:
            if self._records >= WAITING_RECORDS or (
                self._records and self._numbers + numbers > WAITING_NUMBERS
            ):
                self._count_dropped()
                return
            self._records += 1
            self._numbers += numbers
        self._waiting.put(scored)

    def _write_all(self) -> None:
        while (scored := self._waiting.get()) is not None:
            try:
                self._file.write(
                    orjson.dumps(self._record(scored), option=orjson.OPT_SERIALIZE_NUMPY) + b"\n"
                )
                self._failing = False
            except Exception as error:  # noqa: BLE001 - no record is worth the thread
                self._fail(error)
            finally:
                with self._lock:
                    self._records -= 1
                    self._numbers -= scored.numbers
        self._file.close()

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self._count_dropped()
        if not self._failing:  # once for all records that are lost in a row
            reason = error.strerror if isinstance(error, OSError) else type(error).__name__
            _log.error("the decision log cannot be written, what comes is dropped and counted: %s", reason)
        self._failing = True

    def _record(self, scored: Scored) -> dict[str, Any]:
        request, result = scored.request, scored.result
        head = cast("HeadInfo", request.head)
        record: dict[str, Any] = {
            "time": rfc3339(scored.time_s),
            "request_id": scored.request_id,
            **({} if scored.key_name is None else {"key": scored.key_name}),
            "model": head.model,
            "version": head.version,
            "digest": head.digest,
            "rows": result.rows,
        }
        classes, confidence = predicted(request, result, self._head_of)
        record["classes"] = classes
        if request.class_names is not None:
            record["predicted_names"] = [request.class_names[place] for place in classes.tolist()]
        record["confidence"] = confidence
        for name in ("decisions", "decided_names"):
            if name in result.outputs:
                record[name] = np.asarray(result.outputs[name]).reshape(-1).tolist()
        if request.labels is not None:
            labels = np.ascontiguousarray(request.labels.values)
            dense = request.labels.format == "dense"
            record["labels"] = labels.reshape(-1, labels.shape[-1]) if dense else labels.reshape(-1)
        if self._with_hashes:
            record["features_sha256"] = list(hashes(request.values))
        return record


def predicted(
    request: ScoreRequest, result: ScoreResult, head_of: Callable[[HeadInfo], Head]
) -> tuple[Any, Any]:
    """Give the predicted class of each row and its probability; what was not asked for is made now."""
    outputs: dict[str, Output] = result.outputs
    if not {"classes", "probabilities"} <= outputs.keys():
        head = head_of(cast("HeadInfo", request.head))
        logits = cast("FloatArray | None", outputs.get("logits"))
        asked = request._replace(outputs=("classes", "probabilities"), labels=None, top_k=None)
        outputs = finish(asked, head.run(request.values) if logits is None else logits, head)
    probabilities = np.asarray(outputs["probabilities"])
    confidence = np.ascontiguousarray(probabilities.max(axis=-1).reshape(-1))
    return np.ascontiguousarray(np.asarray(outputs["classes"]).reshape(-1)), confidence


def hashes(features: Features) -> Iterator[str]:
    """Give the sha256 of each row: its numbers in the head's type, little-endian, zeros of sparse rows included."""
    if isinstance(features, SparseRows):
        rows: Iterator[Any] = (features[row : row + 1].to_dense() for row in range(len(features)))
    else:
        rows = iter(features.reshape(-1, features.shape[-1]))
    for row in rows:
        yield hashlib.sha256(row.astype(row.dtype.newbyteorder("<"), copy=False).tobytes()).hexdigest()


class RotatedFile:
    """`<stem>.ndjson`, to which whole lines are added, and its predecessors `<stem>.1.ndjson`, the newest, and on."""

    def __init__(self, folder: Path, stem: str, limit_bytes: int) -> None:
        self.path = folder / f"{stem}.ndjson"
        self._olds = [folder / f"{stem}.{number}.ndjson" for number in range(1, OLD_FILES + 1)]
        self._limit_bytes = limit_bytes
        self._descriptor = -1
        self._size = 0

    def open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Who was predicted what is nobody else's business.
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._descriptor).st_size
        if self._size and os.pread(self._descriptor, 1, self._size - 1) != b"\n":
            try:
                self._add(b"\n")  # whoever wrote before was killed within a line
            except OSError:
                self.close()
                raise

    def write(self, line: bytes) -> None:
        """Add a line, or nothing of it."""
        if self._descriptor < 0:
            self.open()
        if self._size and self._size + len(line) > self._limit_bytes:
            self._rotate()
        self._add(line)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _add(self, line: bytes) -> None:
        rest = memoryview(line)
        try:
            while rest:  # what does not fit at once fails, or does, with the rest
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(line)

    def _rotate(self) -> None:
        self.close()
        names = [self.path, *self._olds]
        for newer, older in zip(reversed(names[:-1]), reversed(names[1:]), strict=True):
            if newer.exists():
                newer.replace(older)
        self.open()
