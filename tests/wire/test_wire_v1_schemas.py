"""JSON Schemas and examples of TensorFlow Serving, KServe V1 and Vertex AI: the decoder is their measure."""

from typing import Any

import numpy as np
import orjson
import pytest

from service.errors import Invalid
from service.types import HeadInfo
from service.wire import v1, v1_schemas
from service.wire.limits import Limits

LIMITS = Limits(body_bytes=1 << 20, rows=1000, elements=10_000, json_depth=16)
HEAD = HeadInfo("digits", "1", 64, 10, np.dtype(np.float32), None, "0" * 64, "cpu")
EVERY = [v1_schemas.predict, v1_schemas.classify, v1_schemas.status, v1_schemas.metadata]


def decode(said: Any, model: str | None, *, kserve: bool = False) -> v1.Prediction:
    body = orjson.dumps(said)
    return v1.decode(body, model=model, version=None, kserve=kserve, limits=LIMITS, head_of=lambda *_: HEAD)


@pytest.mark.parametrize("name", v1_schemas.EXAMPLES)
def test_every_example_to_predict_is_read(name: str) -> None:
    example = v1_schemas.EXAMPLES[name]
    model = example["summary"].partition("(model ")[2].rstrip(")")
    assert decode(example["value"], model).request.values.shape == (2, 3)
    assert set(example["value"]) <= set(v1_schemas.REQUEST["properties"])


@pytest.mark.parametrize("name", v1_schemas.CLASSIFY_EXAMPLES)
def test_every_example_to_classify_is_read(name: str) -> None:
    said = v1_schemas.CLASSIFY_EXAMPLES[name]["value"]
    body = orjson.dumps(said)
    request = v1.decode_examples(body, model="softmax", version=None, limits=LIMITS, head_of=lambda *_: HEAD)
    assert request.class_names == ("cat", "dog", "bird")
    assert set(said) <= set(v1_schemas.CLASSIFY["properties"])


@pytest.mark.parametrize("name", v1_schemas.VERTEX_EXAMPLES)
def test_every_example_for_vertex_ai_is_read(name: str) -> None:
    asked = decode(v1_schemas.VERTEX_EXAMPLES[name]["value"], None, kserve=True)
    assert (asked.key, asked.request.values.shape, asked.request.temperature) == ("predictions", (1, 64), 0.5)


def test_the_signatures_are_the_decoders() -> None:
    known = {name for signatures in v1.SIGNATURES.values() for name in signatures}
    said = v1_schemas.REQUEST["properties"]["signature_name"]
    assert set(said["enum"]) == known
    assert said["default"] == v1.DEFAULT_SIGNATURE


def test_what_the_schema_requires_the_decoder_misses() -> None:
    for name in v1_schemas.VERTEX_REQUEST["required"]:
        with pytest.raises(Invalid, match=name):
            decode({}, None)
    with pytest.raises(Invalid, match="examples"):
        v1.decode_examples(b"{}", model="x", version=None, limits=LIMITS, head_of=lambda *_: HEAD)


def test_every_operation_has_the_names_of_its_path_and_an_id_of_its_own() -> None:
    places = [("model",), ("model", "version"), ("model", "label")]
    operations = [make(*place) for make in EVERY for place in places]
    named = [tuple(parameter["name"] for parameter in operation["parameters"]) for operation in operations]
    assert named == places * len(EVERY)
    operations += [v1_schemas.models(), v1_schemas.vertex()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)


def test_every_error_is_described_in_its_form() -> None:
    for operation, error in (
        (v1_schemas.predict("model"), v1_schemas.ERROR),
        (v1_schemas.status("model"), v1_schemas.ERROR),
        (v1_schemas.vertex(), v1_schemas.GOOGLE_ERROR),
    ):
        for status, response in operation["responses"].items():
            schema = response["content"]["application/json"]["schema"]
            assert (schema is error) == (status != "200")
