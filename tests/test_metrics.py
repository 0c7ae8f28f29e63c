"""Counting, publishing, summing over workers, and the Prometheus text."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from service.exposition import Exposition
from service.instruments import BUCKETS_S, INSTRUMENTS
from service.metrics import NOTED, Board, Metrics, Values, summed

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(values: Values) -> Samples:
    text = Exposition(CollectorRegistry()).text(values).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def one_request(metrics: Metrics, duration_s: float = 0.0003, status: int = 200) -> None:
    metrics.request_started()
    metrics.request_finished("/softmax", "POST", status, duration_s)


def test_a_request_is_counted_by_route_method_and_status() -> None:
    metrics = Metrics()
    one_request(metrics)
    one_request(metrics)
    one_request(metrics, status=422)
    found = samples(metrics.values)
    labels = (("method", "POST"), ("route", "/softmax"))
    assert found["logitserve_requests_total", (*labels, ("status", "200"))] == 2
    assert found["logitserve_requests_total", (*labels, ("status", "422"))] == 1


def test_requests_in_flight_go_up_and_down() -> None:
    metrics = Metrics()
    metrics.request_started()
    metrics.request_started()
    assert samples(metrics.values)["logitserve_inflight_requests", ()] == 2
    metrics.request_finished("/loss", "POST", 200, 0.001)
    assert samples(metrics.values)["logitserve_inflight_requests", ()] == 1


def test_the_histogram_is_cumulative_and_has_bounds_below_a_millisecond() -> None:
    metrics = Metrics()
    for duration_s in (0.00005, 0.0003, 0.0005, 3.0, 99.0):
        one_request(metrics, duration_s)
    found = samples(metrics.values)
    route = ("route", "/softmax")
    name = "logitserve_request_duration_seconds"
    assert sum(bound < 0.001 for bound in BUCKETS_S) >= 3
    assert found[f"{name}_bucket", (("le", "0.0001"), route)] == 1
    assert found[f"{name}_bucket", (("le", "0.0005"), route)] == 3, "a value on a bound counts below it"
    assert found[f"{name}_bucket", (("le", "2.5"), route)] == 3
    assert found[f"{name}_bucket", (("le", "10.0"), route)] == 4
    assert found[f"{name}_bucket", (("le", "+Inf"), route)] == 5
    assert found[f"{name}_count", (route,)] == 5
    assert found[f"{name}_sum", (route,)] == pytest.approx(102.00085)


def test_rows_errors_and_models_have_their_labels() -> None:
    metrics = Metrics()
    metrics.scored(("digits", "1"), 32, (1e-5, 0, 0, 0), time.monotonic())
    metrics.scored(("digits", "1"), 8, (1e-5, 0, 0, 0), time.monotonic())
    metrics.error("/loss", "labels_shape")
    metrics.models([("digits", "1", "abc", "CPUExecutionProvider")])
    found = samples(metrics.values)
    assert found["logitserve_rows_total", (("model", "digits"), ("version", "1"))] == 40
    assert found["logitserve_errors_total", (("code", "labels_shape"), ("route", "/loss"))] == 1
    info = (("digest", "abc"), ("model", "digits"), ("provider", "CPUExecutionProvider"), ("version", "1"))
    assert found["logitserve_model_info", info] == 1


def test_every_name_begins_with_the_product() -> None:
    assert all(instrument.name.startswith("logitserve_") for instrument in INSTRUMENTS)


@pytest.fixture
def boards(tmp_path: Path) -> Iterator[tuple[Board, Board]]:
    first, second = Board(tmp_path, 0), Board(tmp_path, 1)
    yield first, second
    first.close()
    second.close()


def test_two_workers_sum_to_one_text(boards: tuple[Board, Board]) -> None:
    ours, theirs = Metrics(), Metrics()
    one_request(ours)
    for _ in range(3):
        one_request(theirs)
    for metrics in (ours, theirs):
        metrics.models([("digits", "1", "abc", "CPUExecutionProvider")])
    boards[1].publish(theirs.values)
    found = samples(summed([ours.values, *boards[0].others()]))
    assert found["logitserve_request_duration_seconds_count", (("route", "/softmax"),)] == 4
    assert found["logitserve_workers", ()] == 2
    info = [value for (name, _), value in found.items() if name == "logitserve_model_info"]
    assert info == [1], "what every worker says alike is not added up"


def test_a_board_does_not_count_itself_twice(boards: tuple[Board, Board]) -> None:
    metrics = Metrics()
    one_request(metrics)
    boards[0].publish(metrics.values)
    assert list(boards[0].others()) == []
    assert len(list(boards[1].others())) == 1


def test_the_replacement_of_a_dead_worker_goes_on_counting_where_it_stopped(tmp_path: Path) -> None:
    before = Metrics()
    one_request(before, 0.0003)
    before.request_started()
    board = Board(tmp_path, 0)
    board.publish(before.values)
    board.close()

    after, board = Metrics(), Board(tmp_path, 0)
    after.continue_from(board.own())
    one_request(after, 0.0003)
    found = samples(after.values)
    assert found["logitserve_request_duration_seconds_count", (("route", "/softmax"),)] == 2
    assert found["logitserve_inflight_requests", ()] == 0, "gauges die with their worker"
    board.close()


def test_a_new_slot_has_nothing_to_take_over(tmp_path: Path) -> None:
    board = Board(tmp_path, 7)
    assert board.own() == {}
    board.close()


def _publish_and_die(folder: Path) -> None:
    metrics = Metrics()
    one_request(metrics)
    metrics.request_started()
    Board(folder, 3).publish(metrics.values)


def test_the_counters_of_a_dead_worker_stay_and_its_gauges_go(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_publish_and_die, args=(tmp_path,))
    process.start()
    process.join()
    board = Board(tmp_path, 0)
    found = samples(summed([Metrics().values, *board.others()]))
    assert found["logitserve_request_duration_seconds_count", (("route", "/softmax"),)] == 1
    assert found["logitserve_inflight_requests", ()] == 0
    assert found["logitserve_workers", ()] == 1
    board.close()


def test_a_worker_of_another_user_counts_as_alive(
    boards: tuple[Board, Board], monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_permitted(_pid: int, _signal: int) -> None:
        raise PermissionError

    boards[1].publish(Metrics().values)
    monkeypatch.setattr(os, "kill", not_permitted)
    assert summed(boards[0].others())["logitserve_workers"][()] == 1


def test_a_torn_snapshot_is_left_out(boards: tuple[Board, Board], tmp_path: Path) -> None:
    boards[1].publish(Metrics().values)
    path = tmp_path / "worker-1.metrics"
    content = bytearray(path.read_bytes())
    content[20] ^= 0xFF
    path.write_bytes(content)
    assert list(boards[0].others()) == []


def test_what_was_published_is_the_same_for_all_slots(boards: tuple[Board, Board]) -> None:
    assert summed([]) == boards[0].published(), "nobody has published yet"
    for board, requests in zip(boards, (1, 2), strict=True):
        metrics = Metrics()
        for _ in range(requests):
            one_request(metrics)
        board.publish(metrics.values)
        one_request(metrics)  # not published
    assert boards[0].published() == boards[1].published()
    assert boards[0].published()["logitserve_requests"] == {("/softmax", "POST", "200"): 3}


def test_a_snapshot_that_is_being_written_for_long_has_the_last_one_in_its_place(
    boards: tuple[Board, Board], tmp_path: Path
) -> None:
    metrics = Metrics()
    one_request(metrics)
    boards[1].publish(metrics.values)
    before = boards[0].published()
    path = tmp_path / "worker-1.metrics"
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 0xFF]) + whole[1:])
    assert list(boards[0].others()) == []
    assert boards[0].published() == before, "what is compared over time may not go down and up again"
    one_request(metrics)
    boards[1].publish(metrics.values)
    assert boards[0].published()["logitserve_requests"] == {("/softmax", "POST", "200"): 2}


def test_a_snapshot_too_large_leaves_the_last_one_in_place(boards: tuple[Board, Board]) -> None:
    metrics = Metrics()
    one_request(metrics)
    boards[1].publish(metrics.values)
    for i in range(20_000):
        metrics.error("/loss", f"code-{i}-{'x' * 64}")
    boards[1].publish(metrics.values)
    (other,) = boards[0].others()
    assert other["logitserve_errors"] == {}
    assert other["logitserve_requests"] == {("/softmax", "POST", "200"): 1}


def test_counting_does_not_touch_prometheus_client() -> None:
    """A request pays for dictionary updates only: the library is not even called."""
    code = (
        "from service.metrics import Metrics\nimport sys\n"
        "calls = []\n"
        "sys.setprofile(lambda frame, event, arg: calls.append(frame.f_code.co_filename))\n"
        "m = Metrics(); m.request_started(); m.request_finished('/', 'GET', 200, 0.1); m.scored(('a', '1'), 2, (0.1, 0, 0.2, 0.3), 0.0)\n"
        "sys.setprofile(None)\n"
        "assert calls and not any('prometheus_client' in name for name in calls), calls\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_batches_are_counted_by_their_rows_and_queues_by_what_waits() -> None:
    metrics = Metrics()
    for rows in (1, 3, 3, 2000):
        metrics.batch("digits", "1", rows)
    metrics.queue_rows(17)
    metrics.rejected("queue_full")
    found = samples(metrics.values)
    name, head = "logitserve_batch_rows", (("model", "digits"), ("version", "1"))
    assert found[f"{name}_bucket", (("le", "1"), *head)] == 1
    assert found[f"{name}_bucket", (("le", "4"), *head)] == 3
    assert found[f"{name}_bucket", (("le", "1024"), *head)] == 3
    assert found[f"{name}_bucket", (("le", "+Inf"), *head)] == 4
    assert found[f"{name}_sum", head] == 2007
    assert found["logitserve_queue_rows", ()] == 17
    assert found["logitserve_rejected_total", (("reason", "queue_full"),)] == 1


def test_stages_and_failures_are_timed_by_model() -> None:
    metrics = Metrics()
    metrics.scored(("digits", "1"), 2, (0.00002, 0, 0.0002, 0.1), time.monotonic())
    metrics.scored(("digits", "1"), 2, (0.00003, 0, 0.0003, 0.2), time.monotonic())
    metrics.failed(("softmax", ""), 0.25)
    found = samples(metrics.values)
    head, name = (
        (("model", "digits"), ("stage", "decode"), ("version", "1")),
        "logitserve_stage_duration_seconds",
    )
    assert found[f"{name}_count", head] == 2
    assert found[f"{name}_sum", head] == pytest.approx(0.00005)
    assert found[f"{name}_bucket", (("le", "2.5e-05"), *head)] == 1
    encode = (("model", "digits"), ("stage", "encode"), ("version", "1"))
    assert found[f"{name}_sum", encode] == pytest.approx(0.3)
    failures = (("model", "softmax"), ("version", ""))
    assert found["logitserve_failure_duration_seconds_count", failures] == 1
    assert found["logitserve_failure_duration_seconds_sum", failures] == 0.25


def test_the_last_time_is_the_latest_of_all_workers(boards: tuple[Board, Board]) -> None:
    first, second = Metrics(), Metrics()
    first.scored(("digits", "1"), 1, (0, 0, 0, 0), time.monotonic())
    second.scored(("digits", "1"), 1, (0, 0, 0, 0), time.monotonic())
    name, key = "logitserve_last_scored_timestamp_seconds", ("digits", "1")
    times = [metrics.values[name][key] for metrics in (first, second)]
    assert 0 <= times[1] - times[0] < 5
    boards[1].publish(second.values)
    for values in ([first.values, *boards[0].others()], [*boards[0].others(), first.values]):
        assert summed(values)[name] == {key: pytest.approx(times[1])}


def test_what_is_noted_is_counted_whole_however_much_there_is() -> None:
    metrics = Metrics()
    for place in range(NOTED + 7):
        one_request(metrics, duration_s=0.0003 if place % 2 else 20)
        metrics.scored(("digits", "1"), 2, (1e-6, 0, 0, 20), time.monotonic())
    found = samples(metrics.values)
    name, route = "logitserve_request_duration_seconds", (("route", "/softmax"),)
    assert found[f"{name}_count", route] == NOTED + 7
    assert found[f"{name}_bucket", (("le", "0.0005"), *route)] == (NOTED + 7) // 2
    assert found["logitserve_rows_total", (("model", "digits"), ("version", "1"))] == 2 * (NOTED + 7)
    stage = (("model", "digits"), ("stage", "decode"), ("version", "1"))
    assert found["logitserve_stage_duration_seconds_count", stage] == NOTED + 7
    assert found["logitserve_stage_duration_seconds_sum", stage] == pytest.approx((NOTED + 7) * 1e-6)
