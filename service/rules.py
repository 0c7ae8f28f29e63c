"""The rules of a decision as data, in head.json or in a request -> a `Decision` for the classes of a head.

What the rules do is known to `numeric.decisions`; who wrote them is not known here.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from service.errors import Invalid
from service.types import Abstention, Decision

Floats = NDArray[np.float64]

RULES = ("abstain", "costs", "mask", "priors", "thresholds")
ABSTAIN = {"below": 1.0, "margin": 1.0, "entropy_above": np.inf, "cost": np.inf}
PRIORS = ("fitted", "used")

# For the documentation; nothing is read by it.
DECISION_SCHEMA: dict[str, Any] = {
    "description": "What decisions go by, in place of the head's own rules: mask, priors, costs or thresholds, abstain.",
    "type": "object",
    "properties": {
        "mask": {"type": "array", "items": {"type": ["integer", "string"]}},
        "priors": {
            "type": "object",
            "properties": {name: {"type": "array", "items": {"type": "number"}} for name in PRIORS},
            "required": list(PRIORS),
            "additionalProperties": False,
        },
        "costs": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
        "thresholds": {"anyOf": [{"type": "number"}, {"type": "array", "items": {"type": "number"}}]},
        "abstain": {
            "type": "object",
            "properties": {name: {"type": "number"} for name in ABSTAIN},
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}

# Shares of classes, as people write them, add up to 1 within so much.
SUM_TOLERANCE = 1e-6


def read_decision(
    said: Mapping[str, Any], num_classes: int, class_names: Sequence[str] | None, *, path: str = "decision"
) -> Decision:
    """Read the rules of a decision.

    Parameters
    ----------
    said : mapping
        `mask`: classes never decided on, by index or name. `priors`: `{"fitted": [C], "used": [C]}`, the shares of the
        classes where the head was fitted and where it is used. `costs`: [C][C], of deciding on the class of a column
        where that of a row is true. `thresholds`: one, or [C]. `abstain`: `below`, `margin`, `entropy_above`, `cost`.
        None of them must be there.
    num_classes : int
    class_names : sequence of str or None

    Raises
    ------
    Invalid
        `unknown_field`, `decision_type`, `decision_shape`, `decision_value`, `unknown_class_name`, each with its place.
    """
    _check_members(said, RULES, path)
    costs = thresholds = masked = ratio = None
    if "mask" in said:
        masked = _read_mask(said["mask"], num_classes, class_names, f"{path}.mask")
    if "priors" in said:
        ratio = _read_priors(said["priors"], num_classes, f"{path}.priors")
    if "costs" in said:
        costs = _read_numbers(said["costs"], (num_classes, num_classes), f"{path}.costs")
    if "thresholds" in said:
        thresholds = _read_thresholds(said["thresholds"], num_classes, f"{path}.thresholds")
        if costs is not None:
            message = "expected costs or thresholds, got both: costs say already which class to decide on"
            raise Invalid("decision_value", message, path=f"{path}.thresholds")
    abstention = Abstention()
    if "abstain" in said:
        abstention = _read_abstention(said["abstain"], f"{path}.abstain", with_costs=costs is not None)
    return Decision(masked, ratio, costs, thresholds, abstention)


def _check_members(said: Any, known: Sequence[str], path: str) -> None:
    if not isinstance(said, Mapping):
        _refuse_type("an object", path)
    for name in said:
        if name not in known:
            near = get_close_matches(str(name)[:40], known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            message = f"expected one of {', '.join(known)}; got {str(name)[:40]!r}{hint}"
            raise Invalid("unknown_field", message, path=f"{path}.{str(name)[:40]}")


def _read_mask(
    said: Any, num_classes: int, class_names: Sequence[str] | None, path: str
) -> NDArray[np.bool_]:
    if not isinstance(said, list | tuple):
        _refuse_type("a list of classes", path)
    masked = np.zeros(num_classes, np.bool_)
    for index, named in enumerate(said):
        place = f"{path}[{index}]"
        if isinstance(named, str):
            if class_names is None or named not in class_names:
                known = "class names, and none are known" if class_names is None else "one of the class names"
                raise Invalid("unknown_class_name", f"expected {known}, got {named[:40]!r}", path=place)
            masked[list(class_names).index(named)] = True
        elif type(named) is int and 0 <= named < num_classes:
            masked[named] = True
        else:
            raise Invalid(
                "decision_value", f"expected a class from 0 to {num_classes - 1}, or a name", path=place
            )
    if masked.all():
        raise Invalid("decision_value", "expected a class that is left to decide on", path=path)
    return masked


def _read_priors(said: Any, num_classes: int, path: str) -> Floats:
    _check_members(said, PRIORS, path)
    shares = []
    for name in PRIORS:
        if name not in said:
            raise Invalid(
                "missing_field", "priors are shares where fitted and where used", path=f"{path}.{name}"
            )
        share = _read_numbers(said[name], (num_classes,), f"{path}.{name}")
        _check(share > 0, "a share above 0", share, f"{path}.{name}")
        if abs(share.sum() - 1) > SUM_TOLERANCE:
            message = f"expected shares that add up to 1, got {share.sum():.9g}"
            raise Invalid("decision_value", message, path=f"{path}.{name}")
        shares.append(share)
    fitted, used = shares
    ratio: Floats = used / fitted
    return ratio


def _read_thresholds(said: Any, num_classes: int, path: str) -> Floats:
    if _is_number(said):
        said = [said] * num_classes
    thresholds = _read_numbers(said, (num_classes,), path)
    _check((thresholds >= 0) & (thresholds <= 1), "a number from 0 to 1", thresholds, path)
    return thresholds


def _read_abstention(said: Any, path: str, *, with_costs: bool) -> Abstention:
    _check_members(said, tuple(ABSTAIN), path)
    for name, value in said.items():
        place = f"{path}.{name}"
        if not _is_number(value):
            _refuse_type("a number", place)
        if name == "cost" and not with_costs:
            raise Invalid("decision_value", "expected costs to compare it with, got none", path=place)
        least = -np.inf if name == "cost" else 0.0
        if not (np.isfinite(value) and least <= value <= ABSTAIN[name]):
            limits = "a finite number" if name == "cost" else f"a number from 0 to {ABSTAIN[name]:g}"
            raise Invalid("decision_value", f"expected {limits}, got {value:.9g}", path=place)
    return Abstention(**{name: float(value) for name, value in said.items()})


def _read_numbers(said: Any, shape: tuple[int, ...], path: str) -> Floats:
    """Read finite numbers of a shape, list by list, so that every fault has its place."""
    if not isinstance(said, list | tuple):
        _refuse_type("a list", path)
    if len(said) != shape[0]:
        raise Invalid(
            "decision_shape", f"expected {shape[0]}, one for each class, got {len(said)}", path=path
        )
    if len(shape) > 1:
        return np.stack([_read_numbers(row, shape[1:], f"{path}[{index}]") for index, row in enumerate(said)])
    for index, value in enumerate(said):
        if not _is_number(value):
            _refuse_type("a number", f"{path}[{index}]")
    numbers = np.asarray(said, np.float64)
    _check(np.isfinite(numbers), "a finite number", numbers, path)
    return numbers


def _check(holds: NDArray[np.bool_], expected: str, numbers: Floats, path: str) -> None:
    if not holds.all():
        index = int(np.argmin(holds))
        raise Invalid(
            "decision_value", f"expected {expected}, got {numbers[index]:.9g}", path=f"{path}[{index}]"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _refuse_type(expected: str, path: str) -> NoReturn:
    raise Invalid("decision_type", f"expected {expected}", path=path)
