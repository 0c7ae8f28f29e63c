"""One process or two: how they end, and what happens to requests that are on their way."""

import asyncio
import select
import signal
import socket
import time
from pathlib import Path

import pytest
import uvicorn
from services import Start, answer, request, started, until
from standin import Answering

from service.workers.protocol import Connection

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


def received(connection: socket.socket) -> bytes:
    """Return the answer, which ends with its JSON object, or what came of it."""
    whole = b""
    while not whole.endswith(b"}") and (part := connection.recv(4096)):
        whole += part
    return whole


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
