"""What happens in one turn of the event loop, without sockets: the batcher, the scorer, and whole requests.

So many requests are begun one after another, as a server does that finds them all in its sockets, and a turn ends
with the last answer. Whole requests go where the server hands them to the application. Nothing here prints.
"""

import asyncio
import math
import re
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import cases
import codec
import floor
import numpy as np
import uvloop
from cases import Case, Form, Request
from codec import BURST_S
from numpy.typing import NDArray

from service.app import create_app
from service.application import Application
from service.heads.batcher import Arrays, Batcher
from service.heads.repository import Repository
from service.outcomes import Deliver
from service.scorer import Scorer
from service.settings import Settings

T = TypeVar("T")

# Begins one request, which calls back with its outcome.
Begin: TypeAlias = Callable[[Deliver[Any]], None]

# Wide enough for whatever is submitted here: nothing leaves the event loop.
BATCH_ROWS = 1024
WARM_UP_TURNS = 3
# The parts of an answer's Server-Timing, in milliseconds.
PARTS = re.compile(r"(decode|queue|infer|encode);dur=([\d.]+)")


class Turn(NamedTuple):
    """So many requests in one turn: seconds of each, and of the bare work at once for all, shared out."""

    what: str
    requests: int
    seconds: float
    bare_s: float


class Whole(NamedTuple):
    """A whole request among so many of one turn, in seconds; the parts add up to all of it.

    Server-Timing tells them in whole microseconds.
    """

    case: str
    form: Form
    requests: int
    seconds: float
    decode_s: float
    run_s: float
    encode_s: float

    @property
    def rest_s(self) -> float:
        """The edge: headers, ids, deadlines, counts, and the loop's own turn."""
        return self.seconds - self.decode_s - self.run_s - self.encode_s


class Burst(NamedTuple):
    """Turns one right after another: seconds of one of them, and what its requests were answered."""

    seconds: float
    answers: list[Any]


def on_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run on the event loop that the server has."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def least(begin: Begin, requests: int, seconds: float) -> Burst:
    """The fastest of many short bursts of turns, which last so many seconds together."""
    begun_s = time.perf_counter()
    # The first ones make what is made once, and are slow.
    turn_s = min([(await _turn(begin, requests))[0] for _ in range(WARM_UP_TURNS)])
    turns = max(1, int(BURST_S / turn_s))
    best = Burst(math.inf, [])
    while True:
        burst = [await _turn(begin, requests) for _ in range(turns)]
        turn_s = sum(elapsed_s for elapsed_s, _ in burst) / turns
        if turn_s < best.seconds:
            best = Burst(turn_s, [answers for _, answers in burst])
        if time.perf_counter() - begun_s >= seconds:
            return best


async def _turn(begin: Begin, requests: int) -> tuple[float, list[Any]]:
    """Begin all and wait for all; the time ends with the last answer, before anybody is woken by it."""
    done = asyncio.get_running_loop().create_future()
    answers: list[Any] = []

    def deliver(outcome: Any) -> None:
        answers.append(outcome)
        if len(answers) == requests:
            done.set_result(time.perf_counter())

    begun_s = time.perf_counter()
    for _ in range(requests):
        begin(deliver)
    ended_s: float = await done
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return ended_s - begun_s, answers


def batcher(requests: int, seconds: float) -> Turn:
    """Submissions of one row each through a function that returns what it gets."""
    row = np.zeros((1, 64), np.float32)
    stacked = np.zeros((requests, 64), np.float32)

    def same(rows: NDArray[Any]) -> Arrays:
        return (rows,)

    async def measure() -> Burst:
        limit = max(BATCH_ROWS, requests)
        one = Batcher(same, inline_rows=limit, max_batch_rows=limit, max_queue_rows=limit)
        return await least(partial(one.enter, row, math.inf), requests, seconds)

    bare_s = codec.least_s(partial(same, stacked), seconds) / requests
    return Turn("a function that does nothing", requests, on_loop(measure()).seconds / requests, bare_s)


