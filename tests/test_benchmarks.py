"""The benchmark itself: what it asks is right, what it refuses, what its figures mean. No timing is asserted."""

import contextlib
import importlib
import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from conftest import ROOT, Serve
from hypothesis import given
from hypothesis import strategies as st

BENCHMARKS = ROOT / "benchmarks"
# The scripts import each other by their bare names, as when one of them is run.
sys.path.insert(0, str(BENCHMARKS))

adapters: ModuleType = importlib.import_module("adapters")
bench: ModuleType = importlib.import_module("bench")
bound: ModuleType = importlib.import_module("bound")
candidates: ModuleType = importlib.import_module("candidates")
cases: ModuleType = importlib.import_module("cases")
floor: ModuleType = importlib.import_module("floor")
generator: ModuleType = importlib.import_module("generator")
goals: ModuleType = importlib.import_module("goals")
heads: ModuleType = importlib.import_module("heads")
kernel: ModuleType = importlib.import_module("kernel")
pairs: ModuleType = importlib.import_module("pairs")
peers: ModuleType = importlib.import_module("peers")
serving: ModuleType = importlib.import_module("serving")
tables: ModuleType = importlib.import_module("tables")
whole: ModuleType = importlib.import_module("whole")

needs_wrk = pytest.mark.skipif(
    shutil.which("wrk") is None or len(os.sched_getaffinity(0)) < 2, reason="needs wrk and two CPUs"
)
FORMS = ("json", "npz", "v2")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    heads.write(folder)
    return folder


def softmax_of(logits: Any) -> Any:
    return np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))


def right_answer(case: Any) -> dict[str, Any]:
    classes: Any = np.argmax(case.logits, axis=-1)
    if case.operation == "loss":
        logarithms = np.log(softmax_of(case.logits))
        losses = -logarithms[np.arange(case.rows), case.arrays["labels"]]
        return {"losses": losses, "loss": losses.mean()}
    return {"probabilities": softmax_of(case.logits), "classes": classes}


def load(rate: float = 100.0, p99_ms: float = 2.0) -> Any:
    return generator.Load(int(rate), 1.0, 1.0, p99_ms, 0)


def row(case: str, form: str = "json", *, ours: float = 100.0, connections: int = 16) -> Any:
    pair = pairs.Pair(load(200.0), load(ours), floor.Floor(0.001, 0.002, 0.002))
    return pairs.Row(case, form, connections, 1, (pair,))


# Heads


def test_both_files_of_a_head_hold_the_same_function(models: Path) -> None:
    for name, (num_features, num_classes) in heads.SHAPES.items():
        features = np.random.default_rng(0).standard_normal((3, num_features), np.float32)
        ours = onnxruntime.InferenceSession(models / "repository" / name / "1" / "model.onnx")
        theirs = onnxruntime.InferenceSession(models / f"{name}.onnx")
        (logits,) = ours.run(None, {"features": features})
        probabilities, classes = theirs.run(["probabilities", "classes"], {"features": features})
        assert logits.shape == (3, num_classes)
        np.testing.assert_allclose(probabilities, softmax_of(logits), rtol=1e-5)
        np.testing.assert_array_equal(classes, logits.argmax(axis=-1))


def test_heads_are_the_same_each_time() -> None:
    first, second = heads.linear("a"), heads.linear("a")
    np.testing.assert_array_equal(first.weights, second.weights)
    assert not np.array_equal(heads.linear("b").weights[:64, :10], first.weights)


# Cases


@pytest.mark.parametrize("name", cases.NAMES)
@pytest.mark.parametrize("form", FORMS)
async def test_the_service_answers_every_case_as_numpy_does(
    name: str, form: str, models: Path, serve: Serve, anyio_backend: str
) -> None:
    case = cases.make(name)
    request = cases.WIRES[form].write(case)
    async with serve(models=models / "repository") as client:
        got = await client.post(request.path, content=request.body, headers=request.headers)
    assert got.status_code == 200, got.text
    answer = cases.Answer(got.status_code, got.content, dict(got.headers))
    cases.check(case, cases.WIRES[form].read(answer))
    assert all(header in answer.headers for header in pairs.HEADERS)


pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", ["a", "a_0", "c_1", "a_1_2", "b_-1", "a_1000000", ""])
def test_an_unknown_case_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected a case such as"):
        cases.make(name)


@given(letter=st.sampled_from("asl"), rows=st.integers(1, 40))
def test_a_right_answer_passes_whatever_its_types(letter: str, rows: int) -> None:
    case = cases.make(f"{letter}_{rows}")
    answer = right_answer(case)
    cases.check(case, answer)
    cases.check(case, {name: np.asarray(value).tolist() for name, value in answer.items()})
    single = {name: np.asarray(value, np.float32) for name, value in answer.items()}
    cases.check(case, single)


@given(data=st.data(), letter=st.sampled_from("asl"), rows=st.integers(1, 8))
def test_one_wrong_number_is_found(data: st.DataObject, letter: str, rows: int) -> None:
    case = cases.make(f"{letter}_{rows}")
    answer = right_answer(case)
    name = "losses" if letter == "l" else "probabilities"
    wrong = np.array(answer[name])
    place = data.draw(st.tuples(*(st.integers(0, length - 1) for length in wrong.shape)))
    wrong[place] = 1.01 * wrong[place] + 1e-6
    with pytest.raises(cases.WrongAnswer):
        cases.check(case, {**answer, name: wrong})


