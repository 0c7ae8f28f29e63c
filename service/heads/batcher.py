"""Rows in, rows out, over any function: what waits runs together.

A batch is what arrived in one turn of the event loop, or while the function was busy: an idle function answers
at once, and under load the batches grow by themselves. Every waiter is answered on its own: one that is
cancelled, late or at fault harms nobody else. It knows no model, no label and no HTTP.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.errors import DeadlineExceeded, QueueFull
from service.outcomes import Abandoned, Deliver, Gone, awaited, never

Arrays: TypeAlias = tuple[NDArray[Any], ...]


class RowError(Exception):
    """What one row is at fault for; `row` is its number among the rows that the function got."""

    row: int


class Rows(Protocol):
    """An array [n, …], or what can be counted and sliced like one."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> Any: ...


# Gets rows [n, …], returns arrays with n rows each.
Function: TypeAlias = Callable[[Any], Arrays]

_log = logging.getLogger("logitserve")

# How fast the measured drain rate follows a change: the last ten or so batches count.
RATE_WEIGHT = 0.1


class Batched(NamedTuple):
    """A waiter's own rows of what the function returned, how many ran with them, and how long they waited."""

    arrays: Arrays
    batch_rows: int
    seconds_queued: float


class _Waiter(NamedTuple):
    rows: Rows
    deliver: Deliver[Batched]
    gone: Gone
    deadline_s: float
    entered_s: float


