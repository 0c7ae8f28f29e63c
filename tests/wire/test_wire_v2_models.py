"""What the V2 protocol tells of the server and its models."""

import time
from typing import Any

import numpy as np
import pytest

from service.errors import NotFound
from service.metrics import Metrics, Values
from service.types import HeadInfo
from service.wire.inference import DEFAULTS
from service.wire.v2_models import Catalogue

DIGITS = HeadInfo("digits", "3", 64, 10, np.dtype(np.float32), None, "0" * 64, "cpu")
WIDE = HeadInfo("wide", "1", 5, 2, np.dtype(np.float64), None, "0" * 64, "cuda")
DESCRIBED = [
    {
        "name": "digits",
        "versions": [
            {"version": "1", "state": "ready"},
            {"version": "2", "state": "unavailable"},
            {"version": "3", "state": "ready"},
        ],
    },
    {"name": "wide", "versions": [{"version": "1", "state": "ready"}]},
]


def head_of(model: str | None, version: str | None) -> HeadInfo:
    for head in (DIGITS, WIDE):
        if head.model == model and version in {None, head.version}:
            return head
    raise NotFound("unknown_model", "there is no such head", path="model")


def catalogue(values: Values | None = None) -> Catalogue:
    return Catalogue(
        "1.2.3", head_of, lambda: DESCRIBED, lambda: values or {}, rows_limit=1000, batch_delay_s=0.002
    )


def shapes(tensors: list[dict[str, Any]]) -> dict[str, tuple[str, list[int]]]:
    return {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in tensors}


def test_the_server_names_its_extensions() -> None:
    told = catalogue().server()
    assert (told["name"], told["version"]) == ("logitserve", "1.2.3")
    assert {"binary_tensor_data", "classification", "statistics", "model_configuration"} <= {
        *told["extensions"]
    }


def test_a_head_tells_its_tensors_and_the_versions_that_serve() -> None:
    told = catalogue().model("digits", None)
    assert (told["name"], told["versions"], told["platform"]) == ("digits", ["1", "3"], "onnx_onnxv1")
    assert shapes(told["inputs"]) == {"features": ("FP32", [-1, 64])}
    assert shapes(told["outputs"]) == {
        "probabilities": ("FP32", [-1, 10]),
        "classes": ("INT64", [-1]),
        "log_probabilities": ("FP32", [-1, 10]),
        "logits": ("FP32", [-1, 10]),
    }
    assert shapes(catalogue().model("wide", "1")["inputs"]) == {"features": ("FP64", [-1, 5])}


def test_an_operation_takes_logits_of_any_width() -> None:
    softmax, loss = catalogue().model("softmax", None), catalogue().model("loss", None)
    assert softmax["versions"] == ["1"]
    assert shapes(softmax["inputs"]) == {"logits": ("FP32", [-1, -1])}
    assert shapes(loss["inputs"]) == {"logits": ("FP32", [-1, -1]), "labels": ("INT64", [-1])}
    assert shapes(loss["outputs"]) == {
        "loss": ("FP32", [1]),
        "losses": ("FP32", [-1]),
        "count": ("INT64", [1]),
    }


@pytest.mark.parametrize(("model", "version"), [("cats", None), ("digits", "9"), ("softmax", "2")])
def test_what_there_is_not_is_not_told(model: str, version: str | None) -> None:
    for tell in (catalogue().find, catalogue().model, catalogue().config, catalogue().statistics):
        with pytest.raises(NotFound):
            tell(model, version)


def test_a_configuration_leaves_out_the_axis_of_the_rows() -> None:
    told = catalogue().config("digits", None)
    assert told["max_batch_size"] == 1000
    assert told["input"] == [{"name": "features", "data_type": "TYPE_FP32", "dims": [64]}]
    outputs = {output["name"]: output for output in told["output"]}
    assert outputs["probabilities"]["dims"] == [10]
    assert outputs["classes"] == {
        "name": "classes",
        "data_type": "TYPE_INT64",
        "dims": [1],
        "reshape": {"shape": []},
    }
    assert told["dynamic_batching"] == {"max_queue_delay_microseconds": 2000}
    assert told["instance_group"][0]["kind"] == "KIND_CPU"
    assert catalogue().config("wide", None)["instance_group"][0]["kind"] == "KIND_GPU"


def test_a_configuration_without_an_axis_of_the_rows_keeps_all() -> None:
    told = catalogue().config("loss", None)
    assert told["max_batch_size"] == 0
    assert [tensor["dims"] for tensor in told["input"]] == [[-1, -1], [-1]]
    assert [tensor["dims"] for tensor in told["output"]] == [[1], [-1], [1]]
    assert "dynamic_batching" not in told
    assert catalogue().config("softmax", None)["max_batch_size"] == 1000


def test_statistics_are_sums_over_the_requests() -> None:
    metrics = Metrics()
    metrics.scored(("digits", "3"), 2, (0.001, 0.002, 0.004, 0.008), time.monotonic())
    metrics.scored(("digits", "3"), 5, (0.001, 0.002, 0.004, 0.008), time.monotonic())
    metrics.scored(("digits", "1"), 7, (0.001, 0, 0, 0), time.monotonic())
    metrics.scored(("loss", ""), 3, (0.001, 0, 0, 0), time.monotonic())
    metrics.failed(("digits", "3"), 0.5)
    metrics.batch("digits", "3", 7)
    (told,) = catalogue(metrics.values).statistics("digits", "3")["model_stats"]
    assert (told["name"], told["version"]) == ("digits", "3")
    assert (told["inference_count"], told["execution_count"]) == (7, 1)
    stats = told["inference_stats"]
    assert stats["success"] == {"count": 2, "ns": 30_000_000}
    assert stats["fail"] == {"count": 1, "ns": 500_000_000}
    assert stats["queue"] == {"count": 2, "ns": 4_000_000}
    assert stats["compute_input"] == {"count": 2, "ns": 2_000_000}
    assert stats["compute_infer"] == {"count": 2, "ns": 8_000_000}
    assert stats["compute_output"] == {"count": 2, "ns": 16_000_000}
    assert stats["cache_hit"] == stats["cache_miss"] == {"count": 0, "ns": 0}
    assert told["last_inference"] > 1.7e12, "milliseconds since 1970"
    operation = catalogue(metrics.values).statistics("loss", None)["model_stats"][0]
    assert (operation["inference_count"], operation["execution_count"]) == (3, 1)


def test_statistics_of_a_model_are_those_of_its_versions_and_without_a_name_all() -> None:
    def told(model: str | None) -> list[tuple[str, str]]:
        return [(one["name"], one["version"]) for one in catalogue().statistics(model, None)["model_stats"]]

    assert told("digits") == [("digits", "1"), ("digits", "3")]
    assert told(None) == [("digits", "1"), ("digits", "3"), ("wide", "1"), ("softmax", "1"), ("loss", "1")]
    idle = catalogue().statistics("wide", None)["model_stats"][0]
    assert idle["inference_stats"]["success"] == {"count": 0, "ns": 0}
    assert (idle["last_inference"], idle["inference_count"], idle["execution_count"]) == (0, 0, 0)


def test_what_is_told_of_a_model_names_outputs_that_it_answers_unasked() -> None:
    told = [tensor["name"] for tensor in catalogue().model("digits", None)["outputs"]]
    assert told == [*DEFAULTS["predict"]]
