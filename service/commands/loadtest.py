"""`logitserve loadtest`: measure a running service, and say how far the figures can be trusted."""

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from service.client import Client, ClientError, ServiceError
from service.commands import addresses, client_keys
from service.errors import StartError
from service.loadtest.fleet import measure
from service.loadtest.report import Report
from service.loadtest.scenario import Scenario
from service.loadtest.tally import STEP_S, Tally

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 # argparse has no public name for it

EPILOG = """\
Without --rate the loop is closed: each connection sends as soon as it is answered, so a slow service is asked
less. With --rate it is open: requests are due at fixed moments whatever the answers do, and latencies count
from those moments, so that waiting is not hidden (timers are good to a millisecond).

exit codes: 0 all requests answered 2xx, 1 some were not, 2 called wrongly or nobody answers at the address.

examples:
  logitserve loadtest
  logitserve loadtest http://127.0.0.1:8000 --connections 64 --processes 4 --plot load.png
  logitserve loadtest --rate 500 --poisson --duration 30s --json load.json
  logitserve loadtest --route softmax --classes 1000 --rows 32 --media npz
"""
UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0}
# Enough to load a typical service; more would take the cores that a service on this machine needs.
DEFAULT_PROCESSES = 2
DEFAULT_CLASSES = 10
# Somebody who listens answers a health check within this.
PREFLIGHT_TIMEOUT_S = 5.0


def add_parser(subparsers: "Subparsers") -> None:
    parser = subparsers.add_parser(
        "loadtest",
        help="measure a running service",
        description="Send requests to a running service, and print latencies, throughput and errors.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("url", nargs="?", default="http://127.0.0.1:8000", type=addresses.url, help="default: %(default)s")
    add("--route", choices=["predict", "softmax", "loss"], default="predict", help="default: %(default)s")
    add("--model", help="the head for predict, where there are several")
    add("--rows", type=_count, default=1, metavar="N", help="rows of a request (default: %(default)s)")
    add("--features", type=_count, metavar="N", help="for predict (default: what the head takes)")
    add("--classes", type=_count, metavar="N", help=f"for softmax and loss (default: {DEFAULT_CLASSES})")
    add("--media", choices=["json", "npz"], default="json", help="how arrays travel (default: %(default)s)")
    add("--connections", type=_count, default=16, metavar="N", help="at a time (default: %(default)s)")
    add("--rate", type=_rate, metavar="R", help="requests due a second: an open loop")
    add("--poisson", action="store_true", help="with --rate: arrivals at random, not evenly spaced")
    add("--duration", type=_duration, default=10.0, metavar="TIME", help="measured time (default: 10s)")
    add("--warm-up", type=_seconds, default=2.0, metavar="TIME", help="before it, not counted (default: 2s)")
    add("--processes", type=_count, default=DEFAULT_PROCESSES, metavar="N", help="default: %(default)s")
    add("--plot", type=_plot_path, metavar="FILE", help="draw latencies and throughput as .png or .svg")
    add("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    client_keys.add_flag(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    try:
        scenario = _scenario(arguments)
    except (ClientError, StartError) as error:
        print(f"logitserve loadtest: {error}", file=sys.stderr)
        return 2
    with _progress(scenario) as watch:
        report = Report(measure(scenario, watch))
    console = Console()
    console.print(report.tables())
    for remark in report.remarks():
        console.print(f"[bold yellow]note:[/] {remark}", highlight=False, soft_wrap=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(report.document(), indent=2) + "\n", encoding="utf-8")
    if arguments.plot:
        from service.loadtest.plot import draw  # noqa: PLC0415 # matplotlib is an extra, and slow to import

        draw(report, arguments.plot)
    return 0 if report.passed else 1


def _scenario(arguments: argparse.Namespace) -> Scenario:
    """Complete what was asked for with what the service says, and refuse what cannot work, before any load."""
    if arguments.poisson and arguments.rate is None:
        raise StartError("--poisson needs --rate")
    if arguments.plot and importlib.util.find_spec("matplotlib") is None:
        raise StartError("--plot needs matplotlib: pip install logitserve[plot]")
    for path in filter(None, (arguments.plot, arguments.json)):
        if not path.absolute().parent.is_dir():
            raise StartError(f"expected a folder that exists, got {path.parent} for {path.name}")
    key = client_keys.read(arguments)
    # Like the client processes, past the proxies of the environment.
    with Client(arguments.url, api_key=key, timeout_s=PREFLIGHT_TIMEOUT_S, trust_env=False) as client:
        with suppress(ServiceError):  # somebody listens; the load test will say what they answer
            client.live()
        columns = arguments.classes or DEFAULT_CLASSES
        if arguments.route == "predict":
            columns = arguments.features or _num_features(client, arguments.model)
    return Scenario(
        url=arguments.url,
        route=arguments.route,
        rows=arguments.rows,
        columns=columns,
        model=arguments.model,
        media=arguments.media,
        connections=arguments.connections,
        rate_per_s=arguments.rate,
        poisson=arguments.poisson,
        warm_up_s=arguments.warm_up,
        duration_s=arguments.duration,
        # A process without a connection would only watch.
        processes=min(arguments.processes, arguments.connections),
        key=key,
    )


def _num_features(client: Client, name: str | None) -> int:
    models = {model["name"]: model for model in client.models()}
    if name is None and len(models) == 1:
        name = next(iter(models))
    if name not in models:
        raise StartError(f"expected --model to be one of {', '.join(models)}, got {name or 'none'}")
    shape = models[name]["versions"][-1]["inputs"][0]["shape"]
    return int(shape[-1])


@contextmanager
def _progress(scenario: Scenario) -> Iterator[Callable[[float, Tally], None]]:
    """Show a bar with the live rate and the errors so far, on stderr."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    whole_s = scenario.warm_up_s + scenario.duration_s
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("warm-up", total=whole_s, rate="")

        def watch(passed_s: float, tally: Tally) -> None:
            description = "warm-up" if passed_s < scenario.warm_up_s else "measuring"
            rate = _live_rate(tally)
            progress.update(task, completed=min(passed_s, whole_s), description=description, rate=rate)

        yield watch


def _live_rate(tally: Tally) -> str:
    """Say the rate of the last whole step of the timeline."""
    if not tally.answered and not tally.failed:
        return ""
    step = max([*tally.answered, *tally.failed]) - 1
    failed = sum(tally.errors().values())
    return f"{tally.answered[step] / STEP_S:,.0f} requests/s" + (f", {failed:,} errors" if failed else "")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text[:40]!r}")
    return int(text)


def _rate(text: str) -> float:
    rate = _number(text)
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"expected requests a second above 0, got {text[:40]!r}")
    return rate


def _seconds(text: str) -> float:
    number = text.rstrip("ms")
    seconds = _number(number) * UNITS_S.get(text[len(number) :] or "s", math.nan)
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected a time such as 10s, 500ms or 2m, got {text[:40]!r}")
    return seconds


def _duration(text: str) -> float:
    seconds = _seconds(text)
    if not seconds:
        raise argparse.ArgumentTypeError(f"expected a time above 0, got {text[:40]!r}")
    return seconds


def _number(text: str) -> float:
    """Read a number; what is none is NaN, which is in no range."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _plot_path(text: str) -> Path:
    path = Path(text)
    if path.suffix not in {".png", ".svg"}:
        raise argparse.ArgumentTypeError(f"expected FILE.png or FILE.svg, got {text[:40]!r}")
    return path
