"""One HTTP/1.1 connection: uvicorn's, with an end that loses no request and a limit for heads.

This module must not know what the application answers, nor how many processes there are.
"""

import contextlib
import fcntl
import os
import socket
import struct
import termios
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# A request line with its headers: nginx takes at most 32 KiB, uvicorn with its other parser 64 KiB.
HEAD_LIMIT_BYTES = 64 * 1024

# How long a connection is still listened to when the service ends: a request that crossed our last answer on the
# way has arrived by then on any network with a shorter round trip.
LINGER_S = 0.1


class DrainingProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 connection that, told to end, answers every request that has begun to arrive.

    uvicorn closes a connection on which no request is running, also where bytes of the next one have been parsed
    or wait in the kernel; the client then sees a reset. It also takes a head of any length.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ending = False
        self.head_arriving = False
        self.head_bytes = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.head_bytes = self.head_bytes + len(data) if self.head_arriving else 0
        if self.head_bytes > HEAD_LIMIT_BYTES and not self.transport.is_closing():
            self.send_400_response(f"Request line and headers are over {HEAD_LIMIT_BYTES} bytes.")

    def on_message_begin(self) -> None:
        self.head_arriving = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.head_arriving = False
        super().on_headers_complete()
        if self.ending:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        self.ending = True
        self.loop.call_later(LINGER_S, self._end)

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
