"""Client processes together: real processes and sockets, short runs."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from answering import Standin
from listening import listening

from service.errors import StartError
from service.loadtest import fleet
from service.loadtest.fleet import LOST_PROCESS, Measurement, measure
from service.loadtest.scenario import Scenario
from service.loadtest.tally import Tally


def run(app: Standin, watch: Callable[[float, Tally], None], **scenario: Any) -> Measurement:
    scenario = {"connections": 4, "warm_up_s": 0.1, **scenario}
    with listening(app) as url:
        return measure(Scenario(url, **scenario), watch)


def once_measured(action: Callable[[], object]) -> Callable[[float, Tally], None]:
    """Do something a single time, as soon as there is something in the tally."""
    pending = [action]

    def watch(_passed_s: float, tally: Tally) -> None:
        if tally.outcomes and pending:
            pending.pop()()

    return watch


def test_several_processes_share_the_connections_and_their_tallies_add_up() -> None:
    seen: list[tuple[float, int]] = []
    measurement = run(
        Standin(delay_s=0.05),
        lambda passed_s, tally: seen.append((passed_s, tally.outcomes.total())),
        connections=3,
        processes=2,
        duration_s=0.8,
    )
    tally = measurement.tally
    assert not measurement.interrupted
    # Three connections, each at most 20 times a second.
    assert 5 <= tally.outcomes["200"] <= 51
    assert not tally.errors()
    assert tally.watched_s > 0.8  # of two processes
    assert 0 < tally.busy_s <= tally.watched_s
    assert seen == sorted(seen)
    assert len({count for _, count in seen}) >= 3


def test_ctrl_c_ends_the_run_with_what_was_measured() -> None:
    interrupt = once_measured(lambda: os.kill(os.getpid(), signal.SIGINT))
    measurement = run(Standin(), interrupt, duration_s=60.0)
    assert measurement.interrupted
    assert measurement.tally.outcomes["200"] > 0
    assert 0 < measurement.tally.measured_s < 10
    assert not multiprocessing.active_children()


def test_a_second_ctrl_c_ends_at_once() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # uvloop leaves its own behind
    with fleet._interruption() as received:
        os.kill(os.getpid(), signal.SIGINT)
        assert received == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_client_process_that_dies_is_an_error() -> None:
    def kill() -> None:
        for child in multiprocessing.active_children():
            child.kill()

    measurement = run(Standin(), once_measured(kill), duration_s=60.0)
    assert measurement.tally.outcomes[LOST_PROCESS] == 1
    assert not measurement.interrupted


def test_client_processes_that_cannot_start_end_the_test_with_one_line() -> None:
    scenario = Scenario("http://127.0.0.1:9", media="tar")  # type: ignore[arg-type]
    with pytest.raises(StartError, match="did not start"):
        measure(scenario, lambda _passed_s, _tally: None)
    assert not multiprocessing.active_children()
