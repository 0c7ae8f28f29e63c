"""One client process against servers that answer, refuse and stall: run in a thread, over real sockets."""

import multiprocessing
import socket
import threading
from typing import Any

import pytest
from answering import Standin
from listening import listening

from service.client.calls import MEDIA_TYPES
from service.loadtest import generator
from service.loadtest.generator import generate
from service.loadtest.scenario import Scenario
from service.loadtest.tally import RESOLUTION, Tally


def generated(scenario: Scenario, connections: int) -> Tally:
    """Do as `fleet` does with its processes."""
    ours, theirs = multiprocessing.Pipe()
    thread = threading.Thread(target=generate, args=(scenario, connections, 0, theirs))
    thread.start()
    tally = Tally()
    with ours, theirs:
        assert ours.recv() is None
        ours.send(None)
        while (report := ours.recv()) is not None:
            tally += report
        thread.join()
    return tally


def run(app: Standin, **scenario: Any) -> Tally:
    scenario = {"connections": 4, "warm_up_s": 0.05, "duration_s": 0.3, **scenario}
    with listening(app) as url:
        return generated(Scenario(url, **scenario), scenario["connections"])


def test_a_closed_loop_sends_as_soon_as_it_is_answered() -> None:
    tally = run(Standin(delay_s=0.05))
    # Four connections, each at most 20 times a second, for 0.3 s.
    assert 4 <= tally.outcomes["200"] <= 28
    assert not tally.errors()
    assert tally.latencies.percentile_s(50) >= 0.05 * (1 - RESOLUTION)
    assert tally.measured_s == pytest.approx(0.3, abs=1e-6)


def test_the_warm_up_is_not_counted() -> None:
    app = Standin()
    tally = run(app, warm_up_s=0.4, duration_s=0.2)
    assert 0 < tally.outcomes.total() < app.asked


def test_answers_appear_on_the_timeline() -> None:
    tally = run(Standin(), duration_s=0.8)
    assert set(tally.answered) <= {0, 1, 2, 3}
    assert len(tally.answered) >= 3
    assert sum(tally.answered.values()) == pytest.approx(tally.outcomes["200"], abs=8)


def test_an_open_loop_sends_at_its_rate() -> None:
    tally = run(Standin(), rate_per_s=100.0, duration_s=0.4)
    # A machine without time may leave the last ones unsent, but none unsaid.
    assert tally.outcomes["200"] + tally.unsent == pytest.approx(40, abs=1)
    assert tally.outcomes["200"] > 20


def test_poisson_arrivals_are_sent() -> None:
    tally = run(Standin(), rate_per_s=200.0, poisson=True, duration_s=0.4)
    assert 40 < tally.outcomes["200"] + tally.unsent < 130


def test_an_open_loop_does_not_hide_waiting() -> None:
    # One connection carries 10 requests a second, and 50 are due: most wait for most of the test.
    tally = run(Standin(delay_s=0.1), rate_per_s=50.0, connections=1, duration_s=0.8)
    assert tally.unsent >= 20
    assert tally.latencies.percentile_s(50) > 0.25
    assert len(tally.latencies) == tally.outcomes["200"] + tally.unsent == pytest.approx(40, abs=2)


def test_waiting_for_answers_is_idle_and_sending_without_pause_is_busy() -> None:
    waiting = run(Standin(delay_s=0.1), connections=1, duration_s=0.6)
    sending = run(Standin(), connections=16, duration_s=0.6)
    assert 0 < waiting.busy_s / waiting.watched_s < sending.busy_s / sending.watched_s <= 1


def test_errors_are_counted_by_status_and_code_and_have_no_latency() -> None:
    tally = run(Standin(422, b'{"code": "labels_shape"}', problem=True))
    assert set(tally.outcomes) == {"422 labels_shape"}
    assert tally.failed.total() > 0
    assert tally.answered.total() == 0
    assert len(tally.latencies) == 0


def test_errors_of_somebody_else_are_counted_by_status() -> None:
    assert set(run(Standin(503, b"busy")).outcomes) == {"503"}


def test_a_server_that_is_not_there_is_counted_without_haste() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    scenario = Scenario(url, connections=2, warm_up_s=0.1, duration_s=0.5)
    tally = generated(scenario, 2)
    assert set(tally.outcomes) == {"ConnectError"}
    assert tally.outcomes.total() <= 30


def test_a_process_whose_parent_has_gone_stops() -> None:
    ours, theirs = multiprocessing.Pipe()
    scenario = Scenario("http://127.0.0.1:9", connections=1, warm_up_s=0.0, duration_s=60.0)
    thread = threading.Thread(target=generate, args=(scenario, 1, 0, theirs))
    thread.start()
    assert ours.recv() is None
    ours.send(None)
    ours.recv()
    ours.close()
    thread.join(5)
    assert not thread.is_alive()
    theirs.close()


def test_a_word_stops_a_process_early() -> None:
    ours, theirs = multiprocessing.Pipe()
    with listening(Standin()) as url, ours, theirs:
        scenario = Scenario(url, connections=1, warm_up_s=0.0, duration_s=60.0)
        thread = threading.Thread(target=generate, args=(scenario, 1, 0, theirs))
        thread.start()
        ours.recv()
        ours.send(None)
        ours.recv()
        ours.send(None)
        reports = list(iter(ours.recv, None))
        thread.join(5)
    assert len(reports) <= 2
    assert not thread.is_alive()


def test_the_processes_of_an_open_loop_share_its_rate() -> None:
    with listening(Standin()) as url:
        scenario = Scenario(url, connections=8, rate_per_s=200.0, warm_up_s=0.0, duration_s=0.5)
        tally = generated(scenario, 2)
    assert tally.outcomes["200"] + tally.unsent == pytest.approx(25, abs=1)


def test_connections_are_kept_alive() -> None:
    app = Standin()
    run(app, connections=3)
    assert app.asked > 3
    assert len(app.callers) == 3


@pytest.mark.parametrize("media", ["json", "npz"])
def test_requests_say_how_their_arrays_travel(media: str) -> None:
    app = Standin()
    run(app, media=media, route="softmax", columns=3)
    assert app.media_types == {MEDIA_TYPES[media].encode()}


def test_a_service_that_stalls_is_an_error_and_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "REQUEST_TIMEOUT_S", 0.1)
    tally = run(Standin(delay_s=0.5), connections=2)
    assert set(tally.outcomes) == {"ReadTimeout"}
    assert len(tally.latencies) == 0


def test_a_service_that_stops_in_between_is_counted() -> None:
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        with listening(Standin()) as url:
            scenario = Scenario(url, connections=2, warm_up_s=0.0, duration_s=1.0)
            thread = threading.Thread(target=generate, args=(scenario, 2, 0, theirs))
            thread.start()
            ours.recv()
            ours.send(None)
            tally = ours.recv()
        for report in iter(ours.recv, None):
            tally += report
        thread.join()
    assert tally.outcomes["200"] > 0
    assert tally.outcomes["ConnectError"] > 0
    assert tally.failed.total() > 0
