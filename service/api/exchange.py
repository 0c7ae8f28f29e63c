"""One request and its answer, as routes see them: headers, body, deadline, what the answer says.

An exchange knows HTTP's words but not how they come and go, and nothing of tensors.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, quote

from service.api.course import Course
from service.errors import DeadlineExceeded, Invalid, RequestError, TooLarge
from service.outcomes import Gone, never

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]

# The label of requests that match no route: their paths are the caller's and would grow without end.
UNMATCHED = "unmatched"
# nginx's status for a caller who went away before the answer; it is counted, never sent.
CLIENT_CLOSED = 499

TIMEOUT_HEADER = b"x-request-timeout-ms"

NO_PARAMS: Mapping[str, str] = MappingProxyType({})
# What stands in a header as it is: all that ASCII prints.
PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))


class Disconnected(Exception):
    """The caller went away; there is nobody to answer."""


class Answer(NamedTuple):
    """A whole answer; `headers` are lines made by `header_lines`."""

    body: bytes
    media_type: str
    status: int = 200
    headers: str = ""


# A dialect's own form of an error: status, body and media type.
ErrorBody: TypeAlias = Callable[[RequestError], tuple[int, bytes, str]]


class Failure(NamedTuple):
    """What a request was refused or failed with, by HTTP's status whatever the dialect."""

    status: int
    code: str


class Target(NamedTuple):
    """What a request is for: its path's template, what stands in the path, and its dialect's form of errors."""

    path: str = UNMATCHED
    path_params: Mapping[str, str] = NO_PARAMS
    error_body: ErrorBody | None = None


class Exchange:
    """One request and what its answer needs to know of it; times are on the clock of `time.monotonic`.

    Most of it stays as it is here in most requests, and is set where it does not.
    """

    target = Target()
    query_string = b""
    receive: Receive | None = None
    gone: Gone = staticmethod(never)
    status = CLIENT_CLOSED
    failure: Failure | None = None
    # Whose key it was let in with, where one was asked for.
    key_name: str | None = None
    # Noted where somebody hears of requests.
    course: Course | None = None
    answer_bytes = 0

    def __init__(
        self,
        headers: dict[bytes, bytes],
        method: str,
        request_id: str,
        timeout_s: float,
        body_limit_bytes: int,
    ) -> None:
        self.headers = headers
        self.method = method
        self.request_id = request_id
        self.body_limit_bytes = body_limit_bytes
        self.started_s = time.monotonic()
        self.deadline_s = self.started_s + timeout_s

    @property
    def path_params(self) -> Mapping[str, str]:
        return self.target.path_params

    def header(self, name: bytes) -> str | None:
        """Return the value of a header, named in lower case."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def query(self) -> list[tuple[str, str]]:
        raw = self.query_string
        return parse_qsl(raw.decode("latin-1"), keep_blank_values=True) if raw else []

    def shorten_deadline(self) -> None:
        """Let the caller shorten the server's own time, never lengthen it."""
        asked = self.header(TIMEOUT_HEADER)
        if asked is None:
            return
        if not (asked.isascii() and asked.isdecimal() and float(asked) > 0):
            message = f"expected a whole number of milliseconds above 0, got {asked[:40]!r}"
            raise Invalid("option_type", message, path="X-Request-Timeout-Ms")
        # float takes any number of digits, int refuses more than 4,300
        self.deadline_s = min(self.deadline_s, self.started_s + float(asked) / 1000)

    async def body(self) -> bytes:
        """Read the body, within its limit and the deadline."""
        declared = self.headers.get(b"content-length", b"0")
        if declared.isdigit():
            self.check_body_bytes(float(declared))
        try:
            async with asyncio.timeout(self.deadline_s - time.monotonic()):
                return await self._read()
        except TimeoutError:
            headers = {"connection": "close"}  # the rest of the body is still to come
            message = "the time allowed passed before the body had arrived"
            raise DeadlineExceeded("deadline", message, headers=headers) from None

    def check_body_bytes(self, size: float) -> None:
        if size > self.body_limit_bytes:
            limit = f"at most {self.body_limit_bytes} bytes (LOGITSERVE_BODY_LIMIT_BYTES)"
            raise TooLarge(
                "body_too_large", f"expected {limit}, got {str(size).removesuffix('.0')[:20]} bytes"
            )

    async def _read(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while self.receive is not None:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            part: bytes = message.get("body", b"")
            size += len(part)
            self.check_body_bytes(size)
            parts.append(part)
            if not message.get("more_body", False):
                break
        self.receive = None  # it leads back here, and would keep all of this until the collector comes
        return parts[0] if len(parts) == 1 else b"".join(parts)


def header_lines(headers: Mapping[str, str]) -> str:
    """Write headers, named in lower case, as they stand on the wire; what a header cannot hold is percent-encoded."""
    return "".join(f"{name}: {quote(value, safe=PRINTABLE)}\r\n" for name, value in headers.items())
