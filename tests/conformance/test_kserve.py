"""KServe's own client, as it comes, in both of its protocols."""

import asyncio
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import Running
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from numpy.typing import NDArray

FEATURES = (np.arange(128) % 17).reshape(2, 64).astype(np.float32)


def asked(features: NDArray[np.float32], *, binary: bool) -> Any:
    tensor = InferInput(name="features", shape=list(features.shape), datatype="FP32")
    tensor.set_data_from_numpy(features, binary_data=binary)
    return InferRequest(model_name="digits", infer_inputs=[tensor])


async def infer(url: str, protocol: str, data: Any) -> Any:
    client = InferenceRESTClient(config=RESTConfig(protocol=protocol))
    try:
        return await client.infer(url, data, model_name="digits")
    finally:
        await client.close()


def test_health(running: Running) -> None:
    async def ask() -> list[bool]:
        v1, v2 = (InferenceRESTClient(config=RESTConfig(protocol=protocol)) for protocol in ("v1", "v2"))
        found = [
            await v2.is_server_live(running.url),
            await v2.is_server_ready(running.url),
            await v2.is_model_ready(running.url, "digits"),
            await v1.is_model_ready(running.url, "digits"),
        ]
        await v1.close()
        await v2.close()
        return found

    assert asyncio.run(ask()) == [True] * 4


@pytest.mark.parametrize("binary", [True, False])
def test_v2_to_the_last_bit(
    running: Running,
    *,
    binary: bool,
    logits: NDArray[np.float32],
    probabilities: NDArray[np.float32],
) -> None:
    answer = asyncio.run(infer(running.url, "v2", asked(FEATURES, binary=binary)))
    found = {output.name: output.as_numpy() for output in answer.outputs}
    np.testing.assert_array_equal(found["probabilities"], probabilities, strict=True)
    np.testing.assert_array_equal(found["logits"], logits, strict=True)
    np.testing.assert_array_equal(found["classes"], logits.argmax(-1))


def test_grpc_to_the_last_bit(
    running: Running, grpc_address: str, logits: NDArray[np.float32], probabilities: NDArray[np.float32]
) -> None:
    del running  # it only has to be there

    async def ask() -> Any:
        client = InferenceGRPCClient(grpc_address)
        try:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("digits")
            return await client.infer(asked(FEATURES, binary=True))
        finally:
            await client.close()

    found = {output.name: output.as_numpy() for output in asyncio.run(ask()).outputs}
    np.testing.assert_array_equal(found["probabilities"], probabilities, strict=True)
    np.testing.assert_array_equal(found["logits"], logits, strict=True)


def test_v1_to_the_last_digit(running: Running, probabilities: NDArray[np.float32]) -> None:
    answer = asyncio.run(infer(running.url, "v1", {"instances": FEATURES.tolist()}))
    assert list(answer) == ["predictions"]
    np.testing.assert_array_equal(np.array(answer["predictions"], np.float32), probabilities, strict=True)


@pytest.mark.parametrize(
    ("protocol", "data"),
    [("v2", asked(FEATURES[:, 1:], binary=True)), ("v1", {"instances": FEATURES[:, 1:].tolist()})],
)
def test_mistakes_are_told(running: Running, protocol: str, data: Any) -> None:
    with pytest.raises(httpx.HTTPStatusError, match=r"features: expected shape \[..., 64\], got \[2, 63\]"):
        asyncio.run(infer(running.url, protocol, data))
