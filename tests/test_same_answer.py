"""One set of rows through every dialect: the same bits from each, and from the core without a server."""

import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import tritonclient.grpc.aio
from conftest import MODELS, connected
from numpy.typing import NDArray

from service.app import create_app
from service.application import Application
from service.client import AsyncClient
from service.settings import Settings
from service.types import Labels, ScoreRequest
from service.wire import v2

pytestmark = pytest.mark.anyio

Arrays = dict[str, NDArray[Any]]
Ask = Callable[[httpx.AsyncClient, NDArray[np.float32], NDArray[np.int64]], Awaitable[Arrays]]

GRPC_ADDRESS: ContextVar[str] = ContextVar("GRPC_ADDRESS")

NAMES = ["probabilities", "log_probabilities", "logits", "classes", "losses"]
KINDS = {name: np.int64 if name == "classes" else np.float32 for name in NAMES}


@pytest.fixture
async def app() -> AsyncIterator[Application]:
    app = create_app(Settings(models=MODELS, vertex_predict_route="/vertex", grpc_port=0))
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def client(app: Application) -> AsyncIterator[httpx.AsyncClient]:
    async with connected(app) as client:
        yield client


async def ask_json(client: httpx.AsyncClient, path: str, body: Any) -> Any:
    answer = await client.post(path, content=orjson.dumps(body))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def native_json(client: httpx.AsyncClient, features: Any, labels: Any) -> Arrays:
    body = {"features": features.tolist(), "labels": labels.tolist(), "outputs": NAMES}
    return read(await ask_json(client, "/predict", body))


async def native_npz(client: httpx.AsyncClient, features: Any, labels: Any) -> Arrays:
    body = io.BytesIO()
    np.savez(body, features=features, labels=labels)
    headers = {"content-type": "application/x-npz", "accept": "application/x-npz"}
    answer = await client.post(
        f"/predict?outputs={','.join(NAMES)}", content=body.getvalue(), headers=headers
    )
    return dict(np.load(io.BytesIO(answer.content)))


async def python_client(client: httpx.AsyncClient, features: Any, labels: Any) -> Arrays:
    async with AsyncClient("http://service", transport=client._transport) as ours:
        answer = await ours.predict(features, labels=labels, outputs=NAMES)
    return {name: np.asarray(getattr(answer, name), KINDS[name]) for name in NAMES}


def v2_of(*, binary: bool) -> Ask:
    async def ask(client: httpx.AsyncClient, features: Any, labels: Any) -> Arrays:
        tensors = {"features": features, "labels": labels}
        body = v2.encode_request(tensors, outputs=NAMES, binary=binary)
        headers = {} if body.json_bytes is None else {v2.JSON_LENGTH: str(body.json_bytes)}
        answer = await client.post("/v2/models/digits/infer", content=body.content, headers=headers)
        return v2.decode_result(answer.content, answer.headers.get(v2.JSON_LENGTH))

    return ask


def rows_of(path: str) -> Ask:
    """The row form of TensorFlow Serving, KServe V1, Vertex AI and MLflow."""

    async def ask(client: httpx.AsyncClient, features: Any, labels: Any) -> Arrays:
        rows = [
            {"features": row, "labels": label}
            for row, label in zip(features.tolist(), labels.tolist(), strict=True)
        ]
        options = "params" if path == "/invocations" else "parameters"
        told = await ask_json(client, path, {"instances": rows, options: {"outputs": NAMES}})
        predictions = told["predictions"]
        return read({name: [row[name] for row in predictions] for name in NAMES})

    return ask


async def invocations_csv(client: httpx.AsyncClient, features: Any, labels: Any) -> Arrays:
    """The forms without labels, an output at a time."""
    del labels
    rows = "\n".join(",".join(map(str, row)) for row in features.tolist())
    found = {}
    for name in NAMES[:4]:
        headers = {"content-type": "text/csv", "accept": "application/x-npy"}
        answer = await client.post(f"/invocations?outputs={name}", content=rows, headers=headers)
        found[name] = np.load(io.BytesIO(answer.content))
    return found


async def v1_columns(client: httpx.AsyncClient, features: Any, labels: Any) -> Arrays:
    inputs = {"features": features.tolist(), "labels": labels.tolist()}
    body = {"inputs": inputs, "parameters": {"outputs": NAMES}}
    return read((await ask_json(client, "/v1/models/digits:predict", body))["outputs"])


async def v2_grpc(client: httpx.AsyncClient, features: Any, labels: Any) -> Arrays:
    del client  # gRPC has a port of its own
    inputs = []
    for name, array, datatype in (("features", features, "FP32"), ("labels", labels, "INT64")):
        inputs.append(tritonclient.grpc.InferInput(name, list(array.shape), datatype))
        inputs[-1].set_data_from_numpy(array)
    outputs = [tritonclient.grpc.InferRequestedOutput(name) for name in NAMES]
    async with tritonclient.grpc.aio.InferenceServerClient(GRPC_ADDRESS.get()) as triton:
        answer = await triton.infer("digits", inputs, outputs=outputs)
    return {name: answer.as_numpy(name) for name in NAMES}


def read(told: dict[str, Any]) -> Arrays:
    return {name: np.asarray(told[name], KINDS[name]) for name in NAMES}


DIALECTS: dict[str, Ask] = {
    "native JSON": native_json,
    "native npz": native_npz,
    "Python client": python_client,
    "V2 JSON": v2_of(binary=False),
    "V2 binary": v2_of(binary=True),
    "V2 gRPC": v2_grpc,
    "TensorFlow Serving rows": rows_of("/v1/models/digits:predict"),
    "TensorFlow Serving columns": v1_columns,
    "Vertex AI": rows_of("/vertex"),
    "MLflow": rows_of("/invocations"),
    "SageMaker CSV": invocations_csv,
}


@pytest.mark.parametrize("rows", [1, 2, 37, 1100])  # the last is more than runs in one piece
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_dialect_gives_the_bits_of_the_core(
    app: Application, client: httpx.AsyncClient, dialect: str, rows: int
) -> None:
    chance = np.random.default_rng(rows)
    features = chance.integers(0, 17, (rows, 64)).astype(np.float32)
    labels = chance.integers(0, 10, rows)
    head = app.repository.info("digits", None)
    request = ScoreRequest(
        "predict", features, 1, head.dtype, tuple(NAMES), labels=Labels(labels, "index"), head=head
    )
    assert app.grpc is not None
    GRPC_ADDRESS.set(app.grpc.address)
    expected = (await app.scorer.score(request)).outputs
    found = await DIALECTS[dialect](client, features, labels)
    assert set(found) >= set(NAMES[:4])
    for name in found:
        np.testing.assert_array_equal(found[name], np.asarray(expected[name]), strict=True, err_msg=name)
