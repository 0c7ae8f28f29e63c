"""`logitserve export`: weights from elsewhere become a head that `serve` serves."""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from service.evaluation import labelled
from service.export import formats
from service.export.exporter import Exported, export
from service.export.parity import Parity, ParityError, read_rows
from service.export.source import ExportError, Options, Source, read_bounded
from service.heads.description import MOST_EXAMPLE_ROWS

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 # argparse has no public name for it

EPILOG = """\
The head is opened as serve opens it and held against its source, on rows of yours (--rows) or some that are drawn
where its features lie; where the two differ by more than --tolerance, nothing is written and the exit code is 1.

formats, known by the name of the file:
  npz          .npz with W and b, or coef_ and intercept_, weight and bias, kernel and bias
  safetensors  .safetensors, or a folder as Hugging Face saves a model; names of classes from its config.json
  sklearn      .skops, or with --trust-pickle .joblib and .pkl: linear classifiers, and Pipelines of linear steps
  torch        .pt, .pth, .bin, .ckpt: a state_dict, of which the last Linear is taken
  keras        .keras, .h5: the last Dense layer
  flax         .msgpack, as flax.serialization.to_bytes writes it
  onnx         .onnx: any model of one input whose output is logits; a Softmax at its end is cut off

examples:
  logitserve export weights.npz --model sentiment --class-names negative,positive
  logitserve export ./distilbert-sst2 --model sentiment --version 3
  logitserve export iris.skops --model iris --dtype float32 --rows held_out.csv
  logitserve export checkpoint.pt --model news --weight head.weight --bias head.bias
  logitserve export digits.npz --model digits --image 8x8x16 --examples held_out.npz
  logitserve export model.safetensors --weight score.weight --model topics --class-names topics.txt
"""

IMAGE = re.compile(r"([1-9]\d{0,8})x([1-9]\d{0,8})x(\d{1,18}(?:\.\d{1,18})?)", re.ASCII)
NAMES_LIMIT_BYTES = 16 * 2**20
# Wide enough that no row is folded where it does not end up on a terminal.
PIPE_COLUMNS = 200


def add_parser(subparsers: "Subparsers") -> None:
    parser = subparsers.add_parser(
        "export",
        help="make a head of weights from elsewhere",
        description="Make a head, model.onnx and head.json, of weights from elsewhere.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("path", type=Path, metavar="PATH", help="a file, or the folder of a model")
    add("--format", choices=formats.FORMATS, help="what it is, where its name does not tell")
    add(
        "--to",
        type=Path,
        default=Path("models"),
        metavar="DIR",
        help="the folder of models, default %(default)s",
    )
    add("--model", required=True, metavar="NAME", help="the model's name")
    add("--version", type=_version, metavar="N", help="its version, default the next one")
    add("--force", action="store_true", help="replace a version that is there")
    add(
        "--dtype",
        choices=("float32", "float64"),
        help="what the head computes in, default what the source does",
    )
    add("--class-names", metavar="NAMES", help="a,b,c or a file: a JSON list or one name a line")
    _add_source_flags(parser)
    _add_shown_flags(parser)
    add("--rows", type=Path, metavar="FILE", help="rows to compare on: .npy, .npz or .csv; they are not kept")
    add(
        "--tolerance",
        type=_tolerance,
        metavar="X",
        help="allowed |Δlogit| and |Δp|, by the row's largest |logit| or 1; default 1e-5 in float32, 1e-9 in float64",
    )


def _add_source_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what to take from the source").add_argument
    add("--weight", metavar="NAME", help="the array of the weights")
    add("--bias", metavar="NAME", help="the array of the bias")
    add(
        "--transpose",
        action=argparse.BooleanOptionalAction,
        help="whether the weights lie as [classes, features]",
    )
    add("--layer", metavar="NAME", help="the Dense layer of a Keras model")
    add("--output", metavar="NAME", help="the output of an ONNX model")
    add(
        "--as-scores",
        action="store_true",
        help="take scores that are no logits, such as margins: classes are right, probabilities are not calibrated",
    )
    add(
        "--trust-pickle",
        action="store_true",
        help="unpickle the file: it can run any program as you, so do it only with files that you made yourself",
    )


def _add_shown_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what people can try it with").add_argument
    add(
        "--examples",
        type=_labelled_path,
        metavar="FILE",
        help="labelled rows that people may try the head with: .npz or .csv; they are kept in head.json",
    )
    add(
        "--image",
        type=_image,
        metavar="HxWxMAX",
        help="the features are an image, such as 8x8x16: H rows of W pixels, from 0, no ink, to MAX",
    )


def run(arguments: argparse.Namespace) -> int:
    options = Options(
        weight=arguments.weight,
        bias=arguments.bias,
        transpose=arguments.transpose,
        layer=arguments.layer,
        output=arguments.output,
        as_scores=arguments.as_scores,
        trust_pickle=arguments.trust_pickle,
    )
    source = formats.read(arguments.path, options, format_name=arguments.format)
    class_names = None if arguments.class_names is None else _class_names(arguments.class_names)
    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS, highlight=False)
    try:
        exported = export(
            source,
            arguments.to,
            model=arguments.model,
            version=arguments.version,
            dtype=None if arguments.dtype is None else np.dtype(arguments.dtype),
            class_names=class_names,
            rows=None if arguments.rows is None else read_rows(arguments.rows, source.num_features),
            tolerance=arguments.tolerance,
            shown=_shown(arguments, source, class_names),
            force=arguments.force,
        )
    except ParityError as error:
        console.print(_table(error.parity))
        raise
    console.print(_table(exported.parity))
    for line in _said(exported):
        console.print(line, markup=False, soft_wrap=True)
    return 0


