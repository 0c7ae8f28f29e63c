"""Whether an answer holds: the numbers against the exact ones, and errors against those that must come.

What is judged is what a server said, whatever the protocol; no server is asked here.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.conformance.vectors import Question, Tolerance
from service.types import FloatType

OK = 200
# A mistake of the client: 4xx, but for what is said of the route, the caller or the form rather than the values.
REFUSALS = frozenset(range(400, 500)) - {401, 403, 404, 405, 406, 408, 415, 429}
INTEGERS = frozenset({"classes", "top_classes", "count"})
LOSSES = frozenset({"losses", "loss"})
# Enough of an error's text to know it by.
TEXT_CHARACTERS = 120


class Answer(NamedTuple):
    """What a server said.

    Parameters
    ----------
    status : int
        Of HTTP; 0 where no whole answer came.
    outputs : mapping of output to array or None
        None is a null, or a tensor of nothing.
    faults : mapping of output to str
        Why an output cannot be read; under "" why none can.
    text : str
        Of an error, what it says.
    code : str
        Of an error, its stable code where it has one.
    keeps_shape : bool
        Whether the answer must have the exact shape; else it was asked in rows, or in tensors that have no scalars.
    """

    status: int
    outputs: Mapping[str, NDArray[Any] | None] = {}
    faults: Mapping[str, str] = {}
    text: str = ""
    code: str = ""
    keeps_shape: bool = True


class Verdict(NamedTuple):
    """Whether it holds; how far off it is where numbers were compared; what came instead where it does not.

    `near` is what does not hold, but is as near as the common libraries come.
    """

    held: bool
    ulp: float | None = None
    instead: str = ""
    near: bool = False


def judge(question: Question, output: str, answer: Answer) -> Verdict:
    """Judge one output of an answer to a question that has a value."""
    if answer.status != OK:
        refused = question.may_be_refused and output in LOSSES and answer.status in REFUSALS
        return Verdict(refused, instead="" if refused else _status(answer))
    fault = answer.faults.get(output, answer.faults.get("", ""))
    if fault:
        return Verdict(held=False, instead=fault)
    exact = question.expected[output]
    found = answer.outputs.get(output)
    if exact is None:
        return _judge_nothing(found)
    if found is None:
        came = "null" if output in answer.outputs else f"no {output} in the answer"
        return Verdict(held=False, instead=came)
    same = found.shape == exact.shape if answer.keeps_shape else found.size == exact.size
    if not same and exact.size + found.size:
        shapes = f"shape {list(found.shape)} in place of {list(exact.shape)}"
        return Verdict(held=False, instead=shapes)
    return compare(output, found.reshape(exact.shape), exact, question.dtype, question.tolerance)


def judge_refusal(question: Question, answer: Answer, *, by_code: bool = True) -> Verdict:
    """Judge an answer to a question that has no value: an error of the client, by its code where there is one."""
    if answer.status not in REFUSALS:
        return Verdict(held=False, instead=_status(answer))
    if by_code and answer.code not in {"", question.refusal}:
        return Verdict(held=False, instead=f"the code {answer.code} in place of {question.refusal}")
    return Verdict(held=True)


def compare(
    output: str, found: NDArray[Any], exact: NDArray[Any], dtype: FloatType, tolerance: Tolerance
) -> Verdict:
    """Compare numbers of one shape; floats are read as `dtype`, the type that was asked for."""
    if output in INTEGERS:
        wrong = found != exact
        return _verdict(wrong, wrong, found, exact, None)
    with np.errstate(over="ignore", invalid="ignore"):
        got = found.astype(dtype).astype(np.float64)
        error = np.where(got == exact, 0.0, np.abs(got - exact))
        far = np.isfinite(exact) != np.isfinite(got)
        far |= np.isinf(exact) & (got != exact)
        ulp = np.where(
            np.isfinite(exact), error / np.spacing(np.abs(exact).astype(dtype)).astype(np.float64), 0.0
        )
        rtol = tolerance.rtol_reduced if output == "loss" else tolerance.rtol
        wrong = far | (error > tolerance.atol + rtol * np.abs(exact))
        far |= error > tolerance.common_atol + tolerance.common_rtol * np.abs(exact)
        if output != "loss":
            wrong |= ulp > tolerance.max_ulp
    if output in LOSSES:
        wrong |= (exact == 0) & np.signbit(got)
    return _verdict(wrong, far, got, exact, ulp)


def _verdict(
    wrong: NDArray[np.bool_],
    far: NDArray[np.bool_],
    found: NDArray[Any],
    exact: NDArray[Any],
    ulp: NDArray[np.float64] | None,
) -> Verdict:
    worst = None if ulp is None else float(np.max(ulp, initial=0.0))
    # What is not even a number is not so many units off.
    if worst is not None and not math.isfinite(worst):
        worst = None
    if not wrong.any():
        return Verdict(held=True, ulp=worst)
    badness = np.where(wrong, 1.0 if ulp is None else np.nan_to_num(ulp, nan=np.inf), -1.0)
    index = np.unravel_index(int(np.argmax(badness)), badness.shape)
    place = "".join(f"[{i}]" for i in index)
    instead = f"{place}{' ' if place else ''}{found[index]} in place of {exact[index]}"
    return Verdict(held=False, ulp=worst, instead=instead, near=not far.any())


def _judge_nothing(found: NDArray[Any] | None) -> Verdict:
    if found is None or not found.size:
        return Verdict(held=True)
    return Verdict(held=False, instead=f"{found.ravel()[0]} in place of null")


def _status(answer: Answer) -> str:
    if answer.status == OK:
        values = ", ".join(f"{name} {_shown(value)}" for name, value in answer.outputs.items())
        unread = "; ".join(answer.faults.values())
        return "it was answered: " + (values or unread or "nothing that is known here")
    if not answer.status:
        return answer.text
    said = " ".join(answer.text.split())[:TEXT_CHARACTERS]
    return f"HTTP {answer.status}" + (f": {said}" if said else "")


def _shown(value: NDArray[Any] | None) -> str:
    if value is None:
        return "null"
    return " ".join(np.array2string(value, threshold=12, precision=6).split())
