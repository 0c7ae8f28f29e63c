"""Measure the wire without sockets: bytes -> a checked ScoreRequest, and a ScoreResult -> bytes.

    python benchmarks/codec.py                both directions
    python benchmarks/codec.py --seconds 0.2  shorter, and less sure

Beside each JSON body stands what orjson alone takes to parse it, beside each answer what orjson alone takes to
write its arrays: nobody who checks the numbers is faster with that library. Times are the least of many short
bursts, since whatever else runs on the machine can only add to them.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from service.types import HeadInfo, Operation, ScoreRequest, ScoreResult
from service.wire import native
from service.wire.json_reader import HAS_SIMDJSON
from service.wire.limits import Limits
from service.wire.media import JSON, NPZ

# One burst: long enough for the clock, short enough to fall between two turns of another process.
BURST_S = 1e-3

LIMITS = Limits(body_bytes=64 << 20, rows=1 << 16, elements=1 << 23, json_depth=32)


class Case(NamedTuple):
    """One request body: so many rows of so many numbers in a tensor of this operation."""

    name: str
    operation: Operation
    rows: int
    columns: int


CASES = (
    Case("a_1", "predict", 1, 64),
    Case("a_32", "predict", 32, 64),
    Case("a_256", "predict", 256, 64),
    Case("b_32", "predict", 32, 768),
    Case("s_256", "softmax", 256, 1000),
)
ANSWERS = ((1, 10), (256, 10), (256, 1000))


def least_s(work: Callable[[], object], seconds: float) -> float:
    """Return the least time of one call over bursts that last so many seconds together."""
    begun_s = time.perf_counter()
    work()
    calls = max(1, int(BURST_S / max(time.perf_counter() - begun_s, 1e-9)))
    best_s = float("inf")
    while time.perf_counter() - begun_s < seconds:
        burst_s = time.perf_counter()
        for _ in range(calls):
            work()
        best_s = min(best_s, (time.perf_counter() - burst_s) / calls)
    return best_s


def drawn(rows: int, columns: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)


def bodies(case: Case) -> dict[str, bytes]:
    """Write the same numbers as JSON, in the shortest digits of float32, and as npz."""
    tensor = {"features" if case.operation == "predict" else "logits": drawn(case.rows, case.columns)}
    return {
        JSON: orjson.dumps(tensor, option=orjson.OPT_SERIALIZE_NUMPY),
        NPZ: native.encode_request(case.operation, tensor, NPZ)[0],
    }


def decoder(case: Case, body: bytes, media_type: str) -> Callable[[], ScoreRequest]:
    float32 = np.dtype(np.float32)
    head = HeadInfo("head", "1", case.columns, 10, float32, None, "0" * 64, "CPUExecutionProvider")

    def decode() -> ScoreRequest:
        return native.decode(
            case.operation,
            body,
            media_type=media_type,
            query=(),
            limits=LIMITS,
            head_of=lambda _model, _version: head,
        )

    return decode


def decoding(seconds: float) -> Table:
    table = Table(title="decode")
    for heading in ("case", "bytes", "us", "ns a float", "orjson alone, ns a float"):
        table.add_column(heading, justify="left" if heading == "case" else "right")
    for case in CASES:
        for media_type, body in bodies(case).items():
            decode = decoder(case, body, media_type)
            np.testing.assert_array_equal(decode().values.astype(np.float32), drawn(case.rows, case.columns))
            works: list[Callable[[], object]] = [decode]
            if media_type == JSON:
                works.append(partial(orjson.loads, body))
            times = [least_s(work, seconds) / (case.rows * case.columns) for work in works]
            name = f"{case.name} {'JSON' if media_type == JSON else 'npz'}"
            table.add_row(*row(name, len(body), case.rows * case.columns, times))
    return table


def encoding(seconds: float) -> Table:
    table = Table(title="encode")
    for heading in ("probabilities", "bytes", "us", "ns a float", "orjson alone, ns a float"):
        table.add_column(heading, justify="left" if heading == "probabilities" else "right")
    for rows, columns in ANSWERS:
        outputs: dict[str, Any] = {"probabilities": drawn(rows, columns), "classes": np.arange(rows)}
        result = ScoreResult(outputs, rows)
        encoded = native.encode(result, JSON)
        works = (
            partial(native.encode, result, JSON),
            partial(orjson.dumps, outputs, option=orjson.OPT_SERIALIZE_NUMPY),
        )
        times = [least_s(work, seconds) / (rows * columns) for work in works]
        table.add_row(*row(f"[{rows}, {columns}]", len(encoded), rows * columns, times))
    return table


def row(name: str, size_bytes: int, numbers: int, seconds_a_float: list[float]) -> list[str]:
    first_us = seconds_a_float[0] * numbers * 1e6
    return [name, str(size_bytes), f"{first_us:.1f}", *(f"{each * 1e9:.1f}" for each in seconds_a_float)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="time spent on each figure")
    arguments = parser.parse_args()
    console = Console()
    console.print(f"simdjson is {'used' if HAS_SIMDJSON else 'not installed'}")
    console.print(decoding(arguments.seconds))
    console.print(encoding(arguments.seconds))


if __name__ == "__main__":
    main()
