"""What is tried again, when and how often: the generator is driven by hand, nothing is sent and nobody sleeps."""

import time
from collections.abc import Sequence

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.client.answers import ConnectionFailed, InvalidRequest, ServiceError, Unavailable
from service.client.attempts import FIRST_PAUSE_S, LONGEST_PAUSE_S, Outcome, attempts

REQUEST = httpx.Request("POST", "http://scores.example:8000/softmax")
OK = httpx.Response(200, request=REQUEST)
REFUSED = httpx.ConnectError("[Errno 111] Connection refused", request=REQUEST)
NOTHING_CAME = [
    REFUSED,
    httpx.ReadError("", request=REQUEST),
    httpx.WriteError("Broken pipe", request=REQUEST),
    httpx.RemoteProtocolError("Server disconnected without sending a response.", request=REQUEST),
]
TOO_LATE = [
    httpx.ConnectTimeout("", request=REQUEST),
    httpx.ReadTimeout("", request=REQUEST),
    httpx.WriteTimeout("", request=REQUEST),
    httpx.PoolTimeout("", request=REQUEST),
]


def busy(retry_after: str | None, status: int = 503) -> httpx.Response:
    headers = {} if retry_after is None else {"retry-after": retry_after}
    return httpx.Response(status, headers=headers, request=REQUEST)


def converse(
    outcomes: Sequence[Outcome], *, timeout_s: float = 30.0, at_most: int = 3
) -> tuple[httpx.Response, list[float]]:
    """Hand the outcomes in turn; return the answer and the pauses. Every outcome must have been asked for."""
    steps = attempts(REQUEST, timeout_s=timeout_s, at_most=at_most)
    pauses = []
    left = list(outcomes)
    step = next(steps)
    try:
        while True:
            if isinstance(step, httpx.Request):
                step = steps.send(left.pop(0))
            else:
                pauses.append(step)
                step = next(steps)
    except StopIteration as end:
        assert not left
        answer: httpx.Response = end.value
        return answer, pauses


def test_an_answer_is_returned_after_one_request() -> None:
    answer, pauses = converse([OK])
    assert answer is OK
    assert pauses == []


def test_the_request_tells_the_service_how_long_the_caller_waits() -> None:
    request = next(attempts(REQUEST, timeout_s=2.0, at_most=1))
    assert isinstance(request, httpx.Request)
    assert 1900 <= int(request.headers["x-request-timeout-ms"]) <= 2000
    assert set(request.extensions["timeout"]) == {"connect", "read", "write", "pool"}
    assert all(1.9 <= seconds <= 2.0 for seconds in request.extensions["timeout"].values())


def test_a_second_attempt_has_only_the_time_that_is_left() -> None:
    steps = attempts(REQUEST, timeout_s=2.0, at_most=2)
    next(steps)
    time.sleep(0.05)
    steps.send(REFUSED)
    again = next(steps)
    assert isinstance(again, httpx.Request)
    assert int(again.headers["x-request-timeout-ms"]) <= 1950


def test_the_timeout_told_is_never_zero() -> None:
    request = next(attempts(REQUEST, timeout_s=1e-9, at_most=1))
    assert isinstance(request, httpx.Request)
    assert request.headers["x-request-timeout-ms"] == "1"


@pytest.mark.parametrize("error", NOTHING_CAME, ids=lambda error: type(error).__name__)
def test_a_request_of_which_nothing_came_back_is_sent_again(error: httpx.TransportError) -> None:
    answer, pauses = converse([error, OK])
    assert answer is OK
    assert len(pauses) == 1
    assert 0 <= pauses[0] <= FIRST_PAUSE_S


@pytest.mark.parametrize("error", TOO_LATE, ids=lambda error: type(error).__name__)
def test_a_timeout_is_final(error: httpx.TransportError) -> None:
    with pytest.raises(ConnectionFailed, match=r"^http://scores\.example:8000: no answer in time$"):
        converse([error])


def test_the_last_failure_is_raised_with_its_cause() -> None:
    with pytest.raises(ConnectionFailed, match=r"scores\.example:8000: .*Connection refused") as caught:
        converse([REFUSED, REFUSED, REFUSED])
    assert caught.value.__cause__ is REFUSED


def test_a_failure_without_words_is_named() -> None:
    with pytest.raises(ConnectionFailed, match="ReadError"):
        converse([httpx.ReadError("", request=REQUEST)], at_most=1)


def test_a_fault_of_the_address_is_final() -> None:
    with pytest.raises(ConnectionFailed, match="missing an 'http://'"):
        converse([httpx.UnsupportedProtocol("Request URL is missing an 'http://'", request=REQUEST)])


def test_a_service_that_says_when_it_is_back_is_asked_again_then() -> None:
    answer, pauses = converse([busy("1"), OK])
    assert answer is OK
    assert 1 <= pauses[0] <= 1 + FIRST_PAUSE_S


@pytest.mark.parametrize("retry_after", [None, "", "Wed, 21 Oct 2026 07:28:00 GMT", "-1", "1.5"])
def test_a_503_that_does_not_say_in_seconds_when_is_final(retry_after: str | None) -> None:
    steps = attempts(REQUEST, timeout_s=30.0, at_most=3)
    next(steps)
    with pytest.raises(Unavailable):
        steps.send(busy(retry_after))


def test_the_last_503_is_raised_and_says_when_to_come_back() -> None:
    with pytest.raises(Unavailable) as caught:
        converse([busy("1"), busy("1"), busy("2")])
    assert caught.value.retry_after_s == 2


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (404, InvalidRequest),
        (422, InvalidRequest),
        (429, Unavailable),
        (500, ServiceError),
        (504, Unavailable),
    ],
)
def test_other_errors_are_never_asked_again(status: int, kind: type[ServiceError]) -> None:
    with pytest.raises(kind) as caught:
        converse([busy("0", status)])
    assert type(caught.value) is kind
    assert caught.value.status == status


def test_no_pause_leads_beyond_the_timeout() -> None:
    with pytest.raises(Unavailable):
        converse([busy("5")], timeout_s=4.0)


@pytest.mark.parametrize("at_most", [1, 2, 5])
def test_attempts_are_bounded(at_most: int) -> None:
    with pytest.raises(ConnectionFailed):
        converse([REFUSED] * at_most, at_most=at_most)


@given(failures=st.integers(1, 12))
def test_pauses_grow_up_to_a_cap(failures: int) -> None:
    _, pauses = converse([REFUSED] * failures + [OK], timeout_s=3600, at_most=failures + 1)
    assert len(pauses) == failures
    for number, pause in enumerate(pauses):
        assert 0 <= pause <= min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**number)


def test_pauses_differ_between_clients() -> None:
    pauses = {converse([REFUSED, OK])[1][0] for _ in range(20)}
    assert len(pauses) > 10
