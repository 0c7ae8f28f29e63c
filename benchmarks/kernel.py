"""Time the exact kernel beside onnxruntime's float32 Softmax and ArgMax, without sockets.

    python benchmarks/kernel.py                                             as this machine is
    NPY_DISABLE_CPU_FEATURES="X86_V4" python benchmarks/kernel.py           as a machine without AVX-512 is

Both fetch probabilities and classes of the same float32 logits; ours are rounded once from the exact value.
A machine's speed drifts, so the two take turns, each figure is a ratio inside a turn, and of all turns the
median. The variable, read when numpy is imported, leaves onnxruntime its AVX-512: the ratio without is a hard one.
"""

import argparse
import os
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

from service.numeric.softmax import normalise  # first: importing `service` turns onnxruntime's telemetry off

# isort: split
import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table

SHAPES = ((1, 10), (16, 10), (256, 10), (256, 1000), (8, 50_000))
# The goals: ours over a session of Softmax and ArgMax, without and with log-probabilities.
GOAL, GOAL_LOG = 2.0, 3.0
GOAL_SHAPES = frozenset(SHAPES[2:])
# A turn is long enough for the clock and short enough that nothing drifts in it.
TURN_S = 2e-3

Work = Callable[[], object]


class Ratios(NamedTuple):
    """Medians for one shape: microseconds of ours, and ours over a session."""

    shape: tuple[int, int]
    ours_us: float
    over_both: float
    over_softmax: float
    log_over_both: float


def session(*, classes: bool) -> ort.InferenceSession:
    """A graph of Softmax alone, or with ArgMax beside it, on one thread."""
    nodes = [helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1)]
    outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", "num_classes"])]
    if classes:
        nodes.append(helper.make_node("ArgMax", ["logits"], ["classes"], axis=-1, keepdims=0))
        outputs.append(helper.make_tensor_value_info("classes", TensorProto.INT64, ["rows"]))
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", "num_classes"])
    graph = helper.make_graph(nodes, "peer", [logits], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def ours(logits: NDArray[np.float32], *, log_probabilities: bool = False) -> tuple[object, ...]:
    normalised = normalise(logits)
    answers = (normalised.probabilities(), normalised.classes)
    return (*answers, normalised.log_probabilities()) if log_probabilities else answers


def measure(shape: tuple[int, int], turns: int) -> Ratios:
    logits = (3 * np.random.default_rng(shape).standard_normal(shape)).astype(np.float32)
    softmax, both = session(classes=False), session(classes=True)
    works: list[Work] = [
        lambda: ours(logits),
        lambda: ours(logits, log_probabilities=True),
        lambda: both.run(None, {"logits": logits}),
        lambda: softmax.run(None, {"logits": logits}),
    ]
    check(shape, works[0], works[2])
    repeats = max(1, int(TURN_S / min(seconds(works[0], 1) for _ in range(5))))
    seen = [[seconds(work, repeats) for work in works] for _ in range(turns)]
    return Ratios(
        shape,
        ours_us=median(turn[0] for turn in seen) * 1e6,
        over_both=median(turn[0] / turn[2] for turn in seen),
        over_softmax=median(turn[0] / turn[3] for turn in seen),
        log_over_both=median(turn[1] / turn[2] for turn in seen),
    )


def check(shape: tuple[int, int], work: Work, peer: Work) -> None:
    """Time nothing that does not agree: classes alike, probabilities to float32's own accuracy."""
    for found, expected in zip(work(), peer(), strict=True):  # type: ignore[call-overload]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7, err_msg=str(shape))


def seconds(work: Work, repeats: int) -> float:
    begun_s = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - begun_s) / repeats


def table_of(rows: list[Ratios]) -> Table:
    switched_off = os.environ.get("NPY_DISABLE_CPU_FEATURES")
    without = f", numpy without {switched_off}" if switched_off else ""
    table = Table(title=f"Exact kernel, float32: ours over an onnxruntime session{without}")
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


def judged(ratio: float, goal: float | None) -> str:
    if goal is None:
        return f"{ratio:.2f}"
    return f"{ratio:.2f} ({'reached' if ratio <= goal else 'missed'}: {goal:.0f})"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=101, help="pairs of runs for each shape")
    options = parser.parse_args(arguments)
    console = Console(width=max(Console().width, 110))  # the widest table, unbroken
    console.print(table_of([measure(shape, options.turns) for shape in SHAPES]))


if __name__ == "__main__":
    main()
