"""What a run found, as tables and as a file.

Nothing is measured here and nothing judged.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kernel
from goals import Found, Goal
from pairs import Plan, Row
from rich.console import Console
from rich.table import Table
from whole import AVX2, Kernel, Soak, Start


def print_found(console: Console, found: Found) -> None:
    """Print the tables of what was measured, and none of what was not."""
    if found.rows:
        print_rows(console, found.rows)
    for one in found.unserved:
        console.print(f"{one.case} as {one.form} is not served: status {one.status}")
    if found.start:
        print_start(console, found.start)
    if found.kernel:
        print_kernel(console, found.kernel)
    if found.soak:
        print_soak(console, found.soak)


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


def print_start(console: Console, start: Start) -> None:
    table = Table("", "start to ready, s", "RSS MB", "PSS MB", title="ready, before the first request")
    for name, one, memory in (
        ("logitserve with two heads: its worker", start.ours, start.ours.worker),
        ("all its processes", start.ours, start.ours.all_processes),
        ("plain FastAPI with the larger one of them", start.plain, start.plain.all_processes),
    ):
        table.add_row(name, f"{one.start_to_ready_s:.2f}", f"{memory.rss_mb:.0f}", f"{memory.pss_mb:.0f}")
    console.print(table)


def print_kernel(console: Console, found: Kernel) -> None:
    console.print(kernel.table_of(found.as_it_is, None))
    console.print(kernel.table_of(found.at_avx2, AVX2))


def print_soak(console: Console, soak: Soak) -> None:
    first = soak.samples[0].memory
    caption = f"{soak.requests} requests of mixed sizes"
    columns = ("minutes", "RSS MB", "over the first", "PSS MB")
    table = Table(*columns, title="memory of all processes", caption=caption)
    for elapsed_s, memory in soak.samples:
        ratio = memory.rss_mb / first.rss_mb
        table.add_row(f"{elapsed_s / 60:.1f}", f"{memory.rss_mb:.1f}", f"{ratio:.3f}", f"{memory.pss_mb:.1f}")
    console.print(table)


def print_goals(console: Console, reached: Sequence[Goal]) -> None:
    table = Table(
        "what", "goal", "best peer", "reached", "", title="goals, at 16 connections where none are named"
    )
    for goal in reached:
        verdict = "" if goal.met is None else "met" if goal.met else "missed"
        table.add_row(goal.what, goal.goal, goal.best_peer, goal.reached, verdict)
    console.print(table)


def write_json(
    path: Path, machine: dict[str, Any], plan: Plan, found: Found, reached: Sequence[Goal]
) -> None:
    figures = plain(found)
    for said, row in zip(figures["rows"], found.rows, strict=True):
        said |= {"share": row.share, "efficiency": row.efficiency}
    said = {"machine": machine, "plan": plain(plan), **figures, "goals": plain(reached)}
    path.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """Make dicts of named tuples, at any depth; JSON would make lists of them."""
    if hasattr(value, "_asdict"):
        return {name: plain(member) for name, member in value._asdict().items()}
    return [plain(member) for member in value] if isinstance(value, (list, tuple)) else value
