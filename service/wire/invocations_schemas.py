"""JSON Schemas and runnable examples of MLflow's and SageMaker's routes, and their OpenAPI operations.

Nothing is decoded by them; a test decodes every example.
"""

from typing import Any, TypeAlias

from service.wire.media import CSV, JSON, LINES, NPY, NPZ, RAW, X_LINES

Schema: TypeAlias = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_BINARY: Schema = {"type": "string", "format": "binary"}
# What is read and written beside JSON.
_OTHERS: dict[str, Schema] = {
    **{media_type: {"schema": _TEXT} for media_type in (CSV, LINES, X_LINES)},
    **{media_type: {"schema": _BINARY} for media_type in (NPY, NPZ, RAW)},
}


def _list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


_CELLS = _list_of({"type": "number"})
_PROPERTIES: dict[str, Schema] = {
    "dataframe_split": {
        "description": "A table as pandas' to_dict(orient='split') makes it; its columns are the features in order.",
        "type": "object",
        "properties": {
            "columns": {"type": "array", "items": {}},
            "index": {"type": "array", "items": {}},
            "data": _list_of(_CELLS),
        },
        "required": ["data"],
        "additionalProperties": False,
    },
    "dataframe_records": {
        "description": "The same as orient='records' makes it: all rows have the columns of the first.",
        **_list_of({"type": "object", "additionalProperties": {"type": "number"}}),
    },
    "instances": {
        "description": "Rows of features, or objects with features, labels and sample_weight.",
        **_list_of({}),
    },
    "inputs": {"description": "The features as one tensor, or an object of tensors by name."},
    "params": {
        "description": "The options of the native routes (temperature, top_k, outputs, …), model and version.",
        "type": "object",
    },
}

FORMS = tuple(name for name in _PROPERTIES if name != "params")

REQUEST: Schema = {
    "description": f"Exactly one of {', '.join(FORMS)}; or a bare list of rows, as SageMaker's toolkit takes it. "
    "A request of the V2 protocol is known by its inputs.",
    "type": "object",
    "properties": _PROPERTIES,
    "oneOf": [{"required": [form]} for form in FORMS],
    "additionalProperties": False,
}
ANSWER: Schema = {
    "type": "object",
    "properties": {
        "predictions": {
            "description": "The probabilities of each row, or the one output that params.outputs names; several are an "
            "object for each row, or one of tensors where the request has inputs."
        }
    },
    "required": ["predictions"],
}
ERROR: Schema = {
    "type": "object",
    "properties": {"error_code": _TEXT, "message": _TEXT},
    "required": ["error_code", "message"],
}
EXECUTION_PARAMETERS: Schema = {
    "type": "object",
    "properties": {
        "MaxConcurrentTransforms": {"type": "integer", "minimum": 1},
        "BatchStrategy": {"enum": ["MULTI_RECORD", "SINGLE_RECORD"]},
        "MaxPayloadInMB": {"type": "integer", "minimum": 1},
    },
}

# A row for the head that ships: 8 by 8 pixels of 0 to 16.
_ROW = [0, 8, 16, 8] * 16

EXAMPLES: dict[str, dict[str, Schema]] = {
    JSON: {
        "split": {
            "summary": "A table of one row",
            "value": {"dataframe_split": {"columns": [f"pixel_{i}" for i in range(64)], "data": [_ROW]}},
        },
        "records": {
            "summary": "The same, row by row, sharpened",
            "value": {
                "dataframe_records": [{f"pixel_{i}": value for i, value in enumerate(_ROW)}],
                "params": {"temperature": 0.5},
            },
        },
        "instances": {
            "summary": "Two rows, each with its class and what is surest",
            "value": {
                "instances": [_ROW, _ROW],
                "params": {"outputs": ["classes", "top_probabilities"], "top_k": 3},
            },
        },
        "inputs": {"summary": "One tensor", "value": {"inputs": [_ROW]}},
        "list": {"summary": "A bare list of rows", "value": [_ROW]},
    },
    CSV: {"rows": {"summary": "A row, without a header", "value": ",".join(map(str, _ROW))}},
    LINES: {"rows": {"summary": "A row in each line", "value": f"{_ROW}\n{_ROW}"}},
}

_FAULTS = {
    "400": "The request is wrong",
    "404": "There is no such model or version",
    "406": "No media type that Accept allows is written",
    "413": "The request is over a limit",
    "415": "The media type is not read",
    "429": "Too much waits already",
    "503": "The service is not ready",
    "504": "The time allowed has passed",
}


def invocations() -> Schema:
    """Return the OpenAPI operation of the route that scores."""
    described = _operation("invocations", "Rows in many forms to predictions", *_FAULTS)
    content: Schema = {JSON: {"schema": REQUEST}} | _OTHERS
    for media_type, examples in EXAMPLES.items():
        content[media_type] = content[media_type] | {"examples": examples}
    described["responses"]["200"]["content"] = {JSON: {"schema": ANSWER}} | _OTHERS
    return described | {"requestBody": {"required": True, "content": content}}


def ping(name: str) -> Schema:
    """Return the OpenAPI operation of a route that says whether the service is ready."""
    return _operation(name, "Whether it can score now", "503")


def version() -> Schema:
    """Return the OpenAPI operation of the route that says which version answers."""
    return _operation("mlflow_version", "The version of this service")


def execution_parameters() -> Schema:
    """Return the OpenAPI operation of the route that tells a batch transform what to send."""
    described = _operation("execution_parameters", "What a batch transform may send at once")
    described["responses"]["200"]["content"] = {JSON: {"schema": EXECUTION_PARAMETERS}}
    return described


def _operation(name: str, summary: str, *faults: str) -> Schema:
    wrong = {"content": {JSON: {"schema": ERROR}}}
    return {
        "tags": ["mlflow and sagemaker"],
        "summary": summary,
        "operationId": name,
        "responses": {
            "200": {"description": "What was asked for"},
            **{status: {"description": _FAULTS[status]} | wrong for status in faults},
        },
    }
