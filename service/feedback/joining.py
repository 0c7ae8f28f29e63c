"""Ids and labels -> what became of each, and the rows that were joined, for whoever judges them."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from service.errors import MAX_OFFENCES, Invalid, Offence
from service.feedback.store import Found, ScoredBy, Store, Waiting, as_array, pieces
from service.types import FloatArray, IndexArray

Label: TypeAlias = int | str

# Gets model and version, the head's own logits [rows, num_classes] and the labels [rows] of rows that were joined.
Judged: TypeAlias = Callable[[str, str, FloatArray, IndexArray], None]

# Whoever takes rows keeps those waiting who write some: a thousand take some 10 ms.
TAKEN_AT_ONCE = 1000


class Outcomes(NamedTuple):
    """How many rows were joined, and the ids of all others, in the order in which they came.

    Repeated are ids that have been joined before, in this request or in another.
    """

    joined: int
    unknown: list[str]
    expired: list[str]
    repeated: list[str]


def join(store: Store, ids: Sequence[str], labels: Sequence[Label], judged: Judged) -> Outcomes:
    """Join labels to the rows that wait for them.

    Raises
    ------
    Invalid
        `unknown_class_name`, `label_out_of_range`: a label is none of the head that scored its row, and nothing
        was joined.
    StoreFailed
        The rows joined so far were judged, and are repeated when they come again.
    """
    found = store.find(dict.fromkeys(ids))
    classes = _classes_of(ids, labels, found)
    waiting = {i: row for i, row in found.items() if isinstance(row, Waiting)}
    taken: set[str] = set()
    for some in pieces(waiting, TAKEN_AT_ONCE):
        got = store.take({i: waiting[i] for i in some})
        _tell(judged, {i: waiting[i] for i in some if i in got}, classes)
        taken |= got
    outcomes = Outcomes(len(taken), [], [], [])
    for row_id in ids:
        if row_id in taken:
            taken.remove(row_id)  # it is joined once
        elif row_id not in found:
            outcomes.unknown.append(row_id)
        elif found[row_id] == "expired":
            outcomes.expired.append(row_id)
        else:
            outcomes.repeated.append(row_id)
    return outcomes


def _tell(judged: Judged, rows: dict[str, Waiting], classes: dict[str, int]) -> None:
    by_head: dict[ScoredBy, list[str]] = {}
    for row_id, row in rows.items():
        by_head.setdefault(row.by, []).append(row_id)
    for by, ids in by_head.items():
        labels = np.fromiter((classes[i] for i in ids), np.int64, len(ids))
        judged(by.model, by.version, as_array([rows[i] for i in ids]), labels)


def _classes_of(ids: Sequence[str], labels: Sequence[Label], found: Mapping[str, Found]) -> dict[str, int]:
    """Find the class of each row that waits; of an id that comes twice the first label counts."""
    classes: dict[str, int] = {}
    faults: list[tuple[str, Offence]] = []
    indices: dict[ScoredBy, dict[str, int]] = {}
    for place, (row_id, label) in enumerate(zip(ids, labels, strict=True)):
        row = found.get(row_id)
        if not isinstance(row, Waiting):
            continue
        by = row.by
        if by not in indices:
            indices[by] = {name: index for index, name in enumerate(by.class_names or ())}
        index = indices[by].get(label) if isinstance(label, str) else label
        if index is None or not 0 <= index < by.num_classes:
            faults.append(_fault(f"labels[{place}]", label, by))
        else:
            classes.setdefault(row_id, index)
        if len(faults) == MAX_OFFENCES:
            break
    if faults:
        code, first = faults[0]
        offences = [offence for other, offence in faults if other == code]
        raise Invalid(code, first.message, offences=offences)
    return classes


def _fault(path: str, label: Label, by: ScoredBy) -> tuple[str, Offence]:
    head = f"{by.model} version {by.version}, which scored the row"
    if isinstance(label, int):
        message = f"expected a class from 0 to {by.num_classes - 1} of {head}, got {label}"
        return "label_out_of_range", Offence(path, message)
    if by.class_names is None:
        message = f"expected the index of a class, since {head}, has no names, got {label[:40]!r}"
    else:
        message = f"expected one of {by.num_classes} class names of {head}, got {label[:40]!r}"
    return "unknown_class_name", Offence(path, message)
