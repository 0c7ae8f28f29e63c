"""Decisions: which class to act on, given probabilities, what mistakes cost and when to leave it to somebody else.

The class of the highest probability is the right one to act on only where all mistakes cost alike, where the world
is as it was when the head was fitted, and where acting is always better than asking. Whatever else holds is said as
data, not as code beside the service.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.types import Abstention, Decision

Floats = NDArray[np.float64]

# The decision not to decide.
ABSTAINED = -1


class Decided(NamedTuple):
    """The classes decided on [...], `ABSTAINED` where none is, and what each is expected to cost, where costs are known."""

    classes: NDArray[np.int64]
    expected_costs: Floats | None


def adjusted_logits(logits: Floats, decision: Decision) -> Floats:
    """Move logits to the classes that are allowed and to the world as it is.

    The softmax of what comes out is `p(c) * ratio(c)` over its sum, for the classes that are not masked.

    Parameters
    ----------
    logits : float64 array [..., C]
        -infinity masks a class already.
    decision : Decision

    Returns
    -------
    float64 array [..., C]
        A row of which nothing is left is all -infinity.

    References
    ----------
    M. Saerens, P. Latinne, C. Decaestecker, Adjusting the outputs of a classifier to new a priori probabilities,
    Neural Computation 14 (2002), equation 2.4.
    """
    if decision.prior_ratio is not None:
        logits = logits + np.log(decision.prior_ratio)
    if decision.masked is not None:
        logits = np.where(decision.masked, -np.inf, logits)
    return logits


def decide(probabilities: Floats, decision: Decision) -> Decided:
    """Decide on a class for each row.

    With costs it is the class of the least expected cost, `sum over c of p(c) * costs[c, j]`; else the most probable
    one of those that reach their threshold. Ties go to the lower index. A class of probability 0 is never decided on.

    Parameters
    ----------
    probabilities : float64 array [..., C]
        Already adjusted; a row of zeros has nothing to decide on.
    decision : Decision

    Returns
    -------
    Decided

    References
    ----------
    C. K. Chow, On optimum recognition error and reject tradeoff, IEEE Transactions on Information Theory 16 (1970);
    C. Elkan, The foundations of cost-sensitive learning, IJCAI 2001, equation 1.

    Examples
    --------
    To miss a tumour (row 1, column 0) costs ten times as much as a needless look:

    >>> import numpy as np
    >>> from service.numeric.decisions import Decision, decide
    >>> costs = np.array([[0.0, 1.0], [10.0, 0.0]])
    >>> decide(np.array([[0.8, 0.2], [0.95, 0.05]]), Decision(costs=costs)).classes
    array([1, 0])
    """
    possible = probabilities > 0
    expected = None
    if decision.costs is not None:
        expected = probabilities @ decision.costs
        classes = np.argmin(np.where(possible, expected, np.inf), axis=-1)
    else:
        if decision.thresholds is not None:
            possible &= probabilities >= decision.thresholds
        classes = np.argmax(np.where(possible, probabilities, -1.0), axis=-1)
    abstained = ~possible.any(axis=-1) | _left(probabilities, classes, expected, decision.abstention)
    decided = np.where(abstained, ABSTAINED, classes)
    if expected is None:
        return Decided(decided, None)
    costs = np.take_along_axis(expected, classes[..., None], axis=-1)[..., 0]
    if decision.abstention.cost is not None:
        costs = np.where(abstained, decision.abstention.cost, costs)
    return Decided(decided, costs)


def _left(
    probabilities: Floats, classes: NDArray[np.int64], expected: Floats | None, rules: Abstention
) -> NDArray[np.bool_]:
    """Tell which rows are left to somebody else."""
    left = np.zeros(classes.shape, np.bool_)
    chosen = np.take_along_axis(probabilities, classes[..., None], axis=-1)
    if rules.below is not None:
        left |= chosen[..., 0] < rules.below
    if rules.margin is not None:
        others = probabilities.copy()
        np.put_along_axis(others, classes[..., None], -np.inf, axis=-1)
        if others.shape[-1] > 1:  # the only class has no next best
            left |= chosen[..., 0] - others.max(axis=-1) < rules.margin
    if rules.entropy_above is not None:
        logarithms = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
        left |= -(probabilities * logarithms).sum(axis=-1) > rules.entropy_above
    if rules.cost is not None and expected is not None:
        left |= np.take_along_axis(expected, classes[..., None], axis=-1)[..., 0] > rules.cost
    return left
