"""JSON Schemas and runnable examples of TensorFlow Serving's, KServe V1's and Vertex AI's routes, and OpenAPI operations.

Nothing is decoded by them; a test decodes every example.
"""

from typing import Any, TypeAlias

from service.wire.media import JSON

Schema: TypeAlias = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_ROWS: Schema = {"type": "array", "items": {}, "minItems": 1}


def _object(properties: Schema, *required: str) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


def _list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_SIGNATURE: Schema = {
    "description": "What is answered, one alone as a plain list; parameters.outputs names others.",
    "enum": ["serving_default", "classes", "log_probabilities", "logits", "all"],
    "default": "serving_default",
}
_PARAMETERS: Schema = {
    "description": "The options of the native routes: temperature, top_k, outputs, …",
    "type": "object",
}

REQUEST: Schema = {
    "description": "Exactly one of instances and inputs; what is not named here is read over.",
    **_object(
        {
            "signature_name": _SIGNATURE,
            "instances": _ROWS
            | {
                "description": "Rows of features (of logits for softmax), or objects of the tensors by name: features, "
                "labels and sample_weight; logits and labels for loss."
            },
            "inputs": {"description": "The same tensor as a whole, or an object of tensors by name."},
            "parameters": _PARAMETERS,
        }
    ),
}
VERTEX_REQUEST: Schema = _object(
    {"instances": REQUEST["properties"]["instances"], "parameters": _PARAMETERS}, "instances"
)
CLASSIFY: Schema = _object(
    {
        "signature_name": _TEXT,
        "context": {"description": "What all examples share.", "type": "object"},
        "examples": _list_of({"type": "object"}) | {"minItems": 1},
        "parameters": _PARAMETERS,
    },
    "examples",
)

PREDICTIONS: Schema = _object({"predictions": {"description": "One element for each row."}})
OUTPUTS: Schema = _object({"outputs": {"description": "A tensor, or an object of tensors by name."}})
ANSWER: Schema = {"anyOf": [PREDICTIONS | {"required": ["predictions"]}, OUTPUTS | {"required": ["outputs"]}]}
RESULTS: Schema = _object(
    {
        "results": {
            "description": "For each example all classes in order, each with its name and probability.",
            **_list_of(_list_of(_list_of({"type": ["string", "number"]}))),
        }
    },
    "results",
)
ERROR: Schema = _object({"error": _TEXT}, "error")
GOOGLE_ERROR: Schema = _object(
    {
        "error": _object(
            {"code": {"type": "integer"}, "message": _TEXT, "status": _TEXT}, "code", "message", "status"
        )
    },
    "error",
)
MODELS: Schema = _object({"models": _list_of(_TEXT)}, "models")
STATUS: Schema = _object(
    {
        "model_version_status": _list_of(
            _object(
                {
                    "version": _TEXT,
                    "state": {"enum": ["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]},
                    "status": _object({"error_code": _TEXT, "error_message": _TEXT}),
                },
                "version",
                "state",
                "status",
            )
        ),
        "name": _TEXT,
        "ready": {"type": "boolean"},
    },
    "model_version_status",
    "name",
    "ready",
)
METADATA: Schema = _object(
    {"model_spec": {"type": "object"}, "metadata": {"type": "object"}}, "model_spec", "metadata"
)

_LOGITS = [[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]]

EXAMPLES: dict[str, Schema] = {
    "rows": {"summary": "Two rows of three logits (model softmax)", "value": {"instances": _LOGITS}},
    "columns": {
        "summary": "The same as one tensor, with an option and all that the model has (model softmax)",
        "value": {"signature_name": "all", "inputs": _LOGITS, "parameters": {"temperature": 0.5}},
    },
    "labelled_rows": {
        "summary": "Logits and labels row by row (model loss)",
        "value": {
            "instances": [
                {"logits": logits, "labels": label} for logits, label in zip(_LOGITS, (1, 2), strict=True)
            ]
        },
    },
    "labelled_columns": {
        "summary": "The same as tensors, with the mean (model loss)",
        "value": {
            "inputs": {"logits": _LOGITS, "labels": [1, 2]},
            "parameters": {"outputs": ["loss", "losses"]},
        },
    },
}
VERTEX_EXAMPLES: dict[str, Schema] = {
    "digit": {
        "summary": "A row of 64 features, sharpened",
        "value": {"instances": [[0, 8, 16, 8] * 16], "parameters": {"temperature": 0.5}},
    }
}
CLASSIFY_EXAMPLES: dict[str, Schema] = {
    "logits": {
        "summary": "Two examples, their classes named (model softmax)",
        "value": {
            "examples": [{"logits": logits} for logits in _LOGITS],
            "parameters": {"class_names": ["cat", "dog", "bird"]},
        },
    }
}

_FAULTS = {
    "400": "The request is wrong",
    "404": "There is no such model or version",
    "413": "The request is over a limit",
    "429": "Too much waits already",
    "503": "The service is not ready",
    "504": "The time allowed has passed",
}


def predict(*in_path: str) -> Schema:
    """Return the OpenAPI operation of a route to predict; `in_path` are the names that its path says."""
    summary = "Rows or tensors to predictions"
    return _operation("v1_predict", summary, in_path, ANSWER) | _body(REQUEST, EXAMPLES)


def classify(*in_path: str) -> Schema:
    """Return the OpenAPI operation of a route to classify."""
    summary = "Examples to classes with their probabilities"
    return _operation("v1_classify", summary, in_path, RESULTS) | _body(CLASSIFY, CLASSIFY_EXAMPLES)


def status(*in_path: str) -> Schema:
    """Return the OpenAPI operation of a route that says how a model is."""
    return _operation("v1_status", "How a model's versions are", in_path, STATUS, "404")


def metadata(*in_path: str) -> Schema:
    """Return the OpenAPI operation of a route that says what a model takes and gives."""
    return _operation("v1_metadata", "What a model takes and gives", in_path, METADATA, "404")


def models() -> Schema:
    """Return the OpenAPI operation of the list of models."""
    return _operation("v1_models", "The names of all models", (), MODELS, "503")


def vertex() -> Schema:
    """Return the OpenAPI operation of the route to which Vertex AI sends predictions."""
    described = _operation("vertex_predict", "Rows to predictions", (), PREDICTIONS, error=GOOGLE_ERROR)
    return described | _body(VERTEX_REQUEST, VERTEX_EXAMPLES) | {"tags": ["vertex ai"]}


def _operation(
    name: str, summary: str, in_path: tuple[str, ...], answer: Schema, *faults: str, error: Schema = ERROR
) -> Schema:
    wrong = {"content": {JSON: {"schema": error}}}
    return {
        "tags": ["tensorflow serving and kserve v1"],
        "summary": summary,
        "operationId": "_by_".join((name, *in_path[-1:])),
        "parameters": [{"name": field, "in": "path", "required": True, "schema": _TEXT} for field in in_path],
        "responses": {
            "200": {"description": "What was asked for", "content": {JSON: {"schema": answer}}},
            **{status: {"description": _FAULTS[status]} | wrong for status in faults or _FAULTS},
        },
    }


def _body(schema: Schema, examples: dict[str, Schema]) -> Schema:
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema, "examples": examples}}}}
