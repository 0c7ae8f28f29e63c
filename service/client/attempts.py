"""What is sent, what is tried again and when: one policy, a generator that does no I/O.

It yields requests to send and seconds to pause, is sent the outcome of each request, and returns the answer;
the synchronous and the asynchronous client are two short loops around it.
"""

import random
import time
from collections.abc import Generator
from typing import TypeAlias, TypeVar

import httpx

from service.client.answers import ConnectionFailed, error_of, retry_after_s

T = TypeVar("T")

# A whole answer, or why not one byte of it came.
Outcome: TypeAlias = httpx.Response | httpx.TransportError
Steps: TypeAlias = Generator[httpx.Request | float, Outcome, T]

# Nothing of an answer came, and scoring changes nothing: asking twice is as good as asking once. A timeout
# is not among them: the time that a second attempt would need has been spent on the first.
SAFE_TO_REPEAT = (httpx.ConnectError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
# A closed keep-alive connection can be opened again at once; a worker that restarts takes a second or two.
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0


def attempts(request: httpx.Request, *, timeout_s: float, at_most: int) -> Steps[httpx.Response]:
    """Send a request until it is answered 2xx, `at_most` times and never beyond `timeout_s`.

    Raises
    ------
    ConnectionFailed
        If the last attempt got no answer.
    ServiceError
        If it was answered with an error.
    """
    deadline_s = time.monotonic() + timeout_s
    attempt = 0
    while True:
        attempt += 1
        remaining_s = max(deadline_s - time.monotonic(), 0.001)
        request.headers["x-request-timeout-ms"] = str(int(remaining_s * 1000))
        request.extensions["timeout"] = httpx.Timeout(remaining_s).as_dict()
        outcome = yield request
        if isinstance(outcome, httpx.Response) and outcome.is_success:
            return outcome
        pause_s = _pause_s(outcome, attempt)
        if pause_s is None or attempt == at_most or time.monotonic() + pause_s >= deadline_s:
            break
        yield pause_s
    if isinstance(outcome, httpx.Response):
        raise error_of(outcome)
    raise connection_failed(outcome) from outcome


def _pause_s(outcome: Outcome, attempt: int) -> float | None:
    """Say how long to wait before the next attempt, or None where there must be none."""
    # Full jitter, so that clients that failed together do not come back together.
    pause_s = random.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1)))
    if isinstance(outcome, SAFE_TO_REPEAT):
        return pause_s
    if isinstance(outcome, httpx.Response) and outcome.status_code == 503:
        asked_s = retry_after_s(outcome)
        return None if asked_s is None else asked_s + pause_s
    return None


def connection_failed(error: httpx.TransportError) -> ConnectionFailed:
    url = error.request.url
    where = f"{url.scheme}://{url.netloc.decode('ascii')}"
    what = "no answer in time" if isinstance(error, httpx.TimeoutException) else str(error)
    return ConnectionFailed(f"{where}: {what or type(error).__name__}")
