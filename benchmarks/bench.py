"""Our service against what is possible: the bound (bare uvicorn) and the floor of each request.

    python benchmarks/bench.py                          every case and goal, about half an hour
    python benchmarks/bench.py --quick                  a look in a minute
    python benchmarks/bench.py --cases b_32 --forms json --connections 1,64
    python benchmarks/bench.py --soak 600               ten minutes of mixed sizes beside the rest

Everything runs with the defaults that users get. A server has one core, wrk another; runs are interleaved, and
what is printed are medians of ratios. Every answer is compared with numpy before it is timed.
"""

import argparse
import datetime as dt
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import cases
import generator
import heads
import serving
import whole
from cases import Form
from goals import Found, Goal, goals
from pairs import Bench, NotCounted, Plan, Row, Unserved
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

LIBRARIES = ("numpy", "onnxruntime", "orjson", "uvicorn", "httptools", "uvloop", "fastapi")
QUICK = Plan(("a_1", "a_32", "b_1"), ("json", "npz", "v2"), (16,), pairs=2, duration_s=1)
FULL = Plan(cases.NAMES, ("json", "npz", "v2"), (1, 16, 64), pairs=5, duration_s=1)


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
    parser.add_argument(
        "--soak", type=float, default=0.0, metavar="S", help="seconds of mixed sizes, default none"
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


def measure(bench: Bench, soak_s: float, progress: Progress) -> tuple[Found, list[Unserved]]:
    repository = bench.models / "repository"
    rows: list[Row] = []
    unserved: list[Unserved] = []
    task = progress.add_task("start", total=len(bench.plan.names) * len(bench.plan.forms) + 5)

    def step(what: str) -> None:
        progress.update(task, description=what, advance=1)

    start = whole.start(bench, repository)
    with serving.service(repository, bench.cores.server) as ours:
        for case in map(cases.make, bench.plan.names):
            for form in bench.plan.forms:
                step(f"{case.name} {form}")
                found = bench.rows(case, form, ours)
                if isinstance(found, Unserved):
                    unserved.append(found)
                else:
                    rows += found
        step("pace")
        peak = next((row.rate for row in rows if row.case == "a_1" and row.form == "json"), None)
        pace = whole.pace(bench, ours, "a_1", peak) if peak else None
        soak = whole.soak(bench, ours, soak_s) if soak_s else None
    step("batching")
    batching_b = whole.batching(bench, repository, "b_1", "v2")
    batching_a = whole.batching(bench, repository, "a_1", "json")
    step("two workers")
    workers = whole.two_workers(bench, repository)
    return Found(rows, start, batching_b, batching_a, pace, workers, soak), unserved


def print_rows(console: Console, rows: Sequence[Row]) -> None:
    columns = (
        "case",
        "form",
        "connections",
        "requests/s",
        "bound/s",
        "share",
        "efficiency",
        "p50 ms",
        "p99 ms",
    )
    table = Table(*columns, "parse µs", "run µs", "write µs", title="against the bound and the floor")
    for row in rows:
        least = [
            min(getattr(pair.floor, part) for pair in row.pairs) for part in ("parse_s", "run_s", "write_s")
        ]
        table.add_row(
            row.case,
            row.form,
            str(row.connections),
            f"{row.rate:.0f}",
            f"{row.bound_rate:.0f}",
            f"{row.share:.2f}",
            f"{row.efficiency:.2f}",
            f"{row.p50_ms:.2f}",
            f"{row.p99_ms:.2f}",
            *(f"{1e6 * seconds:.1f}" for seconds in least),
        )
    console.print(table)


def print_start(console: Console, found: Found) -> None:
    if found.start is None:
        return
    table = Table(
        "", "RSS MB", "PSS MB", title=f"ready after {found.start.start_to_ready_s:.2f} s, two heads loaded"
    )
    for name, memory in (("the worker", found.start.worker), ("all processes", found.start.all_processes)):
        table.add_row(name, f"{memory.rss_mb:.0f}", f"{memory.pss_mb:.0f}")
    console.print(table)


def print_goals(console: Console, reached: Sequence[Goal]) -> None:
    table = Table(
        "what", "goal", "best peer", "reached", "", title="goals, at 16 connections where none are named"
    )
    for goal in reached:
        verdict = "" if goal.met is None else "met" if goal.met else "missed"
        table.add_row(goal.what, goal.goal, goal.best_peer, goal.reached, verdict)
    console.print(table)
    console.print("The exact kernel's goal is measured by benchmarks/kernel.py.")


def write_json(path: Path, plan: Plan, found: Found, reached: Sequence[Goal]) -> None:
    said = {
        "machine": machine(),
        "plan": plan._asdict(),
        "rows": [
            {
                "case": row.case,
                "form": row.form,
                "connections": row.connections,
                "share": row.share,
                "efficiency": row.efficiency,
                "pairs": [
                    {name: part._asdict() for name, part in pair._asdict().items()} for pair in row.pairs
                ],
            }
            for row in found.rows
        ],
        "goals": [goal._asdict() for goal in reached],
    }
    path.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    console = Console(width=max(Console().width, 140))
    try:
        plan = plan_of(options)
        generator.require()
        cores = serving.pick_cores()
        with (
            tempfile.TemporaryDirectory() as folder,
            Progress(console=Console(stderr=True), transient=True) as progress,
        ):
            heads.write(Path(folder))
            found, unserved = measure(Bench(cores, Path(folder), plan), options.soak, progress)
    except (serving.NoServer, cases.WrongAnswer, NotCounted, ValueError) as error:
        console.print(str(error))
        return 1
    reached = goals(found)
    console.print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print_rows(console, found.rows)
    for one in unserved:
        console.print(f"{one.case} as {one.form} is not served: status {one.status}")
    print_start(console, found)
    print_goals(console, reached)
    if options.json:
        write_json(options.json, plan, found, reached)
    return 0


if __name__ == "__main__":
    sys.exit(main())