class Batcher:
    """Batches calls of one function; lives on one event loop.

    Parameters
    ----------
    function : callable
        Called with stacked rows, never twice at a time.
    inline_rows : int
        Up to so many rows run on the event loop; more leave it for a thread.
    max_batch_rows : int
        More rows do not run at once; a single larger submission runs in pieces.
    max_queue_rows : int
        More rows do not wait; who comes then is refused with `QueueFull`.
    delay_s : float
        How long the first row waits for others; 0 waits for nobody.
    observe : callable
        Hears how many rows ran together, each time some did.
    stack : callable
        Puts the rows of several waiters below each other.
    weigh : callable or None
        Says of one waiter's rows as how many they count against `inline_rows`; None counts all rows alike.
    """

    def __init__(
        self,
        function: Function,
        *,
        inline_rows: int,
        max_batch_rows: int,
        max_queue_rows: int,
        delay_s: float = 0.0,
        observe: Callable[[int], None] = lambda _rows: None,
        stack: Callable[[Any], Any] = np.concatenate,
        weigh: Callable[[Any], float] | None = None,
    ) -> None:
        self._function = function
        self._observe = observe
        self._inline_rows = inline_rows
        self._stack = stack
        self._weigh = weigh
        self._max_batch_rows = max_batch_rows
        self._max_queue_rows = max_queue_rows
        self._delay_s = delay_s
        self._waiting: deque[_Waiter] = deque()
        self._scheduled = False
        self._busy = False
        self._thread: ThreadPoolExecutor | None = None
        self._rows_per_s = 0.0
        self.queue_rows = 0

    async def submit(self, rows: Rows, deadline_s: float = math.inf) -> Batched:
        """Run rows as `enter` does, and return or raise what it would deliver."""
        return await awaited(partial(self.enter, rows, deadline_s))

    def enter(self, rows: Rows, deadline_s: float, deliver: Deliver[Batched], gone: Gone = never) -> None:
        """Run rows [n, …] together with whatever else waits, and deliver what the function made of them.

        `deadline_s` is on the clock of `time.monotonic`; rows whose deadline has passed are dropped before they
        are run, with `DeadlineExceeded`, and so they are with `Abandoned` where `gone` says so. What the function raises is
        delivered, if it does so for these rows alone. Raises `QueueFull` at once where too many wait.
        """
        if self.queue_rows and self.queue_rows + len(rows) > self._max_queue_rows:
            raise self._refusal(len(rows))
        self._waiting.append(_Waiter(rows, deliver, gone, deadline_s, time.monotonic()))
        self.queue_rows += len(rows)
        if not self._scheduled and not self._busy:
            self._schedule(asyncio.get_running_loop())

    def close(self) -> None:
        """End the thread; whoever waits gets an answer first."""
        if self._thread:
            self._thread.shutdown()

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduled = True
        if self._delay_s:
            due_s = self._waiting[0].entered_s + self._delay_s - time.monotonic()
            loop.call_later(max(0.0, due_s), self._turn, loop)
        else:
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduled = False
        batch = self._take()
        if not batch:  # all of them had gone or were late
            if self._waiting:
                self._schedule(loop)
            return
        begun_s = time.monotonic()
        rows = sum([len(waiter.rows) for waiter in batch])
        weight = rows if self._weigh is None else sum([self._weigh(waiter.rows) for waiter in batch])
        if weight <= self._inline_rows:
            self._deliver(batch, rows, begun_s, self._run(batch))
            if self._waiting:
                self._schedule(loop)
            return
        self._busy = True
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="batch")
        running = self._thread.submit(self._run, batch)
        running.add_done_callback(
            lambda done: loop.call_soon_threadsafe(self._finish, loop, batch, rows, begun_s, done.result())
        )

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Waiter],
        rows: int,
        begun_s: float,
        answers: list[Arrays | Exception],
    ) -> None:
        self._busy = False
        self._deliver(batch, rows, begun_s, answers)
        if self._waiting:
            self._schedule(loop)

    def _take(self) -> list[_Waiter]:
        """Take what fits into one batch, one waiter at least; who is gone or late is dropped on the way."""
        if self.queue_rows <= self._max_batch_rows:
            taken, self._waiting = list(self._waiting), deque()
            self.queue_rows = 0
        else:
            taken = self._take_some()
        now_s = time.monotonic()
        batch = [waiter for waiter in taken if waiter.deadline_s >= now_s and not waiter.gone()]
        if len(batch) < len(taken):
            kept = set(map(id, batch))
            for waiter in taken:
                if id(waiter) not in kept:
                    waiter.deliver(Abandoned() if waiter.gone() else _late())
        return batch

    def _take_some(self) -> list[_Waiter]:
        taken: list[_Waiter] = []
        rows = 0
        while self._waiting and (not taken or rows + len(self._waiting[0].rows) <= self._max_batch_rows):
            waiter = self._waiting.popleft()
            taken.append(waiter)
            rows += len(waiter.rows)
        self.queue_rows -= rows
        return taken

    def _run(self, batch: list[_Waiter]) -> list[Arrays | Exception]:
        """Return each waiter's answer; a batch that fails runs again one by one, so that only its cause fails."""
        if len(batch) == 1:
            try:
                return [self._run_pieces(batch[0].rows)]
            except Exception as error:  # noqa: BLE001 - it is raised again where it belongs, in submit
                return [error]
        try:
            arrays = self._function(self._stack([waiter.rows for waiter in batch]))
        except Exception:  # noqa: BLE001 - see above
            return [answer for waiter in batch for answer in self._run([waiter])]
        answers: list[Arrays | Exception] = []
        start = 0
        for waiter in batch:
            stop = start + len(waiter.rows)
            answers.append(
                tuple([array[start:stop] for array in arrays])
            )  # a list is made faster than a generator
            start = stop
        return answers

    def _run_pieces(self, rows: Rows) -> Arrays:
        step = self._max_batch_rows
        if len(rows) <= step:
            return self._function(rows)
        pieces = [self._run_piece(rows, start, step) for start in range(0, len(rows), step)]
        return tuple(np.concatenate(parts) for parts in zip(*pieces, strict=True))

    def _run_piece(self, rows: Rows, start: int, step: int) -> Arrays:
        try:
            return self._function(rows[start : start + step])
        except RowError as error:
            error.row += start  # of all rows: the piece is nobody's but ours
            raise

    def _deliver(
        self, batch: list[_Waiter], rows: int, begun_s: float, answers: list[Arrays | Exception]
    ) -> None:
        running_s = time.monotonic() - begun_s
        self._observe(rows)
        rate = rows / max(running_s, 1e-9)
        self._rows_per_s += RATE_WEIGHT * (rate - self._rows_per_s) if self._rows_per_s else rate
        for waiter, answer in zip(batch, answers, strict=True):
            try:
                if isinstance(answer, Exception):
                    waiter.deliver(answer)
                else:
                    waiter.deliver(Batched(answer, rows, begun_s - waiter.entered_s))
            except Exception:  # noqa: BLE001 - against its contract, and no reason to leave the others waiting
                _log.exception("a waiter failed at its outcome")

    def _refusal(self, rows: int) -> QueueFull:
        after_s = math.ceil(self.queue_rows / self._rows_per_s) if self._rows_per_s else 1
        message = (
            f"expected at most {self._max_queue_rows} rows waiting (LOGITSERVE_QUEUE_ROWS_LIMIT), "
            f"got {rows} beside {self.queue_rows}"
        )
        return QueueFull("queue_full", message, headers={"Retry-After": str(max(1, after_s))})


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("deadline", "the time allowed passed while the rows waited")
