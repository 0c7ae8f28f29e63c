"""The ways in which the exact kernel could be computed: what each costs, and whether it keeps the digits.

All take float32 logits through float64 to float32 probabilities, classes and, where asked, log-probabilities.
A cost is a ratio to a session of float32 Softmax and ArgMax in the same turn, the median of all turns.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from statistics import median
from typing import Any, NamedTuple, TypeAlias

from service.numeric import kernel  # first: importing `service` turns onnxruntime's telemetry off
from service.numeric.softmax import normalise

# isort: split
import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

# 10, 1,000 and 50,000 classes: where the goals are.
SHAPES = ((256, 10), (256, 1000), (8, 50_000))
# Elements worked on at a time, below and above the number that is kept.
OTHER_BLOCKS = (8192, 32_768, 131_072)
# A turn is long enough for the clock and short enough that nothing drifts in it.
TURN_S = 2e-3

Logits: TypeAlias = NDArray[np.float32]
Answers: TypeAlias = tuple[NDArray[Any], ...]
Run: TypeAlias = Callable[[Logits], Answers]


class Candidate(NamedTuple):
    """One way: without log-probabilities, with them, and what must hold while it runs."""

    name: str
    plain: Run
    logarithms: Run
    within: Callable[[], AbstractContextManager[None]] = nullcontext


class Cost(NamedTuple):
    """Of one candidate: ratios for each of `SHAPES`, and how wrong it is where the answer is tiny.

    `lost` is the relative error of the log-probability of a nearly certain class: 1 where no digit is right.
    """

    name: str
    plain: list[float]
    logarithms: list[float]
    lost: float


def candidates() -> list[Candidate]:
    kept = f"one pass over blocks of {kernel.BLOCK_ELEMENTS} (kept)"
    return [
        Candidate(kept, ours, ours_with_logarithms),
        *(
            Candidate(f"blocks of {elements}", ours, ours_with_logarithms, partial(blocks_of, elements))
            for elements in OTHER_BLOCKS
        ),
        Candidate("logarithms in a pass of their own", ours, ours_twice),
        Candidate("numpy, whole arrays", whole, whole_with_logarithms),
        Candidate("ONNX, double Sub, Exp, ReduceSum, Div", runner(_STEPS), runner(_STEPS + _STEPS_LOG)),
        Candidate("ONNX, double Softmax, LogSoftmax", runner(_SOFTMAX), runner(_SOFTMAX + _SOFTMAX_LOG)),
    ]


def measure(turns: int) -> list[Cost]:
    ways = candidates()
    found = [Cost(way.name, [], [], lost(way)) for way in ways]
    for shape in SHAPES:
        logits = (3 * np.random.default_rng(shape).standard_normal(shape)).astype(np.float32)
        peer = partial(runner(FLOAT32), logits)
        check(ways, logits)
        repeats = repeats_of(peer)
        seen = [[in_one_turn(way, logits, peer, repeats) for way in ways] for _ in range(turns)]
        for cost, ratios in zip(found, zip(*seen, strict=True), strict=True):
            cost.plain.append(median(plain for plain, _ in ratios))
            cost.logarithms.append(median(logarithms for _, logarithms in ratios))
    return found


def in_one_turn(
    way: Candidate, logits: Logits, peer: Callable[[], object], repeats: int
) -> tuple[float, float]:
    works: list[Callable[[], object]] = [peer, partial(way.plain, logits), partial(way.logarithms, logits)]
    with way.within():
        for work in works:  # or the first would find the caches as another candidate left them
            work()
        peer_s, plain_s, logarithms_s = (seconds(work, repeats) for work in works)
    return plain_s / peer_s, logarithms_s / peer_s


def check(ways: list[Candidate], logits: Logits) -> None:
    """Time nothing that does not agree to float32's own accuracy."""
    expected = whole_with_logarithms(logits)
    for way in ways:
        with way.within():
            for found, right in zip(way.logarithms(logits), expected, strict=True):
                np.testing.assert_allclose(found, right, rtol=1e-6, err_msg=way.name)


