"""Measure how far softmax and cross-entropy are from the exact value, ours and those of other libraries.

    python benchmarks/accuracy.py                       every library that is installed
    python benchmarks/accuracy.py --quick --classes 10  a look in seconds
    python benchmarks/accuracy.py --families            worst case of each family of inputs as well

The reference is mpmath with 256 bits. Errors are in units in the last place (ulp) of the exact value in the
type of the answer; below the normal numbers that unit is the smallest subnormal number. The inputs are the
same each time.
"""

import argparse
import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import mpmath
import numpy as np
import scipy.special
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from service.numeric.losses import cross_entropy
from service.numeric.softmax import log_softmax, softmax

Array: TypeAlias = NDArray[Any]

FAMILIES = ("normal", "wide", "wide+offset", "near-tie", "confident", "equal", "subnormal", "huge")
QUANTITIES = ("softmax", "log-softmax", "hard-label loss", "soft-label loss")

# Elements of each family and number of classes: enough rows to meet the worst case, few enough for mpmath.
ELEMENTS, ELEMENTS_QUICK = 6000, 600

mpmath.mp.prec = 256


class Case(NamedTuple):
    """Logits [N, C], their labels [N], and target rows [N, C], all of one family and type."""

    family: str
    logits: Array
    labels: NDArray[np.int64]
    targets: Array


class Exact(NamedTuple):
    """Exact values in units of their last place, as `high` + `low`, and the power of two of that unit."""

    high: NDArray[np.float64]
    low: NDArray[np.float64]
    unit_exponent: NDArray[np.int64]


class Library(NamedTuple):
    """One implementation: what it is called, and its answers to a case in the order of `QUANTITIES`."""

    name: str
    answers: Callable[[Case], tuple[Array, Array, Array, Array]]


def logits_of(family: str, rng: np.random.Generator, shape: tuple[int, int], dtype: np.dtype[Any]) -> Array:
    double = dtype == np.float64
    reach = 350.0 if double else 40.0
    low, high = (-744.0, -708.5) if double else (-103.0, -87.5)
    top = rng.integers(shape[1], size=shape[0])
    rows = np.arange(shape[0])
    if family == "normal":
        x = 3 * rng.standard_normal(shape)
    elif family in ("wide", "wide+offset"):
        x = rng.uniform(-reach, reach, shape)
        if family == "wide+offset":
            x += rng.uniform(-2000, 2000, (shape[0], 1))
    elif family == "near-tie":
        base = rng.uniform(1, 40, (shape[0], 1)).astype(dtype)
        x = base + rng.integers(-3, 4, shape) * np.spacing(base)
    elif family == "confident":
        x = rng.standard_normal(shape)
        x[rows, top] += rng.uniform(15, 60, shape[0])
    elif family == "equal":
        x = np.repeat(rng.uniform(-50, 50, (shape[0], 1)), shape[1], axis=1)
    elif family == "subnormal":
        x = rng.uniform(low, high, shape)
        x[rows, top] = 0
    else:
        x = 1e4 * rng.standard_normal(shape)
    return x.astype(dtype)


