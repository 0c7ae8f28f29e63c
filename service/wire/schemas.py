"""JSON Schemas and runnable examples of the native dialect, and the OpenAPI operations made of them.

They are for people and for tools that read the documentation; nothing is decoded by them. The names are
those of the decoder's own tables, and a test decodes every example.
"""

from typing import Any, TypeAlias, get_args

from service.errors import MAX_OFFENCES
from service.rules import DECISION_SCHEMA
from service.types import Operation, Reduction
from service.wire import media, row_ids, sparse
from service.wire.nested import NON_FINITE
from service.wire.options import CHOICES, FIELDS, REQUIRED, Options
from service.wire.outputs import KNOWN

Schema: TypeAlias = dict[str, Any]

_PROBLEM_TYPE = "application/problem+json"
_DEFAULTS = Options()


def _tensor(description: str, leaf: Schema) -> Schema:
    """Lists of any depth: JSON Schema could say so only by recursion, which few tools draw."""
    return {"description": description, "anyOf": [leaf, {"type": "array", "items": {}}]}


_NUMBER: Schema = {"type": "number"}
_INTEGER: Schema = {"type": "integer"}
_INDEX: Schema = {"type": "integer", "minimum": 0}
_TEXT: Schema = {"type": "string"}
_FLOAT: Schema = {"anyOf": [_NUMBER, {"enum": list(NON_FINITE)}]}

_FIELDS: dict[str, Schema] = {
    "logits": {
        "description": "Unnormalised log probabilities [..., num_classes]; the string -Infinity masks a class.",
        "type": "array",
        "items": {"anyOf": [_NUMBER, {"const": "-Infinity"}, {"type": "array", "items": {}}]},
        "minItems": 1,
    },
    "features": {
        "description": "Raw features [..., num_features] of the head; sparse rows as scipy's csr_array has them.",
        "anyOf": [
            {"type": "array", "items": {"anyOf": [_NUMBER, {"type": "array", "items": {}}]}},
            {
                "type": "object",
                "properties": {
                    "indptr": {"type": "array", "items": _INDEX, "minItems": 1},
                    "indices": {"type": "array", "items": _INDEX},
                    "data": {"type": "array", "items": _NUMBER},
                    "num_features": {"type": "integer", "minimum": 1},
                },
                "required": list(sparse.PARTS),
                "additionalProperties": False,
            },
        ],
    },
    "labels": _tensor(
        "Ground truth: class indices (or names) with the shape of the logits without the class axis, "
        "or target rows with the shape of the logits.",
        {"type": ["integer", "string"]},
    ),
    "axis": {"description": "The class axis; with a head always the last.", "type": "integer"},
    "dtype": {
        "description": "What values are rounded to first and answered in: float64 for JSON unless said, "
        "an array's own, a head's own.",
        "enum": list(CHOICES["dtype"]),
    },
    "temperature": {
        "description": "Logits are divided by it; with a head in place of its calibration.",
        "type": "number",
        "exclusiveMinimum": 0,
    },
    "top_k": {
        "description": "Adds so many best classes, with their probabilities (and names).",
        "type": "integer",
        "minimum": 1,
    },
    "class_names": {
        "description": "Names of all classes, in order; adds predicted_names.",
        "type": "array",
        "items": _TEXT,
        "uniqueItems": True,
        "minItems": 1,
    },
    "label_format": {
        "description": "What labels are; auto goes by their rank alone.",
        "enum": list(CHOICES["label_format"]),
    },
    "reduction": {
        "description": "How loss is made from losses; with none there is no loss.",
        "enum": list(get_args(Reduction)),
    },
    "label_smoothing": {
        "description": "The share of each label that is spread evenly over the classes.",
        "type": "number",
        "minimum": 0,
        "maximum": 1,
    },
    "class_weight": {
        "description": "One weight for each class; the mean divides as PyTorch does.",
        "type": "array",
        "items": {"type": "number", "minimum": 0},
    },
    "sample_weight": _tensor("One weight for each example.", {"type": "number", "minimum": 0}),
    "ignore_index": {
        "description": "Examples with this label have loss 0 and no part in the mean.",
        "type": "integer",
    },
    "broadcast_labels": {
        "description": "Whether dimensions of size 1 in target rows stretch to the logits'.",
        "type": "boolean",
    },
    "validate_labels": {"description": "Whether target rows must be distributions.", "type": "boolean"},
    "non_finite": {
        "description": "What an infinite loss gets: the error infinite_loss, or the string Infinity.",
        "enum": list(CHOICES["non_finite"]),
    },
    "model": {"description": "The head; the only or default one where not said.", "type": "string"},
    "models": {
        "description": "Several heads at once, of the same features; the answer has results by their names.",
        "type": "array",
        "items": _TEXT,
        "uniqueItems": True,
        "minItems": 1,
    },
    "version": {"description": "Its version; the newest that is ready where not said.", "type": "string"},
    "calibration": {
        "description": "What the logits go through first: the head's own calibration, or none.",
        "enum": list(CHOICES["calibration"]),
    },
    "top_contributions": {
        "description": "How many contributions are answered for each example.",
        "type": "integer",
        "minimum": 1,
    },
    "decision": DECISION_SCHEMA,
    "row_ids": row_ids.FIELD,
}

