"""JSON Schemas and examples of MLflow's and SageMaker's routes: the decoder is their measure."""

from typing import Any

import numpy as np
import orjson
import pytest

from service.types import HeadInfo
from service.wire import invocations, invocations_schemas
from service.wire.invocations import FORMS, PARAMS, READABLE, WRITABLE
from service.wire.limits import Limits
from service.wire.media import JSON

LIMITS = Limits(body_bytes=1 << 20, rows=1000, elements=10_000, json_depth=16)
HEAD = HeadInfo("digits", "1", 64, 10, np.dtype(np.float32), None, "0" * 64, "cpu")
EXAMPLES = [
    (media_type, example["value"])
    for media_type, examples in invocations_schemas.EXAMPLES.items()
    for example in examples.values()
]


@pytest.mark.parametrize(("media_type", "value"), EXAMPLES)
def test_every_example_is_read(media_type: str, value: Any) -> None:
    body = orjson.dumps(value) if media_type == JSON else value.encode()
    asked = invocations.decode(
        body,
        invocations.form_of(media_type),
        query=(),
        target=None,
        limits=LIMITS,
        head_of=lambda _model, _version: HEAD,
    )
    assert asked.request.values.shape[1] == 64
    if isinstance(value, dict):
        assert set(value) <= set(invocations_schemas.REQUEST["properties"])


def test_the_schema_has_the_forms_of_the_decoder() -> None:
    assert invocations_schemas.FORMS == FORMS
    assert list(invocations_schemas.REQUEST["properties"]) == [*FORMS, PARAMS]
    assert [choice["required"] for choice in invocations_schemas.REQUEST["oneOf"]] == [
        [form] for form in FORMS
    ]


def test_the_operation_has_the_media_types_of_the_decoder() -> None:
    operation = invocations_schemas.invocations()
    assert set(operation["requestBody"]["content"]) == set(READABLE)
    assert set(operation["responses"]["200"]["content"]) >= set(WRITABLE)
    assert {"400", "404", "406", "413", "415", "429", "503", "504"} < set(operation["responses"])


def test_every_operation_has_an_id_of_its_own() -> None:
    operations = [
        invocations_schemas.invocations(),
        invocations_schemas.ping("ping"),
        invocations_schemas.ping("health"),
        invocations_schemas.version(),
        invocations_schemas.execution_parameters(),
    ]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        for status, response in operation["responses"].items():
            if status != "200":
                assert response["content"][JSON]["schema"] is invocations_schemas.ERROR
