"""The edge that every route shares: limits, request ids, deadlines, times, counts, errors.

What middleware would do is done here, so that the hot routes, which the application calls past its router,
and the cold ones cannot differ. It is the one place where an error becomes an answer. It knows nothing of
tensors: a route is a function from an `Exchange` to an `Answer`.

A request comes in one of two ways: as an ASGI conversation, or, where the server has all of it and knows the
way, as a call with the whole request (`Shortcut`). Both make the same exchange and send the same answer.
"""

import asyncio
import itertools
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias
from urllib.parse import parse_qsl, quote

import orjson
from starlette.exceptions import HTTPException

from service.errors import (
    DeadlineExceeded,
    Invalid,
    MethodNotAllowed,
    NotFound,
    RequestError,
    TooLarge,
    Unforeseen,
)
from service.metrics import Metrics
from service.outcomes import Deliver, Gone, awaited, never

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("logitserve")

# Where an exchange travels through a router that knows only scopes.
EXCHANGE = "logitserve.exchange"
# Anything longer is no id but an attempt to fill the log; UUIDs and trace ids have 32 to 55 characters.
REQUEST_ID_CHARACTERS = 128
# The label of requests that match no route: their paths are the caller's and would grow without end.
UNMATCHED = "unmatched"
# nginx's status for a caller who went away before the answer; it is counted, never sent.
CLIENT_CLOSED = 499

# Turned away or dropped before anything was computed: whoever watches the load wants them apart from mistakes.
REJECTIONS = frozenset({429, 503, 504})

TIMEOUT_HEADER = b"x-request-timeout-ms"

PROBLEM_TYPE = "application/problem+json"

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


class Reply(Protocol):
    """Where the answer to a whole request goes."""

    @property
    def disconnected(self) -> bool:
        """Whether nobody is there any more to get it."""
        ...

    def gone(self) -> bool:
        """Say so when asked."""
        ...

    def send(self, status: int, headers: str, body: bytes, *, close: bool) -> None:
        """Send an answer; `headers` are lines as `header_lines` makes them, `close` ends the connection."""


# Takes a whole request: its headers as ASGI has them, and its body. It does not raise.
Shortcut: TypeAlias = Callable[[Iterable[tuple[bytes, bytes]], bytes, Reply], None]


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


Endpoint: TypeAlias = Callable[[Exchange], Awaitable[Answer]]
# Answers a request whose body is there, by a call and without raising.
Begin: TypeAlias = Callable[[Exchange, bytes, Deliver[Answer]], None]


class Route(NamedTuple):
    """One route as the application registers it.

    `begin`, where it is given, is what `endpoint` does once it has the body: `hot` routes are called past the
    router, and by it where the server has the whole request. Where `error_body` is given it writes the route's
    errors, in place of problem+json.
    """

    method: str
    path: str
    name: str
    endpoint: Endpoint
    openapi: Mapping[str, Any] | None = None
    hot: bool = False
    error_body: ErrorBody | None = None
    begin: Begin | None = None


