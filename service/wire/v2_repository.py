"""Triton's model repository extension of the Open Inference Protocol V2: its bodies and their schemas.

What is loaded, and how, is not known here.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import orjson

from service.errors import Invalid
from service.wire.json_reader import name_of, read_object
from service.wire.limits import Limits
from service.wire.media import JSON

Schema: TypeAlias = dict[str, Any]

# Its words for our states; a version that serves is ready, whatever its files have become.
STATES = {"ready": "READY", "loading": "LOADING", "unloaded": "UNAVAILABLE", "failed": "UNAVAILABLE"}
# What may come with a request and changes nothing: no head depends on another.
_IGNORED = {"unload_dependents"}

ERROR: Schema = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
INDEX: Schema = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "version": {"type": "string"},
            "state": {"enum": sorted(set(STATES.values()))},
            "reason": {"type": "string"},
        },
    },
}
INDEX_REQUEST: Schema = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
CHANGE_REQUEST: Schema = {"type": "object", "properties": {"parameters": {"type": "object"}}}


def read_index(body: bytes, limits: Limits) -> bool:
    """Read whether only versions that are ready are asked for; an empty body asks for all.

    Raises
    ------
    RequestError
        No JSON object, or `option_type` where `ready` is no boolean.
    """
    ready = _read(body, limits).get("ready", False)
    if type(ready) is not bool:
        raise Invalid("option_type", f"expected true or false, got {name_of(ready)}", path="ready")
    return ready


def check_change(body: bytes, limits: Limits) -> None:
    """Refuse a request to load or unload that brings files or a configuration; an empty body brings nothing.

    Raises
    ------
    RequestError
        No JSON object, `option_type` where `parameters` are none, or `unknown_field` for one that is not known: a
        model is what lies in the repository, and nothing sent can change it.
    """
    parameters = _read(body, limits).get("parameters", {})
    if type(parameters) is not dict:
        raise Invalid("option_type", f"expected an object, got {name_of(parameters)}", path="parameters")
    check_parameters(parameters)


def check_parameters(names: Iterable[str]) -> None:
    """Refuse a parameter that would change what is loaded; raises as `check_change`."""
    for name in names:
        if name not in _IGNORED:
            message = (
                f"expected no parameter, got {name[:40]!r}: a model is loaded as it lies in the repository, "
                "its files and configuration cannot be sent"
            )
            raise Invalid("unknown_field", message, path="parameters")


def index_of(described: Iterable[Mapping[str, Any]], *, ready: bool) -> list[dict[str, str]]:
    """Make the index of models as `Repository.describe` tells them, of those that are ready or of all."""
    return [
        {
            "name": model["name"],
            "version": version["version"],
            "state": STATES[version["state"]],
            "reason": version["reason"] or "",
        }
        for model in described
        for version in model["versions"]
        if version["state"] == "ready" or not ready
    ]


def write_index(described: Iterable[Mapping[str, Any]], *, ready: bool) -> bytes:
    """Write it as over HTTP."""
    return orjson.dumps(index_of(described, ready=ready))


def operation(summary: str, request: Schema, answer: Schema | None, *in_path: str) -> Schema:
    """Return the OpenAPI operation of a route; `in_path` are the names that its path says."""
    faults = {
        "400": "The request is wrong, or a version cannot be loaded",
        "401": "The key is missing or not known",
        "403": "No admin key is set",
        "404": "There is no such model",
        "504": "Some workers have not followed in time",
    }
    error = {"content": {JSON: {"schema": ERROR}}}
    return {
        "tags": ["open inference protocol"],
        "summary": summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in in_path
        ],
        "requestBody": {"content": {JSON: {"schema": request}}},
        "responses": {
            "200": {"description": "Done"} | ({"content": {JSON: {"schema": answer}}} if answer else {}),
            **{status: {"description": fault} | error for status, fault in faults.items()},
        },
    }


def _read(body: bytes, limits: Limits) -> dict[str, Any]:
    return read_object(body, limits.json_depth) if body else {}
