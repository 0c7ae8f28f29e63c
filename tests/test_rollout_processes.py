"""Several real workers behind one socket: what one is asked, all have done."""

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import MODELS, NO_TLS, Running, running_service
from prometheus_client.parser import text_string_to_metric_families

WORKERS = 3
KEY = {"authorization": "Bearer secret"}
FEATURES = {"features": [1] * 64}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODELS / "digits", tmp_path / "models" / "digits")).parent


@pytest.fixture
def service(models: Path, tmp_path: Path) -> Iterator[Running]:
    flags = [f"--models={models}", f"--workers={WORKERS}", "--threads=1", "--admin-key=secret"]
    with running_service(*flags, f"--run-dir={tmp_path}", "--drain-delay-s=0.1") as running:
        yield running


def put(models: Path, version: int) -> None:
    """Make a version appear whole, as who deploys does: written beside, then renamed."""
    written = shutil.copytree(MODELS / "digits" / "1", models / ".new")
    Path(written).rename(models / "digits" / str(version))


def children(service: Running) -> set[int]:
    pid = service.process.pid
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()}


def asked_of_each(
    service: Running, ask: Callable[[httpx.Client], httpx.Response]
) -> dict[int, httpx.Response]:
    """Ask over new connections, which the workers share evenly, until each has answered; by process."""
    answers: dict[int, httpx.Response] = {}
    with contextlib.ExitStack() as stack:
        end = time.monotonic() + 20
        while answers.keys() != children(service):
            assert time.monotonic() < end, f"only {answers.keys()} answered"
            try:
                client = stack.enter_context(httpx.Client(base_url=service.url, timeout=20, verify=NO_TLS))
                answer = ask(client)
            except httpx.TransportError:  # it was taken by the worker that has just been killed
                continue
            answers[int(answer.headers["x-request-id"].split("-")[0], 16)] = answer
    return {pid: answer for pid, answer in answers.items() if pid in children(service)}


def states_in_each(service: Running) -> list[dict[str, str]]:
    answers = asked_of_each(service, lambda client: client.get("/models/digits"))
    assert len(answers) == WORKERS
    return [
        {version["version"]: version["state"] for version in answer.json()["versions"]}
        for answer in answers.values()
    ]


def admin(service: Running, path: str, **body: Any) -> None:
    verb = "PUT" if body else "POST"
    answer = httpx.request(
        verb, f"{service.url}/admin/{path}", headers=KEY, json=body or None, timeout=30, verify=NO_TLS
    )
    assert answer.status_code == 200, answer.text


def loaded(service: Running) -> set[str]:
    text = httpx.get(f"{service.url}/metrics").text
    return {
        sample.labels["version"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "logitserve_model_info"
    }


def test_whichever_worker_is_asked_all_follow(service: Running, models: Path) -> None:
    put(models, 2)
    assert states_in_each(service) == [{"1": "ready"}] * WORKERS
    admin(service, "reload")
    assert states_in_each(service) == [{"1": "ready", "2": "ready"}] * WORKERS
    asked = asked_of_each(
        service,
        lambda client: client.post("/admin/models/digits/versions/1/unload", headers=KEY, timeout=30),
    )
    assert {answer.status_code for answer in asked.values()} == {200}, "each of them can be asked"
    assert states_in_each(service) == [{"1": "unloaded", "2": "ready"}] * WORKERS
    infer = {"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 64], "data": [1] * 64}]}
    inferred = asked_of_each(service, lambda client: client.post("/v2/models/digits/infer", json=infer))
    assert {answer.json()["model_version"] for answer in inferred.values()} == {"2"}
    admin(service, "models/digits/aliases/stable", version="2")
    named = asked_of_each(
        service, lambda client: client.post("/predict", json={**FEATURES, "version": "stable"})
    )
    assert {answer.json()["version"] for answer in named.values()} == {"2"}
    time.sleep(0.5)  # until all have published their counts
    assert loaded(service) == {"2"}


def test_changes_asked_of_different_workers_at_once_are_all_made(service: Running, models: Path) -> None:
    for version in range(2, 8):
        put(models, version)
    admin(service, "reload")
    threads = [
        threading.Thread(target=admin, args=(service, f"models/digits/versions/{version}/unload"))
        for version in range(1, 7)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = dict.fromkeys("123456", "unloaded") | {"7": "ready"}
    assert states_in_each(service) == [expected] * WORKERS


def test_a_worker_that_takes_a_killed_ones_place_serves_what_was_agreed(
    service: Running, models: Path
) -> None:
    put(models, 2)
    admin(service, "reload")
    admin(service, "models/digits/versions/1/unload")
    put(models, 3)  # nobody has asked for it yet
    before = children(service)
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    end = time.monotonic() + 20
    while killed in children(service) or len(children(service)) < WORKERS:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert len(children(service) - before) == 1
    assert states_in_each(service) == [{"1": "unloaded", "2": "ready"}] * WORKERS
    admin(service, "models/digits/versions/1/load")
    assert states_in_each(service) == [{"1": "ready", "2": "ready"}] * WORKERS


def test_a_call_waits_for_the_worker_that_is_just_replaced(service: Running) -> None:
    os.kill(min(children(service)), signal.SIGKILL)
    admin(service, "models/digits/versions/1/unload")
    assert states_in_each(service) == [{"1": "unloaded"}] * WORKERS


def test_versions_are_swapped_under_load_without_one_failure(service: Running, models: Path) -> None:
    stop = threading.Event()
    failures: list[str] = []
    versions: list[list[str]] = [[] for _ in range(6)]

    def send(seen: list[str]) -> None:
        with httpx.Client(base_url=service.url, timeout=20, verify=NO_TLS) as client:
            while not stop.is_set():
                answer = client.post("/predict", json=FEATURES)
                if answer.status_code == 200:
                    seen.append(answer.json()["version"])
                else:
                    failures.append(answer.text)

    threads = [threading.Thread(target=send, args=(seen,)) for seen in versions]
    for thread in threads:
        thread.start()
    for version in (2, 3):
        time.sleep(0.3)
        put(models, version)
        admin(service, "reload")
        assert (
            httpx.post(f"{service.url}/predict", json={**FEATURES, "version": "1"}, verify=NO_TLS).status_code
            == 200
        )
        time.sleep(0.3)
        admin(service, f"models/digits/versions/{version - 1}/unload")
        admin(service, f"models/digits/versions/{version - 1}/load")
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    for seen in versions:
        assert (seen[0], seen[-1]) == ("1", "3")
        assert seen == sorted(seen), "nobody goes back"
        assert len(seen) > 20
