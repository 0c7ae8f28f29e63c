"""What the Open Inference Protocol V2 tells of the server and its models, as JSON values.

Names are those of the protocol and of Triton's extensions, whichever transport carries them. What clients
generate requests from must work as it is told: so labels, which may be left out, and the losses that come
with them alone, are not among a head's tensors here.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from service.types import HeadInfo
from service.wire.fields import HeadOf
from service.wire.inference import DEFAULTS, OPERATION_VERSION, OPERATIONS, operation_of

# What clients look for before they use it.
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)

_FLOATS = {"float32": "FP32", "float64": "FP64"}
_INTEGERS = frozenset({"classes", "labels", "count"})
# Logits of a request have any number of classes.
_ANY = -1

# Our stages by the protocol's names.
_STAGES = {
    "queue": "queue",
    "decode": "compute_input",
    "infer": "compute_infer",
    "encode": "compute_output",
}

# Counts of this process and its siblings: instrument -> label values -> number; see `metrics`.
Values: TypeAlias = Mapping[str, Mapping[tuple[str, ...], float]]
_NANOSECONDS = 10**9
_MILLISECONDS = 10**3


class Catalogue:
    """Tells of the server and of each model, an operation on bare logits or a head.

    Parameters
    ----------
    version : str
        Of the server.
    head_of : function of model and version, either None where not said
        Finds a head, or raises `NotFound` or `NotReady`.
    describe : function
        Tells of all heads, as `GET /models` does.
    count : function
        Gives the counts of all workers together.
    rows_limit, batch_delay_s
        As in the settings.
    """

    def __init__(
        self,
        version: str,
        head_of: HeadOf,
        describe: Callable[[], list[dict[str, Any]]],
        count: Callable[[], Values],
        *,
        rows_limit: int,
        batch_delay_s: float,
    ) -> None:
        self._version = version
        self._head_of = head_of
        self._describe = describe
        self._count = count
        self._rows_limit = rows_limit
        self._batch_delay_s = batch_delay_s

    def server(self) -> dict[str, Any]:
        return {"name": "logitserve", "version": self._version, "extensions": list(EXTENSIONS)}

    def find(self, model: str, version: str | None) -> HeadInfo | None:
        """Find a head; an operation on bare logits has none.

        Raises
        ------
        NotFound, NotReady
        """
        return self._head_of(model, version) if operation_of(model, version) == "predict" else None

    def model(self, model: str, version: str | None) -> dict[str, Any]:
        """Describe the tensors of a model; an axis of any length is -1. Raises as `find`."""
        head = self.find(model, version)
        inputs, outputs = _tensors(model, head)
        versions = [OPERATION_VERSION] if head is None else self._versions(model)
        return {
            "name": model,
            "versions": versions,
            "platform": "onnx_onnxv1",
            "inputs": inputs,
            "outputs": outputs,
        }

    def config(self, model: str, version: str | None) -> dict[str, Any]:
        """Describe a model as Triton's load tester wants it: its axes without that of the rows. Raises as `find`."""
        head = self.find(model, version)
        inputs, outputs = _tensors(model, head)
        batches = OPERATIONS.get(model) != "loss"  # which has outputs of one for each row, and of one for all
        told: dict[str, Any] = {
            "name": model,
            "platform": "onnxruntime_onnx",
            "backend": "onnxruntime",
            "max_batch_size": self._rows_limit if batches else 0,
            "input": [_configured(tensor, batches=batches) for tensor in inputs],
            "output": [_configured(tensor, batches=batches) for tensor in outputs],
        }
        if head is not None:
            kind = "KIND_GPU" if head.provider == "cuda" else "KIND_CPU"
            told["instance_group"] = [{"name": model, "kind": kind, "count": 1}]
            told["dynamic_batching"] = {"max_queue_delay_microseconds": int(self._batch_delay_s * 1e6)}
        return told

    def statistics(self, model: str | None, version: str | None) -> dict[str, Any]:
        """Tell what a model, or each of them, has done since the start; times are summed over the requests.

        Raises as `find`.
        """
        if model is None:
            heads = [(told["name"], number) for told in self._describe() for number in _ready(told)]
            keys = heads + [(name, "") for name in OPERATIONS]
        elif (head := self.find(model, version)) is None:
            keys = [(model, "")]
        else:
            keys = [(model, number) for number in ([head.version] if version else self._versions(model))]
        values = self._count()
        return {"model_stats": [_statistics(values, key) for key in keys]}

    def _versions(self, model: str) -> list[str]:
        return [number for told in self._describe() if told["name"] == model for number in _ready(told)]


def _ready(told: Mapping[str, Any]) -> list[str]:
    return [version["version"] for version in told["versions"] if version["state"] == "ready"]


def _tensors(name: str, head: HeadInfo | None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    operation = OPERATIONS.get(name, "predict")
    inputs = ["features"] if operation == "predict" else ["logits"]
    if operation == "loss":
        inputs.append("labels")
    return [_tensor(i, head) for i in inputs], [_tensor(o, head) for o in DEFAULTS[operation]]


def _tensor(name: str, head: HeadInfo | None) -> dict[str, Any]:
    shape = [1] if name in {"loss", "count"} else [_ANY]
    if name == "features" and head is not None:
        shape.append(head.num_features)
    elif name in {"logits", "probabilities", "log_probabilities"}:
        shape.append(_ANY if head is None else head.num_classes)
    floats = "FP32" if head is None else _FLOATS[str(head.dtype)]
    return {"name": name, "datatype": "INT64" if name in _INTEGERS else floats, "shape": shape}


def _configured(tensor: Mapping[str, Any], *, batches: bool) -> dict[str, Any]:
    shape = tensor["shape"]
    told = {"name": tensor["name"], "data_type": f"TYPE_{tensor['datatype']}"}
    if not batches:
        return told | {"dims": shape}
    # Triton's own way to say "one for each row": an axis that is not there.
    return told | ({"dims": shape[1:]} if shape[1:] else {"dims": [1], "reshape": {"shape": []}})


def _statistics(values: Values, key: tuple[str, str]) -> dict[str, Any]:
    stages = {
        stage: _duration(values, "logitserve_stage_duration_seconds", (*key, stage)) for stage in _STAGES
    }
    failed = _duration(values, "logitserve_failure_duration_seconds", key)
    batches = values.get("logitserve_batch_rows", {})
    success = stages["decode"]["count"]
    runs = sum(n for labels, n in batches.items() if labels[:2] == key and labels[2] != "sum")
    nothing = {"count": 0, "ns": 0}
    return {
        "name": key[0],
        "version": key[1] or OPERATION_VERSION,
        "last_inference": int(
            values.get("logitserve_last_scored_timestamp_seconds", {}).get(key, 0) * _MILLISECONDS
        ),
        "inference_count": int(values.get("logitserve_rows", {}).get(key, 0)),
        "execution_count": int(runs) if key[1] else success,  # bare logits run one request at a time
        "inference_stats": {
            "success": {"count": success, "ns": sum(stage["ns"] for stage in stages.values())},
            "fail": failed,
            **{name: stages[stage] for stage, name in _STAGES.items()},
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "response_stats": {},
        "batch_stats": [],
        "memory_usage": [],
    }


def _duration(values: Values, instrument: str, key: tuple[str, ...]) -> dict[str, int]:
    """Count and sum up one histogram."""
    series = {labels[-1]: n for labels, n in values.get(instrument, {}).items() if labels[:-1] == key}
    total_s = series.pop("sum", 0.0)
    return {"count": int(sum(series.values())), "ns": round(total_s * _NANOSECONDS)}
