"""Hold peers against the numeric contract: what `logitserve conformance` says of each, and of our own service.

    python benchmarks/conformance_peers.py                          every peer, one after the other
    python benchmarks/conformance_peers.py --peers=mlserver --json=FOLDER

Each serves softmax and loss on bare logits as its users would write them in an hour: the model servers through
onnxruntime, plain FastAPI through numpy. The environments are those of `peers.py`, made where they are missing;
each peer is asked in the best form that its own protocol has. Nothing is timed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import adapters
import operations
import peers
import serving
from adapters import Peer, Place
from peers import Uninstalled
from rich.console import Console
from serving import NoServer, Server

from service.conformance import vectors
from service.conformance.discovery import Asked, connect, discover
from service.conformance.examination import examine
from service.conformance.report import Report
from service.errors import StartError

# The models of both types; which of them a question fits, their servers say.
MODELS = Asked(
    targets={
        "softmax": tuple(f"{operations.SOFTMAX}{bits}" for bits in operations.TYPES),
        "loss": tuple(
            f"{name}{bits}" for name in (operations.LOSS, operations.SOFT_LOSS) for bits in operations.TYPES
        ),
    }
)
PACKAGES = ("nvidia-pytriton", "mlserver", "fastapi", "pydantic", "onnxruntime", "numpy")


class Examined(NamedTuple):
    """A server in one form, with the versions of what answered."""

    name: str
    versions: tuple[str, ...]
    report: Report


def _fastapi_command(place: Place) -> list[str]:
    command = [place.program("uvicorn"), "operation_fastapi:app", f"--app-dir={adapters.APPS}"]
    return [*command, f"--port={place.port}", "--no-access-log", "--log-level=critical"]


def _mlserver_files(place: Place) -> None:
    adapters.named("mlserver").write_files(place)
    (place.folder / "model-settings.json").unlink()  # of the head, which is not served here
    for name in [model for models in MODELS.targets.values() for model in models]:
        folder = place.folder / name
        folder.mkdir()
        operation, bits = operations.operations()[name[:-2]], f"FP{name[-2:]}"
        inputs = [{"name": "logits", "datatype": bits, "shape": [-1, -1]}]
        if operation.labels is not None:
            kind = "INT64" if len(operation.labels) == 1 else bits
            inputs.append({"name": "labels", "datatype": kind, "shape": [-1] * len(operation.labels)})
        settings = {
            "name": name,
            "implementation": "operation_mlserver.OperationRuntime",
            "inputs": inputs,
        }
        (folder / "model-settings.json").write_text(json.dumps(settings), encoding="utf-8")


PEERS: dict[str, tuple[Peer, tuple[Asked, ...]]] = {
    "pytriton": (
        adapters.named("pytriton")._replace(
            command=adapters.script("operation_pytriton.py"), ready_path="/v2/models/softmax64/ready"
        ),
        (MODELS, replace(MODELS, binary=True)),
    ),
    "mlserver": (
        adapters.named("mlserver")._replace(write_files=_mlserver_files, ready_path="/v2/health/ready"),
        (MODELS,),
    ),
    "plainfastapi": (
        adapters.named("plainfastapi")._replace(command=_fastapi_command),
        (Asked(),),
    ),
}


def examined(name: str, server: Server, asked: Asked, versions: tuple[str, ...]) -> Examined:
    url = f"http://127.0.0.1:{server.port}"
    with connect(url) as http:
        dialect = discover(http, asked)
        report = Report(url, dialect.title, examine(dialect, vectors.read()))
    return Examined(f"{name}, {dialect.title}", versions, report)


def versions_of(programs: Path) -> tuple[str, ...]:
    """The packages that matter, as they are installed in an environment."""
    probe = "import importlib.metadata as m; print(*(f'{d.name} {d.version}' for d in m.distributions()), sep='\\n')"
    listed = subprocess.check_output([str(programs / "python"), "-c", probe], text=True)  # noqa: S603 - our own command
    installed = dict(line.split() for line in listed.splitlines())
    return tuple(f"{package} {installed[package]}" for package in PACKAGES if package in installed)


def examine_peer(name: str, cache: Path, models: Path, core: int) -> Iterator[Examined]:
    peer, forms = PEERS[name]
    programs = peers.install(peer, cache, peers.interpreter_for(peer))
    versions = versions_of(programs)
    with peers.serving_peer(peer, programs, models, core) as server:
        for asked in forms:
            yield examined(peer.name, server, asked, versions)


def examine_ours(core: int) -> Iterator[Examined]:
    with serving.service(serving.ROOT / "models", core) as server:
        for asked in (Asked(), Asked(dialect="v2", binary=True)):
            yield examined("logitserve", server, asked, versions_of(Path(sys.executable).parent))


def table(found: Sequence[Examined]) -> str:
    """A table in Markdown: a row for each family, a column for each server; how many of its checks hold."""
    cells: dict[str, Callable[[Report], str]] = {
        **{family: partial(Report.score, family=family) for family in (vectors.PUBLISHED, *vectors.FAMILIES)},
        "**all**": lambda report: f"**{report.score()}**",
        "inexact": lambda report: str(report.states["inexact"]),
        "broken": lambda report: str(report.states["broken"]),
        "not expressible": lambda report: str(report.states["not expressible"]),
        "worst ulp, float32": partial(Report.worst_ulp, dtype="float32"),
        "worst ulp, float64": partial(Report.worst_ulp, dtype="float64"),
    }
    rows = [["", *(one.name for one in found)], ["---", *("---:" for _ in found)]]
    rows += [[title, *(cell(one.report) for one in found)] for title, cell in cells.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ",".join(PEERS)
    parser.add_argument("--peers", default=names, help=f"comma-separated, default {names}")
    parser.add_argument("--cache", type=Path, default=serving.ROOT / ".bench-peers", metavar="DIR")
    parser.add_argument(
        "--json", type=Path, metavar="DIR", help="write every check there, a file for each server"
    )
    return parser.parse_args(arguments)


def write_json(folder: Path, found: Sequence[Examined]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for one in found:
        said = {"name": one.name, "versions": one.versions, **one.report.document()}
        path = folder / f"{one.name.replace(', ', '-').replace(' ', '-').lower()}.json"
        path.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    console = Console(width=max(Console().width, 160))
    chosen = options.peers.split(",")
    if unknown := set(chosen) - PEERS.keys():
        console.print(f"expected peers of {', '.join(PEERS)}, got {min(unknown)!r}", markup=False)
        return 1
    core, failed = min(os.sched_getaffinity(0)), False
    found: list[Examined] = []
    with tempfile.TemporaryDirectory() as folder:
        operations.write(Path(folder))
        found += examine_ours(core)
        for name in chosen:
            console.print(f"{name}: installing, unless it is there")
            try:
                found += examine_peer(name, options.cache.resolve(), Path(folder), core)
            except (Uninstalled, NoServer, StartError) as error:
                console.print(f"{name}: {error}", style="yellow", markup=False)
                failed = True
    for one in found:
        console.rule(f"{one.name} ({', '.join(one.versions)})")
        console.print(one.report.tables(), highlight=False)
    print(f"{datetime.now(UTC):%Y-%m-%d}\n\n{table(found)}")
    if options.json:
        write_json(options.json, found)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
