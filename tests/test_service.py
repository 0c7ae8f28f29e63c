"""The whole service as it is run: a real command, real sockets, real signals."""

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import NO_TLS, Running, running_service

pytestmark = pytest.mark.anyio

WORKERS = [1, 2]
# Enough rows that two hundred such requests take seconds, so that a signal meets most of them unanswered.
LARGE = json.dumps({"features": np.tile(np.arange(64) % 17, (1500, 1)).tolist(), "outputs": ["classes"]})
JSON = {"content-type": "application/json"}


@pytest.fixture(params=WORKERS)
def service(request: pytest.FixtureRequest) -> Iterator[Running]:
    with running_service(f"--workers={request.param}") as running:
        yield running


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """A zombie has ended: only its parent has not asked yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_sigterm_answers_200_requests_in_flight_and_exits_0(service: Running) -> None:
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=service.url, limits=limits, timeout=60) as client:
        sent = [asyncio.create_task(client.post("/predict", content=LARGE, headers=JSON)) for _ in range(200)]
        done, _ = await asyncio.wait(sent, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) < 100, "the signal would come too late to show anything"
        service.process.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*sent)
    assert [answer.status_code for answer in answers] == [200] * 200
    assert all(len(answer.json()["classes"]) == 1500 for answer in answers)
    assert await asyncio.to_thread(service.process.wait, 20) == 0


async def test_metrics_count_every_request_whichever_worker_answered(service: Running) -> None:
    async with httpx.AsyncClient(base_url=service.url, timeout=30, verify=NO_TLS) as client:
        for _ in range(10):  # new connections each time, so that both workers get some
            async with httpx.AsyncClient(base_url=service.url, timeout=30, verify=NO_TLS) as other:
                await asyncio.gather(
                    *(other.post("/softmax", json={"logits": [1.0, 2.0]}) for _ in range(20))
                )
        await asyncio.sleep(0.6)  # more than twice what another worker's counts may be old
        text = (await client.get("/metrics")).text
    (count,) = re.findall(
        r'logitserve_requests_total\{method="POST",route="/softmax",status="200"\} (.*)', text
    )
    assert float(count) == 200
    (workers,) = re.findall(r"^logitserve_workers (.*)$", text, re.MULTILINE)
    assert float(workers) == max(1, len(children(service.process.pid)))


def test_killing_the_parent_leaves_no_process(service: Running) -> None:
    pids = [service.process.pid, *children(service.process.pid)]
    os.kill(service.process.pid, signal.SIGKILL)
    service.process.wait(10)
    end = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert [pid for pid in pids if alive(pid)] == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(service.url)
