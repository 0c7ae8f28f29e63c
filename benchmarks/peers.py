"""Our service beside its peers: the same head, one worker each, all on one core, one after the other.

    python benchmarks/peers.py                                      every peer, every case
    python benchmarks/peers.py --peers plainfastapi,mlserver --cases a_1,b_32 --pairs 2
    python benchmarks/peers.py --check                              are they all there, and right? nothing is timed

Each peer gets an environment of its own, which is kept (--cache). One whose installation or start fails is named
with the reason, and the others go on. Every answer is compared with numpy before it is timed; a server whose
answers are wrong is not. In each pair the bound, ours and the peer follow one another.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from statistics import median
from typing import NamedTuple

import adapters
import cases
import generator
import heads
import serving
from adapters import Dialect, Peer, Place
from bench import machine
from cases import Answer, Case, Request
from generator import Load
from pairs import Bench, NotCounted, Plan
from rich.console import Console
from rich.table import Table
from serving import Memory, NoServer, Server

CASES = ("a_1", "a_32", "a_256", "b_1", "b_32", "b_256")
CONNECTIONS = 16
# Where an interpreter is looked for: the one that runs this comes first.
INTERPRETERS = (sys.executable, "python3.12", "python3.11", "/usr/bin/python3")
INSTALL_TIMEOUT_S = 1800
ERROR_LINES = 3


class Round(NamedTuple):
    """The bound, our service and a peer, one right after the other."""

    bound: Load
    ours: Load
    peer: Load


class Compared(NamedTuple):
    """One case in one dialect of a peer, beside ours in JSON or binary."""

    peer: str
    dialect: str
    case: str
    rounds: tuple[Round, ...]

    @property
    def share(self) -> float:
        return median(one.peer.rate / one.bound.rate for one in self.rounds)

    @property
    def our_share(self) -> float:
        return median(one.ours.rate / one.bound.rate for one in self.rounds)

    @property
    def times(self) -> float:
        """Our rate over the peer's."""
        return median(one.ours.rate / one.peer.rate for one in self.rounds)

    @property
    def latencies_ms(self) -> tuple[float, float, float, float]:
        """The peer's p50, ours, the peer's p99, ours."""
        return (
            median(one.peer.p50_ms for one in self.rounds),
            median(one.ours.p50_ms for one in self.rounds),
            median(one.peer.p99_ms for one in self.rounds),
            median(one.ours.p99_ms for one in self.rounds),
        )


class Weighed(NamedTuple):
    """A server, ready and not yet asked: all its processes."""

    name: str
    start_to_ready_s: float
    memory: Memory


class Failed(NamedTuple):
    """A peer, or one of its cases, and why there is no figure."""

    what: str
    reason: str


class Outcome(NamedTuple):
    """Everything that a run found."""

    compared: list[Compared]
    weighed: list[Weighed]
    failed: list[Failed]


class Uninstalled(Exception):
    """A peer's packages cannot be had here."""


def interpreter_for(peer: Peer, candidates: Sequence[str] = INTERPRETERS) -> str:
    """The first interpreter that meets the peer's needs; raise `Uninstalled` with the needs where none does."""
    for program in peer.programs:
        if shutil.which(program) is None:
            raise Uninstalled(f"needs {program} on the PATH")
    met = " and ".join([f"({need.expression})" for need in peer.needs] or ["True"])
    # Debian's interpreters make no environments without ensurepip, which is in a package of its own.
    # The real path, so that an environment made once serves every checkout.
    probe = (
        f"import ensurepip, os, sys, sysconfig; {met} or sys.exit(1); print(os.path.realpath(sys.executable))"
    )
    for candidate in candidates:
        with contextlib.suppress(Uninstalled):
            return _run([candidate, "-c", probe]).strip()
    needs = ", ".join([*(need.what for need in peer.needs), "ensurepip"])
    raise Uninstalled(f"needs an interpreter with {needs}; looked at {', '.join(candidates)}")


