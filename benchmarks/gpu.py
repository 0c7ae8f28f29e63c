"""Heads on an NVIDIA GPU: whether they keep the numeric contract, then how many rows a second.

    python benchmarks/gpu.py                     needs onnxruntime-gpu, a driver, CUDA and cuDNN
    python benchmarks/gpu.py --json gpu.json     all figures in a file as well
    python benchmarks/gpu.py --provider cpu      the script itself, on any machine

Nothing is timed unless every result is right. A run is the service's own, from features in host memory to checked
logits in host memory, through IO binding; GPU and CPU take turns, and of all turns the median counts. Beside it
stands the share of the copy bandwidth: how long copying its bytes alone would take over how long it took.
"""

import argparse
import datetime as dt
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeAlias

from service.errors import (
    ModelError,
    StartError,
)  # first: importing `service` turns onnxruntime's telemetry off
from service.heads.engine import CUDA, CUDA_OPTIONS, Engine, Provider
from service.heads.graphs import build_linear

# isort: split
import contract
import copying
import heads
import onnxruntime as ort
from contract import Check
from copying import FLOAT_BYTES, Bandwidth, seconds
from rich.console import Console
from rich.table import Table

Work: TypeAlias = Callable[[], object]

ROWS = (1, 32, 256, 1024, 8192)
TURNS = 21
# Long enough for the clock, short enough that nothing drifts in it.
TURN_S = 0.02
# Far above the caches, and as large as a request may be.
BLOCK_BYTES = 1 << 26
LIBRARIES = ("onnxruntime-gpu", "onnxruntime", "numpy")


class Rate(NamedTuple):
    """One head with so many rows a run: seconds of a run, and of one on the CPU, and CPU over it in a turn."""

    head: str
    rows: int
    run_s: float
    cpu_run_s: float
    over_cpu: float

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.run_s

    @property
    def cpu_rows_per_s(self) -> float:
        return self.rows / self.cpu_run_s

    @property
    def to_device_bytes(self) -> int:
        return self.rows * heads.SHAPES[self.head][0] * FLOAT_BYTES

    @property
    def to_host_bytes(self) -> int:
        return self.rows * heads.SHAPES[self.head][1] * FLOAT_BYTES

    def share(self, bandwidth: Bandwidth) -> float:
        """How long copying alone takes over how long the run took; at 1 nothing is left to gain."""
        return bandwidth.seconds(self.to_device_bytes, self.to_host_bytes) / self.run_s


def require(provider: Provider) -> None:
    """Start the provider and see that it computes all of a head; `StartError` or `ModelError` where not."""
    model = build_linear(heads.linear("a"))
    engine = Engine(model, provider=provider)
    if engine.provider == "cuda":
        refuse_cpu(model)


