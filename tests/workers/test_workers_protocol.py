"""One connection: which requests take the short way, and that nobody could tell by the answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.workers.protocol import Connection, WholeRequest

pytestmark = pytest.mark.anyio

LATER = b"later"


class Echo:
    """Answers with the way that a request took and its body; by the short way at once, or when told to."""

    def __init__(self) -> None:
        self.shortcuts = {b"/echo": self.take}
        self.waiting: list[WholeRequest] = []
        self.headers: list[list[tuple[bytes, bytes]]] = []

    def take(self, headers: list[tuple[bytes, bytes]], body: bytes, request: WholeRequest) -> None:
        self.headers.append(headers)
        if body == LATER:
            self.waiting.append(request)
        else:
            self.reply(request)

    def reply(self, request: WholeRequest, *, close: bool = False) -> None:
        body = b"whole " + request.body
        closing = "connection: close\r\n" if close else ""
        request.send(200, f"content-length: {len(body)}\r\n{closing}", body, close=close)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"conversed ", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Client:
    """A raw client, the application it talks to, and the server's side of its connection."""

    def __init__(self, app: Echo, state: ServerState, streams: Any) -> None:
        self.app, self.state = app, state
        self.reader, self.writer = streams

    @property
    def connection(self) -> Connection:
        (connection,) = self.state.connections
        assert isinstance(connection, Connection)
        return connection

    async def answer(self) -> tuple[bytes, bytes]:
        async with asyncio.timeout(5):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            return head, await self.reader.readexactly(length)

    async def ask(self, *parts: bytes) -> bytes:
        for part in parts:
            self.writer.write(part)
            await asyncio.sleep(0.02)
        return (await self.answer())[1]

    async def ended(self) -> bool:
        async with asyncio.timeout(5):
            rest: bytes = await self.reader.read()
            return rest == b""


@contextlib.asynccontextmanager
async def connected(**options: Any) -> AsyncIterator[Client]:
    app, state = Echo(), ServerState()
    state.default_headers = [(b"date", b"now")]
    fixed = {
        "interface": "asgi3",
        "ws": "none",
        "lifespan": "off",
        "log_config": None,
        "proxy_headers": False,
    }
    config = uvicorn.Config(app, **fixed, **options)  # type: ignore[arg-type] # as the worker's own
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(config, state, {}), "127.0.0.1", 0)
    streams = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        yield Client(app, state, streams)
    finally:
        streams[1].close()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0)


def post(
    body: bytes, path: bytes = b"/echo", *headers: bytes, version: bytes = b"1.1", method: bytes = b"POST"
) -> bytes:
    lines = [b"%b %b HTTP/%b" % (method, path, version), b"Host: service", b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, *headers, b"", body])


async def test_a_whole_request_takes_the_short_way() -> None:
    async with connected() as client:
        client.writer.write(post(b"one", b"/echo", b"X-Mine: 1"))
        head, body = await client.answer()
        assert body == b"whole one"
        assert head == b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 9\r\n\r\n"
        assert client.app.headers == [[(b"host", b"service"), (b"content-length", b"3"), (b"x-mine", b"1")]]
        assert await client.ask(post(b"")) == b"whole ", "the connection is kept, and there may be no body"
        assert client.state.total_requests == 2


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(b"a", b"/echo?x=1"),
        post(b"a", b"/other"),
        post(b"a", b"/%65cho"),
        post(b"a", method=b"PUT"),
        post(b"a", b"/echo", b"Upgrade: h2c", b"Connection: upgrade"),
    ],
)
async def test_what_is_more_than_a_plain_post_is_conversed(request_bytes: bytes) -> None:
    async with connected() as client:
        assert (await client.ask(request_bytes)).startswith(b"conversed ")
        assert client.app.headers == []


@pytest.mark.parametrize(
    "request_bytes", [post(b"a", version=b"1.0"), post(b"a", b"/echo", b"Connection: close")]
)
async def test_a_connection_that_ends_with_the_answer_is_conversed(request_bytes: bytes) -> None:
    async with connected() as client:
        assert await client.ask(request_bytes) == b"conversed a"
        assert await client.ended()


async def test_a_body_of_which_more_is_to_come_is_conversed() -> None:
    whole = post(b"abcdef")
    async with connected() as client:
        for cut in (len(whole) - 6, len(whole) - 3, len(whole) - 1):
            assert await client.ask(whole[:cut], whole[cut:]) == b"conversed abcdef"
        assert await client.ask(whole[:20], whole[20:]) == b"whole abcdef", "its head may come in pieces"


async def test_a_large_body_arrives_unchanged() -> None:
    body = bytes(range(256)) * 8192
    async with connected() as client:
        assert await client.ask(post(body)) == b"conversed " + body


