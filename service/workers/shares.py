"""How many connections each worker holds, where all of them see it, so that each takes its share and no more.

Workers accept from one socket. Where nothing holds them back, the one that wakes first takes every connection that
waits: libuv accepts until nothing does. So a worker accepts only while it holds no more than any other, rests
otherwise, and is woken when the others have caught up. What nobody has accepted stays in the kernel, and no worker
can take it with it when it dies. This module must not know how connections are accepted.
"""

import contextlib
import mmap
import os
import time

# A worker shows ten times a second that its loop turns; for one that has not for so long nobody waits. Where all
# share one CPU each of them gets it more often than that.
PATIENCE_S = 0.3

# What a worker does with connections that wait.
_NOTHING, _LISTEN, _REST = 0, 1, 2

_NUMBER_BYTES = 8
_NS_PER_S = 1e9


class Shares:
    """A row for each worker's slot, in memory that forked processes share.

    A number is written by its worker only (and by the supervisor when that is dead), so there is no lock: who reads
    one while it changes accepts one connection too many, or rests until the worker next shows life.
    """

    def __init__(self, workers: int) -> None:
        numbers = memoryview(mmap.mmap(-1, 3 * workers * _NUMBER_BYTES)).cast("Q")
        self.held = numbers[:workers]
        self._doing = numbers[workers : 2 * workers]
        self._alive_ns = numbers[2 * workers :]
        self._wakers = [os.pipe() for _ in range(workers)]
        for end in (end for ends in self._wakers for end in ends):
            os.set_blocking(end, False)

    def close(self) -> None:
        for end in (end for ends in self._wakers for end in ends):
            os.close(end)

    def may_take(self, slot: int) -> bool:
        fewest = self._fewest()
        return fewest is None or self.held[slot] <= fewest

    def has_others(self, slot: int) -> bool:
        """Whether a worker would accept if this one did not."""
        return any(other != slot for other in self._counting())

    def listen(self, slot: int) -> None:
        self.show_life(slot)
        self._doing[slot] = _LISTEN

    def rest(self, slot: int) -> None:
        self._doing[slot] = _REST

    def leave(self, slot: int) -> None:
        """Count no longer: the others do not wait for this one."""
        self._doing[slot] = _NOTHING
        self._wake()

    def clear(self, slot: int) -> None:
        """Forget a worker that has died."""
        self.held[slot] = 0
        self.leave(slot)

    def take(self, slot: int) -> None:
        """Count one more; it may be what others have rested for."""
        self.held[slot] += 1
        self._wake()

    def drop(self, slot: int) -> None:
        self.held[slot] = max(0, self.held[slot] - 1)

    def show_life(self, slot: int) -> None:
        self._alive_ns[slot] = time.monotonic_ns()

    def waker(self, slot: int) -> int:
        """Return what is readable when it is worth looking whether the rest is over."""
        return self._wakers[slot][0]

    def heard(self, slot: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.waker(slot), 4096)

    def _counting(self) -> list[int]:
        since_ns = time.monotonic_ns() - PATIENCE_S * _NS_PER_S
        return [slot for slot, doing in enumerate(self._doing) if doing and self._alive_ns[slot] >= since_ns]

    def _fewest(self) -> int | None:
        return min((self.held[slot] for slot in self._counting()), default=None)

    def _wake(self) -> None:
        resting = [slot for slot, doing in enumerate(self._doing) if doing == _REST]
        fewest = self._fewest() if resting else None
        for slot in resting:
            if fewest is None or self.held[slot] <= fewest:
                with contextlib.suppress(BlockingIOError):  # it is full of calls that were not heard yet
                    os.write(self._wakers[slot][1], b"w")