def test_a_wrong_class_or_shape_or_nothing_is_found() -> None:
    case = cases.make("a_3")
    answer = right_answer(case)
    for changed in (
        {"classes": case.logits.argmin(axis=-1)},
        {"classes": answer["classes"][:, None]},
        {"probabilities": answer["probabilities"][0]},
        {"probabilities": answer["probabilities"] * np.nan},
    ):
        with pytest.raises(cases.WrongAnswer):
            cases.check(case, {**answer, **changed})
    with pytest.raises(cases.WrongAnswer, match="no 'classes'"):
        cases.check(case, {"probabilities": answer["probabilities"]})


def test_a_v2_request_is_a_header_and_the_bytes_of_the_tensors() -> None:
    case = cases.make("l_3")
    request = cases.WIRES["v2"].write(case)
    size = int(request.headers["Inference-Header-Content-Length"])
    header = json.loads(request.body[:size])
    assert [tensor["datatype"] for tensor in header["inputs"]] == ["FP32", "INT64"]
    assert request.body[size:] == case.arrays["logits"].tobytes() + case.arrays["labels"].tobytes()
    assert request.path == "/v2/models/loss/infer"


@pytest.mark.parametrize("binary", [True, False])
def test_a_v2_answer_is_read_in_both_of_its_forms(binary: bool) -> None:  # noqa: FBT001 - a parameter
    case = cases.make("a_2")
    arrays: dict[str, Any] = {
        "probabilities": softmax_of(case.logits).astype(np.float32),
        "classes": case.logits.argmax(axis=-1),
    }
    outputs: list[dict[str, Any]] = []
    for name, array in arrays.items():
        output = {"name": name, "shape": array.shape, "datatype": cases.DATATYPES[array.dtype.name]}
        said = (
            {"parameters": {"binary_data_size": array.nbytes}} if binary else {"data": array.ravel().tolist()}
        )
        outputs.append({**output, **said})
    header = json.dumps({"outputs": outputs}).encode()
    tail = b"".join(array.tobytes() for array in arrays.values()) if binary else b""
    headers = {cases.V2_HEADER_BYTES: str(len(header))} if binary else {}
    cases.check(case, cases.WIRES["v2"].read(cases.Answer(200, header + tail, headers)))


# The bound


async def test_the_bound_reads_the_whole_body_and_answers_its_own(anyio_backend: str) -> None:
    parts: list[dict[str, Any]] = [{"body": b"1", "more_body": True}, {"body": b"2"}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return parts.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await bound.answering(b"fixed", "text/plain")({}, receive, send)
    assert not parts
    assert sent[0]["status"] == 200
    assert dict(sent[0]["headers"]) == {b"content-type": b"text/plain", b"content-length": b"5"}
    assert sent[1]["body"] == b"fixed"


# The floor


@pytest.mark.parametrize("name", ["a_2", "s_2", "l_2"])
@pytest.mark.parametrize("form", FORMS)
def test_every_reader_of_the_floor_reads_the_array(name: str, form: str) -> None:
    case = cases.make(name)
    body = cases.WIRES[form].write(case).body
    for read in floor.READERS[form]:
        np.testing.assert_array_equal(read(case, body), next(iter(case.arrays.values())))


@pytest.mark.parametrize("reader", range(len(floor.READERS["json"])))
@pytest.mark.parametrize("features", [[[1.0] * 64], [[1.0] * 63, [1.0] * 65], [[1e39] * 64] * 2])
def test_the_floor_pays_for_its_checks(reader: int, features: Any) -> None:
    body = json.dumps({"features": features}).encode()
    with pytest.raises(ValueError, match=r"expected|inhomogeneous"), np.errstate(over="ignore"):
        floor.READERS["json"][reader](cases.make("a_2"), body)


def test_the_floor_compares_checksums() -> None:
    case = cases.make("a_2")
    body = bytearray(cases.WIRES["npz"].write(case).body)
    body[300] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        floor.READERS["npz"][0](case, bytes(body))


@pytest.mark.parametrize("form", FORMS)
def test_every_writer_of_the_floor_writes_all_numbers(form: str) -> None:
    answer: dict[str, Any] = {"probabilities": np.ones((3, 4), np.float32), "classes": np.arange(3)}
    written = floor.WRITERS[form](answer)
    if form == "json":
        assert json.loads(written) == {name: array.tolist() for name, array in answer.items()}
    else:
        assert all(array.tobytes() in written for array in answer.values())


@pytest.mark.parametrize("name", ["a_1", "s_2", "l_2"])
def test_the_floor_has_three_parts_that_all_take_time(name: str, models: Path) -> None:
    case = cases.make(name)
    found = floor.measure(case, "json", cases.WIRES["json"].write(case), models, duration_s=0.001)
    assert min(found) > 0
    assert found.total_s == pytest.approx(sum(found))


# Servers and the load generator


def test_a_server_that_ends_is_reported_with_its_last_words() -> None:
    command = [sys.executable, "-c", "print('no such head'); raise SystemExit(3)"]
    core = min(os.sched_getaffinity(0))
    with (
        pytest.raises(serving.NoServer, match="no such head"),
        serving.running(command, serving.free_port(), core=core, is_ready=lambda _: False),
    ):
        pytest.fail("it never became ready")


def test_a_server_runs_on_its_core_and_is_gone_afterwards() -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    core = max(os.sched_getaffinity(0))
    command = [sys.executable, "-c", child]
    ready = time.monotonic() + 1  # until the child is there
    with serving.running(
        command, serving.free_port(), core=core, is_ready=lambda _: time.monotonic() > ready
    ) as server:
        pids = server.family()
        assert len(pids) == 2
        assert all(os.sched_getaffinity(pid) == {core} for pid in pids)
        weight = server.memory()
        assert 0 < weight.pss_mb <= weight.rss_mb
        assert server.cpu_s() > 0
    deadline_s = time.monotonic() + 10
    while any(runs(pid) for pid in pids):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_child_that_left_the_session_does_not_outlive_the_server(tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    script = (
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        f"pathlib.Path({str(noted)!r}).write_text(str(child.pid))\n"
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", script]
    core = max(os.sched_getaffinity(0))
    with serving.running(
        command, 0, core=core, is_ready=lambda _: noted.exists() and bool(noted.read_text())
    ):
        pid = int(noted.read_text())
        assert runs(pid)
    deadline_s = time.monotonic() + 10
    while runs(pid):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_server_is_ready_once_its_answer_has_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"/yes": cases.Answer(200, b"all READY", {}), "/no": cases.Answer(503, b"READY", {})}
    monkeypatch.setattr(serving, "get", lambda _, path: answers[path])
    assert serving.answers_ok("/yes")(1)
    assert serving.answers_ok("/yes", "READY")(1)
    assert not serving.answers_ok("/yes", "ready")(1)
    assert not serving.answers_ok("/no")(1)


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    # A process that has ended stays listed until whoever inherited it has taken note.
    return state != "Z"


def test_memory_of_a_process_that_has_gone_is_nothing() -> None:
    assert serving.memory([2**22 + 1]) == serving.Memory(0.0, 0.0)


def test_connections_are_those_of_one_process_and_port() -> None:
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert serving.connections_of(os.getpid(), port) == 0
        assert not serving.is_free(port)
        client.connect(("127.0.0.1", port))
        accepted, _ = listener.accept()
        with accepted:
            assert serving.connections_of(os.getpid(), port) == 1
            assert serving.connections_of(os.getpid(), port + 1) == 0


def test_one_cpu_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    with pytest.raises(serving.NoServer, match="a CPU each"):
        serving.pick_cores()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7, 3, 5})
    assert serving.pick_cores() == (3, 5)


