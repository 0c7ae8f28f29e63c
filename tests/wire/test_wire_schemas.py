"""JSON Schemas and runnable examples: what the documentation shows is what the decoder reads."""

import json
from typing import Any, get_args

import numpy as np
import pytest

from service.errors import Invalid
from service.types import HeadInfo, Operation, ScoreRequest
from service.wire import native, schemas
from service.wire.limits import Limits
from service.wire.media import READABLE, WRITABLE
from service.wire.options import FIELDS, REQUIRED, Options
from service.wire.outputs import KNOWN

LIMITS = Limits(body_bytes=1 << 20, rows=1000, elements=10_000, json_depth=16)
HEAD = HeadInfo("digits", "1", 64, 10, np.dtype(np.float32), tuple("0123456789"), "0" * 64, "cpu")
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
EXAMPLES = [
    pytest.param(operation, example["value"], id=f"{operation} {title}")
    for operation in OPERATIONS
    for title, example in schemas.EXAMPLES[operation].items()
]


def decode(operation: Operation, fields: dict[str, Any]) -> ScoreRequest:
    """The request, or the first of those to several models."""
    request = native.decode(
        operation,
        json.dumps(fields).encode(),
        media_type="application/json",
        query=(),
        limits=LIMITS,
        head_of=lambda _model, _version: HEAD,
    )
    return request if isinstance(request, ScoreRequest) else request[0]


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Check a value against the few words of JSON Schema that are used here."""
    if "anyOf" in schema:
        return any(fits(value, option) for option in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return value in schema.get("enum", [schema.get("const")])
    return fits_type(value, schema) and fits_content(value, schema)


def fits_type(value: Any, schema: dict[str, Any]) -> bool:
    names = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
    said = schema.get("type", names[type(value)])
    wanted = {said} if isinstance(said, str) else set(said)
    return names[type(value)] in wanted | ({"integer"} if "number" in wanted else set())


def fits_content(value: Any, schema: dict[str, Any]) -> bool:
    if isinstance(value, list):
        lengths = schema.get("minItems", 0) <= len(value)
        return lengths and all(fits(item, schema.get("items", {})) for item in value)
    if isinstance(value, dict):
        return fits_object(value, schema)
    return not isinstance(value, int | float) or in_range(value, schema)


def fits_object(value: dict[str, Any], schema: dict[str, Any]) -> bool:
    properties = schema["properties"]
    return (
        set(schema["required"]) <= value.keys() <= properties.keys()
        and schema["additionalProperties"] is False
        and all(fits(item, properties[name]) for name, item in value.items())
    )


def in_range(value: float, schema: dict[str, Any]) -> bool:
    return (
        value >= schema.get("minimum", value)
        and value <= schema.get("maximum", value)
        and not value <= schema.get("exclusiveMinimum", value - 1)
    )


@pytest.mark.parametrize(("operation", "fields"), EXAMPLES)
def test_every_example_is_read_by_the_decoder(operation: Operation, fields: dict[str, Any]) -> None:
    request = decode(operation, fields)
    assert request.operation == operation
    if "outputs" in fields:
        assert list(request.outputs) == fields["outputs"]


@pytest.mark.parametrize(("operation", "fields"), EXAMPLES)
def test_every_example_fits_its_schema(operation: Operation, fields: dict[str, Any]) -> None:
    assert fits(fields, schemas.request_schema(operation))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_there_are_several_examples_and_each_says_what_it_shows(operation: Operation) -> None:
    assert len(schemas.EXAMPLES[operation]) >= 3
    assert all(example["summary"] for example in schemas.EXAMPLES[operation].values())


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_schema_has_the_decoders_fields_described_and_no_other(operation: Operation) -> None:
    schema = schemas.request_schema(operation)
    assert list(schema["properties"]) == list(FIELDS[operation])
    assert schema["required"] == list(REQUIRED[operation])
    assert schema["additionalProperties"] is False
    for name, field in schema["properties"].items():
        assert field["description"].endswith("."), name


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_schemas_defaults_are_the_decoders(operation: Operation) -> None:
    for name, field in schemas.request_schema(operation)["properties"].items():
        assert field.get("default") == getattr(Options(), name, None), name


WRONG = [
    ("axis", 1.5),
    ("dtype", "float16"),
    ("temperature", 0),
    ("top_k", 0),
    ("class_names", "a"),
    ("outputs", []),
    ("outputs", ["probs"]),
    ("labels", True),
    ("label_format", "sparse"),
    ("reduction", "median"),
    ("label_smoothing", 2),
    ("class_weight", [1, -1]),
    ("sample_weight", "1"),
    ("ignore_index", 0.5),
    ("broadcast_labels", 1),
    ("validate_labels", "true"),
    ("non_finite", "null"),
    ("model", 1),
    ("version", 1),
    ("top_contributions", 0),
    ("features", "x"),
    ("models", []),
    ("row_ids", False),
    ("row_ids", "a"),
    ("row_ids", [1]),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_what_the_schema_refuses_the_decoder_refuses(name: str, value: Any) -> None:
    fields = {"features": [0.0] * 64, "labels": 7, name: value}
    assert not fits(fields, schemas.request_schema("predict"))
    with pytest.raises(Invalid):
        decode("predict", fields)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_answers_schema_has_every_output_and_no_other(operation: Operation) -> None:
    schema = schemas.answer_schema(operation)
    head = ["model", "version"] if operation == "predict" else []
    ids = ["row_ids"] if operation == "predict" else []
    assert list(schema["properties"]) == [*head, *KNOWN[operation], *ids]
    assert schema["required"] == head
    assert all("description" in schema["properties"][name] for name in KNOWN[operation])


def test_an_operation_shows_bodies_examples_answers_and_faults() -> None:
    for operation in OPERATIONS:
        shown = schemas.operation(operation)
        assert set(shown["requestBody"]["content"]) == set(READABLE[operation])
        assert shown["requestBody"]["content"]["application/json"]["examples"] == schemas.EXAMPLES[operation]
        assert set(shown["responses"]["200"]["content"]) == set(WRITABLE)
        problem = shown["responses"]["422"]["content"]["application/problem+json"]["schema"]
        assert {"code", "errors", "request_id"} <= problem["properties"].keys()
        assert "parameters" not in shown
        json.dumps(shown)


def test_what_the_path_says_is_a_parameter_and_no_field() -> None:
    shown = schemas.operation("predict", "model", "version")
    assert [parameter["name"] for parameter in shown["parameters"]] == ["model", "version"]
    content = shown["requestBody"]["content"]["application/json"]
    assert not {"model", "version"} & content["schema"]["properties"].keys()
    assert content["examples"]
    assert all(fits(example["value"], content["schema"]) for example in content["examples"].values())
    by_model = schemas.operation("predict", "model")["requestBody"]["content"]["application/json"]["schema"]
    assert "version" in by_model["properties"]


def test_operations_have_distinct_ids() -> None:
    paths: list[tuple[Operation, tuple[str, ...]]] = [
        ("softmax", ()),
        ("loss", ()),
        ("predict", ()),
        ("predict", ("model",)),
        ("predict", ("model", "version")),
    ]
    ids = {schemas.operation(operation, *in_path)["operationId"] for operation, in_path in paths}
    assert len(ids) == len(paths)


def test_the_problem_schema_fits_an_error_as_it_is_answered() -> None:
    error = {
        "type": "about:blank",
        "title": "The nesting is uneven",
        "status": 422,
        "detail": "logits[1]: expected a list of 2",
        "code": "ragged",
        "request_id": "1",
        "errors": [{"path": "logits[1]", "message": "expected a list of 2"}],
    }
    assert fits(error, {**schemas.PROBLEM, "additionalProperties": False})