def cases(dtype: np.dtype[Any], num_classes: int, elements: int) -> Iterator[Case]:
    """One case of each family; half of the labels are the largest class, the others any."""
    for number, family in enumerate(FAMILIES):
        rng = np.random.default_rng([number, num_classes])
        shape = (max(2, elements // num_classes), num_classes)
        logits = logits_of(family, rng, shape, dtype)
        labels = np.where(
            rng.random(shape[0]) < 0.5, logits.argmax(-1), rng.integers(num_classes, size=shape[0])
        )
        yield Case(family, logits, labels, rng.dirichlet(np.ones(num_classes), shape[0]).astype(dtype))


def exact_answers(case: Case) -> tuple[Exact, ...]:
    dtype = case.logits.dtype
    probabilities, logarithms, hard, soft = [], [], [], []
    for row, label, target in zip(case.logits, case.labels, case.targets, strict=True):
        p, log_p = exact_row([mpmath.mpf(float(x)) for x in row])
        probabilities.append(p)
        logarithms.append(log_p)
        hard.append(-log_p[label])
        soft.append(-mpmath.fsum(float(y) * value for y, value in zip(target, log_p, strict=True)))
    return tuple(
        in_units(np.array(values, object), dtype) for values in (probabilities, logarithms, hard, soft)
    )


def exact_row(logits: list[Any]) -> tuple[list[Any], list[Any]]:
    """Probabilities and their logarithms; the logarithm from the sum of the others, which may be tiny."""
    largest = max(range(len(logits)), key=logits.__getitem__)
    shifted = [x - logits[largest] for x in logits]
    exponentials = [mpmath.exp(d) for d in shifted]
    others = mpmath.fsum(e for index, e in enumerate(exponentials) if index != largest)
    log_total = mpmath.log1p(others)
    return [e / (1 + others) for e in exponentials], [d - log_total for d in shifted]


def in_units(values: Array, dtype: np.dtype[Any]) -> Exact:
    info = np.finfo(dtype)
    smallest = int(info.minexp) - int(info.nmant)
    high, low = np.empty(values.shape), np.empty(values.shape)
    unit_exponent = np.empty(values.shape, np.int64)
    for place, value in np.ndenumerate(values):
        exponent = int(mpmath.frexp(value)[1]) - 1 if value else smallest
        unit_exponent[place] = max(exponent - int(info.nmant), smallest)
        scaled = mpmath.ldexp(value, -int(unit_exponent[place]))
        high[place] = float(scaled)
        low[place] = float(scaled - mpmath.mpf(high[place]))
    return Exact(high, low, unit_exponent)


def worst_error(found: Array, exact: Exact) -> float:
    """The largest error in ulp; infinite where the answer is no number and the exact value is one."""
    with np.errstate(invalid="ignore", over="ignore"):  # answers that overflowed, counted on the next line
        error = np.abs((np.ldexp(found.astype(np.float64), -exact.unit_exponent) - exact.high) - exact.low)
    return float(np.where(np.isfinite(found), error, np.inf).max())


def logitserve() -> Library:
    def answers(case: Case) -> tuple[Array, Array, Array, Array]:
        hard = cross_entropy(case.logits, case.labels, reduction="none").losses
        soft = cross_entropy(case.logits, case.targets, reduction="none").losses
        return softmax(case.logits), log_softmax(case.logits), hard, soft

    return Library("logitserve", answers)


def numpy_shifted() -> Library:
    def answers(case: Case) -> tuple[Array, Array, Array, Array]:
        shifted = case.logits - case.logits.max(axis=-1, keepdims=True)
        exponentials = np.exp(shifted)
        total = exponentials.sum(axis=-1, keepdims=True)
        return (exponentials / total, *with_losses(case, shifted - np.log(total)))

    return Library(f"numpy {np.__version__}, max-shifted", answers)


def scipy_special() -> Library:
    def answers(case: Case) -> tuple[Array, Array, Array, Array]:
        logarithms = scipy.special.log_softmax(case.logits, axis=-1)
        return (scipy.special.softmax(case.logits, axis=-1), *with_losses(case, logarithms))

    return Library(f"scipy {scipy.__version__}", answers)


def with_losses(case: Case, logarithms: Array) -> tuple[Array, Array, Array]:
    """Both losses as users of a library without any write them, in the type of the logits."""
    hard = -logarithms[np.arange(len(logarithms)), case.labels]
    return logarithms, hard, -(case.targets * logarithms).sum(axis=-1)


def onnxruntime_sessions() -> Library:
    onnx, ort = importlib.import_module("onnx"), importlib.import_module("onnxruntime")

    def run(operator: str, case: Case, **attributes: str) -> Array:
        with_labels = operator == "SoftmaxCrossEntropyLoss"
        kind = onnx.helper.np_dtype_to_tensor_dtype(case.logits.dtype)
        inputs = [onnx.helper.make_tensor_value_info("x", kind, ["n", "c"])]
        feed: dict[str, Array] = {"x": case.logits}
        if with_labels:
            inputs.append(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT64, ["n"]))
            feed["y"] = case.labels
        node = onnx.helper.make_node(operator, list(feed), ["z"], **attributes)
        output = onnx.helper.make_tensor_value_info("z", kind, ["n"] if with_labels else ["n", "c"])
        graph = onnx.helper.make_graph([node], "accuracy", inputs, [output])
        # Opset 17 and IR version 8 are old enough for every onnxruntime that is still in use.
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        answer: Array = session.run(None, feed)[0]
        return answer

    def answers(case: Case) -> tuple[Array, Array, Array, Array]:
        logarithms, _, soft = with_losses(case, run("LogSoftmax", case))
        return run("Softmax", case), logarithms, run("SoftmaxCrossEntropyLoss", case, reduction="none"), soft

    return Library(f"onnxruntime {ort.__version__}", answers)


def torch_functional() -> Library:
    torch = importlib.import_module("torch")
    f = importlib.import_module("torch.nn.functional")

    def answers(case: Case) -> tuple[Array, Array, Array, Array]:
        x, y, rows = (torch.from_numpy(array) for array in (case.logits, case.labels, case.targets))
        hard, soft = (f.cross_entropy(x, target, reduction="none") for target in (y, rows))
        return f.softmax(x, -1).numpy(), f.log_softmax(x, -1).numpy(), hard.numpy(), soft.numpy()

    return Library(f"torch {torch.__version__}", answers)


def tensorflow_nn() -> Library:
    tf = importlib.import_module("tensorflow")

    def answers(case: Case) -> tuple[Array, Array, Array, Array]:
        hard = tf.nn.sparse_softmax_cross_entropy_with_logits(case.labels, case.logits)
        soft = tf.nn.softmax_cross_entropy_with_logits(case.targets, case.logits)
        logarithms = tf.nn.log_softmax(case.logits)
        return tf.nn.softmax(case.logits).numpy(), logarithms.numpy(), hard.numpy(), soft.numpy()

    return Library(f"tensorflow {tf.__version__}", answers)


# Ours first; each of the others in the versions that are installed.
LIBRARIES = {
    "logitserve": logitserve,
    "numpy": numpy_shifted,
    "scipy": scipy_special,
    "onnxruntime": onnxruntime_sessions,
    "torch": torch_functional,
    "tensorflow": tensorflow_nn,
}

Errors: TypeAlias = dict[tuple[str, str, str], float]


def measure(libraries: list[Library], dtype: np.dtype[Any], classes: list[int], elements: int) -> Errors:
    """The worst error in ulp of each library, quantity and family."""
    worst: Errors = {}
    every = [case for num_classes in classes for case in cases(dtype, num_classes, elements)]
    for case in track(every, f"{dtype}", transient=True, console=Console(stderr=True)):
        exact = exact_answers(case)
        for library in libraries:
            for quantity, found, truth in zip(QUANTITIES, library.answers(case), exact, strict=True):
                key = (library.name, quantity, case.family)
                worst[key] = max(worst.get(key, 0.0), worst_error(found, truth))
    return worst


def print_worst(console: Console, errors: Errors, libraries: list[Library], dtype: np.dtype[Any]) -> None:
    table = Table("", *QUANTITIES, title=f"{dtype}: largest error over all families, in ulp")
    for library in libraries:
        cells = (
            max(errors[library.name, quantity, family] for family in FAMILIES) for quantity in QUANTITIES
        )
        table.add_row(library.name, *map(shown, cells))
    console.print(table)


def print_families(console: Console, errors: Errors, libraries: list[Library], dtype: np.dtype[Any]) -> None:
    for quantity in QUANTITIES:
        table = Table("", *FAMILIES, title=f"{dtype} {quantity}: largest error, in ulp")
        for library in libraries:
            table.add_row(
                library.name, *(shown(errors[library.name, quantity, family]) for family in FAMILIES)
            )
        console.print(table)


def shown(error: float) -> str:
    return f"{error:.2f}" if error < 100 else f"{error:.0f}" if error < 1e4 else f"{error:.1e}"


def installed() -> tuple[list[Library], list[str]]:
    """The libraries at hand, and the names of those that are not installed."""
    found, missing = [], []
    for name, load in LIBRARIES.items():
        try:
            found.append(load())
        except ModuleNotFoundError:
            missing.append(name)
    return found, missing


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 3, 10, 100, 1000], metavar="C")
    parser.add_argument(
        "--families", action="store_true", help="print each family of inputs on its own as well"
    )
    options = parser.parse_args(arguments)
    libraries, missing = installed()
    console = Console(width=max(Console().width, 120))  # a table of eight families needs it
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        elements = ELEMENTS_QUICK if options.quick else ELEMENTS
        errors = measure(libraries, dtype, options.classes, elements)
        print_worst(console, errors, libraries, dtype)
        if options.families:
            print_families(console, errors, libraries, dtype)
    if missing:
        console.print(f"Not installed here, so not measured: {', '.join(missing)}.")


if __name__ == "__main__":
    main()