def install(peer: Peer, cache: Path, interpreter: str) -> Path:
    """Make the peer's environment, or find the one made before; return the folder of its programs."""
    folder = cache / peer.name.replace(" ", "-").lower()
    done = folder / "installed.txt"
    wanted = "\n".join([interpreter, *peer.packages])
    if not done.exists() or done.read_text(encoding="utf-8") != wanted:
        python = str(folder / "bin" / "python")
        _run([interpreter, "-m", "venv", "--clear", str(folder)])
        _run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.packages])
        done.write_text(wanted, encoding="utf-8")
    return folder / "bin"


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, env=environment
        )
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.strip() and "WARNING" not in line]
        raise Uninstalled(" ".join(lines[-ERROR_LINES:]) or f"exit {error.returncode}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Uninstalled(str(error)) from error
    return done.stdout


def free_port_of_three() -> int:
    """A port that is free with the two above it, which gRPC and metrics take; raise `NoServer` if none is."""
    for _ in range(100):
        port = serving.free_port()
        if all(serving.is_free(port + above) for above in (1, 2)):
            return port
    raise NoServer("no three free ports in a row")


@contextlib.contextmanager
def serving_peer(peer: Peer, programs: Path, model: Path, core: int) -> Iterator[Server]:
    """A peer that serves `model` from a folder of its own until the block ends."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        place = Place(programs, Path(folder), free_port_of_three())
        environment = adapters.environment(peer, place, model)
        peer.write_files(place)
        if peer.prepare:
            _run(peer.prepare(place), environment)
        with serving.running(
            peer.command(place),
            place.port,
            core=core,
            is_ready=serving.answers_ok(peer.ready_path, peer.ready_text),
            environment=environment,
            folder=place.folder,
        ) as server:
            yield server


def ask(server: Server, dialect: Dialect, case: Case) -> Request:
    """Ask once; return the request, which is answered rightly, or raise `WrongAnswer`."""
    request = dialect.write(case)
    answer = server.ask(request)
    if answer.status != cases.OK:
        raise cases.WrongAnswer(f"status {answer.status}: {answer.body[:100]!r}")
    cases.check(case, dialect.read(answer))
    return request


class Check:
    """Install, start, weigh and ask peers; whoever also times them does so in `answered`."""

    def __init__(self, models: Path, names: Sequence[str], core: int, console: Console) -> None:
        self.models = models
        self.cases = [cases.make(name) for name in names]
        self.core = core
        self.console = console
        self.outcome = Outcome([], [], [])
        self.num_right = 0

    def answered(self, peer: Peer, dialect: Dialect, case: Case, request: Request, server: Server) -> None:
        """Take note of a right answer."""

    def add(self, peer: Peer, cache: Path) -> None:
        self.console.print(f"{peer.name}: installing, unless it is there")
        try:
            programs = install(peer, cache, interpreter_for(peer))
            # A peer serves one file at a time; small and large heads each get a start of their own.
            for letter in dict.fromkeys(case.model for case in self.cases):
                self._serve(peer, programs, letter)
        except (Uninstalled, NoServer) as error:
            self.outcome.failed.append(Failed(peer.name, str(error)))

    def _serve(self, peer: Peer, programs: Path, letter: str) -> None:
        with serving_peer(peer, programs, self.models / f"{letter}.onnx", self.core) as server:
            name = f"{peer.name}, head {letter}"
            self.outcome.weighed.append(Weighed(name, server.start_to_ready_s, server.memory()))
            for case in self.cases:
                for dialect in peer.dialects if case.model == letter else ():
                    self._ask(peer, dialect, case, server)

    def _ask(self, peer: Peer, dialect: Dialect, case: Case, server: Server) -> None:
        what = f"{peer.name}, {case.name} {dialect.name}"
        self.console.print(what)
        try:
            request = ask(server, dialect, case)
            self.num_right += 1
            self.answered(peer, dialect, case, request, server)
        except (cases.WrongAnswer, NotCounted, OSError, HTTPException, KeyError, ValueError) as error:
            self.outcome.failed.append(Failed(what, f"{type(error).__name__}: {error}"))


class Comparison(Check):
    """One run over all peers that times them."""

    def __init__(self, bench: Bench, ours: Server, console: Console) -> None:
        super().__init__(bench.models, bench.plan.names, bench.cores.server, console)
        self.bench = bench
        self.ours = ours

    def answered(self, peer: Peer, dialect: Dialect, case: Case, request: Request, server: Server) -> None:
        rounds = self._rounds(dialect, request, case, server)
        self.outcome.compared.append(Compared(peer.name, dialect.name, case.name, rounds))

    def _rounds(self, dialect: Dialect, request: Request, case: Case, server: Server) -> tuple[Round, ...]:
        ours, answer = self._our_request(case, binary=dialect is adapters.V2_BINARY)
        rounds = []
        with serving.bound(answer, self.bench.cores.server) as bound:
            for _ in range(self.bench.plan.pairs):
                one = Round(
                    self.bench.load(bound, ours, CONNECTIONS),
                    self.bench.counted_load(self.ours, ours, CONNECTIONS),
                    self.bench.load(server, request, CONNECTIONS),
                )
                if one.peer.failed or not one.peer.requests:
                    raise NotCounted(f"{one.peer.failed} of {one.peer.requests} requests failed")
                rounds.append(one)
        return tuple(rounds)

    def _our_request(self, case: Case, *, binary: bool) -> tuple[Request, Answer]:
        wire = cases.WIRES["v2" if binary else "json"]
        request = wire.write(case)
        answer = self.ours.ask(request)
        if answer.status != cases.OK:
            raise NotCounted(f"ours answered {answer.status}")
        cases.check(case, wire.read(answer))
        return request, answer


def print_compared(console: Console, outcome: Outcome) -> None:
    columns = ("peer", "form", "case", "share of the bound", "ours", "ours over the peer")
    table = Table(*columns, "p50 ms", "ours", "p99 ms", "ours", title=f"{CONNECTIONS} connections, medians")
    for row in outcome.compared:
        table.add_row(
            row.peer,
            row.dialect,
            row.case,
            f"{row.share:.3f}",
            f"{row.our_share:.3f}",
            f"{row.times:.1f}",
            *(f"{latency_ms:.2f}" for latency_ms in row.latencies_ms),
        )
    console.print(table)


def print_weighed(console: Console, outcome: Outcome) -> None:
    table = Table("server", "start to ready, s", "RSS MB", "PSS MB", title="ready, before the first request")
    for one in outcome.weighed:
        table.add_row(
            one.name,
            f"{one.start_to_ready_s:.2f}",
            f"{one.memory.rss_mb:.0f}",
            f"{one.memory.pss_mb:.0f}",
        )
    console.print(table)
    for failed in outcome.failed:
        console.print(f"{failed.what}: {failed.reason}", style="yellow", markup=False)
    console.print(
        "TensorFlow Serving, OpenVINO Model Server and a Triton without Python are in no package registry."
    )


def print_outcome(console: Console, outcome: Outcome) -> None:
    print_compared(console, outcome)
    print_weighed(console, outcome)


def write_json(path: Path, outcome: Outcome) -> None:
    said = {
        "machine": machine(),
        "compared": [
            {
                **row._asdict(),
                "share": row.share,
                "ours_over_peer": row.times,
                "rounds": [
                    {who: load._asdict() for who, load in one._asdict().items()} for one in row.rounds
                ],
            }
            for row in outcome.compared
        ],
        "weighed": [{**one._asdict(), "memory": one.memory._asdict()} for one in outcome.weighed],
        "failed": [one._asdict() for one in outcome.failed],
    }
    path.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ",".join(peer.name.replace(" ", "").lower() for peer in adapters.PEERS)
    parser.add_argument("--peers", default=names, help=f"comma-separated, default {names}")
    parser.add_argument(
        "--cases", default=",".join(CASES), help=f"comma-separated, default {','.join(CASES)}"
    )
    parser.add_argument("--pairs", type=int, default=5, metavar="N", help="rounds of each case, default 5")
    parser.add_argument("--duration", type=int, default=1, metavar="S", help="seconds of one run, default 1")
    parser.add_argument("--cache", type=Path, default=serving.ROOT / ".bench-peers", metavar="DIR")
    parser.add_argument("--check", action="store_true", help="ask each case once and time nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")
    return parser.parse_args(arguments)


def check(chosen: Sequence[Peer], names: Sequence[str], cache: Path, console: Console) -> int:
    with tempfile.TemporaryDirectory() as folder:
        heads.write(Path(folder))
        one = Check(Path(folder), names, min(os.sched_getaffinity(0)), console)
        for peer in chosen:
            one.add(peer, cache)
    print_weighed(console, one.outcome)
    console.print(f"{one.num_right} answers right")
    return 1 if one.outcome.failed else 0


def compare(
    chosen: Sequence[Peer], options: argparse.Namespace, names: tuple[str, ...], console: Console
) -> None:
    generator.require()
    cores = serving.pick_cores()
    plan = Plan(names, ("json", "v2"), (CONNECTIONS,), options.pairs, options.duration)
    with tempfile.TemporaryDirectory() as folder:
        heads.write(Path(folder))
        bench = Bench(cores, Path(folder), plan)
        with serving.service(bench.models / "repository", cores.server) as ours:
            comparison = Comparison(bench, ours, console)
            weighed = Weighed("logitserve, both heads", ours.start_to_ready_s, ours.memory())
            comparison.outcome.weighed.append(weighed)
            for peer in chosen:
                comparison.add(peer, options.cache.resolve())
    print_outcome(console, comparison.outcome)
    if options.json:
        write_json(options.json, comparison.outcome)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    console = Console(width=max(Console().width, 120))
    try:
        chosen = [adapters.named(name) for name in options.peers.split(",")]
        names = tuple(options.cases.split(","))
        if any(cases.make(name).operation != "predict" for name in names):
            raise ValueError("peers serve heads: expected cases a_N and b_N")  # noqa: TRY301
        if options.check:
            return check(chosen, names, options.cache.resolve(), console)
        compare(chosen, options, names, console)
    except (NoServer, ValueError) as error:
        console.print(str(error), markup=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
