"""An exchange by itself: its body, its deadline, its headers."""

import asyncio
import time
from collections.abc import Sequence

import pytest

from service.api.exchange import TIMEOUT_HEADER, Disconnected, Exchange, Message, Target, header_lines
from service.errors import DeadlineExceeded, Invalid, TooLarge

pytestmark = pytest.mark.anyio


def exchange_of(
    parts: Sequence[bytes] = (), *, timeout_s: float = 60, ends: bool = True, **headers: str
) -> Exchange:
    """An exchange whose body comes in parts, and whose caller then has said all, or has gone."""
    named = {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in headers.items()}
    made = Exchange(named, "POST", "id", timeout_s, body_limit_bytes=10)
    waiting: list[Message] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    waiting.append({"type": "http.request", "body": b""} if ends else {"type": "http.disconnect"})

    async def receive() -> Message:
        return waiting.pop(0)

    made.receive = receive
    return made


async def test_a_body_comes_in_parts_and_once() -> None:
    exchange = exchange_of([b"one", b"", b"two"])
    assert await exchange.body() == b"onetwo"
    assert exchange.receive is None


async def test_a_body_over_the_limit_is_refused_by_what_it_declares_before_any_of_it_is_read() -> None:
    declared = exchange_of([b"x"], content_length="11")
    with pytest.raises(TooLarge, match=r"at most 10 bytes.*got 11 bytes"):
        await declared.body()
    with pytest.raises(TooLarge, match="got 12 bytes"):
        await exchange_of([b"x" * 6, b"x" * 6]).body()
    assert await exchange_of([b"x" * 10], content_length="10").body() == b"x" * 10


async def test_a_caller_who_goes_away_has_no_body() -> None:
    with pytest.raises(Disconnected):
        await exchange_of([b"half"], ends=False).body()


async def test_a_body_that_is_not_there_in_time_ends_the_connection() -> None:
    exchange = exchange_of(timeout_s=0.01)

    async def receive() -> Message:
        await asyncio.sleep(60)
        return {}

    exchange.receive = receive
    with pytest.raises(DeadlineExceeded) as raised:
        await exchange.body()
    assert raised.value.headers == {"connection": "close"}


@pytest.mark.parametrize(("asked", "expected_s"), [("1500", 1.5), ("90000", 2.0), ("9" * 5000, 2.0)])
def test_a_deadline_is_shortened_and_never_lengthened(asked: str, expected_s: float) -> None:
    exchange = exchange_of(timeout_s=2, x_request_timeout_ms=asked)
    exchange.shorten_deadline()
    assert exchange.deadline_s - exchange.started_s == pytest.approx(expected_s)
    assert exchange.started_s <= time.monotonic()


@pytest.mark.parametrize("bad", ["0", "-1", "1.5", "soon", "", "\u00b2"])
def test_a_deadline_that_is_no_number_of_milliseconds_is_refused(bad: str) -> None:
    exchange = exchange_of()
    exchange.headers[TIMEOUT_HEADER] = bad.encode("latin-1")
    with pytest.raises(Invalid, match="a whole number of milliseconds above 0"):
        exchange.shorten_deadline()


def test_headers_are_found_by_their_lower_case_names() -> None:
    exchange = exchange_of(accept="*/*")
    assert exchange.header(b"accept") == "*/*"
    assert exchange.header(b"content-type") is None


def test_a_query_keeps_its_order_and_its_empty_values() -> None:
    exchange = exchange_of()
    assert exchange.query == []
    exchange.query_string = b"a=1&b=x%20y&a="
    assert exchange.query == [("a", "1"), ("b", "x y"), ("a", "")]


def test_what_stands_in_the_path_is_known_by_name() -> None:
    exchange = exchange_of()
    assert exchange.path_params == {}
    exchange.target = Target("/models/{model}", {"model": "digits"})
    assert exchange.path_params == {"model": "digits"}


def test_what_a_header_cannot_hold_is_percent_encoded() -> None:
    assert header_lines({"x-model": "caf\u00e9 1", "x-other": "plain"}) == (
        "x-model: caf%C3%A9 1\r\nx-other: plain\r\n"
    )
