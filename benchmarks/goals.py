"""The goals, and what of them a run reached.

Each goal is a ratio or an absolute figure that a sceptic can check; the best peer's figure stands beside it.
Nothing is measured here and nothing printed.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from candidates import SHAPES as GOAL_SHAPES
from kernel import GOAL, GOAL_LOG, Ratios
from pairs import Row, Unserved
from whole import Kernel, Pace, Soak, Start, TwoWorkers

CONNECTIONS = 16  # at which shares and efficiencies are compared
FORMS = ("json", "v2")  # npz is for convenience: a zip archive is slow to write for anybody
SMALL, LARGE = ("a_1", "a_32"), ("a_256", "b_1", "b_32", "b_256")
NOT_MEASURED = "not measured in this run"


class Found(NamedTuple):
    """Everything that a run measured; None for what it left out."""

    rows: Sequence[Row] = ()
    unserved: Sequence[Unserved] = ()
    start: Start | None = None
    batching_b: float | None = None
    batching_a: float | None = None
    quality: float | None = None
    pace: Pace | None = None
    workers: TwoWorkers | None = None
    kernel: Kernel | None = None
    soak: Soak | None = None


class Goal(NamedTuple):
    """One line of the table; `met` is None where nothing was measured."""

    what: str
    goal: str
    best_peer: str
    reached: str
    met: bool | None


def goals(found: Found) -> list[Goal]:
    at_16 = [row for row in found.rows if row.connections == CONNECTIONS]
    small_json = [row for row in at_16 if row.case == "a_1" and row.form == "json"]
    pace, workers, soak = found.pace, found.workers, found.soak
    return [
        _least("a_1 JSON, share of the bound", 0.55, "0.14", small_json, lambda row: row.share),
        _least("a_1, a_32: efficiency", 0.70, "about 0.2", _of(at_16, SMALL), lambda row: row.efficiency),
        _least("a_256, b_*: efficiency", 0.85, "about 0.2", _of(at_16, LARGE), lambda row: row.efficiency),
        _at_least("b_1 binary, 64 connections: batching on over off", 2, "PyTriton 3.4", found.batching_b),
        _at_least("a_1, 64 connections: batching on over off", 1, "", found.batching_a),
        _at_least("a_1 JSON, 64 connections: quality counted over not", 0.95, "", found.quality),
        _paced(_at_most("p99 at half of the peak rate over the bound's", 1.5, "", pace and pace.ratio), pace),
        _each("exact kernel over Softmax + ArgMax", GOAL, found.kernel, lambda one: one.over_both),
        _each("the same with log-probabilities", GOAL_LOG, found.kernel, lambda one: one.log_over_both),
        _at_least(
            "requests a CPU second, two workers over one", 0.95, "", workers and workers.per_cpu_second
        ),
        _at_most("connections, busiest of two workers over idlest", 1.5, "", workers and workers.spread),
        *_of_the_start(found.start),
        _at_most("memory at the end of a long mixed run over a minute's", 1.02, "", soak and soak.growth),
    ]


def _of_the_start(start: Start | None) -> list[Goal]:
    """Plain FastAPI's own figures of this run stand in place of those that were measured elsewhere."""
    ours, plain = start and start.ours, start and start.plain
    peer_mb = f"plain FastAPI {plain.worker.rss_mb:.0f}" if plain else "94 to 136"
    peer_s = f"plain FastAPI {plain.start_to_ready_s:.2f}" if plain else "1.9"
    return [
        _at_most("memory of one ready worker, MB", 110, peer_mb, ours and ours.worker.rss_mb),
        _at_most("the same over plain FastAPI's", 1.15, "", start and start.memory_ratio),
        _at_most("start to ready, s", 1.0, peer_s, ours and ours.start_to_ready_s),
    ]


def _of(rows: Sequence[Row], names: tuple[str, ...]) -> list[Row]:
    return [row for row in rows if row.case in names and row.form in FORMS]


def _least(what: str, least: float, peer: str, rows: Sequence[Row], value_of: Callable[[Row], float]) -> Goal:
    """A goal for each of several rows: it is met where the worst of them meets it."""
    if not rows:
        return Goal(what, f"≥ {least:.2f}", peer, NOT_MEASURED, None)
    values = {f"{row.case} {row.form}": value_of(row) for row in rows}
    reached = ", ".join(f"{name} {value:.2f}" for name, value in values.items())
    return Goal(what, f"≥ {least:.2f}", peer, reached, min(values.values()) >= least)


def _each(what: str, most: float, kernel: Kernel | None, ratio_of: Callable[[Ratios], float]) -> Goal:
    """A goal for each shape that has one: it is met where the worst of them meets it."""
    if kernel is None:
        return Goal(what, f"≤ {most:g}", "", NOT_MEASURED, None)
    ratios = {one.shape: ratio_of(one) for one in kernel.as_it_is if one.shape in GOAL_SHAPES}
    reached = ", ".join(f"{list(shape)} {ratio:.2f}" for shape, ratio in ratios.items())
    return Goal(what, f"≤ {most:g}", "", reached, max(ratios.values()) <= most)


def _paced(goal: Goal, pace: Pace | None) -> Goal:
    """Say at which rates: the generator waits whole milliseconds and only nears what it is asked for."""
    if pace is None:
        return goal
    return goal._replace(
        reached=f"{goal.reached}, at {pace.our_rate:.0f} and {pace.bound_rate:.0f} requests/s"
    )


def _at_least(what: str, least: float, peer: str, value: float | None) -> Goal:
    if value is None:
        return Goal(what, f"≥ {least:g}", peer, NOT_MEASURED, None)
    return Goal(what, f"≥ {least:g}", peer, f"{value:.4g}", value >= least)


def _at_most(what: str, most: float, peer: str, value: float | None) -> Goal:
    if value is None:
        return Goal(what, f"≤ {most:g}", peer, NOT_MEASURED, None)
    return Goal(what, f"≤ {most:g}", peer, f"{value:.4g}", value <= most)
