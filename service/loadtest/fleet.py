"""All client processes: started together, summed while they run, stopped when asked."""

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeAlias

from service.errors import StartError
from service.loadtest.generator import REPORT_S, generate
from service.loadtest.scenario import Scenario
from service.loadtest.tally import Tally

Pipes: TypeAlias = "list[Connection[Any, Any]]"

# The outcome under which a client process that died is counted.
LOST_PROCESS = "client process lost"
# What a process may take to end after its last word; then it is killed.
END_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Measurement:
    """A finished or interrupted load test."""

    scenario: Scenario
    tally: Tally
    interrupted: bool = False


def measure(scenario: Scenario, watch: Callable[[float, Tally], None]) -> Measurement:
    """Run a load test; `watch` gets the seconds passed and the tally so far a few times a second.

    Ctrl-C ends it early, with what was measured until then. Only the main thread can run it.
    """
    tally = Tally()
    with _processes(scenario) as pipes, _interruption() as interrupted:
        started_s = time.monotonic()
        _tell(pipes)
        stopped = False
        while pipes:
            _receive(pipes, tally)
            if interrupted and not stopped:
                stopped = True
                _tell(pipes)
            watch(time.monotonic() - started_s, tally)
    return Measurement(scenario, tally, interrupted=stopped)


def _receive(pipes: Pipes, tally: Tally) -> None:
    for pipe in wait(pipes, timeout=REPORT_S):
        assert isinstance(pipe, Connection)  # noqa: S101 - `wait` types also sockets and handles
        try:
            report = pipe.recv()
        except (EOFError, ConnectionError):
            tally.outcomes[LOST_PROCESS] += 1
            report = None
        if report is None:
            pipes.remove(pipe)
        else:
            tally += report


def _tell(pipes: Pipes) -> None:
    """Say the word: the first starts the processes, the second stops them."""
    for pipe in pipes:
        with contextlib.suppress(ConnectionError):  # it has just ended by itself
            pipe.send(None)


@contextlib.contextmanager
def _processes(scenario: Scenario) -> Iterator[Pipes]:
    context = multiprocessing.get_context("spawn")
    ends: Pipes = []
    processes = []
    # Children inherit it: Ctrl-C is for this process, which tells them to stop.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for seed in range(scenario.processes):
            connections = len(range(seed, scenario.connections, scenario.processes))
            ours, theirs = context.Pipe()
            process = context.Process(
                target=generate, args=(scenario, connections, seed, theirs), daemon=True
            )
            process.start()
            theirs.close()
            ends.append(ours)
            processes.append(process)
    finally:
        signal.signal(signal.SIGINT, previous)
    try:
        for end in ends:
            end.recv()
        yield list(ends)
    except EOFError:
        raise StartError("a client process of the load test did not start; its message is above") from None
    finally:
        for end in ends:
            end.close()
        for process in processes:
            process.join(END_TIMEOUT_S)
            process.kill()
            process.join()


@contextlib.contextmanager
def _interruption() -> Iterator[list[int]]:
    """Collect Ctrl-C in a list, so that it cannot cut a message in two; a second one interrupts at once."""
    received: list[int] = []

    def note(number: int, _frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, previous)
