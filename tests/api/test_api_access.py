"""The access log: who gets a line, and what stands in it."""

import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import MODELS, ROOT, Serve

from service.api.access import AccessLog
from service.api.exchange import Exchange, Failure, Target
from service.api.native import NativeDialect
from service.keys import Key, digest_of, line_of
from service.logs import ACCESS, JsonFormatter

pytestmark = pytest.mark.anyio

FEATURES = [[0.8125] * 64] * 2


@pytest.fixture(autouse=True)
def _hear(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, ACCESS)


def told(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The lines as JSON has them."""
    records = [record for record in caplog.records if record.name == ACCESS]
    return [json.loads(JsonFormatter().format(record)) for record in records]


def exchange(status: int = 200, failure: Failure | None = None) -> Exchange:
    made = Exchange({}, "POST", "r-1", 60, 1000)
    made.target, made.status, made.failure = Target("/predict"), status, failure
    return made


async def test_a_line_says_what_was_asked_and_how_it_went(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(access_log=1) as client:
        answer = await client.post("/predict", json={"features": FEATURES}, headers={"X-Request-Id": "r-7"})
    (line,) = told(caplog)
    assert 0 < line.pop("duration_ms") < 60_000
    assert line.pop("time")
    assert line.pop("message").startswith("method=POST route=/predict status=200 duration_ms=")
    assert line == {
        "level": "info",
        "logger": "logitserve.access",
        "request_id": "r-7",
        "method": "POST",
        "route": "/predict",
        "status": 200,
        "bytes": len(answer.content),
        "model": "digits",
        "version": "1",
        "rows": 2,
    }


async def test_text_has_the_same_in_its_message(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async with serve(access_log=1) as client:
        await client.get("/health/live", headers={"X-Request-Id": "r-7"})
    (message,) = [record.getMessage() for record in caplog.records if record.name == ACCESS]
    assert message.startswith("method=GET route=/health/live status=200 duration_ms=")
    assert message.endswith(" request_id=r-7")
    assert "model" not in message


async def test_an_error_has_its_code_and_no_payload(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async with serve(access_log=1) as client:
        await client.post("/predict?secret=1", json={"features": "secret"})
        await client.get("/secret")
    mistake, nowhere = told(caplog)
    assert (mistake["status"], mistake["code"]) == (422, "unknown_field")
    assert (nowhere["route"], nowhere["status"], nowhere["code"]) == ("unmatched", 404, "unknown_route")
    assert "secret" not in caplog.text


async def test_without_the_setting_there_are_no_lines(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async with serve() as client:
        await client.get("/health/live")
        await client.get("/nowhere")
    assert told(caplog) == []


def test_a_ratio_is_a_share_of_the_requests(caplog: pytest.LogCaptureFixture) -> None:
    log = AccessLog(0.1)
    for _ in range(2000):
        log.observe(exchange(), time.monotonic())
    # Six standard deviations: it fails by chance once in 500 million runs.
    assert 120 < len(told(caplog)) < 280


@pytest.mark.parametrize(
    ("status", "failure", "expected"),
    [
        (500, None, 1),
        (503, Failure(503, "not_ready"), 1),
        (13, Failure(500, "internal"), 1),  # gRPC's own status
        (400, Failure(504, "deadline"), 1),  # V2 has a status for all mistakes
        (422, Failure(422, "features_shape"), 0),
        (429, Failure(429, "queue_full"), 0),
        (499, None, 0),
        (200, None, 0),
    ],
)
def test_faults_of_the_service_always_get_a_line(
    caplog: pytest.LogCaptureFixture, status: int, failure: Failure | None, expected: int
) -> None:
    log = AccessLog(1e-12)
    log.observe(exchange(status, failure), time.monotonic())
    assert len(told(caplog)) == expected


async def test_an_unforeseen_error_is_logged_twice_under_one_request_id(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise ValueError("secret")

    monkeypatch.setattr(NativeDialect, "_decode", broken)
    async with serve(access_log=1e-12) as client:
        answer = await client.post("/softmax", json={"logits": [1]}, headers={"X-Request-Id": "r-9"})
        assert answer.status_code == 500
    error, access = [
        json.loads(JsonFormatter().format(r)) for r in caplog.records if r.levelno >= logging.INFO
    ]
    assert error["request_id"] == access["request_id"] == "r-9"
    assert error["error_type"] == "ValueError"
    assert "in broken" in error["stack"]
    assert access["code"] == "internal"


@pytest.mark.parametrize("workers", [1, 2])
def test_all_of_the_real_service_writes_json(workers: int) -> None:
    """From its first line to its last, hot and cold routes alike, workers and what supervises them."""
    flags = f"--models={MODELS}", "--port=0", f"--workers={workers}", "--drain-delay-s=0"
    command = [sys.executable, "-m", "service", "serve", *flags, "--access-log=1", "--log-format=json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stderr is not None
        first = json.loads(process.stderr.readline())
        answer = httpx.post(f"{first['url']}/predict", json={"features": FEATURES})
        httpx.get(f"{first['url']}/nowhere")
        process.terminate()
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out == b""
    assert first["message"] == f"logitserve answers on {first['url']}"
    assert (first["workers"], first["models"][0]["model"]) == (workers, "digits")
    hot, cold = [json.loads(line) for line in err.splitlines()]
    assert (hot["route"], hot["status"], hot["bytes"]) == ("/predict", 200, len(answer.content))
    assert (cold["route"], cold["status"]) == ("unmatched", 404)


def test_what_ends_the_start_is_json_as_well(tmp_path: Path) -> None:
    flags = f"--models={tmp_path / 'none'}", "--port=0", "--log-format=json"
    command = [sys.executable, "-m", "service", "serve", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["level"] == "critical"
    assert str(tmp_path) in json.loads(line)["message"]


async def test_a_line_names_whose_key_it_was_and_never_the_key(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    keys = line_of(Key("app", digest_of(b"secret-1"), frozenset({"infer"})))
    async with serve(access_log=1, keys=keys) as client:
        for sent, path in (("secret-1", "/softmax"), ("secret-2", "/softmax"), ("secret-1", "/metrics")):
            headers = {"authorization": f"Bearer {sent}"}
            await client.request("GET" if path == "/metrics" else "POST", path, headers=headers)
    lines = told(caplog)
    assert [(line["route"], line["status"], line.get("key")) for line in lines] == [
        ("/softmax", 400, "app"),
        ("/softmax", 401, None),
        ("/metrics", 200, None),  # it asks for none, so nobody has looked
    ]
    assert "secret" not in caplog.text