def _table(parity: Parity) -> Table:
    table = Table("head against source", "largest difference", "allowed", caption_justify="left")
    for name, value, allowed in parity.differences:
        table.add_row(name, "not compared" if value is None else f"{value:.3g}", f"{allowed:.3g}")
    table.add_row("classes", f"{parity.classes} of {parity.rows} rows", "0")
    return table


def _said(exported: Exported) -> list[str]:
    info, source = exported.head.info, exported.source
    shape = f"{info.num_features} features, {info.num_classes} classes, {info.dtype}"
    lines = [f"wrote {exported.folder}: {source.format}, {shape}, sha256 {info.digest[:12]}…"]
    lines += [f"  {note}" for note in source.notes]
    if not source.calibrated:
        lines.append(
            "  its probabilities are not calibrated: they are the softmax of scores that are no logits"
        )
    return lines


def _class_names(text: str) -> tuple[str, ...]:
    """Names as they were said, or from the file that has them."""
    path = Path(text)
    if not path.is_file():
        return tuple(name.strip() for name in text.split(","))
    try:
        written = read_bounded(path, NAMES_LIMIT_BYTES).decode()
        if not written.lstrip().startswith("["):
            return tuple(line.strip() for line in written.splitlines() if line.strip())
        names = json.loads(written)
    except (ValueError, RecursionError) as error:
        raise ExportError(
            f"{path}: expected a JSON list of names or one a line: {str(error)[:80]}"
        ) from error
    if not all(isinstance(name, str) for name in names):
        raise ExportError(f"{path}: expected a JSON list of names")
    return tuple(names)


def _shown(
    arguments: argparse.Namespace, source: Source, class_names: tuple[str, ...] | None
) -> dict[str, Any]:
    """What head.json has for people to see."""
    shown: dict[str, Any] = {}
    if arguments.examples is not None:
        features, labels = labelled.read(arguments.examples)
        if len(features) > MOST_EXAMPLE_ROWS:
            raise ExportError(
                f"{arguments.examples}: expected at most {MOST_EXAMPLE_ROWS} examples, got {len(features)}"
            )
        indices = labelled.indices_of(labels, source.num_classes, class_names or source.class_names)
        shown["examples"] = {"features": features.tolist(), "labels": indices.tolist()}
    if arguments.image is not None:
        shown["image"] = arguments.image
    return shown


def _labelled_path(text: str) -> Path:
    path = Path(text)
    if path.suffix not in {".npz", ".csv"}:
        raise argparse.ArgumentTypeError(f"expected a file .npz or .csv, got {path.name[:40]!r}")
    return path


def _image(text: str) -> dict[str, float]:
    found = IMAGE.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"expected height, width and largest number, such as 8x8x16, got {text[:40]!r}"
        )
    return {"height": int(found[1]), "width": int(found[2]), "largest": float(found[3])}


def _version(text: str) -> int:
    # More digits would be no name of a folder.
    if not (text.isascii() and text.isdecimal() and len(text) < 19 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text[:40]!r}")
    return int(text)


def _tolerance(text: str) -> float:
    try:
        tolerance = float(text)
    except ValueError:
        tolerance = -1.0
    if not 0 <= tolerance < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number not below 0, got {text[:40]!r}")
    return tolerance