_OUTPUTS: dict[str, Schema] = {
    "probabilities": _tensor("Softmax of the logits, in their shape.", _NUMBER),
    "log_probabilities": _tensor("Its logarithm; -Infinity for masked classes.", _FLOAT),
    "classes": _tensor("The class of the largest logit; ties go to the lower index.", _INTEGER),
    "predicted_names": _tensor("The names of classes.", _TEXT),
    "one_hot": _tensor("Rows of 0 with a 1 at the predicted class.", _NUMBER),
    "entropy": _tensor("Of each row of probabilities, in nats.", _NUMBER),
    "top_classes": _tensor("The top_k best classes, best first.", _INTEGER),
    "top_probabilities": _tensor("Their probabilities.", _NUMBER),
    "top_names": _tensor("Their names.", _TEXT),
    "loss": {
        "description": "The reduced loss; null is the mean of nothing.",
        "anyOf": [_FLOAT, {"type": "null"}],
    },
    "losses": _tensor("The cross-entropy of each example, in nats.", _FLOAT),
    "count": {"description": "How many examples counted.", "type": "integer", "minimum": 0},
    "accuracy": {
        "description": "The share of counted examples whose predicted class is the label.",
        "type": ["number", "null"],
    },
    "brier": _tensor("The Brier score of each example.", _NUMBER),
    "gradient": _tensor("The derivative of the loss by the logits as sent, in their shape.", _FLOAT),
    "decisions": _tensor("The class decided on; -1 where the row is left to somebody else.", _INTEGER),
    "decided_names": _tensor("The names of decisions; empty where there is none.", _TEXT),
    "expected_costs": _tensor("What each decision is expected to cost.", _NUMBER),
    "adjusted_probabilities": _tensor("What decisions go by: after mask and priors.", _NUMBER),
    "logits": _tensor("The head's raw output, without its calibration.", _NUMBER),
    "contributions": {
        "description": "The features that spoke loudest for the predicted class, and how loudly.",
        "type": "object",
        "properties": {
            "features": _tensor("Indices of features.", _INTEGER),
            "values": _tensor("Each feature times its weight.", _NUMBER),
        },
        "required": ["features", "values"],
        "additionalProperties": False,
    },
}

