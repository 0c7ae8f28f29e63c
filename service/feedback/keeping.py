"""Keeping rows and joining them, beside the event loop: two threads, each with the store opened for itself.

Neither begins before somebody asks for ids, and neither is waited for by anybody else. Rows that come while others
are written are written together, in one transaction.
"""

import asyncio
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar, cast

import numpy as np

from service.errors import DeadlineExceeded, Invalid, LogitserveError, NotReady, StartError
from service.feedback.joining import Judged, Label, Outcomes, join
from service.feedback.store import Scored, ScoredBy, Store, StoreFailed
from service.outcomes import Deliver
from service.types import FloatArray, HeadInfo, IndexArray, Output, RowIds

T = TypeVar("T")

Opening: TypeAlias = Callable[[], Store]
# Reads ids and the label of each; it is called in a thread, since there may be many.
Labelled: TypeAlias = Callable[[], tuple[Sequence[str], Sequence[Label]]]

# So many rows may wait to be written, some seconds of work: beyond that the store does not follow, and more of them
# would only fill the memory.
WAITING_ROWS = 1 << 17
# Who can guess an id can send its label.
ID_BYTES = 16

_log = logging.getLogger("logitserve")


class _Entry(NamedTuple):
    """Rows of one request, and who hears of their ids."""

    head: HeadInfo
    row_ids: RowIds
    logits: FloatArray
    deadline_s: float
    deliver: Callable[[Output | Exception], None]

    @property
    def rows(self) -> int:
        return math.prod(self.logits.shape[:-1])


class Feedback:
    """Rows that wait for their labels.

    Parameters
    ----------
    opening : function
        Opens the store, for one thread.
    judged : function
        Hears of the rows that were joined, in a thread; what it raises is logged, and the rows stay joined.
    count : function
        Hears on the event loop of how many ids came out how: joined, unknown, expired, repeated.
    """

    def __init__(self, opening: Opening, judged: Judged, count: Callable[[str, int], None]) -> None:
        self._writer = _Desk(opening, "feedback-writer")
        self._joiner = _Desk(opening, "feedback-joiner")
        self._judged = judged
        self._count = count
        self._lock = threading.Lock()
        self._entries: list[_Entry] = []
        self._waiting_rows = 0
        self._writing = False

    def keep(
        self,
        head: HeadInfo,
        row_ids: RowIds,
        logits: FloatArray,
        deadline_s: float,
        deliver: Deliver[Output],
    ) -> None:
        """Let rows of logits `[…, num_classes]` wait, and deliver their ids, nested as the rows are.

        Fails with `NotReady` (`feedback_unavailable`) where they cannot be kept, and with `DeadlineExceeded`.
        """
        entry = _Entry(head, row_ids, logits, deadline_s, _on_this_loop(deliver))
        with self._lock:
            full = self._waiting_rows and self._waiting_rows + entry.rows > WAITING_ROWS
            if not full:
                self._entries.append(entry)
                self._waiting_rows += entry.rows
            begin = not (full or self._writing)
            self._writing = self._writing or begin
        if full:
            deliver(_unavailable(f"{WAITING_ROWS} rows wait to be written"))
        elif begin:
            self._writer.submit(self._write)

    def join(self, read: Labelled, deadline_s: float, deliver: Deliver[Outcomes]) -> None:
        """Deliver what became of each id; fails as `read` and `joining.join` do, or with `NotReady`."""
        reported = _on_this_loop(partial(self._report, deliver))
        self._joiner.submit(self._join, read, deadline_s, reported)

    def close(self) -> None:
        """Write what waits, and let go of the store."""
        self._writer.close()
        self._joiner.close()

    def _write(self) -> None:
        while True:
            with self._lock:
                entries, self._entries = self._entries, []
                self._waiting_rows = 0
                if not entries:
                    self._writing = False
                    return
            in_time = [entry for entry in entries if not _late(entry.deadline_s, entry.deliver)]
            if in_time:
                self._write_together(in_time)

    def _write_together(self, entries: Sequence[_Entry]) -> None:
        scored = [_scored(entry) for entry in entries]
        outcome = self._writer.attempt(partial(_add, scored))
        for entry, (_, ids, _) in zip(entries, scored, strict=True):
            nested: Output = np.array(ids, np.object_).reshape(entry.logits.shape[:-1]).tolist()
            entry.deliver(outcome if isinstance(outcome, Exception) else nested)

    def _join(
        self, read: Labelled, deadline_s: float, deliver: Callable[[Outcomes | Exception], None]
    ) -> None:
        if not _late(deadline_s, deliver):
            deliver(self._joiner.attempt(partial(_read_and_join, read, self._tell)))

    def _tell(self, model: str, version: str, logits: FloatArray, labels: IndexArray) -> None:
        try:
            self._judged(model, version, logits, labels)
        except Exception:  # noqa: BLE001 - rows that are joined stay so, and their caller knows no judge
            _log.exception("joined rows of %s version %s could not be judged", model, version)

    def _report(self, deliver: Deliver[Outcomes], outcome: Outcomes | Exception) -> None:
        if isinstance(outcome, Outcomes):
            self._count("joined", outcome.joined)
            for name in ("unknown", "expired", "repeated"):
                self._count(name, len(getattr(outcome, name)))
        deliver(outcome)


