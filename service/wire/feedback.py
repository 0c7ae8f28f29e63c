"""Delayed labels on the wire: ids and labels in, what became of each id out; from the server and from the client."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from service.errors import Invalid, UnsupportedMedia
from service.wire import json_writer, row_ids
from service.wire.json_reader import name_of, read_object
from service.wire.limits import Limits, check_rows
from service.wire.media import JSON

Schema: TypeAlias = dict[str, Any]

FIELDS = ("ids", "labels")
# What becomes of an id that no row was joined for.
OTHERWISE = ("unknown", "expired", "repeated")

# Of an answer: an object of objects of lists.
_DEPTH = 3

EXAMPLE = {"ids": ["order-17", "order-18"], "labels": [7, "two"]}
BODY: Schema = {
    "type": "object",
    "properties": {
        "ids": {"description": "The row_ids of predictions.", "type": "array", "items": row_ids.ID},
        "labels": {
            "description": "The true class of each row, as an index or a name of the head that scored it.",
            "type": "array",
            "items": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]},
        },
    },
    "required": list(FIELDS),
    "additionalProperties": False,
}
_MEANINGS = {
    "unknown": "No row was kept by these ids, or too long ago.",
    "expired": "Their rows were kept, and their label came too late.",
    "repeated": "They have their label already, and keep it.",
}
ANSWER: Schema = {
    "type": "object",
    "properties": {
        "joined": {"description": "Rows that have their label now.", "type": "integer", "minimum": 0},
        **{
            name: {
                "description": _MEANINGS[name],
                "type": "object",
                "properties": {
                    "count": {"type": "integer", "minimum": 0},
                    "ids": {"type": "array", "items": row_ids.ID},
                },
                "required": ["count", "ids"],
                "additionalProperties": False,
            }
            for name in OTHERWISE
        },
    },
    "required": ["joined", *OTHERWISE],
    "additionalProperties": False,
}


class Labelled(NamedTuple):
    """Ids of rows and the label of each: the index of a class, or its name."""

    ids: Sequence[str]
    labels: Sequence[int | str]


def check_media(content_type: str) -> None:
    """Refuse what is no JSON; no Content-Type counts as JSON.

    Raises
    ------
    UnsupportedMedia
        `unsupported_media_type`.
    """
    media_type = content_type.partition(";")[0].strip().lower() or JSON
    if media_type != JSON:
        message = f"expected Content-Type {JSON}, got {media_type[:40]!r}"
        raise UnsupportedMedia("unsupported_media_type", message)


def decode(body: bytes, limits: Limits) -> Labelled:
    """Read ids and their labels.

    Raises
    ------
    RequestError
        The first fault: the bytes, `unknown_field`, `missing_field`, `row_ids_type`, `row_ids_value`, `labels_type`,
        `row_ids_shape` where there are more of the ones or the others, `rows_too_many`.
    """
    fields = read_object(body, limits.json_depth)
    for name in fields:
        if name not in FIELDS:
            raise Invalid("unknown_field", "expected ids and labels, and nothing else", path=name[:40])
    for name in FIELDS:
        if name not in fields:
            raise Invalid("missing_field", "/feedback needs it", path=name)
    ids = row_ids.read_ids(fields["ids"], path="ids")
    check_rows(len(ids), limits, path="ids")
    labels = _read_labels(fields["labels"])
    if len(ids) != len(labels):
        message = f"expected a label for each of {len(ids)} ids, got {len(labels)}"
        raise Invalid("row_ids_shape", message, path="labels")
    return Labelled(ids, labels)


def encode(joined: int, others: Mapping[str, Sequence[str]]) -> bytes:
    """Write how many rows were joined, and the ids of those that were not."""
    counted = {name: {"count": len(others[name]), "ids": list(others[name])} for name in OTHERWISE}
    return json_writer.dumps({"joined": joined, **counted})


def encode_request(ids: Sequence[str], labels: Sequence[int | str]) -> bytes:
    """Write what `decode` reads."""
    return json_writer.dumps({"ids": list(ids), "labels": list(labels)})


def decode_result(body: bytes) -> dict[str, Any]:
    """Read what `encode` wrote."""
    return read_object(body, _DEPTH)


def _read_labels(value: Any) -> Sequence[int | str]:
    if type(value) is not list:
        raise Invalid("labels_type", f"expected a list, got {name_of(value)}", path="labels")
    if not set(map(type, value)) <= {int, str}:
        place, got = next((place, one) for place, one in enumerate(value) if type(one) not in {int, str})
        message = f"expected the index of a class or its name, got {name_of(got)}"
        raise Invalid("labels_type", message, path=f"labels[{place}]")
    labels: list[int | str] = value
    return labels