PROBLEM: Schema = {
    "description": "An RFC 9457 problem: where the request is wrong, what was expected and what came.",
    "type": "object",
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": _TEXT,
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": _TEXT,
        "code": {"description": "Stable: what programs go by.", "type": "string"},
        "request_id": _TEXT,
        "errors": {
            "type": "array",
            "maxItems": MAX_OFFENCES,
            "items": {
                "type": "object",
                "properties": {"path": _TEXT, "message": _TEXT},
                "required": ["path", "message"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["type", "title", "status", "detail", "code", "request_id"],
}

_LOGITS = [[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]]
# A handwritten seven, 8 by 8 pixels of 0 to 16.
_SEVEN = [
    *(0, 0, 7, 8, 13, 16, 15, 1),
    *(0, 0, 7, 7, 4, 11, 12, 0),
    *(0, 0, 0, 0, 8, 13, 1, 0),
    *(0, 4, 8, 8, 15, 15, 6, 0),
    *(0, 2, 11, 15, 15, 4, 0, 0),
    *(0, 0, 0, 16, 5, 0, 0, 0),
    *(0, 0, 9, 15, 1, 0, 0, 0),
    *(0, 0, 13, 5, 0, 0, 0, 0),
]

EXAMPLES: dict[Operation, dict[str, Schema]] = {
    "softmax": {
        "two_rows": {"summary": "Two rows of three classes", "value": {"logits": _LOGITS}},
        "top_k": {
            "summary": "The two best classes, by name",
            "value": {"logits": _LOGITS, "top_k": 2, "class_names": ["cat", "dog", "bird"]},
        },
        "masked": {
            "summary": "A masked class, logarithms, float32",
            "value": {
                "logits": [1.0, "-Infinity", 2.0],
                "dtype": "float32",
                "outputs": ["log_probabilities", "entropy"],
            },
        },
    },
    "loss": {
        "index_labels": {"summary": "Class indices", "value": {"logits": _LOGITS, "labels": [1, 2]}},
        "target_rows": {
            "summary": "Target rows, smoothed",
            "value": {"logits": _LOGITS, "labels": [[0, 1, 0], [0, 0.2, 0.8]], "label_smoothing": 0.1},
        },
        "weighted": {
            "summary": "Weighted classes, an example left out, and the gradient",
            "value": {
                "logits": _LOGITS,
                "labels": [-100, 2],
                "ignore_index": -100,
                "class_weight": [1.0, 2.0, 3.0],
                "outputs": ["loss", "count", "gradient"],
            },
        },
    },
    "predict": {
        "one_digit": {"summary": "A handwritten digit of the head that ships", "value": {"features": _SEVEN}},
        "labelled": {
            "summary": "With its label, and what the head went by",
            "value": {
                "features": [_SEVEN],
                "labels": [7],
                "outputs": ["classes", "loss", "contributions"],
                "top_contributions": 5,
            },
        },
        "sparse": {
            "summary": "Two sparse rows, the second of zeros alone",
            "value": {
                "features": {
                    "indptr": [0, 3, 3],
                    "indices": [10, 43, 51],
                    "data": [4, 16, 15.5],
                    "num_features": 64,
                },
            },
        },
        "several": {
            "summary": "Several heads at once",
            "value": {"models": ["digits"], "features": [_SEVEN], "outputs": ["classes"]},
        },
        "named": {
            "summary": "A head by its name, sharpened",
            "value": {
                "model": "digits",
                "version": "1",
                "features": [_SEVEN],
                "temperature": 0.5,
                "top_k": 3,
            },
        },
    },
}

_TITLES: dict[Operation, tuple[str, str]] = {
    "softmax": (
        "Logits to probabilities",
        "Softmax, predicted classes and their relatives, exactly rounded.",
    ),
    "loss": ("Logits and labels to cross-entropy", "Softmax cross-entropy, its reductions and its gradient."),
    "predict": ("Features to probabilities", "Runs a head; with labels the answer has the loss too."),
}
_FAULTS = {
    "400": "The body cannot be read",
    "404": "There is no such model or version",
    "406": "No media type that Accept allows is written",
    "413": "The request is over a limit",
    "415": "The media type or encoding is not read",
    "422": "The values break the contract",
    "503": "The service is not ready",
    "504": "The time allowed has passed",
}


def request_schema(operation: Operation, *in_path: str) -> Schema:
    """Return the JSON Schema of a request body; fields that the path says are no part of it."""
    said = {*in_path, "models"} if in_path else set()
    names = [name for name in FIELDS[operation] if name not in said]
    return {
        "type": "object",
        "properties": {name: _field_schema(operation, name) for name in names},
        "required": list(REQUIRED[operation]),
        "additionalProperties": False,
    }


def answer_schema(operation: Operation) -> Schema:
    """Return the JSON Schema of an answer; which outputs it has is the request's choice."""
    properties = {name: _OUTPUTS[name] for name in KNOWN[operation]}
    head = {"model": _TEXT, "version": _TEXT} if operation == "predict" else {}
    ids = {"row_ids": row_ids.OUTPUT} if head else {}
    return {
        "type": "object",
        "properties": head | properties | ids,
        "required": list(head),
        "additionalProperties": False,
    }


def operation(name: Operation, *in_path: str) -> Schema:
    """Return the OpenAPI operation of a route; `in_path` are the fields that its path says."""
    summary, description = _TITLES[name]
    parameters = [{"name": field, "in": "path", "required": True, "schema": _TEXT} for field in in_path]
    problem = {"content": {_PROBLEM_TYPE: {"schema": PROBLEM}}}
    return {
        "summary": summary,
        "description": description,
        "operationId": "_by_".join((name, *in_path[-1:])),
        **({"parameters": parameters} if parameters else {}),
        "requestBody": {"required": True, "content": _request_content(name, *in_path)},
        "responses": {
            "200": {"description": "What was asked for", "content": _answer_content(name, *in_path)},
            **{status: {"description": fault} | problem for status, fault in _FAULTS.items()},
        },
    }


def _field_schema(operation: Operation, name: str) -> Schema:
    if name == "outputs":
        items = {"enum": list(KNOWN[operation])}
        text = "What is answered, in place of the default; nothing else is computed."
        return {"description": text, "type": "array", "items": items, "minItems": 1, "uniqueItems": True}
    default = getattr(_DEFAULTS, name, None)
    return _FIELDS[name] | ({} if default is None else {"default": default})


def _request_content(operation: Operation, *in_path: str) -> Schema:
    examples = {
        title: example
        for title, example in EXAMPLES[operation].items()
        if not in_path or not example["value"].keys() & {*in_path, "models"}
    }
    content: Schema = {
        media.JSON: {"schema": request_schema(operation, *in_path), "examples": examples},
    }
    return content | {kind: {"schema": _BINARY} for kind in media.READABLE[operation][1:]}


def _results_of(one: Schema) -> Schema:
    return {
        "description": "The answers of several models, by name.",
        "type": "object",
        "properties": {"results": {"type": "object", "additionalProperties": one}},
        "required": ["results"],
        "additionalProperties": False,
    }


def _answer_content(operation: Operation, *in_path: str) -> Schema:
    one = answer_schema(operation)
    if operation == "predict" and not in_path:
        one = {"anyOf": [one, _results_of(one)]}
    content: Schema = {media.JSON: {"schema": one}}
    return content | {kind: {"schema": _BINARY} for kind in media.WRITABLE[1:]}


_BINARY: Schema = {
    "description": "Arrays named as the fields (npz), or one array alone (npy); options in the query string.",
    "type": "string",
    "format": "binary",
}