def test_a_missing_generator_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert bench.main(["--quick"]) == 1
    assert "apt-get install wrk" in capsys.readouterr().out
    assert peers.main([]) == 1
    assert "apt-get install wrk" in capsys.readouterr().out


def test_the_last_line_of_the_generator_is_read() -> None:
    line = '{"requests": 10, "duration_us": 500000, "p50_us": 1500, "p99_us": 2500, "failed": 1, "bytes": 9}'
    found = generator.parse(f"Running 1s test\n  1 threads\n\n{line}\n")
    assert found == (10, 0.5, 1.5, 2.5, 1)
    assert found.rate == 20.0


@needs_wrk
def test_the_generator_posts_the_body_and_is_counted(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = serving.pick_cores()
    plan = pairs.Plan(("a_1",), ("json",), (2,), pairs=1, duration_s=1)
    here = pairs.Bench(cores, models, plan)
    monkeypatch.setattr(whole, "PACE_TIMES", 1)
    with serving.service(models / "repository", cores.server) as ours:
        (found,) = here.rows(cases.make("a_1"), "json", ours)
        (pair,) = found.pairs
        assert pair.ours.failed == pair.bound.failed == 0
        assert 0 < pair.ours.requests <= pairs.requests_counted(ours)
        paced = whole.paced(here, ours, ours, cases.WIRES["json"].write(cases.make("a_1")), rate=200.0)
        assert paced.our_rate < 300  # in whole milliseconds
        wrong = cases.make("a_1")._replace(logits=np.zeros((1, 10)))
        with pytest.raises(cases.WrongAnswer):
            here.rows(wrong, "json", ours)
        missing = cases.make("a_1")._replace(model="nobody")
        assert here.rows(missing, "json", ours) == pairs.Unserved("a_1", "json", 404)


# Figures


def test_requests_are_counted_over_routes_and_statuses() -> None:
    text = (
        'logitserve_requests_total{method="POST",route="/models/{model}/predict",status="200"} 3.0\n'
        'logitserve_requests_total{method="POST",route="/loss",status="422"} 4.0\n'
        'logitserve_requests_total{method="GET",route="/metrics",status="200"} 9.0\n'
    )
    assert pairs.posts_in(text) == 7
    assert pairs.posts_in("") == 0


class Busy:
    """A service whose requests end one by one as its metrics are read."""

    def __init__(self, inflight: int) -> None:
        self.inflight = inflight
        self.posts = 0

    def get(self, path: str) -> Any:
        assert path == "/metrics"
        text = (
            f'logitserve_requests_total{{method="POST",route="/loss",status="200"}} {self.posts}.0\n'
            f"logitserve_inflight_requests {self.inflight}.0\n"
        )
        self.posts += 1
        self.inflight -= 1
        return cases.Answer(200, text.encode(), {})


def test_requests_are_counted_once_none_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "SETTLE_S", 0.0)
    assert pairs.requests_counted(Busy(inflight=4)) == 3
    with pytest.raises(pairs.NotCounted, match="still under way"):
        pairs.requests_counted(Busy(inflight=10**6))


