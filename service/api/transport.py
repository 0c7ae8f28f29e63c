"""The edge that every route shares: limits, request ids, deadlines, times, counts, errors.

What middleware would do is done here, so that the hot routes, which the application calls past its router,
and the cold ones cannot differ. It is the one place where an error becomes an answer. It knows nothing of
tensors: a route is a function from an `Exchange` to an `Answer`.

A request comes in one of two ways: as an ASGI conversation, or, where the server has all of it and knows the
way, as a call with the whole request (`Shortcut`). Both make the same exchange and send the same answer.
"""

import itertools
import logging
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

import orjson
from starlette.exceptions import HTTPException

from service.api import security
from service.api.exchange import (
    CLIENT_CLOSED,
    NO_PARAMS,
    TIMEOUT_HEADER,
    UNMATCHED,
    Answer,
    Disconnected,
    ErrorBody,
    Exchange,
    Failure,
    Message,
    Receive,
    Target,
    header_lines,
)
from service.errors import MethodNotAllowed, NotFound, RequestError, Unforeseen
from service.metrics import Metrics
from service.outcomes import Deliver, Gone, awaited

Scope: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("logitserve")

# Where an exchange travels through a router that knows only scopes.
EXCHANGE = "logitserve.exchange"
# Anything longer is no id but an attempt to fill the log; UUIDs and trace ids have 32 to 55 characters.
REQUEST_ID_CHARACTERS = 128

# Turned away or dropped before anything was computed: whoever watches the load wants them apart from mistakes.
REJECTIONS = frozenset({429, 503, 504})

PROBLEM_TYPE = "application/problem+json"


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


Endpoint: TypeAlias = Callable[[Exchange], Awaitable[Answer]]
# Answers a request whose body is there, by a call and without raising.
Begin: TypeAlias = Callable[[Exchange, bytes, Deliver[Answer]], None]


class Route(NamedTuple):
    """One route as the application registers it.

    `begin`, where it is given, is what `endpoint` does once it has the body: `hot` routes are called past the
    router, and by it where the server has the whole request. Where `error_body` is given it writes the route's
    errors, in place of problem+json. `scope` is what a key must allow whoever asks, where there are keys for it; who
    forgets to say one asks for too much, not for nothing.
    """

    method: str
    path: str
    name: str
    endpoint: Endpoint
    openapi: Mapping[str, Any] | None = None
    hot: bool = False
    error_body: ErrorBody | None = None
    begin: Begin | None = None
    scope: security.Scope = "infer"


class Edge:
    """Wraps every request of one application."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        body_limit_bytes: int,
        request_timeout_s: float,
        keys: security.Keys = security.NO_KEYS,
    ) -> None:
        self._metrics = metrics
        # Replaced as a whole when keys change.
        self.keys = keys
        self._body_limit_bytes = body_limit_bytes
        self._request_timeout_s = request_timeout_s
        self._id_prefix = f"{os.getpid():x}-{secrets.token_hex(4)}-"
        self._id_counter = itertools.count(1)
        # By the beginning of a path: whose form errors have where no route matches.
        self.error_bodies: Mapping[str, ErrorBody] = {}
        self.draining = False
        # Hears of every request once it is answered, and when that was, while anybody wants to.
        self.observe: Callable[[Exchange, float], None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send, app: ASGIApp) -> None:
        """Pass one HTTP request to `app`; whatever happens, count it and answer it."""
        exchange = scope[EXCHANGE] = self._open(dict(scope["headers"]), scope["method"])
        exchange.query_string = scope["query_string"]

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_pairs(self._lines(exchange))]
            elif self.observe is not None:
                exchange.answer_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await app(scope, receive, send_counted)
        except Disconnected:
            pass
        except Exception as error:
            # Once an answer has begun there is no second one; the server closes the connection.
            if exchange.status != CLIENT_CLOSED:
                request_id = exchange.request_id
                message = "request %s failed after its answer had begun"
                logger.exception(message, request_id, extra={"request_id": request_id})
            else:
                if exchange.target.path is UNMATCHED:
                    exchange.target = Target(error_body=self._error_body_of(scope["path"]))
                await send_answer(send_counted, self.answer_error(exchange, error))
        finally:
            self._count(exchange)

    def asgi(self, route: Route) -> ASGIApp:
        """Make a raw ASGI function of a route; the router and the hot table call the same one."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            exchange: Exchange = scope[EXCHANGE]
            path_params = scope.get("path_params", NO_PARAMS)  # the hot way has no router to make them
            exchange.target = Target(route.path, path_params, route.error_body)
            self.keys.check(exchange, route.scope)
            exchange.shorten_deadline()
            exchange.receive = receive
            await send_answer(send, await route.endpoint(exchange))

        return app

    def shortcut(self, route: Route, begin: Begin, path_params: Mapping[str, str] = NO_PARAMS) -> Shortcut:
        """Make what a server may call with a whole request for `route` in place of a conversation."""
        target = Target(route.path, path_params, route.error_body)
        scope = route.scope

        def take(headers: Iterable[tuple[bytes, bytes]], body: bytes, reply: Reply) -> None:
            exchange = self._open(dict(headers), route.method)
            exchange.target = target
            exchange.gone = reply.gone
            done = partial(self._reply, exchange, reply)
            keys = self.keys
            if (
                scope in keys.guarded
                or TIMEOUT_HEADER in exchange.headers
                or len(body) > self._body_limit_bytes
            ):
                try:
                    keys.check(exchange, scope)
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
            if self.observe is not None:
                exchange.answer_bytes = len(answer.body)
            reply.send(answer.status, self._lines(exchange, answer), answer.body, close=self.draining)
        self._count(exchange)

    def _error_body_of(self, path: str) -> ErrorBody | None:
        """Find the form of errors for a path that no route has, or not with this method."""
        return next((body for start, body in self.error_bodies.items() if path.startswith(start)), None)

    def _lines(self, exchange: Exchange, answer: Answer | None = None) -> str:
        """Write the headers that every answer has, after those of this one."""
        own = "" if answer is None else _lines(answer)
        closing = "connection: close\r\n" if self.draining else ""
        return f"{own}x-request-id: {exchange.request_id}\r\n{closing}"

    def _count(self, exchange: Exchange) -> None:
        ended_s = time.monotonic()
        duration_s = ended_s - exchange.started_s
        self._metrics.request_finished(exchange.target.path, exchange.method, exchange.status, duration_s)
        if self.observe is not None:
            self.observe(exchange, ended_s)

    def answer_error(self, exchange: Exchange, error: Exception) -> Answer:
        """Map an error to its answer; what is unforeseen is logged and answered with one fixed sentence."""
        known = _known(error)
        if known is None:
            request_id = exchange.request_id
            logger.error("request %s failed", request_id, exc_info=error, extra={"request_id": request_id})
            message = "an unforeseen fault of the service; its log has the details under this request id"
            known = Unforeseen("internal", message)
        exchange.failure = Failure(known.status, known.code)
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
