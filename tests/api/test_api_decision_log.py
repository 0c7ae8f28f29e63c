"""The decision log: what stands in it, whatever the dialect, and that no answer waits for it."""

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import numpy as np
import pytest
from conftest import MODELS, ROOT, Serve, connected, running_service
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient

from service.api import decision_log
from service.api.course import Course
from service.api.decision_log import OLD_FILES, WAITING_RECORDS, DecisionLog, RotatedFile, hashes
from service.api.exchange import Exchange, Failure
from service.app import create_app
from service.application import Application
from service.errors import StartError
from service.keys import Key, digest_of, line_of
from service.settings import Settings
from service.types import HeadInfo, ScoreRequest, ScoreResult, SparseRows

pytestmark = pytest.mark.anyio

FEATURES = (np.arange(128).reshape(2, 64) % 17 + 0.8125).tolist()
FLOAT32 = np.dtype(np.float32)
HEAD = HeadInfo("pets", "3", 2, 3, FLOAT32, ("cat", "dog", "eel"), "d" * 64, "cpu")


def records(folder: Path) -> list[dict[str, Any]]:
    lines = [line for path in sorted(folder.glob("*.ndjson")) for line in path.read_bytes().splitlines()]
    return [json.loads(line) for line in lines]


def application(folder: Path, **settings: Any) -> Application:
    return create_app(Settings(**{"models": MODELS, "decision_log": str(folder), **settings}))


def answered(count: int = 1) -> Exchange:
    """An exchange that so many heads have answered, each two rows."""
    exchange = Exchange({}, "POST", "r-1", 60, 1000)
    features = np.array([[1, 2], [3, 4]], np.float32)
    request = ScoreRequest("predict", features, 1, FLOAT32, ("probabilities", "classes"), head=HEAD)
    probabilities = np.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]], np.float32)
    result = ScoreResult({"probabilities": probabilities, "classes": np.array([0, 2])}, 2, HEAD, 2)
    exchange.course = Course((request,) * count, (result,) * count, (0.0,) * 5)
    return exchange


class Counting:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def log_of(folder: Path, dropped: Callable[[], None] = lambda: None, **changed: Any) -> DecisionLog:
    def no_head(info: HeadInfo) -> Any:
        raise AssertionError(info)

    given = {"ratio": 1.0, "limit_bytes": 10**6, "with_hashes": False, "head_of": no_head, **changed}
    return DecisionLog(folder, 0, count_dropped=dropped, **given)


# What stands in it


async def test_a_record_tells_what_was_predicted_by_which_version(serve: Serve, tmp_path: Path) -> None:
    async with serve(decision_log=str(tmp_path)) as client:
        body = {"features": FEATURES, "labels": ["four", "nine"]}
        answer = await client.post("/predict", json=body, headers={"X-Request-Id": "r-7"})
        assert answer.status_code == 200
    (record,) = records(tmp_path)
    assert record.pop("time").endswith("Z")
    got = answer.json()
    assert record.pop("confidence") == pytest.approx(np.max(got["probabilities"], axis=1).tolist())
    assert record == {
        "request_id": "r-7",
        "model": "digits",
        "version": "1",
        "digest": answer.headers["x-model-digest"],
        "rows": 2,
        "classes": got["classes"],
        "predicted_names": got["predicted_names"],
        "labels": [4, 9],
    }


async def test_it_can_be_read_by_nobody_else(serve: Serve, tmp_path: Path) -> None:
    async with serve(decision_log=str(tmp_path)):
        pass
    assert stat.S_IMODE((tmp_path / "worker-0.ndjson").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "outputs",
    [
        ["logits"],
        ["log_probabilities"],
        ["classes"],
        ["probabilities"],
        ["top_classes"],
        ["entropy", "classes"],
    ],
)
async def test_what_was_not_asked_for_is_known_all_the_same(
    serve: Serve, tmp_path: Path, outputs: list[str]
) -> None:
    async with serve(decision_log=str(tmp_path)) as client:
        body: dict[str, Any] = {"features": FEATURES, "temperature": 2}
        whole = (await client.post("/predict", json=body)).json()
        more = {"outputs": outputs, **({"top_k": 2} if "top_classes" in outputs else {})}
        assert (await client.post("/predict", json={**body, **more})).status_code == 200
    _, record = records(tmp_path)
    assert record["classes"] == whole["classes"]
    # With the temperature of the request, which moves the confidence.
    assert record["confidence"] == pytest.approx(np.max(whole["probabilities"], axis=1).tolist(), rel=1e-6)


