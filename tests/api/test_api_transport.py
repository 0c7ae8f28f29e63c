"""The edge: ids, deadlines, limits, errors and counts, whatever the route does."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.exceptions import HTTPException

from service.api import security
from service.api.exchange import Answer, ErrorBody, Exchange, Message, Receive, header_lines
from service.api.security import Keys
from service.api.transport import (
    EXCHANGE,
    REQUEST_ID_CHARACTERS,
    Begin,
    Edge,
    Endpoint,
    Route,
    Scope,
    Send,
    conversed,
)
from service.errors import Invalid, NotReady, Offence, QueueFull, RequestError
from service.keys import Key, digest_of
from service.metrics import Metrics
from service.outcomes import Deliver

pytestmark = pytest.mark.anyio


class Wrapped:
    """One endpoint inside the edge, as an ASGI application."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        body_limit_bytes: int = 1000,
        request_timeout_s: float = 60,
        error_body: ErrorBody | None = None,
        scope: security.Scope = "open",
    ) -> None:
        self.metrics = Metrics()
        self.edge = Edge(
            self.metrics,
            body_limit_bytes=body_limit_bytes,
            request_timeout_s=request_timeout_s,
            keys=Keys([Key("a", digest_of(b"secret"), frozenset({"admin"}))]),
        )
        self.app = self.edge.asgi(
            Route("POST", "/things/{thing}", "thing", endpoint, error_body=error_body, scope=scope)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.edge(scope, receive, send, self.app)

    async def post(self, content: bytes | AsyncIterator[bytes] = b"", **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(app=self)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.post("/things/1?a=1&b=x%20y&a=", content=content, headers=named)


class Reply:
    """Where a whole request's answer goes."""

    def __init__(self, *, gone: bool = False) -> None:
        self.sent: list[tuple[int, dict[str, str], bytes, bool]] = []
        self._gone = gone

    @property
    def disconnected(self) -> bool:
        return self._gone

    def gone(self) -> bool:
        return self._gone

    def send(self, status: int, headers: str, body: bytes, *, close: bool) -> None:
        named = dict(line.split(": ", 1) for line in headers.split("\r\n")[:-1])
        self.sent.append((status, named, body, close))


class Whole(Wrapped):
    """The same, asked with whole requests; `begin` answers them."""

    def __init__(self, begin: Begin, **options: Any) -> None:
        super().__init__(conversed(begin), **options)
        error_body = options.get("error_body")
        route = Route(
            "POST",
            "/things/{thing}",
            "thing",
            conversed(begin),
            error_body=error_body,
            begin=begin,
            scope=options.get("scope", "open"),
        )
        self.shortcut = self.edge.shortcut(route, begin, {"thing": "1"})

    def take(self, body: bytes = b"", *, gone: bool = False, **headers: str) -> Reply:
        reply = Reply(gone=gone)
        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.shortcut(named, body, reply)
        return reply


def begin_echo(_exchange: Exchange, body: bytes, deliver: Deliver[Answer]) -> None:
    deliver(Answer(body, "text/plain", 201, header_lines({"x-thing": "1"})))


def begin_raising(error: Exception) -> Begin:
    return lambda _exchange, _body, deliver: deliver(error)


async def echo(exchange: Exchange) -> Answer:
    return Answer(await exchange.body(), "text/plain")


def raising(error: Exception) -> Endpoint:
    async def endpoint(_exchange: Exchange) -> Answer:
        raise error

    return endpoint


async def test_an_answer_has_its_type_length_and_headers() -> None:
    async def endpoint(_exchange: Exchange) -> Answer:
        return Answer(b"hello", "text/plain", 201, header_lines({"x-thing": "1"}))

    answer = await Wrapped(endpoint).post()
    assert answer.status_code == 201
    assert answer.content == b"hello"
    assert answer.headers["content-type"] == "text/plain"
    assert answer.headers["content-length"] == "5"
    assert answer.headers["x-thing"] == "1"


async def test_the_body_arrives_whole_from_many_parts() -> None:
    async def parts() -> AsyncIterator[bytes]:
        for part in (b"one", b"", b"two", b"three"):
            yield part

    assert (await Wrapped(echo).post(parts())).content == b"onetwothree"


async def test_the_query_is_read_in_order_with_empty_values() -> None:
    async def endpoint(exchange: Exchange) -> Answer:
        return Answer(repr(exchange.query).encode(), "text/plain")

    assert (await Wrapped(endpoint).post()).text == "[('a', '1'), ('b', 'x y'), ('a', '')]"


async def test_a_request_id_is_echoed() -> None:
    assert (await Wrapped(echo).post(x_request_id="abc-123")).headers["x-request-id"] == "abc-123"


@pytest.mark.parametrize("bad", ["", "x" * (REQUEST_ID_CHARACTERS + 1), "tab\there", "caf\u00e9"])
async def test_what_is_no_request_id_is_replaced(bad: str) -> None:
    transport = httpx.ASGITransport(app=Wrapped(echo))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        headers = [(b"x-request-id", bad.encode("latin-1"))]
        made = (await client.post("/", headers=headers)).headers["x-request-id"]
    assert made != bad
    assert 0 < len(made) <= REQUEST_ID_CHARACTERS


async def test_ids_that_are_made_differ() -> None:
    wrapped = Wrapped(echo)
    made = {(await wrapped.post()).headers["x-request-id"] for _ in range(20)}
    assert len(made) == 20


async def test_a_known_error_becomes_a_problem() -> None:
    error = Invalid("labels_shape", "expected shape [2], got [3]", path="labels")
    answer = await Wrapped(raising(error)).post(x_request_id="me")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "urn:logitserve:error:labels_shape",
        "title": "The labels do not fit the logits",
        "status": 422,
        "detail": "labels: expected shape [2], got [3]",
        "code": "labels_shape",
        "request_id": "me",
        "errors": [{"path": "labels", "message": "expected shape [2], got [3]"}],
    }


async def test_a_problem_lists_at_most_sixteen_offences() -> None:
    places = [Offence(f"losses[{i}]", "infinite") for i in range(40)]
    answer = await Wrapped(raising(Invalid("infinite_loss", "infinite", offences=places))).post()
    assert [one["path"] for one in answer.json()["errors"]] == [f"losses[{i}]" for i in range(16)]


async def test_headers_of_an_error_are_sent() -> None:
    answer = await Wrapped(raising(NotReady("not_ready", "starting", headers={"Retry-After": "1"}))).post()
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


async def test_an_unforeseen_error_is_logged_and_answered_with_one_fixed_sentence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR, logger="logitserve"):
        answer = await Wrapped(raising(ZeroDivisionError("secret detail"))).post(x_request_id="find-me")
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "secret" not in answer.text
    assert "find-me" in caplog.text
    assert "secret detail" in caplog.text


