"""Several processes: starting together or not at all, replacing one that dies, leaving none behind."""

import asyncio
import collections
import contextlib
import json
import math
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from services import (
    ROOT,
    STANDIN,
    Service,
    Start,
    alive,
    open_sockets,
    received,
    request,
    started,
    until,
)

from service.errors import ModelError, StartError
from service.workers.supervisor import DEATHS_WINDOW_S, FIRST_BACK_OFF_S, MAX_DEATHS, _Worker, one_line

start = pytest.fixture(started)

BOTH = pytest.mark.parametrize("workers", [1, 2])


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """While this worker stands still, only the others can answer."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@BOTH
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("refusing", "no model is in ./models; name a folder by --models"),
        ("failing", "ValueError: a text of two lines"),
        ("absent_module:create_app", "ModuleNotFoundError: No module named 'absent_module'"),
        ("absent", "AttributeError: module 'standin' has no attribute 'absent'"),
    ],
)
def test_what_fails_at_the_start_is_one_line(start: Start, workers: int, name: str, line: str) -> None:
    code, stderr = start(name, workers=workers).ended()
    assert (code, stderr.splitlines()) == (1, [line])


def test_a_worker_killed_at_the_start_is_named_with_the_signal(start: Start) -> None:
    code, stderr = start("killed", workers=2).ended()
    assert code == 1
    assert stderr.strip() in {f"worker {number} was killed by signal 9 (SIGKILL)" for number in (1, 2)}


@pytest.mark.anyio
async def test_a_killed_worker_is_replaced_in_its_slot(start: Start) -> None:
    service = start(workers=2).wait_ready()
    first = service.children()
    _, before = await service.get("/slow")
    os.kill(before["pid"], signal.SIGKILL)
    until(lambda: len(set(service.children()) - set(first)) == 1)
    (new,) = set(service.children()) - set(first)
    (other,) = set(first) - {before["pid"]}
    with stopped(other):
        _, after = await asyncio.wait_for(service.get("/slow"), 5)
    assert after == {"pid": new, "slot": before["slot"], "folder": before["folder"]}
    service.signal()
    code, stderr = service.ended()
    assert code == 0
    assert stderr.splitlines() == [
        f"worker {before['slot'] + 1} was killed by signal 9 (SIGKILL); another takes its place"
    ]


def test_a_worker_that_was_told_to_end_is_replaced_too(start: Start) -> None:
    service = start(workers=2).wait_ready()
    first = service.children()
    os.kill(first[0], signal.SIGTERM)
    until(lambda: len(service.children()) == 2 and first[0] not in service.children())
    service.signal()
    assert service.ended()[0] == 0


@pytest.mark.anyio
async def test_workers_that_keep_dying_end_the_service(start: Start) -> None:
    service = start("dying", workers=2).wait_ready()
    with pytest.raises(asyncio.IncompleteReadError):
        await service.get("/crash")
    code, stderr = await asyncio.to_thread(service.ended)
    assert code == 3
    assert stderr.splitlines()[-1].endswith("left with code 9; it died 5 times within 30 s, giving up")
    assert len(stderr.splitlines()) == 5


@pytest.mark.anyio
async def test_killing_the_supervisor_leaves_no_process_and_answers_what_runs(start: Start) -> None:
    service = start(workers=2).wait_ready()
    children = service.children()
    running = asyncio.create_task(service.get("/slow?s=0.5"))
    await asyncio.sleep(0.2)
    service.signal(signal.SIGKILL)
    assert b" 200 " in (await running)[0]
    until(lambda: not any(alive(pid) for pid in children))


def test_ctrl_c_reaches_all_and_ends_them_well(start: Start) -> None:
    service = start(workers=2).wait_ready()
    os.killpg(service.process.pid, signal.SIGINT)
    assert service.ended() == (0, "")


def test_sigterm_for_the_whole_group_is_no_second_signal(start: Start) -> None:
    service = start(workers=2).wait_ready()
    os.killpg(service.process.pid, signal.SIGTERM)
    assert service.ended() == (0, "")


def test_the_supervisor_imports_nothing_heavy() -> None:
    code = """
import sys, service.cli, service.commands.serve, service.workers
heavy = {"numpy", "onnxruntime", "fastapi", "starlette", "uvicorn", "uvloop", "asyncio", "rich"}
print(sorted(heavy & set(sys.modules)))
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


