"""Triton's own HTTP client, as it comes, in both of its forms."""

import asyncio
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http
import tritonclient.http.aio
from conftest import Running
from numpy.typing import NDArray
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from service.wire.v2_models import EXTENSIONS

FEATURES = (np.arange(128) % 17).reshape(2, 64).astype(np.float32)


@pytest.fixture
def client(running: Running) -> Any:
    return tritonclient.http.InferenceServerClient(f"127.0.0.1:{running.port}")


def tensor(name: str, array: NDArray[Any], datatype: str, *, binary: bool = True) -> Any:
    made = InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1")
    assert not client.is_model_ready("cats")
    assert client.get_server_metadata()["extensions"] == list(EXTENSIONS)
    assert client.get_model_metadata("digits")["inputs"][0]["shape"] == [-1, 64]
    assert client.get_model_config("digits")["max_batch_size"] > 0


@pytest.mark.parametrize("binary", [True, False])
def test_all_outputs_to_the_last_bit(
    client: Any,
    *,
    binary: bool,
    logits: NDArray[np.float32],
    probabilities: NDArray[np.float32],
) -> None:
    result = client.infer("digits", [tensor("features", FEATURES, "FP32", binary=binary)])
    np.testing.assert_array_equal(result.as_numpy("probabilities"), probabilities, strict=True)
    np.testing.assert_array_equal(result.as_numpy("logits"), logits, strict=True)
    np.testing.assert_array_equal(result.as_numpy("classes"), logits.argmax(-1), strict=True)


def test_what_is_asked_for_in_the_form_that_is_asked_for(client: Any, logits: NDArray[np.float32]) -> None:
    outputs = [
        InferRequestedOutput("probabilities", class_count=3),
        InferRequestedOutput("predicted_names"),
        InferRequestedOutput("classes", binary_data=False),
    ]
    features = tensor("features", FEATURES, "FP32")
    result = client.infer("digits", [features], outputs=outputs, request_id="7", model_version="1")
    response = result.get_response()
    assert (response["id"], response["model_version"]) == ("7", "1")
    best = np.argsort(-logits, axis=-1)[:, :3]
    told = [[text.decode().split(":") for text in row] for row in result.as_numpy("probabilities")]
    assert [[int(index) for _, index, _ in row] for row in told] == best.tolist()
    assert told[0][0][2] == result.as_numpy("predicted_names")[0].decode()
    assert result.as_numpy("classes").tolist() == best[:, 0].tolist()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_bodies(client: Any, algorithm: str, probabilities: NDArray[np.float32]) -> None:
    features = tensor("features", FEATURES, "FP32")
    result = client.infer(
        "digits",
        [features],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    np.testing.assert_array_equal(result.as_numpy("probabilities"), probabilities, strict=True)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    ("datatype", "kind"),
    [
        ("FP16", np.float16),
        ("BF16", ml_dtypes.bfloat16),
        ("FP64", np.float64),
        ("INT8", np.int8),
        ("INT16", np.int16),
        ("INT32", np.int32),
        ("INT64", np.int64),
        ("UINT8", np.uint8),
        ("UINT16", np.uint16),
        ("UINT32", np.uint32),
        ("UINT64", np.uint64),
    ],
)
def test_every_datatype(
    client: Any,
    datatype: str,
    kind: Any,
    *,
    binary: bool,
    probabilities: NDArray[np.float32],
) -> None:
    try:
        features = tensor("features", FEATURES.astype(kind), datatype, binary=binary)
    except InferenceServerException as error:  # the client's own rule
        assert datatype == "BF16", error  # noqa: PT017 - any other refusal fails the test
        assert not binary
        return
    result = client.infer("digits", [features])
    np.testing.assert_array_equal(result.as_numpy("probabilities"), probabilities, strict=True)


def test_names_as_labels(client: Any) -> None:
    labels = tensor("labels", np.array(["one", "two"], np.object_), "BYTES")
    named = client.infer("digits", [tensor("features", FEATURES, "FP32"), labels])
    indexed = client.infer(
        "digits", [tensor("features", FEATURES, "FP32"), tensor("labels", np.array([1, 2]), "INT64")]
    )
    np.testing.assert_array_equal(named.as_numpy("losses"), indexed.as_numpy("losses"), strict=True)


def test_bare_logits_and_options(client: Any) -> None:
    rows = np.array([[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]])
    result = client.infer("softmax", [tensor("logits", rows, "FP64")], parameters={"temperature": 0.5})
    np.testing.assert_allclose(result.as_numpy("probabilities").sum(-1), 1)
    labels = tensor("labels", np.array([1, 2]), "INT64")
    losses = client.infer("loss", [tensor("logits", rows, "FP64"), labels]).as_numpy("losses")
    expected = np.log(np.exp(rows).sum(-1)) - rows[[0, 1], [1, 2]]
    np.testing.assert_allclose(losses, expected, rtol=1e-12)


def test_mistakes_are_told(client: Any) -> None:
    with pytest.raises(
        InferenceServerException, match=r"expected shape \[..., 64\], got \[2, 63\]"
    ) as caught:
        client.infer("digits", [tensor("features", FEATURES[:, 1:], "FP32")])
    assert caught.value.status() == "400"
    with pytest.raises(InferenceServerException, match="got 'cats'") as caught:
        client.infer("cats", [tensor("features", FEATURES, "FP32")])
    assert caught.value.status() == "404"


def test_statistics(client: Any) -> None:
    def rows() -> int:
        (told,) = client.get_inference_statistics("digits")["model_stats"]
        return int(told["inference_count"])

    before = rows()
    client.infer("digits", [tensor("features", FEATURES, "FP32")])
    assert rows() == before + 2


def test_the_asynchronous_client(running: Running, probabilities: NDArray[np.float32]) -> None:
    async def ask() -> Any:
        async with tritonclient.http.aio.InferenceServerClient(f"127.0.0.1:{running.port}") as client:
            assert await client.is_server_ready()
            features = tensor("features", FEATURES, "FP32")
            return await asyncio.gather(*(client.infer("digits", [features]) for _ in range(8)))

    for result in asyncio.run(ask()):
        np.testing.assert_allclose(result.as_numpy("probabilities"), probabilities, rtol=1e-6)
