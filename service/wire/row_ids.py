"""Ids of rows: given by whoever wants to send their labels later, and sent again with the labels."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from service.errors import MAX_OFFENCES, Invalid, Offence
from service.types import RowIds
from service.wire.json_reader import name_of

Schema: TypeAlias = dict[str, Any]

# UUIDs have 36; whoever joins a few keys of theirs needs not many more.
MAX_CHARACTERS = 200

ID: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS}
FIELD: Schema = {
    "description": "Keeps the rows until their labels are sent to /feedback: by ids that are made, or by these.",
    "anyOf": [{"const": True}, {"type": "array", "items": ID, "uniqueItems": True}],
}
OUTPUT: Schema = {
    "description": "The ids of the rows, in the shape of classes, where row_ids were asked for.",
    "anyOf": [ID, {"type": "array", "items": {}}],
}


def read_row_ids(value: Any, rows: int) -> RowIds:
    """Read the ids of so many rows.

    Raises
    ------
    Invalid
        `row_ids_type`, `row_ids_shape`, `row_ids_value`.
    """
    if value is True:
        return True
    ids = read_ids(value, path="row_ids")
    if len(ids) != rows:
        raise Invalid(
            "row_ids_shape", f"expected {rows} ids, one for each row, got {len(ids)}", path="row_ids"
        )
    if len(set(ids)) < rows:
        first: dict[str, int] = {}
        place = next(place for place, one in enumerate(ids) if first.setdefault(one, place) != place)
        message = f"expected distinct ids, got {ids[place][:40]!r} again"
        raise Invalid("row_ids_value", message, path=f"row_ids[{place}]")
    return tuple(ids)


def read_ids(value: Any, *, path: str) -> Sequence[str]:
    """Read a list, or an array of one axis, of printable ids.

    Raises
    ------
    Invalid
        `row_ids_type`, `row_ids_value`.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind == "U" and value.ndim == 1:
        value = value.tolist()
    if type(value) is not list:
        got = (
            f"an array of {value.dtype} and shape {list(value.shape)}"
            if isinstance(value, np.ndarray)
            else ""
        )
        raise Invalid("row_ids_type", f"expected a list of strings, got {got or name_of(value)}", path=path)
    if not set(map(type, value)) <= {str}:
        place, got = next((place, one) for place, one in enumerate(value) if type(one) is not str)
        raise Invalid("row_ids_type", f"expected a string, got {name_of(got)}", path=f"{path}[{place}]")
    faults = [place for place, one in enumerate(value) if not _is_id(one)]
    if faults:
        message = f"expected 1 to {MAX_CHARACTERS} printable characters"
        offences = [
            Offence(f"{path}[{place}]", f"{message}, got {_told(value[place])}")
            for place in faults[:MAX_OFFENCES]
        ]
        raise Invalid("row_ids_value", offences[0].message, offences=offences)
    ids: list[str] = value
    return ids


def _is_id(text: str) -> bool:
    return 0 < len(text) <= MAX_CHARACTERS and text.isprintable()


def _told(text: str) -> str:
    return f"{len(text)} characters" if text.isprintable() else f"{text[:40]!r}"