@pytest.mark.anyio
async def test_every_worker_answers_and_they_share_one_folder(start: Start, tmp_path: Path) -> None:
    service = start(workers=2).wait_ready()
    first, second = service.children()
    with stopped(second):
        _, of_first = await asyncio.wait_for(service.get("/slow"), 5)
    with stopped(first):
        _, of_second = await asyncio.wait_for(service.get("/slow"), 5)
    assert (of_first["pid"], of_second["pid"]) == (first, second)
    assert (of_first["slot"], of_second["slot"]) == (0, 1)
    assert of_first["folder"] == of_second["folder"]
    assert of_first["folder"].startswith(f"{tmp_path}/logitserve-")
    service.signal()
    assert service.ended() == (0, "")
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - pathlib would be blocking here just the same


@BOTH
def test_two_services_run_side_by_side(start: Start, workers: int) -> None:
    first, second = start(workers=workers), start(workers=workers)
    assert first.wait_ready().port != second.wait_ready().port
    first.signal()
    assert first.ended() == (0, "")
    second.signal()
    assert second.ended() == (0, "")


@BOTH
def test_a_taken_port_ends_it_before_any_worker_starts(start: Start, workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, stderr = start(workers=workers, port=port).ended()
    assert code == 1
    assert stderr == (
        f"port {port} of 127.0.0.1 is in use; stop what listens there, or choose another port by --port\n"
    )


def test_a_signal_that_the_parent_ignores_stays_ignored(tmp_path: Path) -> None:
    """A shell starts its background jobs with SIGINT ignored, so that Ctrl-C for another leaves them alone."""
    code = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
    command = [sys.executable, "-c", code, str(STANDIN), "standin:answering", "port=0", f"run_dir={tmp_path}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(ROOT)})
    assert process.stdout is not None
    assert process.stdout.readline().startswith("http://")
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.8)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=5)
    assert process.returncode == 0


def pid_of(connection: socket.socket) -> int:
    """Ask who has it."""
    connection.sendall(request("/slow"))
    return int(json.loads(received(connection).split(b"\r\n\r\n")[1])["pid"])


@contextlib.contextmanager
def connections(service: Service, number: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(service.connected()) for _ in range(number)]


def replaced(service: Service, pid: int) -> int:
    """Kill a worker and wait until another answers in its place."""
    before = service.children()
    os.kill(pid, signal.SIGKILL)
    until(lambda: len(service.children()) == len(before) and pid not in service.children())
    (new,) = set(service.children()) - set(before)
    until(lambda: answers(service, new))
    return new


def answers(service: Service, pid: int) -> bool:
    with connections(service, 4) as connected:
        return pid in map(pid_of, connected)


def spread(pids: list[int], workers: int) -> float:
    held = sorted(collections.Counter(pids).values())
    return held[-1] / held[0] if len(held) == workers else math.inf


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("workers", [2, 3])
def test_64_connections_are_spread_evenly(start: Start, workers: int, cpus: int) -> None:
    service = start(workers=workers).wait_ready()
    if cpus == 1:
        service.pin(min(os.sched_getaffinity(0)))
    for _ in range(5):
        with connections(service, 64) as connected:
            assert spread([pid_of(connection) for connection in connected], workers) <= 1.5
        time.sleep(0.1)  # all workers hear that these are closed


def test_they_stay_even_when_those_of_one_worker_close(start: Start) -> None:
    service = start(workers=2).wait_ready()
    first, second = service.children()
    with connections(service, 64) as connected:
        pids = [pid_of(connection) for connection in connected]
        for connection, pid in zip(connected, pids, strict=True):
            if pid == first:
                connection.close()
        time.sleep(0.2)  # the worker hears of it
        with connections(service, 32) as more:
            assert [pid_of(connection) for connection in more].count(second) <= 4  # a tick may take one


def test_a_worker_that_takes_a_place_gets_its_share(start: Start) -> None:
    service = start(workers=2).wait_ready()
    first, second = service.children()
    with connections(service, 20) as connected:
        assert {pid_of(connection) for connection in connected} == {first, second}
        new = replaced(service, first)
        with connections(service, 30) as more:
            pids = [pid_of(connection) for connection in more]
        shares = sorted((pids.count(new), pids.count(second) + 10))  # the survivor held 10 already
        assert shares[1] / shares[0] <= 1.5


def test_what_a_killed_worker_has_not_accepted_is_answered_by_another(start: Start) -> None:
    service = start(workers=2).wait_ready()
    first, second = service.children()
    os.kill(first, signal.SIGSTOP)
    with connections(service, 20) as connected:
        for connection in connected:
            connection.sendall(request("/slow"))
        os.kill(first, signal.SIGKILL)
        answered = [received(connection) for connection in connected]
    assert [whole[:12] for whole in answered] == [b"HTTP/1.1 200"] * 20
    assert all(f'"pid": {second}'.encode() in whole for whole in answered)


