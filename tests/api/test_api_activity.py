"""The last minutes as the page gets them: from any worker the same, and right though one is killed."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import NO_TLS, Running, Serve, running_service

from service import activity

pytestmark = pytest.mark.anyio

ROWS = {"features": [[0.0] * 64] * 5, "labels": [1] * 5}


def until(holds: Callable[[], Any], within_s: float = 120) -> Any:
    end_s = time.monotonic() + within_s
    while not (found := holds()):
        assert time.monotonic() < end_s
        time.sleep(0.1)
    return found


async def test_before_two_samples_it_says_so_in_empty_arrays(serve: Serve) -> None:
    async with serve() as client:
        answer = await client.get("/activity")
        assert answer.status_code == 200
        told = answer.json()
    assert (told["times_s"], told["requests_per_s"], told["last_minute"]) == ([], [], None)
    assert (told["interval_s"], told["kept_s"]) == (activity.INTERVAL_S, activity.KEPT_S)
    assert (told["workers_wanted"], told["threads"]) == (1, 1)


@pytest.mark.parametrize("since", ["yesterday", "", "nan", "inf"])
async def test_a_time_that_is_none_is_refused(serve: Serve, since: str) -> None:
    async with serve() as client:
        answer = await client.get("/activity", params={"since": since})
    assert (answer.status_code, answer.json()["code"]) == (422, "option_type")
    assert answer.json()["errors"][0]["path"] == "since"


async def test_it_is_documented_with_all_that_it_answers(serve: Serve) -> None:
    async with serve() as client:
        operation = (await client.get("/openapi.json")).json()["paths"]["/activity"]["get"]
        told = (await client.get("/activity")).json()
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == set(told)
    assert operation["parameters"][0]["name"] == "since"


async def test_it_counts_where_quality_is_off(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.api.activity.INTERVAL_S", 0.05)
    monkeypatch.setattr("service.activity.INTERVAL_S", 0.05)
    async with serve(quality="off") as client:
        assert (await client.post("/predict", json=ROWS)).status_code == 200
        end_s = time.monotonic() + 10
        while len((told := (await client.get("/activity")).json())["times_s"]) < 3:
            assert time.monotonic() < end_s
    assert told["quality"]["models"] == []
    assert told["workers"] == [1] * len(told["times_s"])


def told_by_all(url: str, answers: int = 12) -> list[Any]:
    """What one worker after the other tells: each time on a connection of its own."""
    return [httpx.get(f"{url}/activity", verify=NO_TLS).json() for _ in range(answers)]


def counted(told: dict[str, Any], rates: list[float]) -> float:
    """What rates come to over all intervals, which are longer where a busy worker has missed a sample."""
    ends_s = told["times_s"]
    lengths_s = np.diff([ends_s[0] - activity.INTERVAL_S, *ends_s])
    return float(np.round(lengths_s @ rates, 3))  # the rates are float32


def ask(url: str, times: int) -> int:
    """Ask midway between two samples, so that a worker which takes its own late still counts the same."""
    time.sleep((activity.INTERVAL_S / 4 - time.time()) % activity.INTERVAL_S)
    answers = [httpx.post(f"{url}/predict", json=ROWS, verify=NO_TLS) for _ in range(times)]
    return sum(answer.status_code == 200 for answer in answers)


def assert_agreement(found: list[Any]) -> None:
    """Workers tell the same of the same intervals, of the first of which nobody says when it began."""
    by_interval: dict[tuple[int, int], set[float]] = {}
    for one in found:
        assert min(one["requests_per_s"]) >= 0
        ends_s = one["times_s"]
        assert all(end_s % activity.INTERVAL_S == 0 for end_s in ends_s)
        for begin_s, end_s, rate in zip(ends_s, ends_s[1:], one["requests_per_s"][1:], strict=False):
            by_interval.setdefault((begin_s, end_s), set()).add(rate)
    assert all(len(rates) == 1 for rates in by_interval.values())


def workers_of(running: Running) -> list[int]:
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")
    return [int(pid) for pid in children.read_text(encoding="ascii").split()]


def test_workers_agree_and_a_kill_makes_no_rate_wrong(tmp_path: Path) -> None:
    """What was answered is in the series of both workers once, in the same intervals, though one died meanwhile."""
    with running_service("--workers=2", f"--run-dir={tmp_path}", "--drain-delay-s=0") as running:
        until(lambda: all(one["times_s"] for one in told_by_all(running.url)))
        answered = ask(running.url, 30)

        def noted() -> list[Any]:
            found = told_by_all(running.url)
            whole = all(one["times_s"] and counted(one, one["requests_per_s"]) == answered for one in found)
            return found if whole else []

        assert_agreement(until(noted))
        victim = workers_of(running)[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in workers_of(running))
        answered += ask(running.url, 30)
        assert httpx.post(f"{running.url}/predict", json={}).status_code == 422
        over_s = time.time() + activity.INTERVAL_S

        def settled() -> list[Any]:
            """Both workers' series, the younger of which has two intervals, after all that was answered."""
            found = told_by_all(running.url)
            ended = all(len(one["times_s"]) > 1 and one["times_s"][-1] > over_s for one in found)
            return found if ended and len({one["times_s"][0] for one in found}) == 2 else []

        found = until(settled)
    oldest = max(found, key=lambda one: len(one["times_s"]))
    assert_agreement(found)
    assert counted(oldest, oldest["requests_per_s"]) == answered + 1
    assert counted(oldest, oldest["rows_per_s"]) == 5 * answered
    assert oldest["workers"][-1] == oldest["workers_wanted"] == 2
    assert sum(counted(oldest, rates) for rates in oldest["errors_per_s"].values()) == 1
    assert oldest["last_minute"]["errors"] == {"missing_field": 1}
