"""One HTTP/1.1 connection: uvicorn's, with a short way for whole requests, and an end that loses none.

uvicorn starts a task and a conversation by ASGI for every request, which costs twice what carrying the bytes does.
Where all of a request has arrived at once and the application has a shortcut for its path, the application is
called with it instead, and answers by a call. Every other request takes uvicorn's way.

This module must not know what the application answers, nor how many processes there are.
"""

import contextlib
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

# A request line with its headers: nginx takes at most 32 KiB, uvicorn with its other parser 64 KiB.
HEAD_LIMIT_BYTES = 64 * 1024

# How long a connection is still listened to when the service ends: a request that crossed our last answer on the
# way has arrived by then on any network with a shorter round trip.
LINGER_S = 0.1

# Both parts of an answer go out in one packet: below this length joined, above it the copy would cost more than the
# second buffer does.
JOINED_BYTES = 16 * 1024

Headers: TypeAlias = list[tuple[bytes, bytes]]
# Takes the headers and the body of a POST, and where its answer goes.
Shortcut: TypeAlias = Callable[[Headers, bytes, "WholeRequest"], None]


class _Unawaited:
    """The event of a request that nobody waits for the rest of."""

    def set(self) -> None:
        pass


class WholeRequest:
    """A request that took the short way; uvicorn sees it as one under way until it is answered."""

    __slots__ = (
        "_connection",
        "_shortcut",
        "body",
        "disconnected",
        "headers",
        "keep_alive",
        "response_complete",
    )

    message_event = _Unawaited()

    def __init__(self, connection: "Connection", shortcut: Shortcut, headers: Headers, body: bytes) -> None:
        self._connection = connection
        self._shortcut = shortcut
        self.headers = headers
        self.body = body
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False

    def begin(self) -> None:
        self._shortcut(self.headers, self.body, self)

    def gone(self) -> bool:
        return self.disconnected

    def send(self, status: int, headers: str, body: bytes, *, close: bool) -> None:
        """Send the answer; `headers` are lines, one of them `connection: close` where `close` says so."""
        connection, transport = self._connection, self._connection.transport
        self.response_complete = True
        if self.disconnected or transport.is_closing():
            return
        if not (self.keep_alive or close):
            headers += "connection: close\r\n"
        head = b"%b%b%b\r\n" % (STATUS_LINE[status], connection.default_lines(), headers.encode("latin-1"))
        if len(body) < JOINED_BYTES:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        if close or not self.keep_alive:
            transport.close()
        connection.on_response_complete()


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 connection that, told to end, answers every request that has begun to arrive.

    uvicorn closes a connection on which no request is running, also where bytes of the next one have been parsed
    or wait in the kernel; the client then sees a reset. It also takes a head of any length.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shortcuts: Mapping[bytes, Shortcut] = getattr(self.app, "shortcuts", {})
        self.shortcut: Shortcut | None = None
        self.parts: list[bytes] = []
        self.whole: WholeRequest | None = None
        self.ending = False
        self.head_arriving = False
        self.head_bytes = 0
        self.idle_since_s = 0.0
        self._defaults: Headers = []
        self._default_lines = b""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.whole is not None:
            whole, self.whole = self.whole, None
            whole.begin()
        if self.shortcut is not None and not self.transport.is_closing():
            self._converse()  # the rest is still to come: there are limits and deadlines to be kept
        self.head_bytes = self.head_bytes + len(data) if self.head_arriving else 0
        if self.head_bytes > HEAD_LIMIT_BYTES and not self.transport.is_closing():
            self.send_400_response(f"Request line and headers are over {HEAD_LIMIT_BYTES} bytes.")

    def on_message_begin(self) -> None:
        self.head_arriving = True
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        self.head_arriving = False
        self.shortcut = self.shortcuts.get(self.url)
        if self.shortcut is None or not self._is_plain():
            self._converse()

    def on_body(self, body: bytes) -> None:
        if self.shortcut is not None:
            self.parts.append(body)
            return
        if not self.cycle.body:
            self.cycle.body = b""  # type: ignore[assignment] # to which bytes are added without a copy, unlike to a bytearray
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.shortcut is None:
            super().on_message_complete()
            return
        body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        self.whole = WholeRequest(self, self.shortcut, self.headers, body)
        self.cycle = self.whole  # type: ignore[assignment] # it has all that uvicorn asks of a cycle
        self.shortcut, self.parts = None, []

    def on_response_complete(self) -> None:
        """Go on as uvicorn does, but with one timer for the connection, not one for every answer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self.idle_since_s = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_later(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()

    def default_lines(self) -> bytes:
        """Write the headers that uvicorn gives every answer; it makes a new list every second."""
        if self._defaults is not self.server_state.default_headers:
            self._defaults = self.server_state.default_headers
            self._default_lines = b"".join(b"%b: %b\r\n" % pair for pair in self._defaults)
        return self._default_lines

    def shutdown(self) -> None:
        self.ending = True
        self.loop.call_later(LINGER_S, self._end)

    def _is_plain(self) -> bool:
        """Whether an answer and nothing else is expected, now and on this connection."""
        parser = self.parser
        return (
            (self.cycle is None or self.cycle.response_complete)
            and parser.get_method() == b"POST"
            and parser.should_keep_alive()
            and parser.get_http_version() == "1.1"
            and not (parser.should_upgrade() or self.expect_100_continue)
            and not (self.ending or self.flow.write_paused)
            and self.limit_concurrency is None
        )

    def _converse(self) -> None:
        """Take uvicorn's way, with what has arrived."""
        url, headers, expect, parts = self.url, self.headers, self.expect_100_continue, self.parts
        self.shortcut, self.parts = None, []
        super().on_message_begin()
        self.url, self.headers, self.scope["headers"], self.expect_100_continue = (
            url,
            headers,
            headers,
            expect,
        )
        super().on_headers_complete()
        if self.ending:
            self.cycle.keep_alive = False
        for part in parts:
            self.on_body(part)

    def _unset_keepalive_if_required(self) -> None:
        """Leave the timer; it looks for itself whether the connection is idle."""

    def _look_later(self, delay_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(delay_s, self._close_if_idle)

    def _close_if_idle(self) -> None:
        self.timeout_keep_alive_task = None
        if self.transport.is_closing() or self.head_arriving or not self.cycle.response_complete:
            return  # the next answer starts the timer again
        idle_s = self.loop.time() - self.idle_since_s
        if idle_s < self.timeout_keep_alive:
            self._look_later(self.timeout_keep_alive - idle_s)
        else:
            self.transport.close()

    def _end(self) -> None:
        if self.transport.is_closing() or self.head_arriving:
            return
        with socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno())) as connection:
            if _unread_bytes(connection):
                self.shutdown()  # the loop was too busy to read them: once more
                return
            super().shutdown()
            if self.transport.is_closing() and not self.transport.get_write_buffer_size():
                # The loop closes it only on its next turn; the client must not believe in it until then.
                with contextlib.suppress(OSError):  # the client was faster
                    connection.shutdown(socket.SHUT_WR)


def _unread_bytes(connection: socket.socket) -> int:
    """Return how much the kernel holds of what the client has sent."""
    (count,) = struct.unpack("i", fcntl.ioctl(connection, termios.FIONREAD, bytes(4)))
    return int(count)
