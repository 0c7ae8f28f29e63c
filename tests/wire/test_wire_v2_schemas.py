"""JSON Schemas and examples of the Open Inference Protocol V2: the decoder is their measure."""

from typing import Any

import orjson
import pytest

from service.errors import Invalid
from service.types import HeadInfo
from service.wire import v2, v2_schemas
from service.wire.inference import Inference
from service.wire.limits import Limits

LIMITS = Limits(body_bytes=1 << 20, rows=1000, elements=10_000, json_depth=16)


def no_head(_model: str | None, _version: str | None) -> HeadInfo:
    raise AssertionError


def decode(said: Any) -> Inference:
    return v2.decode(orjson.dumps(said), None, model="softmax", version=None, limits=LIMITS, head_of=no_head)


@pytest.mark.parametrize("name", v2_schemas.EXAMPLES)
def test_every_example_is_read(name: str) -> None:
    example = v2_schemas.EXAMPLES[name]["value"]
    asked = decode(example)
    assert asked.request.values.shape == (2, 3)
    assert asked.id == example.get("id")
    assert set(example) <= set(v2_schemas.REQUEST["properties"])


def test_what_the_schema_requires_the_decoder_misses() -> None:
    whole = v2_schemas.EXAMPLES["nested"]["value"]
    tensor = whole["inputs"][0]
    for name in v2_schemas.REQUEST["properties"]["inputs"]["items"]["required"]:
        with pytest.raises(Invalid) as caught:
            decode({"inputs": [{key: value for key, value in tensor.items() if key != name}]})
        assert (caught.value.code, caught.value.offences[0].path) == ("missing_field", f"inputs[0].{name}")
    for name in v2_schemas.REQUEST["required"]:
        with pytest.raises(Invalid) as caught:
            decode({key: value for key, value in whole.items() if key != name})
        assert caught.value.offences[0].path == name


def test_an_operation_has_the_names_of_its_path_and_an_id_of_its_own() -> None:
    plain, versioned = v2_schemas.operation("model"), v2_schemas.operation("model", "version")
    assert [parameter["name"] for parameter in plain["parameters"]] == ["model"]
    assert [parameter["name"] for parameter in versioned["parameters"]] == ["model", "version"]
    assert plain["operationId"] != versioned["operationId"]
    for status, response in plain["responses"].items():
        schema = response["content"]["application/json"]["schema"]
        assert (schema is v2_schemas.ERROR) == (status != "200")
