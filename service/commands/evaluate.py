"""`logitserve evaluate`: judge a head, or logits of any origin, on labelled rows."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from service.commands import judged
from service.evaluation import judging, report
from service.numeric.scores import Scores

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 # argparse has no public name for it

EPILOG = """\
A head with a calibration is judged with it, as it is served, and without it. Labels are class indices, or names of the
head's classes.

  .npz    arrays features (or logits) [rows, columns] and labels [rows]
  .npy    features (or logits) alone, mapped into memory; with --labels FILE.npy
  .csv    a row a line; a header names the column label, without a header it is the last

examples:
  logitserve evaluate --data test.npz
  logitserve evaluate --models ./models --model digits --version 2 --data test.csv --plot reliability.png
  logitserve evaluate --data logits.npy --labels labels.npy --logits --json scores.json
"""


def add_parser(subparsers: "Subparsers") -> None:
    parser = subparsers.add_parser(
        "evaluate",
        help="judge a head on labelled data",
        description="Judge a head on labelled data: how often it is right, and whether it is as sure as it is right.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    judged.add_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    judged.check_files(arguments)
    # Logits need no head, but for its calibration and the names of its classes.
    opened = None
    if not arguments.logits or arguments.model or arguments.version or arguments.models:
        _, opened = judged.open_version(arguments)
    rows = judged.read_rows(opened, arguments.data, arguments.labels, logits=arguments.logits)
    info = opened and opened.head.info
    calibration = info.calibration if info else None
    kinds = {"raw": None} if calibration is None else {"raw": None, "as served": calibration}
    columns: dict[str, Scores] = {}
    for name, by in kinds.items():
        with judged.progress(f"scoring it {name}", len(rows.labels)) as watch:
            columns[name] = judging.judge(*rows, by, num_bins=arguments.bins, watch=watch)
    title = f"{info.model} version {info.version}" if info else arguments.data.name
    names = info.class_names if info else None
    served = columns.get("as served", columns["raw"])
    console = judged.console()
    console.print(f"{title} on {arguments.data}" if info else title, style="bold", markup=False)
    console.print(report.compared(columns), report.by_class(served, names))
    if arguments.json:
        scores: dict[str, Any] = {
            name.replace(" ", "_"): report.document(found, names) for name, found in columns.items()
        }
        model = {"model": info.model, "version": info.version, "digest": info.digest} if info else {}
        arguments.json.write_text(json.dumps(model | scores, indent=1) + "\n", encoding="utf-8")
    judged.draw(columns, title, arguments.plot)
    return 0
