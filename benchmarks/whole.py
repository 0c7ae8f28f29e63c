"""The service as a whole: start, memory, batching, quality, two workers, an even pace, a long run; and its kernel alone.

What one case at full speed does not show. Each function measures one thing, on servers that it starts itself,
and returns its figures; what they ought to be stands in `goals`.
"""

import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

import adapters
import cases
import generator
import kernel as exact_kernel
import serving
from kernel import Ratios
from pairs import SETTLE_ATTEMPTS, SETTLE_S, Bench, NotCounted
from serving import Memory, Server

CONNECTIONS = 64
# A load generator can hold a rate only as long as its connections are not all waiting for answers.
PACE_CONNECTIONS = 64
# Times the length of other runs: the slowest hundredth of a short one is a few dozen requests, and among these are
# the first ones, which wait while all the connections are accepted.
PACE_TIMES = 5
STARTS = 5
# The head of a peer that serves only one: the large one, which does us no favour in its memory.
PLAIN_HEAD = "b"
MINUTE_S = 60.0
# What takes AVX-512 from numpy.
AVX2 = "X86_V4"
# The kernel's turns take milliseconds, the pairs of servers seconds.
KERNEL_TURNS_A_PAIR = 20
SOAK_CONNECTIONS = 16
SOAK_CASES = ("a_1", "b_256", "s_32", "a_32", "l_256", "b_1", "s_256", "a_256", "l_1", "b_32")


class Weighed(NamedTuple):
    """Medians of several starts, before any request but those that ask whether the server is ready."""

    start_to_ready_s: float
    worker: Memory
    all_processes: Memory


class Start(NamedTuple):
    """Our service with two heads, and plain FastAPI with one of them, started in turns."""

    ours: Weighed
    plain: Weighed

    @property
    def memory_ratio(self) -> float:
        return self.ours.worker.rss_mb / self.plain.worker.rss_mb


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


class Sample(NamedTuple):
    """Memory of all processes at a time since the beginning."""

    elapsed_s: float
    memory: Memory


class Soak(NamedTuple):
    """A sample after each minute, the last one at the end."""

    samples: tuple[Sample, ...]
    requests: int

    @property
    def growth(self) -> float:
        return self.samples[-1].memory.rss_mb / self.samples[0].memory.rss_mb


class Kernel(NamedTuple):
    """The exact kernel over onnxruntime's, on this machine as it is and with numpy at AVX2."""

    as_it_is: tuple[Ratios, ...]
    at_avx2: tuple[Ratios, ...]


def start(bench: Bench) -> Start:
    ours, plain = [], []
    for _ in range(min(STARTS, bench.plan.pairs)):
        with serving.service(bench.models / "repository", bench.cores.server) as server:
            ours.append(_weigh(server))
        with plain_fastapi(bench) as server:
            plain.append(_weigh(server))
    return Start(_median(ours), _median(plain))


@contextlib.contextmanager
def plain_fastapi(bench: Bench) -> Iterator[Server]:
    """The peer as `peers.py` starts it, but from our own environment, which has all that it needs."""
    peer = adapters.named("plain FastAPI")
    with tempfile.TemporaryDirectory() as folder:
        place = adapters.Place(Path(sys.executable).parent, Path(folder), serving.free_port())
        with serving.running(
            peer.command(place),
            place.port,
            core=bench.cores.server,
            is_ready=serving.answers_ok(peer.ready_path),
            environment=adapters.environment(peer, place, bench.models / f"{PLAIN_HEAD}.onnx"),
            folder=place.folder,
        ) as server:
            yield server


def _weigh(server: Server) -> Weighed:
    worker = max((serving.memory([pid]) for pid in server.family()), key=lambda memory: memory.rss_mb)
    return Weighed(server.start_to_ready_s, worker, server.memory())


def _median(found: list[Weighed]) -> Weighed:
    return Weighed(
        median(one.start_to_ready_s for one in found),
        _median_memory([one.worker for one in found]),
        _median_memory([one.all_processes for one in found]),
    )


def _median_memory(found: list[Memory]) -> Memory:
    return Memory(median(one.rss_mb for one in found), median(one.pss_mb for one in found))


def batching(bench: Bench, name: str, form: cases.Form) -> float | None:
    """Rows a second with batching over the same without; None where the service does not take the case."""
    return on_over_off(bench, name, form, "--batch-rows-limit=1")


def quality(bench: Bench) -> float | None:
    """Rows a second with quality counted over the same without, of the smallest requests."""
    return on_over_off(bench, "a_1", "json", "--quality=off")


