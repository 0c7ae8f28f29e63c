"""The service as a whole: start, memory, batching, two workers, an even pace, and a long run.

What one case at full speed does not show. Each function measures one thing and returns its figures; what they
ought to be stands in `goals`.
"""

import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import cases
import generator
import serving
from pairs import Bench
from serving import Memory, Server

from service.settings import Settings

CONNECTIONS = 64
# A load generator can hold a rate only as long as its connections are not all waiting for answers.
PACE_CONNECTIONS = 64
STARTS = 5
SOAK_CASES = ("a_1", "b_256", "s_32", "a_32", "l_256", "b_1", "s_256", "a_256", "l_1", "b_32")
# Batching is what a limit of one row a batch turns off.
BATCH_SETTING = "batch_rows_limit"


class Start(NamedTuple):
    """Medians of several starts, before any request but the one that asks whether it is ready."""

    start_to_ready_s: float
    worker: Memory
    all_processes: Memory


class Pace(NamedTuple):
    """The same pace for the bound and our service: rates that came about, and p99 over p99."""

    bound_rate: float
    our_rate: float
    bound_p99_ms: float
    our_p99_ms: float

    @property
    def ratio(self) -> float:
        return self.our_p99_ms / self.bound_p99_ms


class TwoWorkers(NamedTuple):
    """Requests a CPU second, two workers over one, and how unevenly two workers share connections."""

    per_cpu_second: float
    spread: float


class Soak(NamedTuple):
    """Memory of all processes after a minute and at the end."""

    first: Memory
    last: Memory
    requests: int
    duration_s: float

    @property
    def growth(self) -> float:
        return self.last.rss_mb / self.first.rss_mb


def start(bench: Bench, repository: Path) -> Start:
    found = []
    for _ in range(STARTS if bench.plan.pairs > 2 else 2):
        with serving.service(repository, bench.cores.server) as server:
            worker = max((serving.memory([pid]) for pid in server.family()), key=lambda m: m.rss_mb)
            found.append((server.start_to_ready_s, worker, server.memory()))
    return Start(
        median(seconds for seconds, _, _ in found),
        _median_memory([worker for _, worker, _ in found]),
        _median_memory([every for _, _, every in found]),
    )


def _median_memory(found: list[Memory]) -> Memory:
    return Memory(median(one.rss_mb for one in found), median(one.pss_mb for one in found))


def batching(bench: Bench, repository: Path, name: str, form: cases.Form) -> float | None:
    """Rows a second with batching over the same without; None where it cannot be turned off."""
    if BATCH_SETTING not in Settings.model_fields:
        return None
    request = cases.WIRES[form].write(cases.make(name))
    off = "--" + BATCH_SETTING.replace("_", "-") + "=1"
    core = bench.cores.server
    ratios = []
    with serving.service(repository, core) as on, serving.service(repository, core, off) as without:
        if on.ask(request).status != cases.OK:
            return None
        for _ in range(bench.plan.pairs):
            rates = [bench.counted_load(one, request, CONNECTIONS).rate for one in (on, without)]
            ratios.append(rates[0] / rates[1])
    return median(ratios)


def pace(bench: Bench, ours: Server, name: str, peak_rate: float) -> Pace:
    """p99 of the bound and of our service, both asked at half of our peak rate."""
    request = cases.WIRES["json"].write(cases.make(name))
    pause_ms = 1000 * PACE_CONNECTIONS / (peak_rate / 2)
    with serving.bound(ours.ask(request), bench.cores.server) as bound:
        found = [
            (
                bench.load(bound, request, PACE_CONNECTIONS, pause_ms),
                bench.counted_load(ours, request, PACE_CONNECTIONS, pause_ms),
            )
            for _ in range(bench.plan.pairs)
        ]
    # The pair of the median ratio, so that its rates and times belong together.
    paces = [Pace(b.rate, o.rate, b.p99_ms, o.p99_ms) for b, o in found]
    return sorted(paces, key=lambda one: one.ratio)[len(paces) // 2]


def two_workers(bench: Bench, repository: Path) -> TwoWorkers:
    """Both services on the one core: what is compared is the work, not the number of CPUs."""
    request = cases.WIRES["json"].write(cases.make("a_1"))
    ratios, spreads = [], []
    core = bench.cores.server
    with (
        serving.service(repository, core) as one,
        serving.service(repository, core, "--workers=2") as two,
    ):
        for _ in range(bench.plan.pairs):
            rates = []
            for server in (one, two):
                before_s = server.cpu_s()
                load = bench.counted_load(server, request, CONNECTIONS)
                rates.append(load.requests / (server.cpu_s() - before_s))
            ratios.append(rates[1] / rates[0])
            spreads.append(spread(bench, two, request))
    return TwoWorkers(median(ratios), median(spreads))


def spread(bench: Bench, server: Server, request: cases.Request) -> float:
    """Connections of the busiest worker over those of the idlest, while a generator holds them."""
    core = bench.cores.generator
    with generator.holding(request, server.port, core=core, connections=CONNECTIONS):
        held = [serving.connections_of(pid, server.port) for pid in server.family()[1:]]
    return max(held) / max(1, min(held))


def soak(bench: Bench, ours: Server, duration_s: float) -> Soak:
    """Ask for mixed sizes in all forms that are served; memory is weighed after a minute and at the end."""
    requests = [wire.write(case) for case in map(cases.make, SOAK_CASES) for wire in cases.WIRES.values()]
    served = [request for request in requests if ours.ask(request).status == cases.OK]
    begun_s = time.monotonic()
    first, answered = None, 0
    while time.monotonic() < begun_s + duration_s:
        for request in served:
            answered += bench.counted_load(ours, request, 16).requests
            if first is None and time.monotonic() > begun_s + min(60.0, duration_s / 2):
                first = ours.memory()
            if time.monotonic() > begun_s + duration_s:
                break
    last = ours.memory()
    return Soak(first or last, last, answered, time.monotonic() - begun_s)
