"""What `calibrate` and `evaluate` share: their flags, the rows that these name, and progress."""

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress

from service import settings, sources
from service.errors import StartError
from service.evaluation import judging, labelled
from service.evaluation.judging import Opened
from service.heads.remote import storage_at
from service.numeric.scores import DEFAULT_BINS, Scores
from service.types import FloatArray, IndexArray

# Wide enough that no row is folded where it does not end up on a terminal.
PIPE_COLUMNS = 200
MOST_BINS = 1000
FLAGS = ("models", "cache_dir", "provider")


class Rows(NamedTuple):
    """Logits [rows, num_classes] and their labels [rows]."""

    logits: FloatArray
    labels: IndexArray


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        required=True,
        metavar="FILE",
        help="labelled rows: .npz, .csv, or .npy with --labels",
    )
    add("--labels", type=Path, metavar="FILE", help="labels of --data FILE.npy, an .npy too")
    add("--logits", action="store_true", help="the rows are logits, not features: no head is run")
    add("--model", help="which model (default: the only one)")
    add("--version", type=_count, metavar="N", help="which version of it (default: the newest)")
    for name in FLAGS:
        add(settings.flag_of(name), metavar="VALUE", help=settings.help_of(name))
    add("--config", metavar="FILE", help="TOML file with settings by name; also LOGITSERVE_CONFIG")
    add(
        "--bins",
        type=_bins,
        default=DEFAULT_BINS,
        metavar="N",
        help="of calibration errors (default: %(default)s)",
    )
    add("--plot", type=_plot_path, metavar="FILE", help="draw the reliability diagram as .png or .svg")
    add("--json", type=Path, metavar="FILE", help="write all scores as JSON")


def check_files(arguments: argparse.Namespace) -> None:
    """Find out before all the work, not after, that what comes of it cannot be written."""
    if arguments.plot and importlib.util.find_spec("matplotlib") is None:
        raise StartError("--plot needs matplotlib: pip install logitserve[plot]")
    for path in filter(None, (arguments.plot, arguments.json)):
        if not path.absolute().parent.is_dir():
            raise StartError(f"expected a folder that exists, got {path.parent} for {path.name}")


def open_version(arguments: argparse.Namespace) -> tuple[Path | str, Opened]:
    """Open the version that is meant; also where the models lie."""
    flags = {name: getattr(arguments, name) for name in FLAGS}
    chosen = sources.read(flags, config=arguments.config).settings
    opened = judging.open_version(
        storage_at(chosen.models, chosen.cache_dir, chosen.cache_limit_bytes),
        arguments.model,
        arguments.version,
        provider=chosen.provider,
        threads=chosen.thread_count,
    )
    return chosen.models, opened


def read_rows(
    opened: Opened | None, path: Path, labels_path: Path | None = None, *, logits: bool = False
) -> Rows:
    """Read labelled rows, and run the head over them if they are features."""
    data = labelled.read(path, labels_path, logits=logits)
    if opened is None or logits:
        made = judging.logits_as_they_are(data.values)
    else:
        with progress(f"running {opened.head.info.model}", len(data.values)) as watch:
            made = judging.logits_of(opened.head, data.values, watch)
    info = opened and opened.head.info
    if info and made.shape[1] != info.num_classes:
        raise StartError(
            f"{path}: expected logits of the {info.num_classes} classes of {info.model}, got {made.shape[1]} columns"
        )
    return Rows(made, labelled.indices_of(data.labels, made.shape[1], info.class_names if info else None))


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show how many of the rows are done, or only that something is, where somebody looks."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False)


def draw(columns: Mapping[str, Scores], title: str, path: Path | None) -> None:
    if path is not None:
        from service.evaluation import plot  # noqa: PLC0415 # matplotlib is an extra, and slow to import

        plot.draw(columns, title, path)


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or not int(text):
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text[:40]!r}")
    return int(text)


def _bins(text: str) -> int:
    if _count(text) > MOST_BINS:
        raise argparse.ArgumentTypeError(f"expected at most {MOST_BINS}, got {text[:40]!r}")
    return int(text)


def _plot_path(text: str) -> Path:
    path = Path(text)
    if path.suffix not in {".png", ".svg"}:
        raise argparse.ArgumentTypeError(f"expected FILE.png or FILE.svg, got {text[:40]!r}")
    return path