async def test_the_routers_own_errors_are_problems_too() -> None:
    missing = await Wrapped(raising(HTTPException(404))).post()
    assert (missing.status_code, missing.json()["code"]) == (404, "unknown_route")
    method = await Wrapped(raising(HTTPException(405, headers={"Allow": "GET"}))).post()
    assert (method.status_code, method.json()["code"], method.headers["allow"]) == (
        405,
        "method_not_allowed",
        "GET",
    )
    assert "GET" in method.json()["detail"]
    other = await Wrapped(raising(HTTPException(418))).post()
    assert (other.status_code, other.json()["code"]) == (500, "internal")


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit_is_refused_and_the_limit_named(*, declared: bool) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 400

    answer = await Wrapped(echo).post(b"x" * 1200 if declared else parts())
    assert answer.status_code == 413
    assert answer.json()["code"] == "body_too_large"
    assert "1000 bytes (LOGITSERVE_BODY_LIMIT_BYTES)" in answer.json()["detail"]


async def test_a_body_at_the_limit_is_read() -> None:
    assert (await Wrapped(echo).post(b"x" * 1000)).status_code == 200


async def slow_body() -> AsyncIterator[bytes]:
    yield b"{"
    await asyncio.sleep(5)
    yield b"}"


async def test_a_body_that_comes_too_slowly_is_a_deadline_and_ends_the_connection() -> None:
    answer = await Wrapped(echo, request_timeout_s=0.05).post(slow_body())
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline")
    assert answer.headers["connection"] == "close"


