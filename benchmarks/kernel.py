"""Time the exact kernel beside onnxruntime's float32 Softmax and ArgMax, without sockets.

    python benchmarks/kernel.py                                             as this machine is
    NPY_DISABLE_CPU_FEATURES="X86_V4" python benchmarks/kernel.py           as a machine without AVX-512 is
    python benchmarks/kernel.py --candidates                                other ways to compute the same
    python benchmarks/kernel.py --json kernel.json                          all figures in a file

Both fetch probabilities and classes of the same float32 logits; ours are rounded once from the exact value.
A machine's speed drifts, so the two take turns, each figure is a ratio of processor times inside a turn, and
of all turns the median. The variable, read when numpy is imported, leaves onnxruntime its AVX-512: the ratio
without is a hard one.
"""

import argparse
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

# First: importing `service` turns onnxruntime's telemetry off.
from candidates import (
    FLOAT32,
    SOFTMAX_ALONE,
    Cost,
    Run,
    ours,
    ours_with_logarithms,
    repeats_of,
    runner,
    seconds,
)
from candidates import SHAPES as GOAL_SHAPES
from candidates import measure as measure_candidates

# isort: split
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

SHAPES = ((1, 10), (16, 10), *GOAL_SHAPES)
# The goals: ours over a session of Softmax and ArgMax, without and with log-probabilities.
GOAL, GOAL_LOG = 2.0, 3.0
# Read by numpy as it is imported.
WITHOUT = "NPY_DISABLE_CPU_FEATURES"


class Ratios(NamedTuple):
    """Medians for one shape [rows, classes]: microseconds of ours, and ours over a session."""

    shape: tuple[int, int]
    ours_us: float
    over_both: float
    over_softmax: float
    log_over_both: float


def measure(shape: tuple[int, int], turns: int) -> Ratios:
    logits = (3 * np.random.default_rng(shape).standard_normal(shape)).astype(np.float32)
    check(logits, ours, runner(FLOAT32))
    ways = (ours, ours_with_logarithms, runner(FLOAT32), runner(SOFTMAX_ALONE))
    works = [partial(way, logits) for way in ways]
    repeats = repeats_of(works[0])
    seen = [[seconds(work, repeats) for work in works] for _ in range(turns)]
    return Ratios(
        shape,
        ours_us=median(turn[0] for turn in seen) * 1e6,
        over_both=median(turn[0] / turn[2] for turn in seen),
        over_softmax=median(turn[0] / turn[3] for turn in seen),
        log_over_both=median(turn[1] / turn[2] for turn in seen),
    )


def check(logits: NDArray[np.float32], way: Run, peer: Run) -> None:
    """Time nothing that does not agree: classes alike, probabilities to float32's own accuracy."""
    for found, expected in zip(way(logits), peer(logits), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7, err_msg=str(logits.shape))


def table_of(rows: Sequence[Ratios], without: str | None) -> Table:
    table = Table(title=f"Exact kernel, float32: ours over an onnxruntime session{named(without)}")
    table.add_column("rows x classes")
    for heading in ("ours, µs", "Softmax + ArgMax", "Softmax alone", "log-probabilities too"):
        table.add_column(heading, justify="right")
    for row in rows:
        has_goal = row.shape in GOAL_SHAPES
        table.add_row(
            f"{row.shape[0]} x {row.shape[1]}",
            f"{row.ours_us:.1f}",
            judged(row.over_both, GOAL if has_goal else None),
            f"{row.over_softmax:.2f}",
            judged(row.log_over_both, GOAL_LOG if has_goal else None),
        )
    return table


def table_of_candidates(costs: list[Cost], without: str | None) -> Table:
    table = Table(title=f"Over Softmax + ArgMax, without / with log-probabilities{named(without)}")
    table.add_column("candidate")
    for rows, num_classes in GOAL_SHAPES:
        table.add_column(f"{rows} x {num_classes}", justify="right")
    table.add_column("error of a tiny log p", justify="right")
    for cost in costs:
        ratios = (f"{plain:.2f} / {log:.2f}" for plain, log in zip(cost.plain, cost.logarithms, strict=True))
        table.add_row(cost.name, *ratios, f"{cost.lost:.0e}")
    return table


def named(without: str | None) -> str:
    return f", numpy without {without}" if without else ""


def judged(ratio: float, goal: float | None) -> str:
    if goal is None:
        return f"{ratio:.2f}"
    return f"{ratio:.2f} ({'reached' if ratio <= goal else 'missed'}: {goal:.0f})"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=101, help="pairs of runs for each shape")
    parser.add_argument("--candidates", action="store_true", help="compare ways to compute the same")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the kept one's figures there as well"
    )
    options = parser.parse_args(arguments)
    console = Console(width=max(Console().width, 110))  # the widest table, unbroken
    without = os.environ.get(WITHOUT)
    if options.candidates:
        console.print(table_of_candidates(measure_candidates(options.turns), without))
        return
    rows = [measure(shape, options.turns) for shape in SHAPES]
    console.print(table_of(rows, without))
    if options.json:
        options.json.write_text(json.dumps([row._asdict() for row in rows], indent=1), encoding="utf-8")


def read_json(path: Path) -> tuple[Ratios, ...]:
    rows = json.loads(path.read_text(encoding="utf-8"))
    return tuple(Ratios(**{**row, "shape": tuple(row["shape"])}) for row in rows)


if __name__ == "__main__":
    main()
