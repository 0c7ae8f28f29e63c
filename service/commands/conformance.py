"""`logitserve conformance`: hold any server against the numeric contract."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from service.commands import addresses, client_keys
from service.conformance import vectors
from service.conformance.dialect import OUTPUTS
from service.conformance.discovery import ALL_OPTIONS, DIALECTS, Asked, connect, discover
from service.conformance.examination import Watch, examine
from service.conformance.report import Report
from service.errors import StartError

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 # argparse has no public name for it

EPILOG = """\
Asks a server for the softmax and the cross-entropy of the golden vectors, whose exact values are known, and says
of every answer whether it holds. The protocol is found out (the paths of /openapi.json, then /v2, then /v1), and
so are the options of a service that describes itself and the tensors of a V2 server. What a server has no words
for is listed as not expressible, and is no fault.

exit codes: 0 all that could be asked holds, 1 something does not, 2 called wrongly or nobody answers at the address.

examples:
  logitserve conformance --url http://127.0.0.1:8000
  logitserve conformance --url http://127.0.0.1:8000 --binary --json conformance.json
  logitserve conformance --url triton:8000 --softmax softmax32,softmax64 --loss loss32,loss64 --binary
  logitserve conformance --url tfserving:8501 --dialect v1 --dtypes float32 --name losses=output_0
  logitserve conformance --url flask:5000 --dialect native --softmax api/scores --name logits=x --name probabilities=y
"""
DTYPES = ("float32", "float64")
# Wide enough that no reason is folded where it does not end up on a terminal.
PIPE_COLUMNS = 200


def add_parser(subparsers: "Subparsers") -> None:
    parser = subparsers.add_parser(
        "conformance",
        help="hold any server against the numeric contract",
        description="Hold any server against the numeric contract, through the protocol that it speaks.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8000", type=addresses.url, help="default: %(default)s")
    add("--dialect", choices=["auto", *DIALECTS], default="auto", help="the protocol (default: found out)")
    add("--binary", action="store_true", help="arrays as raw bytes: V2 tensors, or npz natively")
    add("--softmax", type=_names, default=("softmax",), metavar="NAME,…", help="its models, or its path")
    add("--loss", type=_names, default=("loss",), metavar="NAME,…", help="the same for the loss")
    add("--name", type=_renamed, action="append", default=[], metavar="OURS=THEIRS",
        help="what the server calls a field or an output, such as probabilities=scores; may be repeated")  # fmt: skip
    add(
        "--options",
        type=_options,
        metavar="NAME,…",
        help="which options it reads; all, none (default: found out)",
    )
    add("--dtypes", type=_dtypes, default=frozenset(DTYPES), metavar="TYPE,…",
        help="which types it computes in (default: float32,float64)")  # fmt: skip
    add("--header", type=_header, action="append", default=[], metavar="NAME: VALUE", help="may be repeated")
    add("--json", type=Path, metavar="FILE", help="write every check as JSON")
    client_keys.add_flag(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    asked = Asked(
        dialect=arguments.dialect,
        targets={"softmax": arguments.softmax, "loss": arguments.loss},
        renamed=dict(arguments.name),
        options=arguments.options,
        dtypes=arguments.dtypes,
        binary=arguments.binary,
    )
    try:
        _check_folder(arguments.json)
        key = client_keys.read(arguments)
        bearer = {"Authorization": f"Bearer {key}"} if key else {}
        with connect(arguments.url, {**bearer, **dict(arguments.header)}) as http:
            dialect = discover(http, asked)
            questions = vectors.read()
            with _progress(len(questions)) as watch:
                checks = examine(dialect, questions, watch)
    except StartError as error:
        print(f"logitserve conformance: {error}", file=sys.stderr)
        return 2
    report = Report(arguments.url, dialect.title, checks)
    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(report.tables(), highlight=False)
    if arguments.json:
        arguments.json.write_text(json.dumps(report.document(), indent=1) + "\n", encoding="utf-8")
    return 0 if report.passed else 1


def _check_folder(path: Path | None) -> None:
    """Find out before all the questions, not after, that the answers cannot be written."""
    if path and not path.absolute().parent.is_dir():
        raise StartError(f"expected a folder that exists, got {path.parent} for {path.name}")


@contextmanager
def _progress(questions: int) -> Iterator[Watch]:
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("asking", total=questions)
        yield lambda answered: progress.update(task, completed=answered)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected names with commas between, got {text[:40]!r}")
    return names


def _renamed(text: str) -> tuple[str, str]:
    ours, _, theirs = text.partition("=")
    known = {"logits", "labels", *ALL_OPTIONS, *(name for names in OUTPUTS.values() for name in names)}
    if ours not in known or not theirs:
        raise argparse.ArgumentTypeError(
            f"expected OURS=THEIRS, with ours of {', '.join(sorted(known))}; got {text[:40]!r}"
        )
    return ours, theirs


def _options(text: str) -> frozenset[str]:
    return _chosen(text, {"all": ALL_OPTIONS, "none": frozenset()}, ALL_OPTIONS)


def _dtypes(text: str) -> frozenset[str]:
    return _chosen(text, {}, frozenset(DTYPES))


def _chosen(text: str, words: dict[str, frozenset[str]], known: frozenset[str]) -> frozenset[str]:
    if text in words:
        return words[text]
    names = frozenset(_names(text))
    if unknown := names - known:
        raise argparse.ArgumentTypeError(
            f"expected some of {', '.join(sorted(known))}; got {min(unknown)[:40]!r}"
        )
    return names


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (colon and name.strip()):
        raise argparse.ArgumentTypeError(f"expected NAME: VALUE, got {text[:40]!r}")
    return name.strip(), value.strip()