def on_over_off(bench: Bench, name: str, form: cases.Form, off: str) -> float | None:
    """Rows a second of the service as it is over those with a flag that takes something away."""
    request = cases.WIRES[form].write(cases.make(name))
    repository, core = bench.models / "repository", bench.cores.server
    ratios = []
    with serving.service(repository, core) as on, serving.service(repository, core, off) as without:
        if on.ask(request).status != cases.OK:
            return None
        for _ in range(bench.plan.pairs):
            rates = [bench.counted_load(one, request, CONNECTIONS).rate for one in (on, without)]
            ratios.append(rates[0] / rates[1])
    return median(ratios)


def pace(bench: Bench, name: str) -> Pace:
    """p99 of the bound and of our service, both asked at half of our peak rate."""
    request = cases.WIRES["json"].write(cases.make(name))
    core = bench.cores.server
    with (
        serving.service(bench.models / "repository", core) as ours,
        serving.bound(ours.ask(request), core) as bound,
    ):
        peak = median(
            bench.counted_load(ours, request, PACE_CONNECTIONS).rate for _ in range(bench.plan.pairs)
        )
        return paced(bench, bound, ours, request, peak / 2)


def paced(bench: Bench, bound: Server, ours: Server, request: cases.Request, rate: float) -> Pace:
    """Ask both for about `rate` requests a second: of several pairs of runs that of the median ratio."""
    pause_ms = 1000 * PACE_CONNECTIONS / rate
    longer = bench._replace(plan=bench.plan._replace(duration_s=PACE_TIMES * bench.plan.duration_s))
    found = []
    for _ in range(bench.plan.pairs):
        theirs = longer.load(bound, request, PACE_CONNECTIONS, pause_ms)
        own = longer.counted_load(ours, request, PACE_CONNECTIONS, pause_ms)
        found.append(Pace(theirs.rate, own.rate, theirs.p99_ms, own.p99_ms))
    # One pair, so that its rates and times belong together.
    return sorted(found, key=lambda one: one.ratio)[len(found) // 2]


def two_workers(bench: Bench) -> TwoWorkers:
    """Both services on the one core: what is compared is the work, not the number of CPUs."""
    request = cases.WIRES["json"].write(cases.make("a_1"))
    ratios, spreads = [], []
    repository, core = bench.models / "repository", bench.cores.server
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
        held = connections_of_workers(server, CONNECTIONS)
    return max(held) / max(1, min(held))


def connections_of_workers(server: Server, expected: int) -> list[int]:
    """How many connections each worker holds, once all are theirs.

    A new one waits in the kernel first, and may then be in the hands of whoever passes it on to a worker.
    """
    for _ in range(SETTLE_ATTEMPTS):
        held = [serving.connections_of(pid, server.port) for pid in server.workers()]
        if sum(held) == expected:
            return held
        time.sleep(SETTLE_S)
    raise NotCounted(f"the workers hold {held} connections, and {expected} were made")


def soak(bench: Bench, duration_s: float) -> Soak:
    """Ask for mixed sizes in all forms that are served, and weigh all processes after each minute.

    They are weighed after one and the same request: what has just been asked leaves up to a tenth more or less in
    the hands of the C library.
    """
    requests = [wire.write(case) for case in map(cases.make, SOAK_CASES) for wire in cases.WIRES.values()]
    with serving.service(bench.models / "repository", bench.cores.server) as ours:
        served = [request for request in requests if ours.ask(request).status == cases.OK]
        # Less than two minutes are halved, so that there always is something to compare.
        interval_s = min(MINUTE_S, duration_s / 2)
        samples: list[Sample] = []
        begun_s, answered = time.monotonic(), 0
        for request in itertools.cycle(served):
            answered += bench.counted_load(ours, request, SOAK_CONNECTIONS).requests
            elapsed_s = time.monotonic() - begun_s
            if request is served[-1] and elapsed_s >= min(interval_s * (len(samples) + 1), duration_s):
                samples.append(Sample(elapsed_s, ours.memory()))
                if elapsed_s >= duration_s:
                    break
    return Soak(tuple(samples), answered)


def kernel(bench: Bench) -> Kernel:
    turns, core = KERNEL_TURNS_A_PAIR * bench.plan.pairs, bench.cores.server
    return Kernel(kernel_alone(core, turns), kernel_alone(core, turns, {exact_kernel.WITHOUT: AVX2}))


def kernel_alone(core: int, turns: int, variables: Mapping[str, str] | None = None) -> tuple[Ratios, ...]:
    """Measure in a process of its own: the variables are read at its start, and no other work is in its heap."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.json"
        command = ["taskset", "--cpu-list", str(core), sys.executable, exact_kernel.__file__]
        command += [f"--turns={turns}", f"--json={file}"]
        environment = {**os.environ, "PYTHONPATH": str(serving.ROOT), **(variables or {})}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)  # noqa: S603 - our own command
        return exact_kernel.read_json(file)
