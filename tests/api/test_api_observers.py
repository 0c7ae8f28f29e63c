"""Who hears of requests: all of them in turn, whatever becomes of one, and nobody where nobody asks."""

import sys
import time
from typing import Any

import httpx
import pytest
from conftest import MODELS, connected

from service.api.exchange import CLIENT_CLOSED, Exchange
from service.api.observers import Observers, tracing
from service.app import create_app
from service.application import Application
from service.errors import StartError
from service.settings import Settings

pytestmark = pytest.mark.anyio


class Hearing:
    """An observer that keeps what it hears, and fails if told to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.heard: list[tuple[Exchange, float]] = []
        self.fails = fails
        self.story: list[str] = []

    def observe(self, exchange: Exchange, ended_s: float) -> None:
        self.heard.append((exchange, ended_s))
        if self.fails:
            raise ZeroDivisionError

    def start(self) -> None:
        self.story.append("started")

    def close(self) -> None:
        self.story.append("closed")


class Watched:
    """A real application with observers of the test's."""

    def __init__(self, *hearing: Hearing) -> None:
        self.app: Application = create_app(Settings(models=MODELS, access_log=1))
        self.app.observers._all[:] = hearing


@pytest.fixture
def hearing() -> Hearing:
    return Hearing()


async def ask(app: Application, **request: Any) -> httpx.Response:
    async with app.router.lifespan_context(app), connected(app) as client:
        return await client.post("/predict", **{"json": {"features": [[1.0] * 64] * 3}, **request})


async def test_a_request_is_heard_of_once_with_its_course(hearing: Hearing) -> None:
    answer = await ask(Watched(hearing).app)
    ((exchange, ended_s),) = hearing.heard
    assert exchange.started_s < ended_s < time.monotonic()
    assert exchange.status == answer.status_code == 200
    assert exchange.answer_bytes == len(answer.content)
    assert exchange.failure is None
    assert exchange.course is not None
    assert exchange.course.rows == 3
    times_s = exchange.course.times_s
    assert list(times_s) == sorted(times_s)
    assert exchange.started_s <= times_s[0]
    assert times_s[-1] <= ended_s


async def test_a_whole_request_says_the_same_as_a_conversation(hearing: Hearing) -> None:
    app = Watched(hearing).app

    class Reply:
        disconnected = False
        body = b""

        def gone(self) -> bool:
            return False

        def send(self, status: int, headers: str, body: bytes, *, close: bool) -> None:
            self.body = body

    reply = Reply()
    async with app.router.lifespan_context(app), connected(app) as client:
        await client.post("/softmax", content=b'{"logits": [1, 2]}')
        app.shortcuts[b"/softmax"]([], b'{"logits": [1, 2]}', reply)
    (cold, _), (hot, _) = hearing.heard
    assert hot.answer_bytes == cold.answer_bytes == len(reply.body) > 0
    assert hot.status == cold.status == 200
    assert hot.course is not None
    assert cold.course is not None
    assert hot.course.requests[0].operation == cold.course.requests[0].operation == "softmax"


async def test_a_caller_who_has_left_is_heard_of_as_well(hearing: Hearing) -> None:
    app = Watched(hearing).app

    class Left:
        disconnected = True

        def gone(self) -> bool:
            return False

        def send(self, *_: object, **__: object) -> None:
            raise AssertionError

    async with app.router.lifespan_context(app):
        app.shortcuts[b"/softmax"]([], b'{"logits": [1, 2]}', Left())
    ((exchange, _),) = hearing.heard
    assert (exchange.status, exchange.answer_bytes) == (CLIENT_CLOSED, 0)


async def test_a_refusal_is_heard_of_with_its_code_and_no_course(hearing: Hearing) -> None:
    await ask(Watched(hearing).app, json={"features": "none"})
    ((exchange, _),) = hearing.heard
    assert exchange.course is None
    assert exchange.failure == (422, "features_type")


async def test_one_that_fails_harms_neither_the_others_nor_the_answer(
    hearing: Hearing, caplog: pytest.LogCaptureFixture
) -> None:
    app = Watched(Hearing(fails=True), hearing).app
    answer = await ask(app, headers={"X-Request-Id": "r-3"})
    assert answer.status_code == 200
    assert len(hearing.heard) == 1
    (record,) = [record for record in caplog.records if record.exc_info]
    assert "r-3" in record.getMessage()
    assert vars(record)["request_id"] == "r-3"


def test_those_that_last_are_started_and_closed() -> None:
    plain, lasting = Hearing(), Hearing()
    observers = Observers([plain], [lasting])
    observers.start()
    observers.close()
    assert lasting.story == ["started", "closed"]
    assert plain.story == []


async def test_where_nobody_asks_nothing_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(Settings(models=MODELS))
    assert app.edge.observe is None
    seen: list[Exchange] = []
    count = app.edge._count

    def see(exchange: Exchange) -> None:
        seen.append(exchange)
        count(exchange)

    monkeypatch.setattr(app.edge, "_count", see)
    assert (await ask(app)).status_code == 200
    (exchange,) = seen
    assert exchange.course is None
    assert exchange.answer_bytes == 0


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "service.api.tracing", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(StartError, match=r"needs opentelemetry, .*pip install logitserve\[cpu,otel\]"):
        tracing("http://127.0.0.1:4318", 1)