def score(name: str, requests: int, models: Path, seconds: float) -> Turn:
    """Requests of a case to the scorer, beside one run of head, Softmax and ArgMax for all of their rows."""
    case = cases.make(name)
    stacked = cases.make(f"{case.model}_{requests * case.rows}")
    session = floor.session_of(stacked, models)
    repository = Repository(models / "repository", provider="cpu")
    repository.load()
    scorer = Scorer(repository)
    request = codec.codec(case, "json", cases.WIRES["json"].write(case))[0]()
    request = request._replace(head=repository.info(case.model, None))
    try:
        burst = on_loop(least(partial(scorer.begin, request, math.inf), requests, seconds))
    finally:
        scorer.close()
        repository.close()
    cases.check(case, burst.answers[0][0].outputs)
    bare_s = codec.least_s(partial(session.run, None, stacked.arrays), seconds) / requests
    return Turn(name, requests, burst.seconds / requests, bare_s)


class Reply:
    """Where the server would write; whoever waits gets status, headers and body."""

    def __init__(self, deliver: Deliver[Any]) -> None:
        self._deliver = deliver

    disconnected = False

    def gone(self) -> bool:
        return False

    def send(self, status: int, headers: str, body: bytes, *, close: bool) -> None:  # noqa: ARG002 - the server's
        self._deliver((status, headers, body))


def whole(
    names: Iterable[str], forms: Iterable[Form], counts: Iterable[int], models: Path, seconds: float
) -> list[Whole]:
    """Whole requests of each case and form, so many in a turn, in one application with the defaults of users."""
    wanted = [(cases.make(name), form) for name in names for form in forms]

    async def measure() -> list[Whole]:
        app = create_app(Settings(models=models / "repository", provider="cpu"))
        async with app.router.lifespan_context(app):
            return [
                await _whole(app, case, form, count, seconds) for case, form in wanted for count in counts
            ]

    return on_loop(measure())


async def _whole(app: Application, case: Case, form: Form, requests: int, seconds: float) -> Whole:
    request = cases.WIRES[form].write(case)
    shortcut = app.shortcuts[request.path.encode("ascii")]
    headers = headers_of(request)
    body = request.body

    def begin(deliver: Deliver[Any]) -> None:
        shortcut(headers, body, Reply(deliver))

    burst = await least(begin, requests, seconds)
    status, lines, answer = burst.answers[0][0]
    if status != cases.OK:
        raise cases.WrongAnswer(f"{case.name}: status {status}: {answer[:100]!r}")
    said = dict(line.split(": ", 1) for line in lines.splitlines())
    cases.check(case, cases.WIRES[form].read(cases.Answer(status, answer, said)))
    parts = [split([headers for _, headers, _ in answers]) for answers in burst.answers]
    decode_s, run_s, encode_s = (sum(part) / len(parts) / requests for part in zip(*parts, strict=True))
    return Whole(case.name, form, requests, burst.seconds / requests, decode_s, run_s, encode_s)


def headers_of(request: Request) -> list[tuple[bytes, bytes]]:
    """As the server hands them over, with what every client sends."""
    said = {"host": "127.0.0.1:8000", "content-length": str(len(request.body)), **request.headers}
    return [(name.lower().encode(), value.encode()) for name, value in said.items()]


def split(answers: list[str]) -> tuple[float, float, float]:
    """Of the requests of one turn, from their headers: seconds of decoding, of the shared run, and of encoding.

    Everybody decodes and encodes alone, but all wait for the same run: who came last waits for nothing else, and
    whoever is answered first for nobody else's encoding. So each of these two is the least of all.
    """
    said = [{name: float(value) / 1e3 for name, value in PARTS.findall(lines)} for lines in answers]
    run_s = min(one["queue"] for one in said) + min(one["infer"] for one in said)
    return sum(one["decode"] for one in said), run_s, sum(one["encode"] for one in said)
