"""JSON Schemas and runnable examples of the Open Inference Protocol V2, and its OpenAPI operations.

Nothing is decoded by them; a test decodes every example.
"""

from typing import Any, TypeAlias

from service.wire.media import JSON
from service.wire.tensors import DATATYPES

Schema: TypeAlias = dict[str, Any]

BINARY = "application/octet-stream"

_TEXT: Schema = {"type": "string"}
_PARAMETERS: Schema = {"type": "object"}


def _listed(description: str, properties: Schema, *required: str) -> Schema:
    return {
        "description": description,
        "type": "array",
        "items": {"type": "object", "properties": properties, "required": list(required)},
    }


_TENSOR: Schema = {
    "name": _TEXT,
    "datatype": {"enum": list(DATATYPES)},
    "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
    "parameters": _PARAMETERS | {"properties": {"binary_data_size": {"type": "integer", "minimum": 0}}},
    "data": {
        "description": "The numbers, row by row: nested as the shape says, or flat. "
        "Not there where the bytes follow the JSON.",
        "type": "array",
        "items": {},
    },
}
_OUTPUT: Schema = {
    "name": _TEXT,
    "parameters": _PARAMETERS | {"properties": {"binary_data": {"type": "boolean"}}},
}

REQUEST: Schema = {
    "description": "What is not named here is read over, but for the parameters: those are the options of the "
    "native routes (temperature, top_k, reduction, …).",
    "type": "object",
    "properties": {
        "id": _TEXT | {"description": "Echoed in the answer."},
        "parameters": _PARAMETERS | {"properties": {"binary_data_output": {"type": "boolean"}}},
        "inputs": _listed(
            "features and perhaps labels for a head, logits for softmax, logits and labels for loss.",
            _TENSOR,
            "name",
            "datatype",
            "shape",
        ),
        "outputs": _listed("What to answer; all that the model has where nothing is said.", _OUTPUT, "name"),
    },
    "required": ["inputs"],
}
ANSWER: Schema = {
    "type": "object",
    "properties": {
        "model_name": _TEXT,
        "model_version": _TEXT,
        "id": _TEXT,
        "outputs": _listed("One tensor for each output.", _TENSOR, "name", "datatype", "shape"),
    },
    "required": ["model_name", "outputs"],
}
ERROR: Schema = {"type": "object", "properties": {"error": _TEXT}, "required": ["error"]}

SERVER: Schema = {
    "type": "object",
    "properties": {"name": _TEXT, "version": _TEXT, "extensions": {"type": "array", "items": _TEXT}},
    "required": ["name", "version", "extensions"],
}
LIVE: Schema = {"type": "object", "properties": {"live": {"const": True}}, "required": ["live"]}
READY: Schema = {
    "type": "object",
    "properties": {"name": _TEXT, "ready": {"const": True}},
    "required": ["ready"],
}
_TOLD_TENSOR: Schema = {
    "type": "object",
    "properties": {
        "name": _TEXT,
        "datatype": {"enum": list(DATATYPES)},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}},
    },
    "required": ["name", "datatype", "shape"],
}
MODEL: Schema = {
    "type": "object",
    "properties": {
        "name": _TEXT,
        "versions": {"type": "array", "items": _TEXT},
        "platform": _TEXT,
        "inputs": {"type": "array", "items": _TOLD_TENSOR},
        "outputs": {"type": "array", "items": _TOLD_TENSOR},
    },
    "required": ["name", "platform", "inputs", "outputs"],
}
CONFIG: Schema = {
    "description": "As Triton's ModelConfig.",
    "type": "object",
    "properties": {"name": _TEXT, "platform": _TEXT, "max_batch_size": {"type": "integer"}},
    "required": ["name", "platform", "max_batch_size", "input", "output"],
}
COUNTS: Schema = {
    "description": "As in Triton's statistics extension.",
    "type": "object",
    "properties": {"model_stats": {"type": "array", "items": {"type": "object"}}},
    "required": ["model_stats"],
}

EXAMPLES: dict[str, Schema] = {
    "nested": {
        "summary": "Two rows of three logits, nested (model softmax)",
        "value": {
            "inputs": [
                {
                    "name": "logits",
                    "datatype": "FP32",
                    "shape": [2, 3],
                    "data": [[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]],
                }
            ]
        },
    },
    "flat": {
        "summary": "The same flat, with an option and one output (model softmax)",
        "value": {
            "id": "42",
            "parameters": {"temperature": 0.5},
            "inputs": [
                {
                    "name": "logits",
                    "datatype": "FP64",
                    "shape": [2, 3],
                    "data": [0.5, 1.5, 0.1, 2.2, 1.3, 1.7],
                }
            ],
            "outputs": [{"name": "probabilities"}],
        },
    },
}

_BINARY_CONTENT: Schema = {
    "schema": {
        "description": "The same JSON, with binary_data_size in place of data, and behind it the tensors' bytes "
        "(little-endian, in the order of the JSON). The header Inference-Header-Content-Length says how long "
        "the JSON is.",
        "type": "string",
        "format": "binary",
    }
}
_FAULTS = {
    "400": "The request is wrong",
    "404": "There is no such model or version",
    "413": "The request is over a limit",
    "503": "The service is not ready",
    "504": "The time allowed has passed",
}


_TAGS = ["open inference protocol"]


def told(summary: str, schema: Schema, *in_path: str) -> Schema:
    """Return the OpenAPI operation of a route that tells something; `in_path` are the names that its path says."""
    faults = {"503": _FAULTS["503"]} | ({"404": _FAULTS["404"]} if in_path else {})
    error = {"content": {JSON: {"schema": ERROR}}}
    return {
        "tags": _TAGS,
        "summary": summary,
        "parameters": _in_path(*in_path),
        "responses": {
            "200": {"description": summary, "content": {JSON: {"schema": schema}}},
            **{status: {"description": fault} | error for status, fault in faults.items()},
        },
    }


def _in_path(*names: str) -> list[Schema]:
    return [{"name": name, "in": "path", "required": True, "schema": _TEXT} for name in names]


def operation(*in_path: str) -> Schema:
    """Return the OpenAPI operation of a route to infer; `in_path` are the names that its path says."""
    error = {"content": {JSON: {"schema": ERROR}}}
    return {
        "tags": _TAGS,
        "summary": "Tensors in, tensors out",
        "description": "The Open Inference Protocol V2, with its binary tensors: the fastest way in and out.",
        "operationId": "_by_".join(("infer", *in_path[-1:])),
        "parameters": _in_path(*in_path),
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": REQUEST, "examples": EXAMPLES}, BINARY: _BINARY_CONTENT},
        },
        "responses": {
            "200": {
                "description": "What was asked for",
                "content": {JSON: {"schema": ANSWER}, BINARY: _BINARY_CONTENT},
            },
            **{status: {"description": fault} | error for status, fault in _FAULTS.items()},
        },
    }