async def test_decisions_stand_in_it_where_they_are_asked_for(serve: Serve, tmp_path: Path) -> None:
    async with serve(decision_log=str(tmp_path)) as client:
        decision = {"abstain": {"below": 1.0}}
        body = {"features": FEATURES, "decision": decision, "outputs": ["decisions", "decided_names"]}
        answer = await client.post("/predict", json=body)
        assert answer.status_code == 200, answer.text
    (record,) = records(tmp_path)
    assert record["decisions"] == answer.json()["decisions"]
    assert record["decided_names"] == answer.json()["decided_names"]


async def test_rows_of_any_rank_are_one_after_the_other(serve: Serve, tmp_path: Path) -> None:
    async with serve(decision_log=str(tmp_path)) as client:
        one = (await client.post("/predict", json={"features": FEATURES[0]})).json()
        many = (await client.post("/predict", json={"features": [FEATURES, FEATURES]})).json()
        target = np.full(10, 0.1).tolist()
        await client.post("/predict", json={"features": FEATURES[0], "labels": target})
    single, nested, dense = records(tmp_path)
    assert (single["rows"], single["classes"]) == (1, [one["classes"]])
    assert (nested["rows"], nested["classes"]) == (4, np.ravel(many["classes"]).tolist())
    assert dense["labels"] == pytest.approx(np.array([target]))


async def test_no_features_stand_in_it_unless_as_hashes_and_when_asked(serve: Serve, tmp_path: Path) -> None:
    async with serve(decision_log=str(tmp_path / "off")) as client:
        await client.post("/predict", json={"features": FEATURES})
    assert "0.8125" not in (tmp_path / "off" / "worker-0.ndjson").read_text()
    assert "features_sha256" not in records(tmp_path / "off")[0]
    async with serve(decision_log=str(tmp_path / "on"), decision_log_hash="on") as client:
        await client.post("/predict", json={"features": FEATURES})
    rows = np.array(FEATURES, "<f4")
    expected = [hashlib.sha256(row.tobytes()).hexdigest() for row in rows]
    assert records(tmp_path / "on")[0]["features_sha256"] == expected


def test_a_row_has_one_hash_however_it_is_laid_out() -> None:
    rows = np.array([[0, 1.5, 0], [2, 0, 0]], np.float32)
    sparse = SparseRows(np.array([0, 1, 2]), np.array([1, 0]), np.array([1.5, 2], np.float32), 3)
    expected = [hashlib.sha256(row.astype("<f4").tobytes()).hexdigest() for row in rows]
    for features in (rows, np.asfortranarray(rows), rows.reshape(1, 2, 3), rows.astype(">f4"), sparse):
        assert list(hashes(features)) == expected


async def test_what_is_no_prediction_or_was_refused_is_not_in_it(serve: Serve, tmp_path: Path) -> None:
    async with serve(decision_log=str(tmp_path)) as client:
        await client.post("/softmax", json={"logits": [1, 2]})
        await client.post("/predict", json={"features": [1]})
        await client.post("/predict", json={"features": FEATURES, "labels": [0, 99]})
        await client.get("/health/live")
    assert records(tmp_path) == []


@pytest.mark.parametrize(
    "path",
    [
        "/models/digits/predict",
        "/models/digits/versions/1/predict",
        "/v2/models/digits/infer",
        "/v1/models/digits:predict",
        "/invocations",
        "/vertex",
    ],
)
async def test_every_dialect_is_heard(serve: Serve, tmp_path: Path, path: str) -> None:
    tensor = {"name": "features", "shape": [2, 64], "datatype": "FP32", "data": np.ravel(FEATURES).tolist()}
    bodies = {"/v2": {"inputs": [tensor]}, "/models": {"features": FEATURES}}
    body = next((b for start, b in bodies.items() if path.startswith(start)), {"instances": FEATURES})
    async with serve(decision_log=str(tmp_path), vertex_predict_route="/vertex") as client:
        whole = (await client.post("/predict", json={"features": FEATURES})).json()
        assert (await client.post(path, json=body)).status_code == 200
    native, record = records(tmp_path)
    assert record["classes"] == whole["classes"]
    for name in ("model", "version", "digest", "rows", "predicted_names"):
        assert record[name] == native[name]
    assert record["confidence"] == pytest.approx(native["confidence"], rel=1e-6)


