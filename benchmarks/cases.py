"""What is asked, in each form that a request can take, and whether an answer is right.

`a_N` and `b_N` score N rows of features by a head, `s_N` turns N rows of 1000 logits into probabilities, `l_N`
takes their loss. Answers are compared with numpy in float64. Nothing here knows of servers or time.
"""

import io
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import orjson
from heads import SHAPES, linear
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Form: TypeAlias = Literal["json", "npz", "v2"]

OK = 200
NUM_LOGITS = 1000
ROWS = (1, 32, 256)
NAMES = tuple(f"{letter}_{rows}" for letter in "absl" for rows in ROWS)

NPZ = "application/x-npz"
# Names of numpy's types in the Open Inference Protocol, both ways.
DATATYPES = {"float32": "FP32", "float64": "FP64", "int64": "INT64"}
V2_HEADER_BYTES = "inference-header-content-length"

# Of a head's float32 product only so many digits are the same on every CPU and in every server.
RTOL, ATOL = 1e-4, 1e-9
LOGIT_ATOL = 1e-4


class Case(NamedTuple):
    """One request: the arrays that are sent, and the exact logits that they lead to."""

    name: str
    operation: Literal["predict", "softmax", "loss"]
    model: str
    arrays: dict[str, Array]
    logits: NDArray[np.float64]

    @property
    def rows(self) -> int:
        return len(self.logits)


class Request(NamedTuple):
    """One POST; a service answers it in the form it came in."""

    path: str
    body: bytes
    headers: dict[str, str]


class Answer(NamedTuple):
    """What came back; names of headers in lower case."""

    status: int
    body: bytes
    headers: dict[str, str]


class WrongAnswer(Exception):
    """A server whose answers are wrong is not timed."""


def make(name: str) -> Case:
    """Make the case of a name such as `b_32`; the same each time."""
    parts = re.fullmatch(r"([absl])_([1-9]\d{0,5})", name)
    if parts is None:
        raise ValueError(f"expected a case such as a_1, b_32, s_1 or l_256, got {name!r}")
    letter, rows = parts[1], int(parts[2])
    rng = np.random.default_rng([ord(letter), rows])
    if letter in SHAPES:
        features = rng.standard_normal((rows, SHAPES[letter][0]), np.float32)
        weights, bias = linear(letter)
        exact = features.astype(np.float64) @ weights + bias
        return Case(name, "predict", letter, {"features": features}, exact)
    logits = 3 * rng.standard_normal((rows, NUM_LOGITS), np.float32)
    arrays: dict[str, Array] = {"logits": logits}
    if letter == "s":
        return Case(name, "softmax", "softmax", arrays, logits.astype(np.float64))
    arrays["labels"] = rng.integers(NUM_LOGITS, size=rows)
    return Case(name, "loss", "loss", arrays, logits.astype(np.float64))


def check(case: Case, answered: Mapping[str, Any]) -> None:
    """Compare an answer, whatever its types, with the exact one; raise `WrongAnswer` where it differs."""
    try:
        values = {name: np.asarray(answered[name]) for name in answers_of(case)}
    except KeyError as missing:
        raise WrongAnswer(f"{case.name}: no {missing} in the answer") from None
    logarithms = case.logits - np.logaddexp.reduce(case.logits, axis=-1, keepdims=True)
    if case.operation == "loss":
        losses = -np.take_along_axis(logarithms, case.arrays["labels"][:, None], -1)[:, 0]
        mean = values["loss"].reshape(-1)  # V2 knows no tensor without an axis
        right = _close(values["losses"], losses) and _close(mean, losses.mean(keepdims=True))
    else:
        classes = values["classes"]
        right = _close(values["probabilities"], np.exp(logarithms)) and classes.shape == (case.rows,)
        if right:  # of two logits that float32 cannot tell apart either may be the largest
            chosen = np.take_along_axis(case.logits, classes.astype(np.int64)[:, None], -1)[:, 0]
            right = bool((chosen >= case.logits.max(axis=-1) - LOGIT_ATOL).all())
    if not right:
        raise WrongAnswer(f"{case.name}: the answer is not what numpy computes")


def answers_of(case: Case) -> tuple[str, ...]:
    return ("losses", "loss") if case.operation == "loss" else ("probabilities", "classes")


def _close(found: Array, exact: Array) -> bool:
    return found.shape == exact.shape and bool(np.allclose(found, exact, rtol=RTOL, atol=ATOL))


def _write_json(case: Case) -> Request:
    option = {"model": case.model}
    if case.operation != "predict":
        option = {"dtype": "float32"}  # what the logits are; numbers of JSON would be float64
    body = orjson.dumps({**case.arrays, **option}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Request(f"/{case.operation}", body, {"Content-Type": "application/json"})


def _read_json(answer: Answer) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(answer.body)
    return fields


def _write_npz(case: Case) -> Request:
    file = io.BytesIO()
    np.savez(file, **case.arrays)  # type: ignore[arg-type] # its stub takes a keyword for a flag
    query = f"?model={case.model}" if case.operation == "predict" else ""
    return Request(f"/{case.operation}{query}", file.getvalue(), {"Content-Type": NPZ, "Accept": NPZ})


def _read_npz(answer: Answer) -> dict[str, Any]:
    with np.load(io.BytesIO(answer.body)) as members:
        return dict(members)


def _write_v2(case: Case) -> Request:
    """Binary tensors behind a JSON header, as the Open Inference Protocol's extension has them."""
    inputs = [
        {
            "name": name,
            "shape": array.shape,
            "datatype": DATATYPES[array.dtype.name],
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in case.arrays.items()
    ]
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in answers_of(case)]
    header = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
    body = header + b"".join(array.tobytes() for array in case.arrays.values())
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(header)),
    }
    return Request(f"/v2/models/{case.model}/infer", body, headers)


def _read_v2(answer: Answer) -> dict[str, Any]:
    begin = int(answer.headers.get(V2_HEADER_BYTES, len(answer.body)))
    types = {datatype: np.dtype(name) for name, datatype in DATATYPES.items()}
    found: dict[str, Any] = {}
    for output in json.loads(answer.body[:begin])["outputs"]:
        dtype, shape = types[output["datatype"]], tuple(output["shape"])
        if "data" in output:
            found[output["name"]] = np.asarray(output["data"], dtype).reshape(shape)
            continue
        size = output["parameters"]["binary_data_size"]
        found[output["name"]] = np.frombuffer(answer.body[begin : begin + size], dtype).reshape(shape)
        begin += size
    return found


class Wire(NamedTuple):
    """How a case is written and its answer read."""

    write: Callable[[Case], Request]
    read: Callable[[Answer], dict[str, Any]]


WIRES: dict[Form, Wire] = {
    "json": Wire(_write_json, _read_json),
    "npz": Wire(_write_npz, _read_npz),
    "v2": Wire(_write_v2, _read_v2),
}