class Counting:
    """A bench whose generator and service count what a test says."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, generated: int, counted: list[int], failed: int = 0
    ) -> None:
        plan = pairs.Plan((), (), (4,), 1, 1)
        monkeypatch.setattr(
            pairs, "requests_counted", lambda _: counted.pop(0) if counted[1:] else counted[0]
        )
        monkeypatch.setattr(pairs.generator, "run", lambda *_, **__: load(generated)._replace(failed=failed))
        monkeypatch.setattr(pairs, "SETTLE_S", 0.0)
        self.bench = pairs.Bench(serving.Cores(0, 1), Path(), plan)

    def run(self) -> Any:
        server = serving.Server(None, 0, 0.0)
        return self.bench.counted_load(server, cases.Request("/", b"", {}), 4)


@pytest.mark.parametrize("counted", [[7, 107], [7, 111], [7, 50, 100, 108]])
def test_the_services_count_may_be_above_by_what_was_under_way(
    counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Counting(monkeypatch, generated=100, counted=counted).run().requests == 100


@pytest.mark.parametrize(("counted", "surplus"), [([7, 106], "-1"), ([7, 112], "+5")])
def test_a_count_that_is_not_the_generators_ends_the_run(
    counted: list[int], surplus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(pairs.NotCounted, match=re.escape(surplus)):
        Counting(monkeypatch, generated=100, counted=counted).run()


def test_a_failed_request_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pairs.NotCounted, match="3 of 100"):
        Counting(monkeypatch, generated=100, counted=[0, 100], failed=3).run()


def test_share_and_efficiency_are_what_the_page_says() -> None:
    pair = pairs.Pair(load(1000.0), load(500.0), floor.Floor(1e-4, 2e-4, 2e-4))
    assert pair.share == 0.5
    assert pair.efficiency == pytest.approx((1e-3 + 5e-4) / 2e-3)


@given(rates=st.lists(st.floats(1, 1e5), min_size=1, max_size=9))
def test_a_row_has_the_median_of_its_pairs(rates: list[float]) -> None:
    several = tuple(pairs.Pair(load(1000.0), load(rate), floor.Floor(0, 0, 0)) for rate in rates)
    found = pairs.Row("a_1", "json", 16, 1, several)
    assert found.share == pytest.approx(np.median([pair.share for pair in several]))
    assert found.p50_ms == 1.0
    assert found.p99_ms == 2.0
    assert found.bound_rate == 1000.0


def test_a_body_runs_on_the_servers_core_and_comes_back() -> None:
    before = os.sched_getaffinity(0)
    with pairs.on_core(min(before)):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before


# Goals


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    found = goals.goals(goals.Found())
    assert [goal.met for goal in found] == [None] * len(found)
    assert {goal.reached for goal in found} == {goals.NOT_MEASURED}


def test_a_goal_over_several_cases_is_met_where_the_worst_meets_it() -> None:
    # With this floor (5 ms, and 5 ms of the bound) efficiency is a hundredth of our rate.
    measured = [row("a_1", ours=80.0), row("a_32", "v2", ours=75.0), row("a_1", "npz", ours=20.0)]
    both = goals.goals(goals.Found(measured))[1]
    assert (both.met, both.reached) == (True, "a_1 json 0.80, a_32 v2 0.75"), "the goals say JSON and binary"
    worse = goals.goals(goals.Found([row("a_1", ours=80.0), row("a_32", ours=65.0)]))[1]
    assert worse.met is False


def test_other_connections_than_16_reach_no_goal() -> None:
    found = goals.goals(goals.Found([row("a_1", connections=64)]))
    assert [goal.met for goal in found[:3]] == [None, None, None]


def weighed(rss_mb: float, start_to_ready_s: float = 0.9) -> Any:
    memory = serving.Memory(rss_mb, 90.0)
    return whole.Weighed(start_to_ready_s, memory, memory)


def soaked(*rss_mb: float) -> Any:
    samples = (whole.Sample(60.0 * n, serving.Memory(mb, 90.0)) for n, mb in enumerate(rss_mb, 1))
    return whole.Soak(tuple(samples), 10)


def kernels(over_both: float, log_over_both: float) -> Any:
    """A kernel that is just good enough but in the last shape; what has no goal is far from any."""
    fine = [kernel.Ratios(shape, 10.0, 2.0, 9.0, 3.0) for shape in candidates.SHAPES[:-1]]
    last = kernel.Ratios(candidates.SHAPES[-1], 10.0, over_both, 9.0, log_over_both)
    return whole.Kernel((kernel.Ratios((1, 10), 1.0, 99.0, 99.0, 99.0), *fine, last), ())


def whole_found(**changed: Any) -> Any:
    """All but the rows, and every goal met."""
    met = {
        "start": whole.Start(weighed(100.0), weighed(95.0)),
        "batching_b": 2.5,
        "batching_a": 1.0,
        "quality": 0.96,
        "pace": whole.Pace(100.0, 100.0, 2.0, 3.0),
        "workers": whole.TwoWorkers(0.99, 1.2),
        "kernel": kernels(1.6, 2.1),
        "soak": soaked(100.0, 120.0, 101.0),
    }
    return goals.Found(**{**met, **changed})


def test_figures_of_the_whole_are_compared_with_their_goals() -> None:
    bad = whole_found(
        start=whole.Start(weighed(120.0, 1.1), weighed(100.0)),
        batching_b=1.5,
        batching_a=0.9,
        quality=0.94,
        pace=whole.Pace(100.0, 100.0, 2.0, 4.0),
        workers=whole.TwoWorkers(0.9, 2.0),
        kernel=kernels(2.1, 3.1),
        soak=soaked(100.0, 100.0, 103.0),
    )
    assert [goal.met for goal in goals.goals(whole_found())[3:]] == [True] * 12
    assert [goal.met for goal in goals.goals(bad)[3:]] == [False] * 12


def test_memory_is_small_by_itself_and_beside_plain_fastapi() -> None:
    def met(ours_mb: float, plain_mb: float) -> list[bool | None]:
        found = goals.goals(whole_found(start=whole.Start(weighed(ours_mb), weighed(plain_mb))))
        return [goal.met for goal in found if "ready worker" in goal.what or "plain FastAPI's" in goal.what]

    assert met(100.0, 90.0) == [True, True]
    assert met(100.0, 80.0) == [True, False]
    assert met(120.0, 110.0) == [False, True]


def test_the_kernels_goals_name_every_shape() -> None:
    found = [goal.reached for goal in goals.goals(whole_found()) if "[256, 10]" in goal.reached]
    assert found == [
        "[256, 10] 2.00, [256, 1000] 2.00, [8, 50000] 1.60",
        "[256, 10] 3.00, [256, 1000] 3.00, [8, 50000] 2.10",
    ]


# The whole


def quick(models: Path, *, pairs_of_runs: int = 1) -> Any:
    core = min(os.sched_getaffinity(0))
    plan = pairs.Plan(("a_1",), ("json",), (16,), pairs_of_runs, 1)
    return pairs.Bench(serving.Cores(core, core), models, plan)


def test_a_start_is_weighed_beside_plain_fastapis(models: Path) -> None:
    found = whole.start(quick(models))
    for one in found:
        assert one.start_to_ready_s > 0
        assert 0 < one.worker.rss_mb <= one.all_processes.rss_mb
    assert found.memory_ratio == found.ours.worker.rss_mb / found.plain.worker.rss_mb


def test_the_kernel_runs_in_a_process_of_its_own_once_with_less_of_numpy(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "KERNEL_TURNS_A_PAIR", 1)
    found = whole.kernel(quick(models))
    for rows in found:
        assert [one.shape for one in rows] == list(kernel.SHAPES)
        assert min(min(one[1:]) for one in rows) > 0


def test_connections_are_counted_once_all_are_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "SETTLE_S", 0.0)
    seen = [[0, 0], [20, 43], [20, 44]]  # in the kernel, one with the supervisor, all handed over

    class Two:
        port = 0

        def workers(self) -> list[int]:
            self.held = seen.pop(0) if seen[1:] else seen[0]
            return [0, 1]

    two = Two()
    monkeypatch.setattr(serving, "connections_of", lambda pid, _: two.held[pid])
    assert whole.connections_of_workers(two, 64) == [20, 44]
    with pytest.raises(pairs.NotCounted, match=r"\[20, 44\].* 65"):
        whole.connections_of_workers(two, 65)


def test_a_servers_workers_are_its_own_children_and_not_itself(tmp_path: Path) -> None:
    noted = tmp_path / "there"
    grandchild = f"import pathlib, time; pathlib.Path({str(noted)!r}).touch(); time.sleep(60)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    server = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    core = min(os.sched_getaffinity(0))
    with serving.running(
        [sys.executable, "-c", server], 0, core=core, is_ready=lambda _: noted.exists()
    ) as running:
        assert len(running.family()) == 3
        assert running.workers() == running.family()[1:2]


def test_a_soak_weighs_after_each_minute_and_at_the_end(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [0.0]

    def run(*_: Any) -> Any:
        now_s[0] += 1.0  # of thirty requests, three forms of ten cases
        return load(10.0)

    monkeypatch.setattr(pairs.Bench, "counted_load", run)
    monkeypatch.setattr(whole.time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(serving, "service", lambda *_: contextlib.nullcontext(Soaked()))
    found = whole.soak(quick(models), 190.0)
    assert [sample.elapsed_s for sample in found.samples] == [60.0, 120.0, 180.0, 210.0]
    assert found.requests == 2100
    assert found.growth == pytest.approx(104 / 101)
    now_s[0] = 0.0
    assert [sample.elapsed_s for sample in whole.soak(quick(models), 60.0).samples] == [30.0, 60.0]


class Soaked:
    """A service that answers everything and gains a megabyte each time it is weighed."""

    rss_mb = 100.0

    def ask(self, _: Any) -> Any:
        return cases.Answer(200, b"", {})

    def memory(self) -> Any:
        self.rss_mb += 1
        return serving.Memory(self.rss_mb, 90.0)


# The command


def test_the_flags_make_the_plan() -> None:
    def plan(*arguments: str) -> Any:
        return bench.plan_of(bench.parse_arguments(arguments))

    assert plan() == bench.FULL
    assert plan("--quick") == bench.QUICK
    chosen = plan("--cases", "a_1,b_7", "--forms=npz", "--connections=1,4", "--pairs=3", "--duration=2")
    assert chosen == (("a_1", "b_7"), ("npz",), (1, 4), 3, 2)


def test_parts_run_alone_or_all_but_the_longest() -> None:
    def parts(*arguments: str) -> Any:
        return bench.parts_of(bench.parse_arguments(arguments))

    assert parts() == bench.PARTS[:-1]
    assert parts("--soak=600") == bench.PARTS
    assert parts("--only=soak,start") == ("start", "soak")


def test_a_part_alone_measures_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(whole, "soak", lambda _, seconds: soaked(seconds, seconds))
    for name in ("start", "kernel", "pace", "batching", "quality", "two_workers"):
        monkeypatch.setattr(whole, name, lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(serving, "pick_cores", lambda: serving.Cores(0, 0))
    monkeypatch.setattr(generator, "require", lambda: None)
    file = tmp_path / "run.json"
    assert bench.main(["--only=soak", f"--json={file}"]) == 0
    said = json.loads(file.read_text(encoding="utf-8"))
    assert [one["memory"]["rss_mb"] for one in said["soak"]["samples"]] == [bench.SOAK_S] * 2
    assert said["rows"] == []
    assert [goal["met"] for goal in said["goals"]] == [None] * 14 + [True]
    assert "memory of all processes" in capsys.readouterr().out


def test_a_part_that_fails_is_named_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise pairs.NotCounted("-1 beside the [generator]'s 100")

    monkeypatch.setattr(whole, "pace", fail)
    monkeypatch.setattr(whole, "two_workers", lambda _: whole.TwoWorkers(0.99, 1.23))
    monkeypatch.setattr(serving, "pick_cores", lambda: serving.Cores(0, 0))
    monkeypatch.setattr(generator, "require", lambda: None)
    assert bench.main(["--only=pace,workers"]) == 1
    printed = capsys.readouterr().out
    assert "1.23" in printed
    assert "pace failed: -1 beside the [generator]'s 100" in printed


@pytest.mark.parametrize(
    "arguments", [["--cases=z_1"], ["--forms=xml"], ["--connections=many"], ["--only=tea"]]
)
def test_a_slip_of_the_hand_ends_at_once(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(arguments) == 1
    assert capsys.readouterr().out


def test_tables_and_file_have_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unserved = pairs.Unserved("s_1", "npz", 415)
    found = whole_found(rows=[row("a_1"), row("b_32", "npz")], unserved=[unserved])
    console = bench.Console(width=160)
    tables.print_found(console, found)
    tables.print_goals(console, goals.goals(found))
    printed = capsys.readouterr().out
    for text in ("a_1", "b_32", "s_1 as npz is not served: status 415", "plain FastAPI", "X86_V4", "1.010"):
        assert text in printed
    assert all(goal.reached in printed for goal in goals.goals(found))
    tables.write_json(tmp_path / "run.json", bench.machine(), bench.QUICK, found, goals.goals(found))
    said = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert [(one["case"], one["form"]) for one in said["rows"]] == [("a_1", "json"), ("b_32", "npz")]
    assert said["rows"][0]["pairs"][0]["ours"]["requests"] == 100
    assert said["rows"][0]["share"] == 0.5
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", said["machine"]["date"])
    assert said["start"]["plain"]["worker"]["rss_mb"] == 95.0
    assert [one["elapsed_s"] for one in said["soak"]["samples"]] == [60.0, 120.0, 180.0]
    assert [goal["what"] for goal in said["goals"]] == [goal.what for goal in goals.goals(found)]


# Peers


@pytest.mark.parametrize("peer", adapters.PEERS, ids=lambda peer: peer.name)
def test_every_peer_can_be_named_started_and_asked(peer: Any, tmp_path: Path) -> None:
    assert adapters.named(peer.name.upper()) is peer
    place = adapters.Place(tmp_path / "bin", tmp_path, 4000)
    peer.write_files(place)
    command = [*peer.command(place), *(peer.prepare(place) if peer.prepare else ())]
    assert command[0].startswith(str(tmp_path / "bin"))
    for argument in command:
        path = Path(argument.partition("=")[2] or argument)
        assert path.exists() or not path.is_relative_to(BENCHMARKS), argument
    environment = adapters.environment(peer, place, tmp_path / "a.onnx")
    assert environment["PATH"].split(os.pathsep)[0] == str(place.programs)
    case = cases.make("a_2")
    for dialect in peer.dialects:
        request = dialect.write(case)
        assert request.path.startswith("/")
        size = int(request.headers.get("Inference-Header-Content-Length", len(request.body)))
        assert json.loads(request.body[:size])


def test_an_unknown_peer_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert peers.main(["--peers=tensorflowserving"]) == 1
    assert "plainfastapi" in capsys.readouterr().out
    assert peers.main(["--cases=s_1"]) == 1


def test_answers_of_peers_are_read_into_probabilities_and_classes() -> None:
    case = cases.make("a_2")
    lists = {name: array.tolist() for name, array in right_answer(case).items()}
    v1 = adapters.named("kserve").dialects[0]
    cases.check(case, v1.read(cases.Answer(200, json.dumps({"predictions": lists}).encode(), {})))
    outputs = [
        {
            "name": "probabilities",
            "datatype": "FP32",
            "shape": [2, 10],
            "data": np.ravel(lists["probabilities"]).tolist(),
        },
        {"name": "classes", "datatype": "INT64", "shape": [2, 1], "data": lists["classes"]},
    ]
    body = json.dumps({"outputs": outputs}).encode()
    cases.check(case, adapters.V2_JSON.read(cases.Answer(200, body, {})))


def test_a_peer_that_cannot_be_installed_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(command: list[str], *_: object) -> None:
        raise peers.Uninstalled("no wheel for this machine")

    monkeypatch.setattr(peers, "_run", refuse)
    monkeypatch.setattr(peers, "interpreter_for", lambda _: sys.executable)
    plan = pairs.Plan(("a_1",), ("json",), (16,), 1, 1)
    here = pairs.Bench(serving.Cores(0, 1), tmp_path, plan)
    comparison = peers.Comparison(here, None, peers.Console(width=160))
    for name in ("litserve", "rayserve"):
        comparison.add(adapters.named(name), tmp_path / "cache")
    assert [failed.what for failed in comparison.outcome.failed] == ["LitServe", "Ray Serve"]
    peers.print_outcome(peers.Console(width=160), comparison.outcome)
    assert "no wheel for this machine" in capsys.readouterr().out


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def note(command: list[str], *_: object) -> None:
        commands.append(command)
        (tmp_path / "litserve").mkdir(exist_ok=True)

    monkeypatch.setattr(peers, "_run", note)
    peer = adapters.named("litserve")
    for _ in range(2):
        assert peers.install(peer, tmp_path, "/usr/bin/python3") == tmp_path / "litserve" / "bin"
    assert len(commands) == 2
    assert commands[0][0] == "/usr/bin/python3"
    assert commands[1][-len(peer.packages) :] == list(peer.packages)
    peers.install(peer._replace(packages=("other",)), tmp_path, "/usr/bin/python3")
    assert len(commands) == 4
    peers.install(peer._replace(packages=("other",)), tmp_path, "/opt/python3")
    assert len(commands) == 6


def test_the_first_interpreter_that_meets_the_needs_is_taken_by_its_real_path(tmp_path: Path) -> None:
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    peer = adapters.named("litserve")
    real = os.path.realpath(sys.executable)
    assert peers.interpreter_for(peer, ["/nowhere/python", "false", str(link)]) == real
    never = peer._replace(needs=(adapters.Need("a Python from the future", "sys.version_info > (9,)"),))
    with pytest.raises(peers.Uninstalled, match=r"a Python from the future.*looked at .*python"):
        peers.interpreter_for(never, [str(link)])


def test_a_program_that_a_peer_needs_is_named() -> None:
    peer = adapters.named("torchserve")._replace(programs=("no-such-program",))
    with pytest.raises(peers.Uninstalled, match="needs no-such-program on the PATH"):
        peers.interpreter_for(peer)


@pytest.mark.parametrize("peer", adapters.PEERS, ids=lambda peer: peer.name)
def test_the_needs_of_every_peer_can_be_asked(peer: Any) -> None:
    for need in peer.needs:
        script = f"import os, sys, sysconfig; print({need.expression})"
        assert peers._run([sys.executable, "-c", script]) in ("True\n", "False\n")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What plain FastAPI needs is in our own environment."""
    monkeypatch.setattr(peers, "install", lambda *_: Path(sys.executable).parent)
    monkeypatch.setattr(peers, "interpreter_for", lambda _: sys.executable)


