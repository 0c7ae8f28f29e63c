"""What the Open Inference Protocol V2 tells of the server and its models, over gRPC: `v2_models` as protobuf.

The numbers of fields are the protocol's own and those of Triton's extensions; what the service never tells has none
here.
"""

from typing import Any, NamedTuple

from service.wire import protobuf
from service.wire.protobuf import LENGTH, VARINT, key_of
from service.wire.v2_grpc import TENSOR, read_parameters
from service.wire.v2_repository import check_parameters

DATA_TYPES = {"TYPE_INT64": 9, "TYPE_FP32": 11, "TYPE_FP64": 12}
KINDS = {"KIND_GPU": 1, "KIND_CPU": 2}

_CONFIGURED = {"name": 1, "data_type": (2, DATA_TYPES)}
_RESHAPE = {"shape": 1}
_COUNTED = {"count": 1, "ns": 2}
_INFERENCES = (
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)
CONFIG = {
    "name": 1,
    "platform": 2,
    "backend": 17,
    "max_batch_size": 4,
    "input": (5, {**_CONFIGURED, "dims": 4, "reshape": (5, _RESHAPE)}),
    "output": (6, {**_CONFIGURED, "dims": 3, "reshape": (5, _RESHAPE)}),
    "instance_group": (7, {"name": 1, "kind": (4, KINDS), "count": 2}),
    "dynamic_batching": (11, {"max_queue_delay_microseconds": 2}),
}
STATISTICS = {
    "name": 1,
    "version": 2,
    "last_inference": 3,
    "inference_count": 4,
    "execution_count": 5,
    "inference_stats": (6, {name: (place, _COUNTED) for place, name in enumerate(_INFERENCES, 1)}),
    "response_stats": None,  # these three the service leaves empty
    "batch_stats": None,
    "memory_usage": None,
}

# The answers by the names of their messages.
RESPONSES: dict[str, protobuf.Schema] = {
    "ServerLiveResponse": {"live": 1},
    "ServerReadyResponse": {"ready": 1},
    "ModelReadyResponse": {"ready": 1},
    "ServerMetadataResponse": {"name": 1, "version": 2, "extensions": 3},
    "ModelMetadataResponse": {
        "name": 1,
        "versions": 2,
        "platform": 3,
        "inputs": (4, TENSOR),
        "outputs": (5, TENSOR),
    },
    "ModelConfigResponse": {"config": (1, CONFIG)},
    "ModelStatisticsResponse": {"model_stats": (1, STATISTICS)},
    "RepositoryIndexResponse": {"models": (1, {"name": 1, "version": 2, "state": 3, "reason": 4})},
    "RepositoryModelLoadResponse": {},
    "RepositoryModelUnloadResponse": {},
    "HealthCheckResponse": {"status": (1, {"SERVING": 1, "NOT_SERVING": 2})},
}

_FIRST, _SECOND, _READY = key_of(1, LENGTH), key_of(2, LENGTH), key_of(2, VARINT)
_CHANGE_PARAMETER = key_of(3, LENGTH)


class Named(NamedTuple):
    """What a request names; all models where it names none."""

    model: str | None = None
    version: str | None = None


def read_named(body: bytes) -> Named:
    """Read a request that names a model, and maybe a version.

    Raises
    ------
    Malformed
        `malformed_protobuf`
    """
    texts = {
        field.key: protobuf.read_text(body, field)
        for field in protobuf.read_fields(body, 0, len(body))
        if field.key in {_FIRST, _SECOND}
    }
    return Named(texts.get(_FIRST) or None, texts.get(_SECOND) or None)


def read_ready(body: bytes) -> bool:
    """Read of a RepositoryIndexRequest whether it asks for models that are ready only; raises as `read_named`."""
    fields = protobuf.read_fields(body, 0, len(body))
    return any(protobuf.read_integer(body, field) for field in fields if field.key == _READY)


def read_change(body: bytes) -> str:
    """Read of a request to load or unload which model is meant.

    Raises
    ------
    Malformed
        `malformed_protobuf`
    Invalid
        `unknown_field`: a parameter that would change what is loaded.
    """
    fields = list(protobuf.read_fields(body, 0, len(body)))
    parameters = [field for field in fields if field.key == _CHANGE_PARAMETER]
    check_parameters(name for name, _ in read_parameters(body, parameters))
    names = [protobuf.read_text(body, field) for field in fields if field.key == _SECOND]
    return names[-1] if names else ""


def write(response: str, told: dict[str, Any]) -> bytes:
    return protobuf.write(told, RESPONSES[response])
