"""One client process: connections that send, on the clock of a schedule, and count what comes back.

In a closed loop each connection sends as soon as it is answered. In an open loop requests are due at
moments that do not depend on the answers; a request that no connection was free to send in time has waited
since it was due, and its latency says so.
"""

import asyncio
import contextlib
import itertools
import selectors
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import httpx

from service.client.calls import MEDIA_TYPES
from service.loadtest.scenario import Scenario, arrivals_s, bodies
from service.loadtest.tally import STEP_S, Tally, is_success

# How often a process reports; also how quickly it hears that it should stop.
REPORT_S = 0.2
# A request that takes longer counts as an error, so that a stalled service ends the test all the same.
REQUEST_TIMEOUT_S = 10.0
# What a server that refuses connections is spared before the same connection tries again.
PAUSE_AFTER_FAILURE_S = 0.05
# Timers wake up to a millisecond late by themselves; five are a process without time.
LATE_S = 0.005


def generate(
    scenario: Scenario, connections: int, seed: int, pipe: "Connection[Tally | None, object]"
) -> None:
    """Run one process's share: say that it is ready, wait for the word, report tallies, end with None.

    Any further word, or the end of the pipe, stops it early.
    """
    # The other end has gone: there is nobody left to measure for.
    with contextlib.suppress(EOFError, ConnectionError):
        selector = _TimedSelector()
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
            runner.run(_Generator(scenario, connections, seed, pipe, selector).run())


class _TimedSelector(selectors.DefaultSelector):
    """Counts the time in which the event loop had nothing to do.

    All else is work, or waiting for a CPU to do it on, which CPU time would not show.
    """

    idle_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        begun_s = time.monotonic()
        ready = super().select(timeout)
        self.idle_s += time.monotonic() - begun_s
        return ready


class _Generator:
    def __init__(
        self,
        scenario: Scenario,
        connections: int,
        seed: int,
        pipe: "Connection[Tally | None, object]",
        selector: _TimedSelector,
    ) -> None:
        self._scenario = scenario
        self._connections = connections
        self._seed = seed
        self._pipe = pipe
        self._selector = selector
        self._tally = Tally()

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=self._connections, max_keepalive_connections=self._connections)
        # No proxies from the environment: what is measured is the service.
        async with httpx.AsyncClient(limits=limits, timeout=REQUEST_TIMEOUT_S, trust_env=False) as http:
            self._http = http
            self._requests = itertools.cycle(self._built_requests())
            self._pipe.send(None)
            self._pipe.recv()
            self._begin_s = time.monotonic() + self._scenario.warm_up_s
            self._end_s = self._begin_s + self._scenario.duration_s
            schedule = self._schedule()
            sending = asyncio.gather(*(self._connection(schedule) for _ in range(self._connections)))
            await self._report_until(sending)
        self._pipe.send(None)

    def _built_requests(self) -> list[httpx.Request]:
        media_type = MEDIA_TYPES[self._scenario.media]
        headers = {"content-type": media_type, "accept": media_type}
        if self._scenario.key:
            headers["authorization"] = f"Bearer {self._scenario.key}"
        return [
            self._http.build_request(
                "POST",
                f"{self._scenario.url}/{self._scenario.route}",
                content=body.content,
                params=body.query or None,
                headers=headers,
            )
            for body in bodies(self._scenario)
        ]

    def _schedule(self) -> Iterator[float]:
        """Yield the moments at which requests are due, to whichever connection asks next."""
        scenario = self._scenario
        start_s = self._begin_s - scenario.warm_up_s
        if scenario.rate_per_s is None:
            while (now_s := time.monotonic()) < self._end_s:
                yield now_s
        else:
            rate_per_s = scenario.rate_per_s * self._connections / scenario.connections
            until_s = self._end_s - start_s
            for due_s in arrivals_s(rate_per_s, until_s, poisson=scenario.poisson, seed=self._seed):
                yield start_s + due_s

    async def _connection(self, schedule: Iterator[float]) -> None:
        for due_s in schedule:
            now_s = time.monotonic()
            if now_s >= self._end_s:
                self._count_unsent(due_s)
                continue
            if now_s < due_s:
                await asyncio.sleep(due_s - now_s)
                self._tally.late += self._begin_s <= due_s < time.monotonic() - LATE_S
            await self._send(due_s)

    async def _send(self, due_s: float) -> None:
        try:
            outcome = _outcome(await self._http.send(next(self._requests)))
        except httpx.TransportError as error:
            outcome = type(error).__name__
        done_s = time.monotonic()
        success = is_success(outcome)
        if self._begin_s <= done_s < self._end_s:
            step = int((done_s - self._begin_s) / STEP_S)
            (self._tally.answered if success else self._tally.failed)[step] += 1
        if due_s >= self._begin_s:
            self._tally.outcomes[outcome] += 1
            if success:
                self._tally.latencies.add(done_s - due_s)
        if not outcome[0].isdigit():
            await asyncio.sleep(PAUSE_AFTER_FAILURE_S)

    def _count_unsent(self, due_s: float) -> None:
        """Count a request whose wait the end of the test cut short with the wait so far."""
        if due_s >= self._begin_s:
            self._tally.unsent += 1
            self._tally.latencies.add(self._end_s - due_s)

    async def _report_until(self, sending: "asyncio.Future[list[None]]") -> None:
        mark: tuple[float, float] | None = None
        while not sending.done():
            await asyncio.wait([sending], timeout=REPORT_S)
            mark = self._count_busy(mark)
            tally, self._tally = self._tally, Tally()
            self._pipe.send(tally)
            if self._pipe.poll():
                sending.cancel()
                break
        with contextlib.suppress(asyncio.CancelledError):
            await sending

    def _count_busy(self, mark: tuple[float, float] | None) -> tuple[float, float] | None:
        """Count the time since the last mark that was not idle, within the measured window."""
        now_s, idle_s = time.monotonic(), self._selector.idle_s
        self._tally.measured_s = max(0.0, min(now_s, self._end_s) - self._begin_s)
        if not self._begin_s <= now_s <= self._end_s:
            return None
        if mark:
            self._tally.watched_s += now_s - mark[0]
            self._tally.busy_s += now_s - mark[0] - (idle_s - mark[1])
        return now_s, idle_s


def _outcome(response: httpx.Response) -> str:
    if response.is_success or not response.headers.get("content-type", "").endswith("problem+json"):
        return str(response.status_code)
    return f"{response.status_code} {response.json().get('code', '')}"
