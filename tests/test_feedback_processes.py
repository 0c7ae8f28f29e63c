"""Two workers behind one socket: rows that one has scored are joined by whichever gets the label."""

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import NO_TLS, Running, running_service

WORKERS = 2


def serving(folder: Path, *flags: str) -> contextlib.AbstractContextManager[Running]:
    ours = (
        f"--run-dir={folder}",
        f"--feedback={folder / 'rows.sqlite'}",
        "--threads=1",
        "--drain-delay-s=0.1",
    )
    return running_service(*ours, f"--workers={WORKERS}", *flags)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Running]:
    with serving(tmp_path) as running:
        yield running


def pid_of(answer: httpx.Response) -> int:
    return int(answer.headers["x-request-id"].split("-")[0], 16)


def post(service: Running, path: str, **body: Any) -> httpx.Response:
    """Ask over a new connection, which either worker may take."""
    answer = httpx.post(f"{service.url}{path}", json=body, timeout=30, verify=NO_TLS)
    assert answer.status_code == 200, answer.text
    return answer


def predict(service: Running, *ids: str) -> httpx.Response:
    return post(service, "/predict", features=[[1] * 64] * len(ids), row_ids=list(ids))


def children(service: Running) -> set[int]:
    pid = service.process.pid
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()}


def test_any_worker_joins_what_any_has_scored_and_all_are_counted(service: Running) -> None:
    by_worker: dict[int, httpx.Client] = {}
    number = 0
    with contextlib.ExitStack() as stack:
        end = time.monotonic() + 30
        while len(by_worker) < WORKERS:  # connections that stay open, of which each worker takes its share
            assert time.monotonic() < end, f"only {by_worker}"
            client = stack.enter_context(httpx.Client(base_url=service.url, timeout=20, verify=NO_TLS))
            by_worker.setdefault(pid_of(client.get("/health/live")), client)
        for scorer, labeller in itertools.product(by_worker.values(), repeat=2):
            scored = scorer.post("/predict", json={"features": [[1] * 64], "row_ids": [f"{number}"]})
            labelled = labeller.post("/feedback", json={"ids": [f"{number}"], "labels": [1]})
            assert scored.status_code == 200
            assert labelled.json()["joined"] == 1
            number += 1
    text = httpx.get(f"{service.url}/metrics").text
    time.sleep(0.3)  # another worker's counts may be a quarter of a second old
    text = httpx.get(f"{service.url}/metrics").text
    assert f'logitserve_feedback_rows_total{{outcome="joined"}} {number}.0' in text


def test_workers_that_get_the_same_labels_at_once_join_each_row_once(service: Running) -> None:
    ids = [f"{number}" for number in range(500)]
    predict(service, *ids)
    answers: list[dict[str, Any]] = []

    def label() -> None:
        answers.append(post(service, "/feedback", ids=ids, labels=[1] * len(ids)).json())

    threads = [threading.Thread(target=label) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(answer["joined"] for answer in answers) == len(ids)
    assert sum(answer["repeated"]["count"] for answer in answers) == 5 * len(ids)


def test_a_worker_that_is_killed_after_its_answer_has_lost_no_row(service: Running) -> None:
    for number in range(4):
        scored = predict(service, f"{number}")
        os.kill(pid_of(scored), signal.SIGKILL)
        end = time.monotonic() + 20
        while True:  # a connection that the dead one had accepted is closed
            assert time.monotonic() < end
            with contextlib.suppress(httpx.TransportError):
                found = post(service, "/feedback", ids=[f"{number}"], labels=[1]).json()
                break
        assert found["joined"] == 1
        while len(children(service)) < WORKERS:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_rows_wait_through_a_restart_of_the_service(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        predict(service, "a", "b")
        assert post(service, "/feedback", ids=["b"], labels=[1]).json()["joined"] == 1
    with serving(tmp_path) as service:
        found = post(service, "/feedback", ids=["a", "b"], labels=["one", 1]).json()
        assert (found["joined"], found["repeated"]["ids"]) == (1, ["b"])


def test_unless_told_otherwise_the_file_has_the_port_in_its_name(tmp_path: Path) -> None:
    with running_service(f"--run-dir={tmp_path}", "--drain-delay-s=0.1") as service:
        assert not list(tmp_path.glob("*.sqlite")), "nobody has asked for it"
        predict(service, "a")
        assert [file.name for file in tmp_path.glob("*.sqlite")] == [
            f"logitserve-feedback-{service.port}.sqlite"
        ]
