"""One process or two: how they end, and what happens to requests that are on their way."""

import asyncio
import contextlib
import os
import resource
import select
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn
from services import Start, alive, answer, received, request, started, until
from standin import Answering

from service.settings import Settings
from service.workers.meeting import listen
from service.workers.protocol import Connection
from service.workers.server import _config, _Ending, _serve, _Server
from service.workers.shares import Shares

start = pytest.fixture(started)

BOTH = pytest.mark.parametrize("workers", [1, 2])


@BOTH
@pytest.mark.anyio
async def test_200_requests_in_flight_are_all_answered_after_sigterm(start: Start, workers: int) -> None:
    service = start(workers=workers).wait_ready()
    connections = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(200)]
    for _, writer in connections:
        writer.write(request("/slow?s=0.6"))
        await writer.drain()
    service.signal()
    answers = await asyncio.gather(*(answer(reader) for reader, _ in connections))
    for _, writer in connections:
        writer.close()
    assert [head.split(b"\r\n")[0] for head, _ in answers] == [b"HTTP/1.1 200 OK"] * 200
    assert service.ended() == (0, "")


@BOTH
@pytest.mark.anyio
async def test_while_it_drains_it_is_not_ready_and_still_answers(start: Start, workers: int) -> None:
    service = start(workers=workers, drain_delay_s=0.6).wait_ready()
    assert b" 200 " in (await service.get("/health/ready"))[0]
    service.signal()
    await asyncio.sleep(0.3)
    unready, _ = await service.get("/health/ready")
    answered, _ = await service.get("/slow")
    assert b" 503 " in unready
    assert b" 200 " in answered
    assert b"connection: close" in answered
    assert service.ended() == (0, "")
    with pytest.raises(ConnectionRefusedError):
        await service.get("/slow")


@pytest.mark.anyio
async def test_a_request_of_which_half_was_sent_is_answered(start: Start) -> None:
    service = start().wait_ready()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(request("/slow")[:20])
    await writer.drain()
    await asyncio.sleep(0.1)
    service.signal()
    await asyncio.sleep(0.6)  # longer than the drain delay and the linger
    writer.write(request("/slow")[20:])
    head, _ = await answer(reader)
    assert b" 200 " in head
    assert b"connection: close" in head
    assert await reader.read() == b""
    writer.close()
    assert service.ended() == (0, "")


def test_a_request_sent_before_its_connection_is_closed_is_answered(start: Start) -> None:
    """Also where the loop is so busy that the bytes still wait in the kernel when the connection would be closed."""
    service = start(drain_delay_s=0).wait_ready()
    idle = [socket.create_connection(("127.0.0.1", service.port), 5) for _ in range(40)]
    for connection in idle:
        connection.sendall(request("/slow"))
        assert b" 200 " in received(connection)
    with socket.create_connection(("127.0.0.1", service.port), 5) as busy:
        busy.sendall(request("/busy?s=0.9"))
        time.sleep(0.1)
        service.signal()
        sent = []
        for connection in idle:
            time.sleep(0.02)
            if not select.select([connection], [], [], 0)[0]:  # not closed yet
                connection.sendall(request("/slow"))
                sent.append(connection)
        assert b" 200 " in received(busy)
    assert len(sent) > 10
    for connection in sent:
        assert b" 200 " in received(connection)
    for connection in idle:
        connection.close()
    assert service.ended() == (0, "")


@pytest.mark.anyio
async def test_bytes_in_the_kernel_keep_a_connection_until_they_are_answered(tmp_path: Path) -> None:
    config = uvicorn.Config(Answering(0, tmp_path, 1), lifespan="off", log_config=None)
    state = uvicorn.server.ServerState()
    loop = asyncio.get_running_loop()
    connection = Connection(config=config, server_state=state, app_state={})
    server = await loop.create_server(lambda: connection, "127.0.0.1", 0)
    client = socket.create_connection(server.sockets[0].getsockname())
    client.settimeout(0)
    await asyncio.sleep(0.05)  # it is accepted
    connection.shutdown()
    client.sendall(request("/slow"))
    connection._end()  # the loop has had no turn in which to read
    head = await loop.sock_recv(client, 4096)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in head
    client.close()
    server.close()
    await server.wait_closed()


@pytest.mark.anyio
async def test_an_idle_connection_does_not_keep_the_process(start: Start) -> None:
    service = start().wait_ready()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(request("/slow"))
    await answer(reader)
    service.signal()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    assert service.ended(2) == (0, "")


@BOTH
@pytest.mark.anyio
async def test_a_second_signal_ends_at_once_and_not_well(start: Start, workers: int) -> None:
    service = start(workers=workers, drain_timeout_s=20).wait_ready()
    _, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(request("/slow?s=20"))
    await asyncio.sleep(0.2)
    service.signal()
    await asyncio.sleep(0.2)
    service.signal()
    code, stderr = await asyncio.to_thread(service.ended, 3)
    assert code == 3
    assert "a second signal came" in stderr
    assert len(stderr.splitlines()) == 1
    writer.close()