def test_a_run_compares_what_was_answered_rightly(
    installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = min(os.sched_getaffinity(0))
    monkeypatch.setattr(serving, "pick_cores", lambda: serving.Cores(core, core))
    monkeypatch.setattr(generator, "require", lambda: None)
    monkeypatch.setattr(pairs.Bench, "load", lambda *_: load(200.0))
    monkeypatch.setattr(pairs.Bench, "counted_load", lambda *_: load(100.0))
    file = tmp_path / "run.json"
    assert peers.main(["--peers=plainfastapi", "--cases=a_1", "--pairs=2", f"--json={file}"]) == 0
    said = json.loads(file.read_text(encoding="utf-8"))
    assert [(one["peer"], one["case"], len(one["rounds"])) for one in said["compared"]] == [
        ("plain FastAPI", "a_1", 2)
    ]
    assert [one["name"] for one in said["weighed"]] == ["logitserve, both heads", "plain FastAPI, head a"]


def test_a_check_asks_each_case_once_and_times_nothing(
    installed: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generator, "run", lambda *_, **__: pytest.fail("timed"))
    assert peers.main(["--check", "--peers=plainfastapi", "--cases=a_1,a_32"]) == 0
    printed = capsys.readouterr().out
    assert "2 answers right" in printed
    assert "plain FastAPI, head a" in printed
    monkeypatch.setattr(cases, "RTOL", -1.0)
    assert peers.main(["--check", "--peers=plainfastapi", "--cases=a_1"]) == 1
    assert "not what numpy computes" in capsys.readouterr().out


def test_a_failed_command_says_why_in_one_line() -> None:
    script = "import sys; print('WARNING: x\\n\\nERROR: no match', file=sys.stderr); sys.exit(1)"
    with pytest.raises(peers.Uninstalled, match=r"^ERROR: no match$"):
        peers._run([sys.executable, "-c", script])
    with pytest.raises(peers.Uninstalled, match="No such file"):
        peers._run(["/nowhere/python"])


def test_a_comparison_is_written_with_all_of_its_rounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compared = peers.Compared("X", "json", "a_1", (peers.Round(load(1000.0), load(500.0), load(50.0)),))
    assert (compared.share, compared.our_share, compared.times) == (0.05, 0.5, 10.0)
    weighed = peers.Weighed("X", 1.5, serving.Memory(10.0, 9.0))
    outcome = peers.Outcome([compared], [weighed], [peers.Failed("Y", "[no] wheel")])
    peers.print_outcome(peers.Console(width=160), outcome)
    assert "[no] wheel" in capsys.readouterr().out
    peers.write_json(tmp_path / "peers.json", outcome)
    said = json.loads((tmp_path / "peers.json").read_text(encoding="utf-8"))
    assert said["compared"][0]["rounds"][0]["peer"]["requests"] == 50
    assert said["weighed"][0]["memory"]["rss_mb"] == 10.0


@pytest.fixture
def head_session(models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(adapters.APPS))
    monkeypatch.setenv("HEAD_MODEL", str(models / "a.onnx"))
    yield importlib.import_module("head_session")
    for name in ("head_session", "plain_fastapi", "torchserve_handler"):
        sys.modules.pop(name, None)


def test_the_session_of_the_peers_answers_rightly(head_session: ModuleType) -> None:
    case = cases.make("a_5")
    session = head_session.Session()
    cases.check(case, session.run_to_lists(case.arrays["features"].tolist()))
    handler = importlib.import_module("torchserve_handler").Head()
    handler.initialize(None)
    batch = [case, cases.make("a_2")]
    answers = handler.handle([{"body": {"features": one.arrays["features"].tolist()}} for one in batch], None)
    for one, answer in zip(batch, answers, strict=True):
        cases.check(one, answer)


async def test_plain_fastapi_answers_rightly(head_session: ModuleType, anyio_backend: str) -> None:
    plain = importlib.import_module("plain_fastapi")
    case = cases.make("a_5")
    body = plain.Features(features=case.arrays["features"].tolist())
    cases.check(case, (await plain.predict(body)).model_dump())
    assert await plain.health() == {"ready": True}


def test_the_kernel_is_compared_in_every_shape(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "SHAPES", ((1, 10), (256, 10)))
    monkeypatch.setenv("NPY_DISABLE_CPU_FEATURES", "X86_V4")
    kernel.main(["--turns", "1"])
    printed = capsys.readouterr().out
    assert "without X86_V4" in printed
    rows = {
        line.split("│")[1].strip(): line for line in printed.splitlines() if " x " in line and "│" in line
    }
    assert list(rows) == ["1 x 10", "256 x 10"]
    goals = [re.findall(r"(?:reached|missed): (\d)", line) for line in rows.values()]
    assert goals == [[], ["2", "3"]]


def test_every_candidate_is_timed_and_one_is_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "SHAPES", ((4, 10), (3, 1000)))
    monkeypatch.setattr(kernel, "GOAL_SHAPES", ((4, 10), (3, 1000)))
    kernel.main(["--turns", "1", "--candidates"])
    printed = capsys.readouterr().out
    names = [way.name for way in candidates.candidates()]
    assert all(name in printed for name in names)
    assert [name for name in names if "kept" in name] == names[:1]
    assert len(re.findall(r"\d+\.\d\d / \d+\.\d\d", printed)) == 2 * len(names)