async def test_calls_of_grpc_are_heard(tmp_path: Path) -> None:
    app = application(tmp_path, grpc_port=0)
    tensor = InferInput("features", [2, 64], "FP32")
    tensor.set_data_from_numpy(np.array(FEATURES, np.float32))
    async with app.router.lifespan_context(app):
        assert app.grpc is not None
        async with InferenceServerClient(app.grpc.address) as triton:
            answer = await triton.infer("digits", [tensor])
    (record,) = records(tmp_path)
    assert record["classes"] == answer.as_numpy("classes").tolist()
    assert grpc.aio  # the server's side


async def test_each_of_several_heads_has_a_record(serve: Serve, tmp_path: Path) -> None:
    async with serve(decision_log=str(tmp_path)) as client:
        await client.post("/predict", json={"features": FEATURES, "models": ["digits"]})
    assert [record["model"] for record in records(tmp_path)] == ["digits"]
    log = log_of(tmp_path / "several")
    log.start()
    log.observe(answered(3), 0)
    log.close()
    assert len(records(tmp_path / "several")) == 3


# Who is written down


def test_a_ratio_is_a_share_of_the_requests(tmp_path: Path) -> None:
    log = log_of(tmp_path, ratio=0.5)
    log.start()
    for _ in range(400):
        log.observe(answered(), 0)
    log.close()
    assert 140 < len(records(tmp_path)) < 260  # six standard deviations


def test_what_failed_in_the_end_is_not(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    log.start()
    exchange = answered()
    exchange.failure = Failure(500, "internal")
    log.observe(exchange, 0)
    log.close()
    assert records(tmp_path) == []


# That nobody waits


def test_what_does_not_fit_is_dropped_and_counted(tmp_path: Path) -> None:
    dropped = Counting()
    log = log_of(tmp_path, dropped)  # whose thread has not been started: a disk that hangs
    for _ in range(WAITING_RECORDS + 5):
        log.observe(answered(), 0)
    assert dropped.count == 5
    log.start()
    log.close()
    assert len(records(tmp_path)) == WAITING_RECORDS


def test_large_requests_are_weighed_by_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_log, "WAITING_NUMBERS", 25)
    dropped = Counting()
    log = log_of(tmp_path, dropped)
    for _ in range(3):
        log.observe(answered(), 0)  # 12 numbers: features, probabilities and classes
    assert dropped.count == 1
    monkeypatch.setattr(decision_log, "WAITING_NUMBERS", 1)
    alone = log_of(tmp_path / "alone", dropped)
    alone.observe(answered(), 0)  # larger than all that may wait, but nothing else does
    assert dropped.count == 1


async def test_a_full_disk_harms_no_request_and_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = application(tmp_path)
    async with app.router.lifespan_context(app), connected(app) as client:
        decisions = app.observers._lasting[0]
        assert isinstance(decisions, DecisionLog)
        decisions._file.close()
        decisions._file._descriptor = os.open("/dev/full", os.O_RDWR)  # every write to it fails
        for _ in range(3):
            assert (await client.post("/predict", json={"features": FEATURES})).status_code == 200
        until_s = time.monotonic() + 10
        while time.monotonic() < until_s:
            metrics = (await client.get("/metrics")).text
            if "logitserve_decision_log_dropped_total 3.0" in metrics:
                break
    assert "logitserve_decision_log_dropped_total 3.0" in metrics
    (record,) = [record for record in caplog.records if "decision log" in record.getMessage()]
    assert "dropped and counted" in record.getMessage()


def test_a_line_that_does_not_fit_is_taken_back_and_writing_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = RotatedFile(tmp_path, "worker-0", 10**6)
    file.write(b"first\n")
    write = os.write
    pieces = iter([lambda fd, data: write(fd, data[:3]), _full])

    def write_piece(descriptor: int, data: bytes) -> int:
        return next(pieces)(descriptor, data)

    monkeypatch.setattr(os, "write", write_piece)
    with pytest.raises(OSError, match="No space left"):
        file.write(b"second\n")
    monkeypatch.setattr(os, "write", write)
    file.write(b"third\n")
    file.close()
    assert file.path.read_bytes() == b"first\nthird\n"


