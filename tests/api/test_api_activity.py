"""The last minutes as the page gets them: from any worker the same, and right though one is killed."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Serve, running_service

from service import activity

pytestmark = pytest.mark.anyio

ROWS = {"features": [[0.0] * 64] * 5, "labels": [1] * 5}


def until(holds: Callable[[], Any], within_s: float = 30) -> Any:
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
    return [httpx.get(f"{url}/activity").json() for _ in range(answers)]  # each on a connection of its own


def test_workers_agree_and_a_kill_makes_no_rate_wrong(tmp_path: Path) -> None:
    """What was answered is in the series of both workers once, in the same intervals, though one died meanwhile."""
    with running_service("--workers=2", f"--run-dir={tmp_path}", "--drain-delay-s=0") as running:
        until(lambda: httpx.get(f"{running.url}/activity").json()["times_s"])
        answered = 0
        for at in range(60):
            answered += httpx.post(f"{running.url}/predict", json=ROWS).status_code == 200
            if at == 30:
                time.sleep(1)  # what was answered has been published
                children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")
                os.kill(int(children.read_text(encoding="ascii").split()[0]), signal.SIGKILL)
                until(lambda: httpx.get(f"{running.url}/activity").json()["workers"][-1:] == [1])
        assert httpx.post(f"{running.url}/predict", json={}).status_code == 422
        time.sleep(2 * activity.INTERVAL_S + 0.5)
        found = [one for one in told_by_all(running.url) if one["times_s"]]
    oldest = max(found, key=lambda one: len(one["times_s"]))
    by_time: dict[int, set[float]] = {}
    for one in found:
        assert min(one["requests_per_s"]) >= 0
        for time_s, rate in zip(one["times_s"], one["requests_per_s"], strict=True):
            by_time.setdefault(time_s, set()).add(rate)
    assert all(time_s % activity.INTERVAL_S == 0 for time_s in by_time)
    assert all(len(rates) == 1 for rates in by_time.values()), "workers tell the same of the same time"
    counted = sum(oldest["requests_per_s"]) * activity.INTERVAL_S
    assert counted == answered + 1
    assert sum(oldest["rows_per_s"]) * activity.INTERVAL_S == 5 * answered
    assert oldest["workers"][-1] == oldest["workers_wanted"] == 2
    assert sum(sum(rates) for rates in oldest["errors_per_s"].values()) * activity.INTERVAL_S == 1
    assert oldest["last_minute"]["errors"] == {"missing_field": 1}
