"""The edge that every route shares: limits, request ids, deadlines, times, counts, errors.

What middleware would do is done here, so that the hot routes, which the application calls past its router,
and the cold ones cannot differ. It is the one place where an error becomes an answer. It knows nothing of
tensors: a route is a function from an `Exchange` to an `Answer`.
"""

import asyncio
import itertools
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import parse_qsl

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

PROBLEM_TYPE = "application/problem+json"


class Disconnected(Exception):
    """The caller went away; there is nobody to answer."""


class Answer(NamedTuple):
    """A whole answer; headers are names in lower case and values."""

    body: bytes
    media_type: str
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


Endpoint: TypeAlias = Callable[["Exchange"], Awaitable[Answer]]


# A dialect's own form of an error: status, body and media type.
ErrorBody: TypeAlias = Callable[[RequestError], tuple[int, bytes, str]]


class Route(NamedTuple):
    """One route as the application registers it; `hot` ones are called past the router.

    Where `error_body` is given it writes the route's errors, in place of problem+json.
    """

    method: str
    path: str
    endpoint: Endpoint
    openapi: Mapping[str, Any] | None = None
    hot: bool = False
    error_body: ErrorBody | None = None


@dataclass(slots=True)
class Exchange:
    """One request and what its answer needs to know of it; times are on the clock of `time.monotonic`."""

    scope: Scope
    receive: Receive
    request_id: str
    started_s: float
    deadline_s: float
    body_limit_bytes: int
    headers: dict[str, str]
    route: str = UNMATCHED
    error_body: ErrorBody | None = None
    status: int = CLIENT_CLOSED
    answer_headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def path_params(self) -> dict[str, str]:
        params: dict[str, str] = self.scope.get("path_params", {})  # the hot way has no router to make them
        return params

    @property
    def query(self) -> list[tuple[str, str]]:
        raw: bytes = self.scope["query_string"]
        return parse_qsl(raw.decode("latin-1"), keep_blank_values=True) if raw else []

    async def body(self) -> bytes:
        """Read the body, within its limit and the deadline."""
        declared = self.headers.get("content-length", "0")
        if declared.isdecimal() and float(declared) > self.body_limit_bytes:
            raise self._too_large(f"{declared[:20]} bytes")
        try:
            async with asyncio.timeout(self.deadline_s - time.monotonic()):
                return await self._read()
        except TimeoutError:
            headers = {"connection": "close"}  # the rest of the body is still to come
            message = "the time allowed passed before the body had arrived"
            raise DeadlineExceeded("deadline", message, headers=headers) from None

    async def _read(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > self.body_limit_bytes:
                raise self._too_large("more")
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    def _too_large(self, came: str) -> TooLarge:
        limit = f"at most {self.body_limit_bytes} bytes (LOGITSERVE_BODY_LIMIT_BYTES)"
        return TooLarge("body_too_large", f"expected {limit}, got {came}")


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
        exchange = scope[EXCHANGE] = self._exchange(scope, receive)
        self._metrics.request_started()

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *exchange.answer_headers]
            await send(message)

        try:
            self._set_deadline(exchange)
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
            self._metrics.request_finished(
                exchange.route, scope["method"], exchange.status, time.monotonic() - exchange.started_s
            )

    def answer_error(self, exchange: Exchange, error: Exception) -> Answer:
        """Map an error to its answer; what is unforeseen is logged and answered with one fixed sentence."""
        known = _known(error)
        if known is None:
            logger.error("request %s failed", exchange.request_id, exc_info=error)
            message = "an unforeseen fault of the service; its log has the details under this request id"
            known = Unforeseen("internal", message)
        self._metrics.error(exchange.route, known.code)
        if known.status in REJECTIONS:
            self._metrics.rejected(known.code)
        headers = tuple((name.lower(), value) for name, value in known.headers.items())
        if exchange.error_body:
            status, body, media_type = exchange.error_body(known)
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

    def _exchange(self, scope: Scope, receive: Receive) -> Exchange:
        started_s = time.monotonic()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = headers.get("x-request-id", "")
        if not (
            0 < len(request_id) <= REQUEST_ID_CHARACTERS and request_id.isascii() and request_id.isprintable()
        ):
            request_id = self._id_prefix + str(next(self._id_counter))
        exchange = Exchange(
            scope,
            receive,
            request_id,
            started_s,
            started_s + self._request_timeout_s,
            self._body_limit_bytes,
            headers,
        )
        exchange.answer_headers.append((b"x-request-id", request_id.encode("ascii")))
        if self.draining:
            exchange.answer_headers.append((b"connection", b"close"))
        return exchange

    def _set_deadline(self, exchange: Exchange) -> None:
        """Let the caller shorten the server's own time, never lengthen it."""
        asked = exchange.headers.get("x-request-timeout-ms")
        if asked is None:
            return
        if not (asked.isascii() and asked.isdecimal() and float(asked) > 0):
            message = f"expected a whole number of milliseconds above 0, got {asked[:40]!r}"
            raise Invalid("option_type", message, path="X-Request-Timeout-Ms")
        # float takes any number of digits, int refuses more than 4,300
        timeout_s = min(float(asked) / 1000, self._request_timeout_s)
        exchange.deadline_s = exchange.started_s + timeout_s


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


def asgi(route: Route) -> ASGIApp:
    """Make a raw ASGI function of a route; the router and the hot table call the same one."""
    path, endpoint, error_body = route.path, route.endpoint, route.error_body

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope[EXCHANGE]
        exchange.route = path
        exchange.error_body = error_body
        exchange.receive = receive
        await send_answer(send, await endpoint(exchange))

    return app


async def send_answer(send: Send, answer: Answer) -> None:
    headers = [
        (b"content-type", answer.media_type.encode("latin-1")),
        (b"content-length", str(len(answer.body)).encode("ascii")),
        *((name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers),
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
