"""What is told of the server and its models, as Triton's own classes of messages read it."""

from typing import Any

import numpy as np
import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import model_config_pb2, service_pb2

from service.errors import Invalid, Malformed
from service.types import HeadInfo
from service.wire import v2_grpc, v2_grpc_models
from service.wire.protobuf import Schema
from service.wire.v2_grpc_models import RESPONSES, read_change, read_named, read_ready, write
from service.wire.v2_models import Catalogue, Values

# Of gRPC's own health protocol, which Triton's client does not speak.
TRITONS = sorted(RESPONSES.keys() - {"HealthCheckResponse"})


def catalogue(dtype: Any = np.float32, provider: str = "cpu") -> Catalogue:
    head = HeadInfo("digits", "3", 4, 3, np.dtype(dtype), None, "0" * 64, provider)
    counts: Values = {
        "logitserve_stage_duration_seconds": {
            ("digits", "3", stage, place): n
            for stage in ("decode", "queue", "infer", "encode")
            for place, n in (("4", 7.0), ("sum", 0.25))
        },
        "logitserve_rows": {("digits", "3"): 1 << 40},
        "logitserve_last_scored_timestamp_seconds": {("digits", "3"): 1.8e9},
    }
    described = [{"name": "digits", "versions": [{"version": "3", "state": "ready"}]}]
    return Catalogue(
        "1.2.3",
        lambda _model, _version: head,
        lambda: described,
        lambda: counts,
        rows_limit=100,
        batch_delay_s=0.5,
    )


def check(schema: Schema, descriptor: Descriptor | EnumDescriptor) -> None:
    """Compare each name and number with those of the protocol."""
    for name, place in schema.items():
        if isinstance(descriptor, EnumDescriptor):
            assert descriptor.values_by_name[name].number == place
            continue
        field: FieldDescriptor = descriptor.fields_by_name[name]
        if place is None:
            continue
        number, inner = place if isinstance(place, tuple) else (place, None)
        assert field.number == number, name
        below = field.message_type or field.enum_type
        assert (inner is None) == (below is None), name
        if inner is not None:
            check(inner, below)


@pytest.mark.parametrize("name", TRITONS)
def test_fields_have_the_numbers_of_the_protocol(name: str) -> None:
    check(RESPONSES[name], service_pb2.DESCRIPTOR.message_types_by_name[name])


def test_the_messages_of_an_inference_have_them_too() -> None:
    types = service_pb2.DESCRIPTOR.message_types_by_name
    check(v2_grpc.RESPONSE, types["ModelInferResponse"])
    check(v2_grpc.STREAMED, types["ModelStreamInferResponse"])
    assert v2_grpc_models.DATA_TYPES.items() <= dict(model_config_pb2.DataType.items()).items()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("ServerLiveResponse", {"live": True}),
        ("ServerReadyResponse", {"ready": False}),
        ("ModelReadyResponse", {"ready": True}),
        ("ServerMetadataResponse", catalogue().server()),
        *[("ModelMetadataResponse", catalogue().model(name, None)) for name in ("digits", "softmax", "loss")],
        *[
            ("ModelConfigResponse", {"config": catalogue(dtype, provider).config(name, None)})
            for name in ("digits", "softmax", "loss")
            for dtype, provider in ((np.float32, "cpu"), (np.float64, "cuda"))
        ],
        ("ModelStatisticsResponse", catalogue().statistics(None, None)),
        (
            "RepositoryIndexResponse",
            {"models": [{"name": "a", "version": "1", "state": "UNAVAILABLE", "reason": "no"}]},
        ),
    ],
)
def test_everything_that_is_told_arrives(name: str, told: dict[str, Any]) -> None:
    read = getattr(service_pb2, name).FromString(write(name, told))
    found = MessageToDict(read, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    assert_within(told, found)


def assert_within(told: Any, found: Any) -> None:
    """Compare what was told with what was read, in which numbers of 64 bits are text and more may stand."""
    if isinstance(told, dict):
        for name, value in told.items():
            assert_within(value, found[name])
    elif isinstance(told, list):
        assert len(told) == len(found)
        for one, other in zip(told, found, strict=True):
            assert_within(one, other)
    else:
        assert str(told) == str(found)


def test_health_is_told_in_grpcs_own_words() -> None:
    assert write("HealthCheckResponse", {"status": "SERVING"}) == b"\x08\x01"
    assert write("HealthCheckResponse", {"status": "NOT_SERVING"}) == b"\x08\x02"


def test_what_is_named_is_read() -> None:
    for request in (
        "ModelReadyRequest",
        "ModelMetadataRequest",
        "ModelConfigRequest",
        "ModelStatisticsRequest",
    ):
        make = getattr(service_pb2, request)
        assert read_named(make(name="dïgits", version="3").SerializeToString()) == ("dïgits", "3")
        assert read_named(make(name="digits").SerializeToString()) == ("digits", None)
        assert read_named(make().SerializeToString()) == (None, None)
    with pytest.raises(Malformed):
        read_named(b"\x0a\x02a")


@pytest.mark.parametrize("ready", [True, False])
def test_an_index_may_be_of_what_is_ready(ready: bool) -> None:  # noqa: FBT001
    asked = service_pb2.RepositoryIndexRequest(repository_name="models", ready=ready)
    assert read_ready(asked.SerializeToString()) is ready


@pytest.mark.parametrize(
    "message", [service_pb2.RepositoryModelLoadRequest, service_pb2.RepositoryModelUnloadRequest]
)
def test_a_change_names_its_model_and_brings_nothing(message: Any) -> None:
    asked = message(repository_name="models", model_name="d\u00efgits")
    assert read_change(asked.SerializeToString()) == "d\u00efgits"
    assert read_change(b"") == ""
    asked.parameters["unload_dependents"].bool_param = True
    assert read_change(asked.SerializeToString()) == "d\u00efgits"
    asked.parameters["file:1/model.onnx"].bytes_param = b"x"
    with pytest.raises(Invalid, match="file:1"):
        read_change(asked.SerializeToString())