def refuse_cpu(model: bytes) -> None:
    """Raise `StartError` where any node of the model would be computed by the CPU in place of CUDA."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        ort.InferenceSession(model, options, providers=[(CUDA, CUDA_OPTIONS)], enable_fallback=0)
    except Exception as error:  # onnxruntime's errors share no base class
        reason = " ".join(str(error).split())
        raise StartError(f"CUDA does not compute the whole head: {reason}") from error


def measure(name: str, rows: int, provider: Provider, turns: int, threads: int) -> Rate:
    """Time one head with so many rows on the provider and on the CPU, in turns."""
    model = build_linear(heads.linear(name))
    features = contract.features_for(name, rows, "float32")
    engine = Engine(model, provider=provider, threads=threads)
    on_cpu = Engine(model, provider="cpu", threads=threads)
    seen = take_turns([lambda: engine.run(features), lambda: on_cpu.run(features)], turns)
    return Rate(
        name,
        rows,
        run_s=median(ours for ours, _ in seen),
        cpu_run_s=median(cpu for _, cpu in seen),
        over_cpu=median(cpu / ours for ours, cpu in seen),
    )


def take_turns(works: Sequence[Work], turns: int) -> list[list[float]]:
    """Seconds of each work in each turn; one that is short is repeated within its turn."""
    for work in works:
        work()  # memory is taken and kernels are loaded
    repeats = [max(1, int(TURN_S / seconds(work))) for work in works]
    return [[seconds(work, times) for work, times in zip(works, repeats, strict=True)] for _ in range(turns)]


def machine() -> dict[str, Any]:
    """Where and with what this was measured."""
    return {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "gpu": gpu_name(),
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: found for name in LIBRARIES if (found := version_of(name))},
    }


def gpu_name() -> str:
    """Name and driver as nvidia-smi says them; "none found" where it finds none."""
    if shutil.which("nvidia-smi") is None:
        return "none found"
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a constant
    return said.stdout.strip().replace("\n", "; ") if said.returncode == 0 else "none found"


def version_of(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def table_of_checks(checks: Sequence[Check], provider: str) -> Table:
    table = Table("what", title=f"Results on {provider}")
    for heading in ("cases", "worst error over allowed", ""):
        table.add_column(heading, justify="right")
    for one in checks:
        verdict = "kept" if one.passed else f"broken: {', '.join(one.failed[:3])}"
        table.add_row(one.what, str(one.cases), f"{one.largest:.2g}", verdict)
    return table


def table_of_rates(rates: Sequence[Rate], bandwidth: Bandwidth, provider: str, threads: int) -> Table:
    copied = f"{gigabytes(bandwidth.to_device)} GB/s to the device, {gigabytes(bandwidth.to_host)} GB/s back"
    table = Table(title=f"Throughput on {provider}; copies alone: {copied}")
    table.add_column("head")
    cpu = f"CPU ({threads} thread{'s' * (threads != 1)}), rows/s"
    for heading in ("rows", "µs a run", "rows/s", cpu, "over the CPU", "share of the copy bandwidth"):
        table.add_column(heading, justify="right")
    for rate in rates:
        table.add_row(
            f"{rate.head}: {heads.SHAPES[rate.head][0]} → {heads.SHAPES[rate.head][1]}",
            str(rate.rows),
            f"{1e6 * rate.run_s:.1f}",
            f"{rate.rows_per_s:,.0f}",
            f"{rate.cpu_rows_per_s:,.0f}",
            f"{rate.over_cpu:.2f}",
            f"{rate.share(bandwidth):.2g}",
        )
    return table


def gigabytes(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e9:.1f}"


def finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_json(
    path: Path, provider: str, checks: Sequence[Check], bandwidth: Bandwidth | None, rates: Sequence[Rate]
) -> None:
    said = {
        "machine": machine(),
        "provider": provider,
        "checks": [
            # JSON has no infinity, which a refused answer has.
            {**one._asdict(), "largest": finite_or_none(one.largest), "passed": one.passed}
            for one in checks
        ],
        "bandwidth": bandwidth and bandwidth._asdict(),
        "rates": [
            {
                **rate._asdict(),
                "rows_per_s": rate.rows_per_s,
                "cpu_rows_per_s": rate.cpu_rows_per_s,
                "to_device_bytes": rate.to_device_bytes,
                "to_host_bytes": rate.to_host_bytes,
                "share": bandwidth and rate.share(bandwidth),
            }
            for rate in rates
        ],
    }
    path.write_text(json.dumps(said, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cpus = len(os.sched_getaffinity(0))
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, metavar="N", help="rows of a run")
    parser.add_argument("--turns", type=int, default=TURNS, metavar="N", help=f"default {TURNS}")
    parser.add_argument(
        "--threads",
        type=int,
        default=cpus,
        metavar="N",
        help=f"of a run on the CPU, default {cpus}: all CPUs",
    )
    parser.add_argument(
        "--block-bytes", type=int, default=BLOCK_BYTES, metavar="N", help="of a measured copy"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    console = Console(width=max(Console().width, 120))
    provider: Provider = options.provider
    try:
        require(provider)
    except (StartError, ModelError) as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 1
    console.print(", ".join(f"{name} {value}" for name, value in machine().items()), markup=False)
    checks = contract.check(provider, options.threads)
    console.print(table_of_checks(checks, provider))
    right = all(one.passed for one in checks)
    bandwidth, rates = None, []
    if right:
        bandwidth = copying.measure(provider, options.block_bytes, options.turns)
        rates = [
            measure(name, rows, provider, options.turns, options.threads)
            for name in heads.SHAPES
            for rows in options.rows
        ]
        console.print(table_of_rates(rates, bandwidth, provider, options.threads))
    else:
        console.print("Nothing is timed: a result is not what the contract asks for.")
    if options.json:
        write_json(options.json, provider, checks, bandwidth, rates)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