@pytest.mark.anyio
async def test_after_the_drain_timeout_what_runs_is_cut_short(start: Start) -> None:
    service = start(workers=2, drain_timeout_s=0.3).wait_ready()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(request("/slow?s=20"))
    await asyncio.sleep(0.2)
    service.signal()
    code, stderr = await asyncio.to_thread(service.ended, 3)
    assert code == 3
    assert stderr == "the drain timeout of 0.3 s passed with 1 connections open\n"
    assert (await reader.read()).startswith(b"HTTP/1.1 500 ")
    writer.close()


@BOTH
@pytest.mark.anyio
async def test_a_signal_before_it_is_ready_ends_it_well(start: Start, workers: int, tmp_path: Path) -> None:
    service = start("starting", workers=workers)
    until(lambda: len(list(tmp_path.glob("*/starting-*"))) == workers)
    service.signal()
    assert service.ended(5) == (0, "")


@pytest.mark.anyio
async def test_a_head_over_the_limit_is_refused(start: Start) -> None:
    service = start().wait_ready()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 70_000)
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    for _ in range(3):  # each head is counted for itself
        writer.write(b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 40_000 + b"\r\n\r\n")
        assert b" 200 " in (await answer(reader))[0]
    writer.close()


@pytest.mark.anyio
async def test_answers_carry_a_date_and_not_what_serves(start: Start) -> None:
    service = start().wait_ready()
    head, _ = await service.get("/slow")
    assert b"\r\ndate: " in head
    assert b"\r\nserver: " not in head


@pytest.mark.anyio
async def test_what_is_loaded_at_the_start_is_left_alone_by_the_collector(start: Start) -> None:
    service = start().wait_ready()
    _, told = await service.get("/frozen")
    assert told["frozen"] > 1000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.anyio
async def test_both_signals_end_it_well(start: Start, number: signal.Signals) -> None:
    service = start().wait_ready()
    service.signal(number)
    assert service.ended() == (0, "")


@pytest.mark.anyio
async def test_requests_sent_one_behind_the_other_are_answered_in_order(start: Start) -> None:
    service = start().wait_ready()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(request("/slow?s=0.2") + request("/slow") + request("/health/ready"))
    for _ in range(3):
        assert b" 200 " in (await answer(reader))[0]
    writer.close()
    service.signal()
    assert service.ended() == (0, "")


@pytest.mark.anyio
async def test_an_idle_connection_is_kept_as_long_as_the_setting_says(start: Start) -> None:
    service = start(keep_alive_s=1).wait_ready()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    for _ in range(2):
        writer.write(request("/slow"))
        await answer(reader)
        await asyncio.sleep(0.6)
    assert await asyncio.wait_for(reader.read(), 3) == b""
    writer.close()


@pytest.mark.anyio
async def test_a_client_that_leaves_while_it_drains_harms_nobody(start: Start) -> None:
    service = start(drain_delay_s=0).wait_ready()
    _, leaving = await asyncio.open_connection("127.0.0.1", service.port)
    leaving.write(request("/slow?s=0.5"))
    staying = asyncio.create_task(service.get("/slow?s=0.5"))
    await asyncio.sleep(0.2)
    service.signal()
    leaving.transport.abort()
    assert b" 200 " in (await staying)[0]
    assert service.ended() == (0, "")


@pytest.mark.anyio
async def test_bytes_that_are_no_http_get_400_and_harm_nobody(start: Start) -> None:
    service = start().wait_ready()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(b"\x16\x03\x01 no http\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()
    assert b" 200 " in (await service.get("/slow"))[0]


UVLOOP = pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})])


@contextlib.asynccontextmanager
async def sharing(tmp_path: Path) -> AsyncIterator[_Server]:
    """The first of two workers, not running yet; the other one is played by the test."""
    with listen("127.0.0.1", 0) as listener, contextlib.closing(Shares(2)) as shares:
        yield _Server(_config(Answering(0, tmp_path, 1), Settings()), listener, shares, 0)


@contextlib.asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[_Server]:
    async with sharing(tmp_path) as server:
        server.join()
        serving = asyncio.create_task(server.serve(sockets=[]))
        await asyncio.sleep(0.01)  # the next tick comes in 0.1 s
        yield server
        server.should_exit = True
        await asyncio.wait_for(serving, 5)
        assert server.shares.held[0] == 0


def connected(server: _Server) -> socket.socket:
    return socket.create_connection(server.listener.getsockname(), 5)


@UVLOOP
@pytest.mark.anyio
async def test_what_waits_in_the_kernel_at_the_end_is_answered(tmp_path: Path) -> None:
    """Also where the server is told to end before its loop has turned."""
    async with sharing(tmp_path) as server:
        with connected(server) as client:
            client.sendall(request("/slow"))
            server.should_exit = True
            await asyncio.wait_for(
                server.serve(sockets=[]), 5
            )  # its connection is told that the service ends
            assert server.shares.held[0] == 0
            assert received(client).startswith(b"HTTP/1.1 200 ")
            assert client.recv(1) == b""


