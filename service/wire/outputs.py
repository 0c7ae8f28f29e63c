"""What is answered: the names that may be asked for, what each needs, and what comes unasked.

Only names are handled here; the scorer knows what they mean.
"""

from collections.abc import Iterable
from functools import cache

from service.errors import Invalid
from service.types import Decision, Operation
from service.wire.options import Options, unknown_name

_SOFTMAX = (
    "probabilities",
    "log_probabilities",
    "classes",
    "predicted_names",
    "one_hot",
    "entropy",
    "top_classes",
    "top_probabilities",
    "top_names",
)
_LOSS = (*_SOFTMAX, "loss", "losses", "count", "accuracy", "brier", "gradient")

_DECISION = ("decisions", "decided_names", "expected_costs", "adjusted_probabilities")

KNOWN: dict[Operation, tuple[str, ...]] = {
    "softmax": _SOFTMAX,
    "loss": _LOSS,
    "predict": (*_LOSS, *_DECISION, "logits", "contributions"),
}
NEED_LABELS = {"loss", "losses", "count", "accuracy", "brier", "gradient"}
NEED_TOP_K = {"top_classes", "top_probabilities", "top_names"}
NEED_CLASS_NAMES = {"predicted_names", "top_names", "decided_names"}
NEED_DECISION = frozenset(_DECISION)


def check_outputs(operation: Operation, options: Options, *, labelled: bool) -> None:
    """Refuse what cannot be asked for, as far as that shows before a head is known.

    Raises
    ------
    Invalid
        `unknown_output`, `top_k_range` (best classes without `top_k`), `missing_field` (at `labels`).
    """
    outputs = options.outputs
    if outputs is None:
        return
    if not outputs:
        raise Invalid("unknown_output", "expected at least one name, got an empty list", path="outputs")
    known = KNOWN[operation]
    for index, name in enumerate(outputs):
        if name not in known:
            raise Invalid("unknown_output", unknown_name(name, known), path=f"outputs[{index}]")
        if name in outputs[:index]:
            raise Invalid("unknown_output", f"expected {name!r} once", path=f"outputs[{index}]")
        if name == "loss" and options.reduction == "none":
            message = 'with the reduction "none" there is no loss, only losses'
            raise Invalid("unknown_output", message, path=f"outputs[{index}]")
    asked = set(outputs)
    if asked & NEED_TOP_K and options.top_k is None:
        names = _listed(asked & NEED_TOP_K)
        raise Invalid("top_k_range", f"the outputs {names} need top_k, got none", path="top_k")
    if asked & NEED_LABELS and not labelled:
        names = _listed(asked & NEED_LABELS)
        raise Invalid("missing_field", f"the outputs {names} need labels", path="labels")


def choose_outputs(operation: Operation, options: Options, *, labelled: bool, named: bool) -> tuple[str, ...]:
    """Return what is answered, in order: what was asked for, else the default.

    `labelled` says whether there are labels, `named` whether class names are known.

    Raises
    ------
    Invalid
        `unknown_output` for names of classes that nobody has named.
    """
    if options.outputs is None:
        reduced, best = options.reduction != "none", options.top_k is not None
        return _default(operation, reduced=reduced, best=best, labelled=labelled, named=named)
    for index, name in enumerate(options.outputs):
        if name in NEED_CLASS_NAMES and not named:
            message = f"{name} needs class_names, and none are known"
            raise Invalid("unknown_output", message, path=f"outputs[{index}]")
    return options.outputs


def with_decision(
    outputs: tuple[str, ...], decision: Decision | None, options: Options, *, named: bool
) -> tuple[str, ...]:
    """Return the outputs with those of a decision, where there is one and no others were asked for.

    Raises
    ------
    Invalid
        `unknown_output` for an output of a decision that nobody has made rules for.
    """
    if decision is None:
        if NEED_DECISION.isdisjoint(outputs):
            return outputs
        lacking = next(name for name in outputs if name in NEED_DECISION)
        message = f"{lacking} needs a decision, and neither the request nor the head has one"
        raise Invalid("unknown_output", message, path=f"outputs[{outputs.index(lacking)}]")
    if options.outputs is None:
        names = ("decided_names",) if named else ()
        return (*outputs, "decisions", *names, *(() if decision.costs is None else ("expected_costs",)))
    if decision.costs is None and "expected_costs" in outputs:
        message = "expected_costs needs a decision with costs"
        raise Invalid("unknown_output", message, path=f"outputs[{outputs.index('expected_costs')}]")
    return outputs


@cache
def _default(
    operation: Operation, *, reduced: bool, best: bool, labelled: bool, named: bool
) -> tuple[str, ...]:
    losses = ["loss", "losses", "count"] if reduced else ["losses", "count"]
    outputs = losses if operation == "loss" else ["probabilities", "classes"]
    if named:
        outputs = [*outputs, "predicted_names"]
    if best:
        outputs = [*outputs, "top_classes", "top_probabilities", *(["top_names"] if named else [])]
    if operation == "predict" and labelled:
        outputs = [*outputs, *losses]
    return tuple(outputs)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