def test_a_worker_that_stands_still_keeps_nobody_waiting(start: Start) -> None:
    service = start(workers=2).wait_ready()
    first, second = service.children()
    with stopped(first), connections(service, 20) as connected:
        assert [pid_of(connection) for connection in connected] == [second] * 20
    until(lambda: answers(service, first))


def test_killing_workers_while_connections_come_in_loses_only_what_they_held(start: Start) -> None:
    """One request a connection: a worker holds one or two of them at a time."""
    service = start(workers=2).wait_ready()
    lost = answered = 0
    for kills in range(3):
        kill_at = time.monotonic() + 0.3
        end = kill_at + 0.7
        while time.monotonic() < end:
            if kill_at and time.monotonic() > kill_at:
                os.kill(service.children()[kills % 2], signal.SIGKILL)
                kill_at = 0.0
            with service.connected() as connection:
                connection.sendall(request("/slow"))
                try:
                    answered += received(connection).startswith(b"HTTP/1.1 200 ")
                except ConnectionError:
                    lost += 1
    assert answered > 100
    assert lost <= 3


def test_while_no_worker_is_there_connections_wait_for_the_next(start: Start) -> None:
    service = start(workers=2).wait_ready()
    for pid in service.children():
        os.kill(pid, signal.SIGKILL)
    with connections(service, 10) as connected:
        for connection in connected:
            connection.sendall(request("/slow"))
        assert [received(connection)[:12] for connection in connected] == [b"HTTP/1.1 200"] * 10
        pids = {pid_of(connection) for connection in connected}
        assert pids <= set(service.children())
        for connection in connected:
            connection.sendall(b"no http\r\n\r\n")
            while connection.recv(4096):
                """It ends: no copy of it is left open in another process."""


def test_what_waits_at_sigterm_is_answered(start: Start) -> None:
    service = start(workers=2, drain_delay_s=0).wait_ready()
    pids = service.children()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    with connections(service, 20) as connected:
        for connection in connected:
            connection.sendall(request("/slow"))
        service.signal()
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        assert [received(connection)[:12] for connection in connected] == [b"HTTP/1.1 200"] * 20
    assert service.ended() == (0, "")


def test_clients_that_leave_at_once_leave_nothing_behind(start: Start) -> None:
    service = start(workers=2).wait_ready()
    processes = [service.process.pid, *service.children()]
    before = [open_sockets(pid) for pid in processes]
    for _ in range(200):
        with service.connected() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    time.sleep(0.3)  # all of them have been met
    until(lambda: [open_sockets(pid) for pid in processes] == before)
    with connections(service, 10) as connected:
        assert spread([pid_of(connection) for connection in connected], 2) == 1, "none counts as still open"
    until(lambda: [open_sockets(pid) for pid in processes] == before)


def test_replacing_a_worker_leaks_no_descriptor(start: Start) -> None:
    service = start(workers=2).wait_ready()
    first, second = service.children()
    before = [open_sockets(pid) for pid in (service.process.pid, first)]
    with connections(service, 10):
        new = replaced(service, first)
    until(lambda: [open_sockets(pid) for pid in (service.process.pid, new)] == before)
    assert alive(second)


def died(status: int, said: bytes = b"") -> str:
    worker = _Worker(1)
    worker.said = said
    return worker.epitaph(status)


def test_a_worker_is_remembered_by_what_it_said_last() -> None:
    assert died(9) == "worker 2 was killed by signal 9 (SIGKILL)"
    assert died(3 << 8) == "worker 2 left with code 3"
    assert died(1 << 8, b'{"error": "no models"}\n') == "no models"
    assert died(1 << 8, b'{"served": {}}\n{"error": "the disk is full"}\n') == "the disk is full"


def test_a_report_counts_only_when_its_line_is_whole() -> None:
    assert died(9, b'{"error": "no mod') == "worker 2 was killed by signal 9 (SIGKILL)"


def test_back_off_doubles_and_stays_within_the_window_that_counts_deaths() -> None:
    delays_s = [FIRST_BACK_OFF_S * 2**death for death in range(MAX_DEATHS - 1)]
    assert sum(delays_s) < DEATHS_WINDOW_S / 2, "or five deaths at once would never be five within the window"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (StartError("no models"), "no models"),
        (ModelError("digits 1: no\n  logits"), "digits 1: no logits"),
        (KeyError("x"), "KeyError: 'x'"),
        (RuntimeError("one\ntwo"), "RuntimeError: one two"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_any_error_is_one_line(error: BaseException, line: str) -> None:
    assert one_line(error) == line