async def test_the_caller_may_shorten_the_deadline() -> None:
    answer = await Wrapped(echo).post(slow_body(), x_request_timeout_ms="50")
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline")


async def test_the_caller_may_not_lengthen_the_deadline() -> None:
    seen: list[float] = []

    async def endpoint(exchange: Exchange) -> Answer:
        seen.append(exchange.deadline_s - exchange.started_s)
        return Answer(b"", "text/plain")

    wrapped = Wrapped(endpoint, request_timeout_s=2)
    await wrapped.post()
    await wrapped.post(x_request_timeout_ms="1500")
    await wrapped.post(x_request_timeout_ms="90000")
    await wrapped.post(x_request_timeout_ms="9" * 5000)
    assert seen == pytest.approx([2, 1.5, 2, 2])


async def test_requests_and_errors_are_counted_under_the_path_template() -> None:
    wrapped = Wrapped(raising(Invalid("rank", "scalar", path="logits")))
    await wrapped.post()
    assert wrapped.metrics.values["logitserve_requests"] == {("/things/{thing}", "POST", "422"): 1}
    assert wrapped.metrics.values["logitserve_errors"] == {("/things/{thing}", "rank"): 1}
    assert wrapped.metrics.values["logitserve_inflight_requests"] == {(): 0}


async def test_requests_of_no_route_share_one_label() -> None:
    wrapped = Wrapped(echo)

    async def no_route(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise HTTPException(404)

    wrapped.app = no_route
    await wrapped.post()
    assert wrapped.metrics.values["logitserve_requests"] == {("unmatched", "POST", "404"): 1}


async def test_where_no_route_matches_errors_have_the_form_of_those_that_begin_alike() -> None:
    wrapped = Wrapped(raising(ZeroDivisionError()))

    async def no_route(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise HTTPException(404)

    wrapped.app = no_route
    wrapped.edge.error_bodies = {"/thing": lambda error: (418, error.code.encode(), "text/plain")}
    answer = await wrapped.post()
    assert (answer.status_code, answer.text) == (418, "unknown_route")
    wrapped.edge.error_bodies = {"/others": lambda error: (418, error.code.encode(), "text/plain")}
    assert (await wrapped.post()).headers["content-type"] == "application/problem+json"


async def test_while_draining_every_answer_closes_its_connection() -> None:
    wrapped = Wrapped(echo)
    assert "connection" not in (await wrapped.post()).headers
    wrapped.edge.draining = True
    assert (await wrapped.post()).headers["connection"] == "close"


def scope_of_a_request() -> dict[str, Any]:
    return {"type": "http", "method": "POST", "path": "/things/1", "query_string": b"", "headers": []}


async def test_a_caller_who_goes_away_is_counted_and_not_answered() -> None:
    wrapped = Wrapped(echo)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await wrapped(scope_of_a_request(), receive, send)
    assert sent == []
    assert wrapped.metrics.values["logitserve_requests"] == {("/things/{thing}", "POST", "499"): 1}


async def test_an_error_after_the_answer_began_is_logged_and_sends_nothing_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wrapped = Wrapped(echo)
    sent: list[Message] = []

    async def broken(scope: Scope, _receive: Receive, send: Send) -> None:
        assert scope[EXCHANGE].request_id
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    wrapped.app = broken
    await wrapped(scope_of_a_request(), receive, send)
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert "after its answer had begun" in caplog.text


async def test_a_dialect_writes_errors_in_its_own_form() -> None:
    def error_body(error: RequestError) -> tuple[int, bytes, str]:
        return 400, error.code.encode(), "text/plain"

    wrapped = Wrapped(
        raising(NotReady("not_ready", "soon", headers={"Retry-After": "1"})), error_body=error_body
    )
    answer = await wrapped.post()
    assert (answer.status_code, answer.text) == (400, "not_ready")
    assert answer.headers["content-type"] == "text/plain"
    assert answer.headers["retry-after"] == "1"
    assert wrapped.metrics.values["logitserve_errors"] == {("/things/{thing}", "not_ready"): 1}


async def test_who_is_turned_away_is_counted_apart() -> None:
    wrapped = Wrapped(raising(QueueFull("queue_full", "too many rows wait", headers={"Retry-After": "2"})))
    answer = await wrapped.post()
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert wrapped.metrics.values["logitserve_rejected"] == {("queue_full",): 1}
    refused = Wrapped(raising(Invalid("rank", "scalar", path="logits")))
    await refused.post()
    assert refused.metrics.values["logitserve_rejected"] == {}


# Whole requests: what an ASGI conversation gets is what they get.

FAULTS: list[tuple[Exception, dict[str, str]]] = [
    (Invalid("labels_shape", "expected shape [2], got [3]", path="labels"), {}),
    (NotReady("not_ready", "starting", headers={"Retry-After": "1"}), {}),
    (QueueFull("queue_full", "too many rows wait", headers={"Retry-After": "2"}), {}),
    (ZeroDivisionError("secret detail"), {}),
    (ValueError(), {"x_request_timeout_ms": "soon"}),
]


async def test_a_whole_request_is_answered_as_a_conversation_is() -> None:
    whole = Whole(begin_echo)
    ((status, headers, body, close),) = whole.take(b"hello", x_request_id="me").sent
    conversation = await whole.post(b"hello", x_request_id="me")
    assert (status, body, close) == (201, b"hello", False)
    assert (status, headers, body) == (
        conversation.status_code,
        dict(conversation.headers),
        conversation.content,
    )
    assert whole.metrics.values["logitserve_requests"] == {("/things/{thing}", "POST", "201"): 2}
    assert whole.metrics.values["logitserve_inflight_requests"] == {(): 0}


@pytest.mark.parametrize(("error", "given"), FAULTS)
@pytest.mark.parametrize("own_form", [False, True])
async def test_an_error_of_a_whole_request_is_that_of_a_conversation(
    error: Exception, given: dict[str, str], *, own_form: bool
) -> None:
    form: ErrorBody = lambda known: (400, known.code.encode(), "text/plain")  # noqa: E731 - a dialect's own
    whole = Whole(begin_raising(error), error_body=form if own_form else None)
    ((status, headers, body, _),) = whole.take(b"", x_request_id="me", **given).sent  # type: ignore[arg-type] # headers
    conversation = await whole.post(b"", x_request_id="me", **given)
    assert (status, headers, body) == (
        conversation.status_code,
        dict(conversation.headers),
        conversation.content,
    )
    assert set(whole.metrics.values["logitserve_errors"].values()) == {2}
    assert set(whole.metrics.values["logitserve_requests"].values()) == {2}


@pytest.mark.parametrize("size", [1000, 1001])
async def test_a_whole_body_has_the_same_limit(size: int) -> None:
    whole = Whole(begin_echo)
    ((status, _, body, _),) = whole.take(b"x" * size, x_request_id="me").sent
    conversation = await whole.post(b"x" * size, x_request_id="me")
    assert (status, body) == (conversation.status_code, conversation.content)
    assert status == (201 if size == 1000 else 413)


async def test_whole_requests_have_ids_params_and_deadlines_of_their_own() -> None:
    seen: list[tuple[str, str, float]] = []

    def begin(exchange: Exchange, _body: bytes, deliver: Deliver[Answer]) -> None:
        allowed_s = exchange.deadline_s - exchange.started_s
        seen.append((exchange.request_id, exchange.path_params["thing"], round(allowed_s, 3)))
        assert exchange.query == []
        deliver(Answer(b"", "text/plain"))

    whole = Whole(begin, request_timeout_s=2)
    whole.take()
    whole.take(x_request_id="mine", x_request_timeout_ms="1500")
    assert seen[0][1:] == ("1", 2)
    assert seen[1] == ("mine", "1", 1.5)
    assert seen[0][0] != "mine"


async def test_while_draining_the_answer_to_a_whole_request_closes_its_connection() -> None:
    whole = Whole(begin_echo)
    whole.edge.draining = True
    ((_, headers, _, close),) = whole.take().sent
    assert (headers["connection"], close) == ("close", True)


async def test_who_went_away_is_counted_and_gets_no_answer() -> None:
    gone: list[bool] = []

    def begin(exchange: Exchange, body: bytes, deliver: Deliver[Answer]) -> None:
        gone.append(exchange.gone())
        begin_echo(exchange, body, deliver)

    whole = Whole(begin)
    assert whole.take(gone=True).sent == []
    assert gone == [True], "and whoever computes may ask"
    assert whole.metrics.values["logitserve_requests"] == {("/things/{thing}", "POST", "499"): 1}


async def test_an_answer_may_come_later() -> None:
    waiting: list[Deliver[Answer]] = []
    whole = Whole(lambda _exchange, _body, deliver: waiting.append(deliver))
    reply = whole.take()
    assert whole.metrics.values["logitserve_inflight_requests"] == {(): 1}
    conversation = asyncio.create_task(whole.post())
    await asyncio.sleep(0.05)
    for deliver in waiting:
        deliver(Answer(b"late", "text/plain"))
    assert reply.sent[0][2] == (await conversation).content == b"late"


@pytest.mark.parametrize(
    ("value", "written"),
    [("plain; a=1, %", "plain; a=1, %"), ("caf\u00e9", "caf%C3%A9"), ("a\r\nb", "a%0D%0Ab")],
)
def test_a_header_holds_what_it_can_and_never_a_second_one(value: str, written: str) -> None:
    assert header_lines({"x-name": value}) == f"x-name: {written}\r\n"


# Scopes, whichever way a request comes


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Bearer secret"])
async def test_both_ways_ask_for_the_same_key(authorization: str | None) -> None:
    whole = Whole(begin_echo, scope="admin")
    headers: dict[str, Any] = {} if authorization is None else {"authorization": authorization}
    conversed_answer = await whole.post(b"x", x_request_id="same", **headers)
    ((status, named, body, _),) = whole.take(b"x", x_request_id="same", **headers).sent
    assert (status, body) == (conversed_answer.status_code, conversed_answer.content)
    assert named == dict(conversed_answer.headers)
    assert status == (201 if authorization == "Bearer secret" else 401)
    assert named.get("www-authenticate", "").startswith("Bearer realm=" if status == 401 else "")
    expected = {("/things/{thing}", "unauthenticated"): 2} if status == 401 else {}
    assert whole.metrics.values["logitserve_errors"] == expected


async def test_without_the_key_no_body_is_read_and_no_limit_told() -> None:
    read: list[int] = []

    async def parts() -> AsyncIterator[bytes]:
        read.append(1)
        yield b"x" * 5000

    answer = await Wrapped(echo, scope="admin").post(parts(), x_request_timeout_ms="nonsense")
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert read == []
    whole = Whole(begin_echo, scope="admin").take(b"x" * 5000, x_request_timeout_ms="nonsense")
    assert whole.sent[0][0] == 401


async def test_a_missing_key_is_told_in_the_form_of_the_dialect() -> None:
    def form(error: RequestError) -> tuple[int, bytes, str]:
        return error.status, b"own form", "text/own"

    answer = await Wrapped(echo, scope="admin", error_body=form).post()
    assert (answer.status_code, answer.content) == (401, b"own form")
    assert answer.headers["www-authenticate"] == 'Bearer realm="logitserve"'