async def test_a_chunked_body_that_is_whole_takes_the_short_way() -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: service\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with connected() as client:
        assert await client.ask(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n") == b"whole abcde"
        assert await client.ask(head, b"3\r\nabc\r\n", b"0\r\n\r\n") == b"conversed abc"


async def test_a_broken_chunk_is_answered_400_and_goes_no_way() -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: service\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with connected() as client:
        client.writer.write(head + b"3\r\nabc\r\nxyz\r\n")
        assert (await client.answer())[0].startswith(b"HTTP/1.1 400 ")
        assert client.app.headers == []
        assert await client.ended()


async def test_who_expects_to_be_told_to_continue_is_told() -> None:
    async with connected() as client:
        client.writer.write(post(b"abc", b"/echo", b"Expect: 100-continue")[:-3])
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert await client.ask(b"abc") == b"conversed abc"


async def test_requests_sent_ahead_are_answered_in_order() -> None:
    async with connected() as client:
        client.writer.write(post(LATER) + post(b"two") + post(b"three", b"/other") + post(b"four"))
        await asyncio.sleep(0.05)
        (first,) = client.app.waiting
        client.app.reply(first)
        bodies = [(await client.answer())[1] for _ in range(4)]
        assert bodies == [b"whole later", b"conversed two", b"conversed three", b"conversed four"]
        assert await client.ask(post(b"five")) == b"whole five"


async def test_who_went_away_is_gone_and_gets_nothing() -> None:
    async with connected() as client:
        client.writer.write(post(LATER))
        await asyncio.sleep(0.02)
        (request,) = client.app.waiting
        assert not request.gone()
        client.writer.transport.abort()
        await asyncio.sleep(0.02)
        assert request.gone()
        client.app.reply(request)
        assert client.state.total_requests == 0


async def test_an_answer_that_closes_the_connection_is_sent_whole() -> None:
    async with connected() as client:
        client.writer.write(post(LATER))
        await asyncio.sleep(0.02)
        client.app.reply(client.app.waiting[0], close=True)
        head, body = await client.answer()
        assert (head.count(b"connection: close"), body) == (1, b"whole later")
        assert await client.ended()


async def test_a_connection_told_to_end_answers_what_it_has_and_says_so() -> None:
    async with connected() as client:
        client.writer.write(post(LATER))
        await asyncio.sleep(0.02)
        connection = client.connection
        connection.shutdown()
        connection._end()
        client.app.reply(client.app.waiting[0])
        head, body = await client.answer()
        assert (head.count(b"connection: close"), body) == (1, b"whole later")
        assert await client.ended()


async def test_what_comes_while_it_ends_is_conversed() -> None:
    async with connected() as client:
        await client.ask(post(b"one"))
        client.connection.shutdown()
        assert await client.ask(post(b"two")) == b"conversed two"
        assert await client.ended()


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    async with connected(timeout_keep_alive=0.2) as client:
        await client.ask(post(b"one"))
        for _ in range(3):
            await asyncio.sleep(0.12)
            await client.ask(post(b"again"))
        client.writer.write(post(LATER))
        await asyncio.sleep(0.5)
        client.app.reply(client.app.waiting[0])
        assert (await client.answer())[1] == b"whole later"
        began_s = asyncio.get_running_loop().time()
        assert await client.ended()
        assert 0.15 < asyncio.get_running_loop().time() - began_s < 1


async def test_one_timer_serves_all_answers_of_a_connection_and_goes_with_it() -> None:
    async with connected() as client:
        await client.ask(post(b"one"))
        timer = client.connection.timeout_keep_alive_task
        assert timer is not None
        await client.ask(post(b"two"))
        await client.ask(post(b"three", b"/other"))
        assert client.connection.timeout_keep_alive_task is timer
        client.writer.transport.abort()
        await asyncio.sleep(0.02)
        assert timer.cancelled()


async def test_a_client_that_does_not_read_is_waited_for() -> None:
    """Its next request is conversed, in which the server waits until it reads."""
    async with connected() as client:
        await client.ask(post(b"one"))
        client.connection.pause_writing()
        client.writer.write(post(b"two"))
        await asyncio.sleep(0.05)
        assert len(client.app.headers) == 1
        client.connection.resume_writing()
        assert (await client.answer())[1] == b"conversed two"


async def test_the_date_is_that_of_the_server() -> None:
    async with connected() as client:
        await client.ask(post(b"one"))
        client.state.default_headers = [(b"date", b"later")]
        client.writer.write(post(b"two"))
        assert b"\r\ndate: later\r\n" in (await client.answer())[0]


async def test_an_application_without_shortcuts_is_conversed_with() -> None:
    async with connected() as client:
        client.connection.shortcuts = {}
        assert await client.ask(post(b"one")) == b"conversed one"
