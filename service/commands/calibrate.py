"""`logitserve calibrate`: fit a head's calibration to labelled rows, and write it as a new version."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.commands import judged
from service.commands.judged import Rows
from service.errors import StartError
from service.evaluation import judging, labelled, report
from service.evaluation.judging import Opened
from service.heads.writing import write_version
from service.numeric.calibration import Fit, fit_temperature, fit_vector
from service.numeric.scores import Scores

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 # argparse has no public name for it

EPILOG = """\
The calibration is fitted to four fifths of the rows, and judged on the others: every fifth row of each class, in the
order of the data, unless --held-out names rows of their own. What is written is a version after the newest, with the
same model.onnx; a service that runs takes it up on POST /admin/reload. Rows that the head was trained on make it look
surer than it may be: use others.

methods:
  temperature   one number for all logits; classes stay as they are; a few hundred rows are enough
  vector        a scale and a bias for each class; classes may change; needs some hundred rows of each class

Files are those of logitserve evaluate.

examples:
  logitserve calibrate --data validation.npz
  logitserve calibrate --model digits --data validation.csv --method vector --plot reliability.png
  logitserve calibrate --data logits.npy --labels labels.npy --logits --held-out test.npz --out ./calibrated
"""
METHODS = {"temperature": fit_temperature, "vector": fit_vector}
DIGEST_CHARACTERS = 12


class Part(NamedTuple):
    """Rows, and which of them are meant, [rows]."""

    rows: Rows
    chosen: NDArray[np.bool_]


def add_parser(subparsers: "Subparsers") -> None:
    parser = subparsers.add_parser(
        "calibrate",
        help="make a head as sure as it is right, as a new version",
        description="Fit a head's calibration to labelled rows, and write it as a new version.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    judged.add_flags(parser)
    add = parser.add_argument
    add("--method", choices=list(METHODS), default="temperature", help="default: %(default)s")
    add(
        "--held-out",
        type=Path,
        metavar="FILE",
        help="rows to judge by: .npz or .csv (default: every fifth of a class)",
    )
    add(
        "--out", type=Path, metavar="DIR", help="the folder of models to write to (default: that of --models)"
    )


def run(arguments: argparse.Namespace) -> int:
    judged.check_files(arguments)
    location, opened = judged.open_version(arguments)
    out = arguments.out or location
    if isinstance(out, str) or out.is_file():
        raise StartError(f"--out DIR is needed, since {location} is no folder of this machine")
    fitted, held_out = _parts(arguments, opened)
    fit = _fit(arguments.method, fitted)
    scores = _judge({"fitted to": fitted, "held out": held_out}, fit, arguments.bins)
    calibration = described(arguments.method, fit, scores.get("held out"))
    folder = write_version(
        out,
        opened.stored.model,
        opened.files.model,
        _description(opened)
        | {
            "calibration": calibration,
            "reference": judging.reference_of(held_out.rows.logits, fit.calibration),
        },
    )
    console = judged.console()
    console.print(
        report.compared({f"{part}, {name}": s for part, pair in scores.items() for name, s in pair.items()})
    )
    for remark in remarks(fit, fitted, scores):
        console.print(f"note: {remark}", style="bold yellow", markup=False)
    console.print(_summary(arguments.method, fit), markup=False)
    console.print(f"wrote {folder}", markup=False, soft_wrap=True)
    if arguments.json:
        document = _document(folder, calibration, fit, scores, opened.head.info.class_names)
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    shown = next(part for part in ("held out", "fitted to") if part in scores)
    title = f"{opened.stored.model} version {folder.name}: {arguments.method} scaling, rows {shown}"
    judged.draw(scores[shown], title, arguments.plot)
    return 0


def _document(
    folder: Path,
    calibration: dict[str, Any],
    fit: Fit,
    scores: dict[str, dict[str, Scores]],
    class_names: tuple[str, ...] | None,
) -> dict[str, Any]:
    return {
        "written": str(folder),
        "calibration": calibration,
        "gradient_norm": fit.gradient_norm,
        "steps": fit.steps,
        **{
            part.replace(" ", "_"): {name: report.document(s, class_names) for name, s in pair.items()}
            for part, pair in scores.items()
        },
    }


def described(method: str, fit: Fit, held_out: dict[str, Scores] | None) -> dict[str, Any]:
    """The calibration as head.json has it."""
    by = fit.calibration
    numbers: dict[str, Any] = {"temperature": by.temperature}
    if by.scale is not None and by.bias is not None:
        numbers = {"scale": by.scale.tolist(), "bias": by.bias.tolist()}
    fitted: dict[str, Any] = {
        "rows": fit.rows,
        "loss_before": fit.loss_before,
        "loss_after": fit.loss_after,
        "at_bound": list(fit.at_bound),
    }
    if held_out:
        before, after = held_out.values()
        fitted |= {
            "held_out_rows": after.rows,
            "held_out_loss_before": before.log_loss,
            "held_out_loss_after": after.log_loss,
        }
    return {"method": method, **numbers, "fitted": fitted}


def remarks(fit: Fit, fitted: Part, scores: dict[str, dict[str, Scores]]) -> list[str]:
    """Say in words what whoever serves this calibration should know."""
    said = []
    if fit.at_bound:
        listed = ", ".join(fit.at_bound[:8]) + (", …" if len(fit.at_bound) > 8 else "")
        said.append(
            f"{listed} stopped at a bound: these rows do not say how sure the head should be; "
            "more rows, or rows that it was not trained on, may"
        )
    present = np.bincount(fitted.rows.labels[fitted.chosen], minlength=fitted.rows.logits.shape[1]) > 0
    if fit.calibration.scale is not None and not present.all():
        said.append(
            f"{np.count_nonzero(~present)} of {len(present)} classes have no row to fit to: they become as "
            "unlikely as can be"
        )
    if "held out" not in scores:
        said.append(
            "no class has the five rows of which one is held out: nothing here shows what others will see"
        )
        return said
    before, after = scores["held out"].values()
    if after.log_loss > before.log_loss:
        said.append("the log loss of rows held out rises: the raw head serves better than this calibration")
    if after.accuracy < before.accuracy:
        said.append(f"the accuracy of rows held out falls from {before.accuracy:.4f} to {after.accuracy:.4f}")
    return said


def _parts(arguments: argparse.Namespace, opened: Opened) -> tuple[Part, Part]:
    """The rows to fit to, and those to judge by."""
    rows = judged.read_rows(opened, arguments.data, arguments.labels, logits=arguments.logits)
    if arguments.held_out is None:
        held_out = labelled.held_out(rows.labels)
        return Part(rows, ~held_out), Part(rows, held_out)
    others = judged.read_rows(opened, arguments.held_out, logits=arguments.logits)
    return Part(rows, np.ones(len(rows.labels), np.bool_)), Part(
        others, np.ones(len(others.labels), np.bool_)
    )


def _fit(method: str, part: Part) -> Fit:
    with judged.progress("fitting") as watch:
        # Rows held out have no weight: so they need not be copied apart.
        return METHODS[method](
            part.rows.logits,
            part.rows.labels,
            part.chosen.astype(np.float64),
            lambda step, _norm: watch(step),
        )


def _judge(parts: dict[str, Part], fit: Fit, num_bins: int) -> dict[str, dict[str, Scores]]:
    """Score each part that has rows, raw and calibrated."""
    found: dict[str, dict[str, Scores]] = {}
    for name, (rows, chosen) in parts.items():
        if chosen.any():
            with judged.progress(f"scoring the rows {name}", len(chosen)) as watch:
                found[name] = {
                    kind: judging.judge(*rows, by, chosen=chosen, num_bins=num_bins, watch=watch)
                    for kind, by in (("raw", None), ("calibrated", fit.calibration))
                }
    return found


def _description(opened: Opened) -> dict[str, Any]:
    """The head.json that lies beside the model, as it is written."""
    path = opened.stored.description_path
    described: dict[str, Any] = {} if path is None else json.loads(path.read_bytes())
    return described


def _summary(method: str, fit: Fit) -> str:
    by = fit.calibration
    found = f"temperature {by.temperature:.6g}"
    if by.scale is not None and by.bias is not None:
        found = (
            f"scales from {by.scale.min():.4g} to {by.scale.max():.4g}, "
            f"biases from {by.bias.min():.4g} to {by.bias.max():.4g}"
        )
    return f"{method} scaling: {found}; {fit.steps} steps, gradient {fit.gradient_norm:.1e}"