def _full(_descriptor: int, _data: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_hangs_does_not_delay_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_log, "FLUSH_S", 0.1)
    hung = threading.Event()
    monkeypatch.setattr(RotatedFile, "write", lambda *_: hung.wait(60))
    log = log_of(tmp_path)
    log.start()
    log.observe(answered(), 0)
    begun_s = time.monotonic()
    log.close()
    assert time.monotonic() - begun_s < 10
    hung.set()


def test_a_version_that_has_gone_costs_its_record_alone(tmp_path: Path) -> None:
    dropped = Counting()
    log = log_of(tmp_path, dropped)
    log.start()
    exchange = answered()
    assert exchange.course is not None
    (result,) = exchange.course.results
    bare = result._replace(outputs={"losses": np.zeros(2)})  # the head would have to be asked
    gone = answered()
    gone.course = exchange.course._replace(results=(bare,))
    for one in (exchange, gone, exchange):
        log.observe(one, 0)
    log.close()
    assert len(records(tmp_path)) == 2
    assert dropped.count == 1


# The files


def test_a_file_is_put_aside_at_its_limit_and_the_newest_few_stay(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path, "worker-0", 20)
    for number in range(1, 21):
        file.write(b"line %4d\n" % number)  # two fit
    file.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    olds = [f"worker-0.{number}.ndjson" for number in range(1, OLD_FILES + 1)]
    assert names == sorted([*olds, "worker-0.ndjson"])
    assert file.path.read_bytes() == b"line   19\nline   20\n"
    assert (tmp_path / olds[0]).read_bytes() == b"line   17\nline   18\n"
    assert (tmp_path / olds[-1]).read_bytes() == b"line   11\nline   12\n"


def test_a_line_longer_than_the_limit_stands_in_a_file_of_its_own(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path, "worker-0", 4)
    for line in (b"long line\n", b"a\n", b"b\n"):
        file.write(line)
    file.close()
    assert (tmp_path / "worker-0.1.ndjson").read_bytes() == b"long line\n"
    assert file.path.read_bytes() == b"a\nb\n"


def test_a_new_start_goes_on_with_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "worker-0.ndjson"
    path.write_bytes(b'{"whole": 1}\n{"half')  # killed within a line
    log = log_of(tmp_path)
    log.start()
    log.observe(answered(), 0)
    log.close()
    first, half, last = path.read_bytes().splitlines()
    assert (first, half) == (b'{"whole": 1}', b'{"half')
    assert json.loads(last)["model"] == "pets"


def test_a_folder_that_cannot_be_written_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    log = log_of(tmp_path / "file")
    with pytest.raises(StartError, match=r"^decision_log: .*worker-0\.ndjson cannot be written: "):
        log.start()
    log.close()
    command = [sys.executable, "-m", "service", "serve", f"--models={MODELS}", "--port=0"]
    command += [f"--decision-log={tmp_path / 'file'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("logitserve: decision_log: ")


def test_each_worker_of_the_real_service_has_a_file_and_ends_it(tmp_path: Path) -> None:
    flags = "--workers=2", f"--decision-log={tmp_path}", "--drain-delay-s=0"
    with (
        running_service(*flags) as service,
        httpx.Client(base_url=service.url) as one,
        httpx.Client(base_url=service.url) as other,
    ):
        for client in (one, other) * 3:
            assert client.post("/predict", json={"features": FEATURES}).status_code == 200
    assert sorted(path.name for path in tmp_path.iterdir()) == ["worker-0.ndjson", "worker-1.ndjson"]
    assert len(records(tmp_path)) == 6


async def test_whose_key_it_was_stands_in_it(serve: Serve, tmp_path: Path) -> None:
    keys = line_of(Key("app", digest_of(b"secret-1"), frozenset({"infer"})))
    async with serve(decision_log=str(tmp_path), keys=keys) as client:
        headers = {"authorization": "Bearer secret-1"}
        assert (
            await client.post("/predict", json={"features": [1] * 64}, headers=headers)
        ).status_code == 200
    text = (tmp_path / "worker-0.ndjson").read_text(encoding="utf-8")
    assert json.loads(text)["key"] == "app"
    assert "secret" not in text