class Edge:
    """Wraps every request of one application."""

    def __init__(self, metrics: Metrics, *, body_limit_bytes: int, request_timeout_s: float) -> None:
        self._metrics = metrics
        self._body_limit_bytes = body_limit_bytes
        self._request_timeout_s = request_timeout_s
        self._id_prefix = f"{os.getpid():x}-{secrets.token_hex(4)}-"
        self._id_counter = itertools.count(1)
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send, app: ASGIApp) -> None:
        """Pass one HTTP request to `app`; whatever happens, count it and answer it."""
        exchange = scope[EXCHANGE] = self._open(dict(scope["headers"]), scope["method"])
        exchange.query_string = scope["query_string"]

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_pairs(self._lines(exchange))]
            await send(message)

        try:
            await app(scope, receive, send_counted)
        except Disconnected:
            pass
        except Exception as error:
            # Once an answer has begun there is no second one; the server closes the connection.
            if exchange.status != CLIENT_CLOSED:
                logger.exception("request %s failed after its answer had begun", exchange.request_id)
            else:
                await send_answer(send_counted, self.answer_error(exchange, error))
        finally:
            self._count(exchange)

    def shortcut(self, route: Route, begin: Begin, path_params: Mapping[str, str] = NO_PARAMS) -> Shortcut:
        """Make what a server may call with a whole request for `route` in place of a conversation."""
        target = Target(route.path, path_params, route.error_body)

        def take(headers: Iterable[tuple[bytes, bytes]], body: bytes, reply: Reply) -> None:
            exchange = self._open(dict(headers), route.method)
            exchange.target = target
            exchange.gone = reply.gone
            done = partial(self._reply, exchange, reply)
            if TIMEOUT_HEADER in exchange.headers or len(body) > self._body_limit_bytes:
                try:
                    exchange.shorten_deadline()
                    exchange.check_body_bytes(len(body))
                except RequestError as error:
                    done(error)
                    return
            begin(exchange, body, done)

        return take

    def _reply(self, exchange: Exchange, reply: Reply, outcome: Answer | Exception) -> None:
        """Send the answer to a whole request and count it."""
        if not reply.disconnected:
            answer = self.answer_error(exchange, outcome) if isinstance(outcome, Exception) else outcome
            exchange.status = answer.status
            reply.send(answer.status, self._lines(exchange, answer), answer.body, close=self.draining)
        self._count(exchange)

    def _lines(self, exchange: Exchange, answer: Answer | None = None) -> str:
        """Write the headers that every answer has, after those of this one."""
        own = "" if answer is None else _lines(answer)
        closing = "connection: close\r\n" if self.draining else ""
        return f"{own}x-request-id: {exchange.request_id}\r\n{closing}"

    def _count(self, exchange: Exchange) -> None:
        duration_s = time.monotonic() - exchange.started_s
        self._metrics.request_finished(exchange.target.path, exchange.method, exchange.status, duration_s)

    def answer_error(self, exchange: Exchange, error: Exception) -> Answer:
        """Map an error to its answer; what is unforeseen is logged and answered with one fixed sentence."""
        known = _known(error)
        if known is None:
            logger.error("request %s failed", exchange.request_id, exc_info=error)
            message = "an unforeseen fault of the service; its log has the details under this request id"
            known = Unforeseen("internal", message)
        self._metrics.error(exchange.target.path, known.code)
        if known.status in REJECTIONS:
            self._metrics.rejected(known.code)
        headers = header_lines({name.lower(): value for name, value in known.headers.items()})
        if error_body := exchange.target.error_body:
            status, body, media_type = error_body(known)
            return Answer(body, media_type, status, headers)
        problem = {
            "type": f"urn:logitserve:error:{known.code}",
            "title": known.title,
            "status": known.status,
            "detail": known.detail,
            "code": known.code,
            "request_id": exchange.request_id,
            "errors": [offence._asdict() for offence in known.offences],
        }
        return Answer(orjson.dumps(problem), PROBLEM_TYPE, known.status, headers)

    def _open(self, headers: dict[bytes, bytes], method: str) -> Exchange:
        request_id = headers[b"x-request-id"].decode("latin-1") if b"x-request-id" in headers else ""
        if not (
            0 < len(request_id) <= REQUEST_ID_CHARACTERS and request_id.isascii() and request_id.isprintable()
        ):
            request_id = self._id_prefix + str(next(self._id_counter))
        self._metrics.request_started()
        return Exchange(headers, method, request_id, self._request_timeout_s, self._body_limit_bytes)


def _known(error: Exception) -> RequestError | None:
    if isinstance(error, RequestError):
        return error
    if isinstance(error, HTTPException):  # the router's own words for these two
        if error.status_code == 404:
            return NotFound("unknown_route", "there is nothing at this path; /docs lists what there is")
        if error.status_code == 405:
            headers = dict(error.headers or {})
            message = f"this path answers {headers.get('Allow', 'other methods')} only"
            return MethodNotAllowed("method_not_allowed", message, headers=headers)
    return None


def conversed(begin: Begin) -> Endpoint:
    """Make an endpoint of what answers once the body is there."""

    async def endpoint(exchange: Exchange) -> Answer:
        body = await exchange.body()

        def answer(deliver: Deliver[Answer], gone: Gone) -> None:
            exchange.gone = gone
            begin(exchange, body, deliver)

        return await awaited(answer)

    return endpoint


def asgi(route: Route) -> ASGIApp:
    """Make a raw ASGI function of a route; the router and the hot table call the same one."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope[EXCHANGE]
        path_params = scope.get("path_params", NO_PARAMS)  # the hot way has no router to make them
        exchange.target = Target(route.path, path_params, route.error_body)
        exchange.shorten_deadline()
        exchange.receive = receive
        await send_answer(send, await route.endpoint(exchange))

    return app


def header_lines(headers: Mapping[str, str]) -> str:
    """Write headers, named in lower case, as they stand on the wire; what a header cannot hold is percent-encoded."""
    return "".join(f"{name}: {quote(value, safe=PRINTABLE)}\r\n" for name, value in headers.items())


def _lines(answer: Answer) -> str:
    return f"content-type: {answer.media_type}\r\ncontent-length: {len(answer.body)}\r\n{answer.headers}"


def _pairs(lines: str) -> list[tuple[bytes, bytes]]:
    """Read header lines as ASGI has them."""
    pairs = (line.partition(b": ") for line in lines.encode("latin-1").split(b"\r\n")[:-1])
    return [(name, value) for name, _, value in pairs]


async def send_answer(send: Send, answer: Answer) -> None:
    headers = _pairs(_lines(answer))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