class _Desk:
    """A thread and its store, which is opened when it is first needed, and again after it has failed."""

    def __init__(self, opening: Opening, name: str) -> None:
        self._opening = opening
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._store: Store | None = None

    def submit(self, work: Callable[..., None], *arguments: object) -> None:
        self._thread.submit(work, *arguments)

    def attempt(self, work: Callable[[Store], T]) -> T | Exception:
        """Do something with the store; to be called in the thread."""
        try:
            if self._store is None:
                self._store = self._opening()
            return work(self._store)
        except StoreFailed as error:
            _log.error("the store of feedback fails: %s", error)
            self._let_go()
            return _unavailable("their store fails, and the log of the service says why")
        except LogitserveError as error:
            return error
        except Exception as error:  # noqa: BLE001 - it is the outcome
            self._let_go()
            return error

    def close(self) -> None:
        self._thread.submit(self._let_go)
        self._thread.shutdown()

    def _let_go(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()


def store_at(location: str | Path, ttl_s: float, rows_limit: int) -> Opening:
    """Return what opens the store at a path or a `redis://` URL; nothing is opened yet.

    Raises
    ------
    StartError
        The extra `redis` is not there.
    """
    if isinstance(location, Path):
        from service.feedback.sqlite import SqliteStore  # noqa: PLC0415 # as below

        return partial(SqliteStore, location, ttl_s, rows_limit)
    try:
        from service.feedback.redis import RedisStore  # noqa: PLC0415 # only who keeps rows there has it
    except ModuleNotFoundError as error:
        message = (
            f"feedback at {location} needs {error.name}, which is not there; install it by"
            " `pip install logitserve[cpu,redis]`"
        )
        raise StartError(message) from error
    return partial(RedisStore, location, ttl_s, rows_limit)


def feedback_off(path: str) -> Invalid:
    message = "this service keeps no rows for their labels (LOGITSERVE_FEEDBACK is off)"
    return Invalid("feedback_off", message, path=path)


def _unavailable(reason: str) -> NotReady:
    return NotReady(
        "feedback_unavailable", f"the rows cannot be kept: {reason}", headers={"Retry-After": "1"}
    )


def _scored(entry: _Entry) -> Scored:
    head, logits = entry.head, entry.logits
    by = ScoredBy(
        head.model, head.version, head.digest, str(logits.dtype), head.num_classes, head.class_names
    )
    ids = _made(entry.rows) if entry.row_ids is True else entry.row_ids
    return Scored(by, ids, cast("FloatArray", logits.reshape(entry.rows, head.num_classes)))


def _read_and_join(read: Labelled, judged: Judged, store: Store) -> Outcomes:
    ids, labels = read()
    return join(store, ids, labels, judged)


def _add(scored: Sequence[Scored], store: Store) -> None:
    store.add(scored)


def _made(count: int) -> tuple[str, ...]:
    """Make ids that nobody guesses, and that sort as the rows of their request do."""
    common = secrets.token_hex(ID_BYTES)
    return tuple([f"{common}-{row}" for row in range(count)])


def _late(deadline_s: float, deliver: Callable[[Exception], None]) -> bool:
    if time.monotonic() <= deadline_s:
        return False
    deliver(DeadlineExceeded("deadline", "the time allowed passed before the rows were reached"))
    return True


def _on_this_loop(deliver: Deliver[T]) -> Callable[[T | Exception], None]:
    loop = asyncio.get_running_loop()

    def deliver_from_thread(outcome: T | Exception) -> None:
        loop.call_soon_threadsafe(deliver, outcome)

    return deliver_from_thread
