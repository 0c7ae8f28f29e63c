"""Our service against what is possible: the bound (bare uvicorn) and the floor of each request.

    python benchmarks/bench.py                          every case and goal, about half an hour
    python benchmarks/bench.py --quick                  a look in a minute
    python benchmarks/bench.py --cases b_32 --forms json --connections 1,64
    python benchmarks/bench.py --soak 600               ten minutes of mixed sizes beside the rest
    python benchmarks/bench.py --only start,kernel      some parts alone: no other goals, no other time

Everything runs with the defaults that users get. A server has one core, wrk another; runs are interleaved, and
what is printed are medians of ratios. Every answer is compared with numpy before it is timed.
"""

import argparse
import datetime as dt
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import cases
import generator
import heads
import serving
import tables
import whole
from cases import Form
from goals import Found, goals
from pairs import Bench, NotCounted, Plan, Row, Unserved
from rich.console import Console
from rich.progress import Progress

LIBRARIES = ("numpy", "onnxruntime", "orjson", "uvicorn", "httptools", "uvloop", "fastapi")
QUICK = Plan(("a_1", "a_32", "b_1"), ("json", "npz", "v2"), (16,), pairs=2, duration_s=1)
FULL = Plan(cases.NAMES, ("json", "npz", "v2"), (1, 16, 64), pairs=5, duration_s=1)
# In the order in which they run; the last one only where it is asked for.
PARTS = ("start", "kernel", "cases", "pace", "batching", "quality", "workers", "soak")
SOAK_S = 600.0
# What ends one part: a server that does not start, is wrong, or counts other requests than were made.
FAILURES = (serving.NoServer, cases.WrongAnswer, NotCounted, subprocess.CalledProcessError)


def machine() -> dict[str, Any]:
    """Where and with what this was measured."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "cpu": cpu,
        "python": platform.python_version(),
        "generator": "real-time priority" if generator.real_time() else "normal priority",
        **{name: version(name) for name in LIBRARIES},
    }


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three cases, two pairs, one second each")
    parser.add_argument("--cases", help=f"comma-separated, default {','.join(cases.NAMES)}")
    parser.add_argument("--forms", help="comma-separated: json, npz, v2 (default all)")
    parser.add_argument("--connections", help="comma-separated, default 1,16,64")
    parser.add_argument("--duration", type=int, metavar="S", help="seconds of one run, default 1")
    parser.add_argument("--pairs", type=int, metavar="N", help="pairs of runs, default 5")
    parser.add_argument("--only", metavar="PARTS", help=f"comma-separated: {', '.join(PARTS)}")
    parser.add_argument(
        "--soak", type=float, metavar="S", help=f"seconds of mixed sizes, default none, alone {SOAK_S:g}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")
    return parser.parse_args(arguments)


def plan_of(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else FULL
    if options.cases:
        plan = plan._replace(names=tuple(options.cases.split(",")))
    if options.forms:
        plan = plan._replace(forms=cast("tuple[Form, ...]", tuple(options.forms.split(","))))
    if options.connections:
        plan = plan._replace(connections=tuple(map(int, options.connections.split(","))))
    unknown = set(plan.forms) - set(cases.WIRES)
    if unknown:
        raise ValueError(f"expected forms of {', '.join(cases.WIRES)}, got {', '.join(sorted(unknown))}")
    for name in plan.names:
        cases.make(name)  # a slip of the hand should not be found after half an hour
    return plan._replace(pairs=options.pairs or plan.pairs, duration_s=options.duration or plan.duration_s)


def parts_of(options: argparse.Namespace) -> tuple[str, ...]:
    if options.only is None:
        return PARTS if options.soak else PARTS[:-1]
    chosen = set(options.only.split(","))
    if not chosen <= set(PARTS):
        raise ValueError(
            f"expected parts of {', '.join(PARTS)}, got {', '.join(sorted(chosen - set(PARTS)))}"
        )
    return tuple(part for part in PARTS if part in chosen)


def measure(
    bench: Bench, parts: Sequence[str], soak_s: float, progress: Progress
) -> tuple[Found, dict[str, str]]:
    """Measure these parts; of one that fails the reason is kept, and the others go on."""
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "start": lambda: {"start": whole.start(bench)},
        "kernel": lambda: {"kernel": whole.kernel(bench)},
        "cases": lambda: measure_cases(bench, progress),
        "pace": lambda: {"pace": whole.pace(bench, "a_1")},
        "batching": lambda: {
            "batching_b": whole.batching(bench, "b_1", "v2"),
            "batching_a": whole.batching(bench, "a_1", "json"),
        },
        "quality": lambda: {"quality": whole.quality(bench)},
        "workers": lambda: {"workers": whole.two_workers(bench)},
        "soak": lambda: {"soak": whole.soak(bench, soak_s)},
    }
    found = Found()
    failed: dict[str, str] = {}
    for part in progress.track(parts, description="parts"):
        try:
            found = found._replace(**measures[part]())
        except FAILURES as error:
            failed[part] = str(error)
    return found, failed


def measure_cases(bench: Bench, progress: Progress) -> dict[str, Any]:
    rows: list[Row] = []
    unserved: list[Unserved] = []
    task = progress.add_task("cases", total=len(bench.plan.names) * len(bench.plan.forms))
    with serving.service(bench.models / "repository", bench.cores.server) as ours:
        for case in map(cases.make, bench.plan.names):
            for form in bench.plan.forms:
                progress.update(task, description=f"{case.name} {form}")
                found = bench.rows(case, form, ours)
                if isinstance(found, Unserved):
                    unserved.append(found)
                else:
                    rows += found
                progress.advance(task)
    return {"rows": rows, "unserved": unserved}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    console = Console(width=max(Console().width, 140))
    try:
        plan, parts = plan_of(options), parts_of(options)
        generator.require()
        cores = serving.pick_cores()
        with (
            tempfile.TemporaryDirectory() as folder,
            Progress(console=Console(stderr=True), transient=True) as progress,
        ):
            heads.write(Path(folder))
            bench = Bench(cores, Path(folder), plan)
            found, failed = measure(bench, parts, options.soak or SOAK_S, progress)
    except (serving.NoServer, ValueError) as error:
        console.print(str(error))
        return 1
    reached = goals(found)
    where = machine()
    console.print(", ".join(f"{name} {value}" for name, value in where.items()))
    tables.print_found(console, found)
    tables.print_goals(console, reached)
    for part, reason in failed.items():
        console.print(f"{part} failed: {reason}", markup=False)
    if options.json:
        tables.write_json(options.json, where, plan, found, reached)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