@pytest.mark.parametrize("shape", [(1, 2), (5, 10), (40, 100), (9, 8200)])
def test_candidates_agree_and_only_ours_keep_the_digits_of_a_tiny_logarithm(shape: tuple[int, int]) -> None:
    logits = np.random.default_rng(shape).standard_normal(shape).astype(np.float32)
    ways = candidates.candidates()
    candidates.check(ways, logits)
    for way in ways:
        answers = way.plain(logits)
        assert [(a.dtype, a.shape) for a in answers] == [(np.float32, shape), (np.int64, shape[:1])]
        exact = way.plain is candidates.ours
        assert candidates.lost(way) < 1e-7 if exact else candidates.lost(way) == 1


def test_a_candidate_that_answers_something_else_is_not_timed() -> None:
    logits = np.zeros((2, 3), np.float32)

    def wrong(logits: Any) -> Any:
        return logits, logits.argmax(-1), logits

    with pytest.raises(AssertionError, match="a guess"):
        candidates.check([candidates.Candidate("a guess", wrong, wrong)], logits)
    with pytest.raises(AssertionError, match="2, 3"):
        kernel.check(logits, wrong, candidates.runner(candidates.FLOAT32))


def test_other_blocks_are_worked_on_only_for_their_candidate() -> None:
    inner = candidates.kernel
    kept = inner.BLOCK_ELEMENTS
    with contextlib.suppress(ZeroDivisionError), candidates.blocks_of(50):
        assert inner.blocks(12, 10) == [slice(0, 5), slice(5, 10), slice(10, 12)]
        _ = 1 / 0
    assert kept == inner.BLOCK_ELEMENTS