def lost(way: Candidate) -> float:
    """The relative error of log p of a class whose nine rivals have e^-40 each."""
    logits = np.full((1, 10), -40, np.float32)
    logits[0, 0] = 0
    exact = -9 * np.exp(-40.0)
    with way.within():
        return float(abs(way.logarithms(logits)[2][0, 0] / exact - 1))


def ours(logits: Logits) -> Answers:
    normalised = normalise(logits)
    return normalised.probabilities(), normalised.classes


def ours_with_logarithms(logits: Logits) -> Answers:
    normalised = normalise(logits, with_logarithms=True)
    return normalised.probabilities(), normalised.classes, normalised.log_probabilities()


def ours_twice(logits: Logits) -> Answers:
    normalised = normalise(logits)
    return normalised.probabilities(), normalised.classes, normalised.log_probabilities()


@contextmanager
def blocks_of(elements: int) -> Iterator[None]:
    kept = kernel.BLOCK_ELEMENTS
    kernel.BLOCK_ELEMENTS = elements
    try:
        yield
    finally:
        kernel.BLOCK_ELEMENTS = kept


def whole(logits: Logits) -> Answers:
    exponentials = np.exp(shifted(logits))
    exponentials /= exponentials.sum(axis=-1, keepdims=True)
    return exponentials.astype(np.float32), logits.argmax(axis=-1)


def whole_with_logarithms(logits: Logits) -> Answers:
    differences = shifted(logits)
    exponentials = np.exp(differences)
    total = exponentials.sum(axis=-1, keepdims=True)
    exponentials /= total
    differences -= np.log(total)
    return exponentials.astype(np.float32), logits.argmax(axis=-1), differences.astype(np.float32)


def shifted(logits: Logits) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return wide


_node = helper.make_node
_CLASSES = [_node("ArgMax", ["logits"], ["classes"], axis=-1, keepdims=0)]
_WIDE = [_node("Cast", ["logits"], ["wide"], to=TensorProto.DOUBLE), *_CLASSES]
_NARROW = [_node("Cast", ["p"], ["probabilities"], to=TensorProto.FLOAT)]
_NARROW_LOG = [_node("Cast", ["l"], ["logarithms"], to=TensorProto.FLOAT)]
SOFTMAX_ALONE = [_node("Softmax", ["logits"], ["probabilities"], axis=-1)]
FLOAT32 = [*SOFTMAX_ALONE, *_CLASSES]
_STEPS = [
    *_WIDE,
    _node("ReduceMax", ["wide"], ["top"], axes=[-1]),
    _node("Sub", ["wide", "top"], ["d"]),
    _node("Exp", ["d"], ["e"]),
    _node("ReduceSum", ["e", "last"], ["total"]),
    _node("Div", ["e", "total"], ["p"]),
    *_NARROW,
]
_STEPS_LOG = [_node("Log", ["total"], ["log"]), _node("Sub", ["d", "log"], ["l"]), *_NARROW_LOG]
_SOFTMAX = [*_WIDE, _node("Softmax", ["wide"], ["p"], axis=-1), *_NARROW]
_SOFTMAX_LOG = [_node("LogSoftmax", ["wide"], ["l"], axis=-1), *_NARROW_LOG]


def runner(nodes: list[NodeProto]) -> Run:
    """A session of these nodes on one thread; it answers what of probabilities, classes, logarithms they make."""
    kinds = {
        "probabilities": (TensorProto.FLOAT, ["rows", "num_classes"]),
        "classes": (TensorProto.INT64, ["rows"]),
        "logarithms": (TensorProto.FLOAT, ["rows", "num_classes"]),
    }
    made = {name for node in nodes for name in node.output}
    outputs = [helper.make_tensor_value_info(name, *kinds[name]) for name in kinds if name in made]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", "num_classes"])
    last = helper.make_tensor("last", TensorProto.INT64, [1], [-1])
    graph = helper.make_graph(nodes, "peer", [logits], outputs, [last] if "total" in made else [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda logits: tuple(session.run(None, {"logits": logits}))


def repeats_of(work: Callable[[], object]) -> int:
    return max(1, int(TURN_S / min(seconds(work, 10) for _ in range(5))))


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Seconds of processor time for each repeat, of all threads: other programs have no part in it."""
    begun_s = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - begun_s) / repeats