@UVLOOP
@pytest.mark.anyio
async def test_a_shared_connection_is_like_any_other(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        with connected(server) as client:
            await asyncio.sleep(0.05)
            (connection,) = server.server_state.connections
            assert isinstance(connection, Connection)
            assert connection.client == client.getsockname()
            assert connection.server == server.listener.getsockname()
            own = connection.transport.get_extra_info("socket")
            assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), (
                "or answers wait for the client's ACK"
            )
            assert not os.get_inheritable(own.fileno())


@UVLOOP
@pytest.mark.anyio
async def test_alone_it_accepts_all_that_wait_in_one_turn(tmp_path: Path) -> None:
    """Libuv accepts one in a turn: the last of many would wait for as many turns of a busy loop."""
    async with running(tmp_path) as server:
        with contextlib.ExitStack() as stack:
            for _ in range(40):
                stack.enter_context(connected(server))
            turns = 0
            while server.shares.held[0] < 40:
                await asyncio.sleep(0)
                turns += 1
            assert turns <= 3


@UVLOOP
@pytest.mark.anyio
async def test_it_rests_while_the_other_holds_fewer(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        server.shares.listen(1)
        with contextlib.ExitStack() as stack:
            for _ in range(6):
                stack.enter_context(connected(server))
            await asyncio.sleep(0.03)
            assert server.shares.held[0] in {1, 2}, "a tick takes one more"
            for _ in range(3):
                server.shares.take(1)
            await asyncio.sleep(0.03)
            assert server.shares.held[0] in {4, 5}


@UVLOOP
@pytest.mark.anyio
async def test_it_rests_for_no_one_who_has_caught_up_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as server:
        server.shares.listen(1)
        rest = server.shares.rest

        def too_late(slot: int) -> None:
            server.shares.take(1)  # it wakes nobody, since nobody rests yet
            rest(slot)

        monkeypatch.setattr(server.shares, "rest", too_late)
        with contextlib.ExitStack() as stack:
            for _ in range(6):
                stack.enter_context(connected(server))
            await asyncio.sleep(0.05)
            assert server.shares.held[0] == 6


@UVLOOP
@pytest.mark.anyio
async def test_it_is_counted_before_it_is_said_to_be_ready(tmp_path: Path) -> None:
    """Or another worker, ready before, would take every connection that comes meanwhile."""
    counted = []
    async with sharing(tmp_path) as server:

        def on_ready(_: object) -> None:
            counted.append(server.shares.has_others(1))
            server.should_exit = True

        ending = _Ending(Answering(0, tmp_path, 1), server, Settings())
        assert await _serve(server, ending, on_ready, None)
    assert counted == [True]


@UVLOOP
@pytest.mark.anyio
async def test_it_goes_on_when_one_of_its_own_closes(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        server.shares.listen(1)
        with connected(server) as first, connected(server):
            await asyncio.sleep(0.03)
            first.close()
            await asyncio.sleep(0.03)
            assert server.shares.held[0] == 1
            assert len(server.server_state.connections) == 1


@UVLOOP
@pytest.mark.anyio
async def test_it_does_not_wait_for_a_worker_that_stands_still(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        server.shares.listen(1)  # and never shows life again
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(connected(server))
            await asyncio.sleep(0.17)
            assert 1 < server.shares.held[0] < 5, "one at each tick at first"
            await asyncio.sleep(0.4)
            assert server.shares.held[0] == 20


@UVLOOP
@pytest.mark.anyio
async def test_without_a_descriptor_it_lets_others_accept_and_tries_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as server:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        with connected(server), connected(server):  # both are there before its loop turns
            with open(os.devnull) as next_free:  # noqa: PTH123, ASYNC230 - its number is all that matters
                free = next_free.fileno()
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
            try:
                await asyncio.sleep(0.25)
                assert server.shares.held[0] == 0
                assert not server.shares.has_others(1), "nobody waits for it"
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            await asyncio.sleep(0.15)
            assert server.shares.held[0] == 2
            assert server.shares.has_others(1)
    assert caplog.messages == ["this worker can accept no connection: Too many open files"]


def test_without_a_supervisor_it_accepts_until_it_has_drained(start: Start) -> None:
    service = start(workers=2, drain_delay_s=1).wait_ready()
    pids = service.children()
    service.signal(signal.SIGKILL)
    time.sleep(0.2)  # they notice
    for _ in range(4):
        with service.connected() as connection:
            connection.sendall(request("/health/ready"))
            assert b" 503 " in received(connection)
    until(lambda: not any(alive(pid) for pid in pids))
    with pytest.raises(ConnectionRefusedError):
        service.connected()


def test_a_worker_that_was_told_to_end_gets_no_more(start: Start) -> None:
    service = start(workers=2, drain_delay_s=0.6).wait_ready()
    leaving, staying = service.children()
    os.kill(leaving, signal.SIGTERM)
    time.sleep(0.2)
    for _ in range(4):
        with service.connected() as connection:
            connection.sendall(request("/health/ready"))
            whole = received(connection)
            assert b" 200 " in whole
            assert f'"pid": {staying}'.encode() in whole
    service.signal()
    assert service.ended()[0] == 0
