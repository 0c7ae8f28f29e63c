"""Our service beside the bound: interleaved pairs of runs, and what is the same in each of them.

A machine's speed drifts by a factor of two within an hour, so only ratios inside a pair count, and of several
pairs the median. Nothing here prints.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import cases
import floor
import generator
import serving
from cases import Case, Form, Request
from floor import Floor
from generator import Load
from serving import Cores, Server

# What every answer carries; a benchmark of a service with these turned off would be of another service.
HEADERS = ("x-request-id", "server-timing")
# How long the last requests of a generator that has gone may take to be counted.
SETTLE_S, SETTLE_ATTEMPTS = 0.1, 50


class NotCounted(Exception):
    """The service's own count of requests is not the generator's."""


class Plan(NamedTuple):
    """What to measure, and how long."""

    names: tuple[str, ...]
    forms: tuple[Form, ...]
    connections: tuple[int, ...]
    pairs: int
    duration_s: int


class Pair(NamedTuple):
    """The bound, our service and the floor, one right after the other."""

    bound: Load
    ours: Load
    floor: Floor

    @property
    def share(self) -> float:
        return self.ours.rate / self.bound.rate

    @property
    def efficiency(self) -> float:
        """What a request must cost over what it does cost, both with the same connections."""
        return (1 / self.bound.rate + self.floor.total_s) * self.ours.rate


class Row(NamedTuple):
    """One case in one form, from so many connections; of each figure the median of the pairs."""

    case: str
    form: Form
    connections: int
    rows: int
    pairs: tuple[Pair, ...]

    @property
    def share(self) -> float:
        return median(pair.share for pair in self.pairs)

    @property
    def efficiency(self) -> float:
        return median(pair.efficiency for pair in self.pairs)

    @property
    def rate(self) -> float:
        return median(pair.ours.rate for pair in self.pairs)

    @property
    def bound_rate(self) -> float:
        return median(pair.bound.rate for pair in self.pairs)

    @property
    def p50_ms(self) -> float:
        return median(pair.ours.p50_ms for pair in self.pairs)

    @property
    def p99_ms(self) -> float:
        return median(pair.ours.p99_ms for pair in self.pairs)


class Unserved(NamedTuple):
    """A case that the service does not answer, with the status that it gives instead."""

    case: str
    form: Form
    status: int


class Bench(NamedTuple):
    """Where runs happen: the cores, and the folder with the heads."""

    cores: Cores
    models: Path
    plan: Plan

    def load(self, server: Server, request: Request, connections: int, pause_ms: float = 0.0) -> Load:
        return generator.run(
            request,
            server.port,
            core=self.cores.generator,
            connections=connections,
            duration_s=self.plan.duration_s,
            pause_ms=pause_ms,
        )

    def counted_load(self, server: Server, request: Request, connections: int, pause_ms: float = 0.0) -> Load:
        """Load our service, which must have counted what the generator did, and failed at nothing."""
        before = requests_counted(server)
        load = self.load(server, request, connections, pause_ms)
        if load.failed:
            raise NotCounted(f"{load.failed} of {load.requests} requests failed")
        for _ in range(SETTLE_ATTEMPTS):
            # What was under way as the generator left is in the service's count only.
            surplus = requests_counted(server) - before - load.requests
            if 0 <= surplus <= connections:
                return load
            time.sleep(SETTLE_S)
        raise NotCounted(f"/metrics has {surplus:+d} requests beside the generator's {load.requests}")

    def rows(self, case: Case, form: Form, ours: Server) -> list[Row] | Unserved:
        """Check the answer, then time it beside the bound for each number of connections."""
        request = cases.WIRES[form].write(case)
        answer = ours.ask(request)
        if answer.status != cases.OK:
            return Unserved(case.name, form, answer.status)
        cases.check(case, cases.WIRES[form].read(answer))
        missing = [name for name in HEADERS if name not in answer.headers]
        if missing:
            raise cases.WrongAnswer(f"{case.name}: the answer lacks the headers {', '.join(missing)}")

        def pair(connections: int) -> Pair:
            loads = self.load(bound, request, connections), self.counted_load(ours, request, connections)
            with on_core(self.cores.server):
                return Pair(*loads, floor.measure(case, form, request, self.models))

        with serving.bound(answer, self.cores.server) as bound:
            found = []
            for connections in self.plan.connections:
                pairs = tuple(pair(connections) for _ in range(self.plan.pairs))
                found.append(Row(case.name, form, connections, case.rows, pairs))
            return found


def requests_counted(server: Server) -> int:
    """POST requests that our service has counted, on all routes and with any status, once none is under way."""
    for _ in range(SETTLE_ATTEMPTS):
        text = server.get("/metrics").body.decode()
        # The one that asks is under way itself. Others outlive a generator that has hung up.
        if inflight_in(text) <= 1:
            return posts_in(text)
        time.sleep(SETTLE_S)
    raise NotCounted("requests are still under way, though nobody waits for them")


def inflight_in(exposition: str) -> int:
    found = re.search(r"^logitserve_inflight_requests (\S+)$", exposition, re.MULTILINE)
    return int(float(found[1])) if found else 0


def posts_in(exposition: str) -> int:
    # Up to the last brace of the line: the templates of routes hold braces as well.
    pattern = r'^logitserve_requests_total\{.*method="POST".*\} (\S+)$'
    return sum(int(float(value)) for value in re.findall(pattern, exposition, re.MULTILINE))


@contextmanager
def on_core(cpu: int) -> Iterator[None]:
    """Run on the core that the servers have."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
