"""Both clients against the real application, and against servers that misbehave on real sockets."""

import asyncio
import contextlib
import doctest
import inspect
import pickle
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from listening import listening
from numpy.typing import NDArray
from scipy import sparse
from sklearn.datasets import load_digits

from service.app import create_app
from service.client import (
    AsyncClient,
    Client,
    ConnectionFailed,
    InvalidRequest,
    ServiceError,
    Unavailable,
    endpoints,
)
from service.heads.graphs import Linear, build_linear
from service.settings import Settings

if TYPE_CHECKING:
    from service.application import Application

PUBLIC = ("softmax", "loss", "predict", "predict_each", "feedback", "models", "ready", "live", "metrics_text")
MODELS = Path(__file__).parents[2] / "models"
LOGITS = [[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]]
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MEAN = 0.8393433389787792
BODY = b'{"classes":[1]}'
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n" + BODY
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n"
HALF = OK[:-5]
PAGE = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 14\r\n\r\n<h1>Welcome!</"


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> "Application":
    return create_app(Settings(models=MODELS, feedback=tmp_path_factory.mktemp("feedback") / "rows.sqlite"))


@pytest.fixture(scope="module")
def url(application: "Application") -> Iterator[str]:
    with listening(application) as url:
        yield url


@contextlib.asynccontextmanager
async def in_memory(**options: Any) -> AsyncIterator[AsyncClient]:
    app = create_app(Settings(models=MODELS))
    async with (
        app.router.lifespan_context(app),
        AsyncClient("http://service", transport=httpx.ASGITransport(app), **options) as client,
    ):
        yield client


class Scripted:
    """A server that treats one connection after another as its script says, and keeps what was sent."""

    def __init__(self, *script: bytes, keep: int = 1) -> None:
        self.requests: list[bytes] = []
        self._script = script
        self._keep = keep  # requests answered before a connection is closed
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        for answer in self._script:
            connection, _ = self._socket.accept()
            with connection:
                for _ in range(self._keep):
                    self._answer(connection, answer)

    def _answer(self, connection: socket.socket, answer: bytes) -> None:
        sent = connection.recv(65536)
        while not sent.endswith(b"}" if b"content-length" in sent.lower() else b"\r\n\r\n"):
            sent += connection.recv(65536)
        self.requests.append(sent)
        connection.sendall(answer)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(5)
        self._socket.close()
        assert not self._thread.is_alive(), "the script was not played to its end"


def call_sync(url: str, **options: Any) -> Any:
    with Client(url, **options) as client:
        return client.softmax([1.0, 2.0])


def call_async(url: str, **options: Any) -> Any:
    async def call() -> Any:
        async with AsyncClient(url, **options) as client:
            return await client.softmax([1.0, 2.0])

    return asyncio.run(call())


both = pytest.mark.parametrize("call", [call_sync, call_async])
Call = Callable[..., Any]


@pytest.mark.parametrize("kind", ["json", "npz"])
def test_the_worked_example_comes_out(url: str, kind: Literal["json", "npz"]) -> None:
    with Client(url, media=kind) as client:
        answer = client.loss(LOGITS, [1, 2])
        assert answer.loss == pytest.approx(MEAN, abs=2e-16)
        assert answer.losses == pytest.approx([0.4790107, 1.19967598], abs=1e-8)
        assert answer.count == 2
        assert answer.request_id
        assert answer.server_timing_ms.keys() >= {"decode", "infer", "encode"}
        assert answer.model is None


@pytest.mark.parametrize("kind", ["json", "npz"])
def test_softmax_has_the_shapes_of_its_logits(url: str, kind: Literal["json", "npz"]) -> None:
    with Client(url, media=kind) as client:
        answer = client.softmax(np.zeros((2, 4, 3), np.float32), axis=1, top_k=2)
        assert answer.probabilities.shape == (2, 4, 3)
        assert answer.probabilities.dtype == np.float32
        assert answer.classes.shape == (2, 3)
        assert answer.top_classes.shape == (2, 2, 3)
        one_row = client.softmax([0.5, 1.5, 0.1])
        assert one_row.probabilities.shape == (3,)
        assert int(one_row.classes) == 1


@pytest.mark.parametrize("kind", ["json", "npz"])
def test_predict_says_which_head_answered(url: str, kind: Literal["json", "npz"]) -> None:
    with Client(url, media=kind) as client:
        answer = client.predict(
            np.full((3, 64), 8.0),
            labels=[1, 2, 3],
            outputs=["probabilities", "predicted_names", "loss", "contributions"],
            top_contributions=4,
        )
        assert (answer.model, answer.version) == ("digits", "1")
        assert answer.digest
        assert list(answer) == ["probabilities", "predicted_names", "loss", "contributions"]
        assert answer.probabilities.shape == (3, 10)
        assert answer.predicted_names.tolist() == [DIGITS[row.argmax()] for row in answer.probabilities]
        assert answer.contributions["features"].shape == (3, 4)
        assert answer.contributions["features"].dtype == np.int64


@pytest.mark.parametrize("kind", ["json", "npz", "auto"])
@pytest.mark.parametrize("made", [sparse.csr_array, sparse.csr_matrix, sparse.coo_array, sparse.lil_matrix])
def test_sparse_features_get_the_answer_of_the_dense_ones(
    url: str, kind: Literal["json", "npz", "auto"], made: Callable[[Any], Any]
) -> None:
    features = load_digits().data[:5]
    with Client(url, media=kind) as client:
        dense = client.predict(features, outputs=["logits", "classes", "contributions"])
        found = client.predict(made(features), outputs=["logits", "classes", "contributions"])
        nothing = client.predict(made(features[:0]))
    np.testing.assert_array_equal(found.logits, dense.logits)
    np.testing.assert_array_equal(found.classes, dense.classes)
    np.testing.assert_array_equal(found.contributions["features"], dense.contributions["features"])
    assert nothing.classes.size == 0


def test_a_float32_head_answers_the_same_numbers_in_both_media(url: str) -> None:
    image = np.full(64, 3.0)
    with Client(url, media="json") as as_json, Client(url, media="npz") as as_npz:
        digits, exact = as_json.predict(image).probabilities, as_npz.predict(image).probabilities
    assert exact.dtype == np.float32
    assert digits.dtype == np.float64
    assert digits.astype(np.float32).tobytes() == exact.tobytes()


def test_a_key_is_sent_with_every_call() -> None:
    with Scripted(OK) as server, Client(server.url, api_key="k-1") as client:
        client.softmax([1.0, 2.0])
    assert b"authorization: bearer k-1\r\n" in server.requests[0].lower()


def test_proxies_of_the_environment_can_be_passed_by(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("HTTP_PROXY", nobody)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with Client(url, trust_env=False) as client:
        assert client.live()
    with Client(url, at_most=1) as client, pytest.raises(ConnectionFailed):
        client.live()


def test_labels_may_be_names(url: str) -> None:
    with Client(url) as client:
        by_name = client.loss(LOGITS, ["b", "c"], class_names=["a", "b", "c"])
        assert by_name.loss == client.loss(LOGITS, [1, 2]).loss


def test_small_and_large_requests_agree(url: str) -> None:
    logits = np.random.default_rng(0).normal(size=(300, 10)).astype(np.float32)
    with Client(url) as client:
        whole = client.softmax(logits)
        one = client.softmax(logits[7])
        assert whole.probabilities[7].tobytes() == one.probabilities.tobytes()


def test_an_empty_batch_has_an_empty_answer(url: str) -> None:
    with Client(url) as client:
        answer = client.loss(np.zeros((0, 3)), np.zeros(0, np.int64))
        assert answer.losses.shape == (0,)
        assert answer.loss is None


def test_a_mistake_says_where_it_is(url: str) -> None:
    with Client(url) as client, pytest.raises(InvalidRequest) as caught:
        client.loss(LOGITS, [1, 2, 0])
    error = caught.value
    assert (error.status, error.code) == (422, "labels_shape")
    assert error.offences[0].path == "labels"
    assert "expected" in error.offences[0].message
    assert error.request_id
    assert pickle.dumps(error)


MISTAKES: list[tuple[str, dict[str, Any], str, str]] = [
    ("softmax", {"logits": 1.0}, "rank", "logits"),
    ("softmax", {"logits": [[0.0, np.nan]]}, "non_finite_logits", "logits[0][1]"),
    ("softmax", {"logits": [[-np.inf, -np.inf]]}, "row_all_masked", "logits[0]"),
    ("softmax", {"logits": LOGITS, "axis": 2}, "axis_range", "axis"),
    ("softmax", {"logits": LOGITS, "top_k": 4}, "top_k_range", "top_k"),
    ("softmax", {"logits": LOGITS, "temperature": 0}, "temperature_range", "temperature"),
    ("softmax", {"logits": LOGITS, "outputs": ["odds"]}, "unknown_output", "outputs[0]"),
    ("softmax", {"logits": LOGITS, "class_names": ["a"]}, "class_names_shape", "class_names"),
    ("loss", {"logits": LOGITS, "labels": [1, 3]}, "label_out_of_range", "labels[1]"),
    ("loss", {"logits": LOGITS, "labels": [1.0, 2.0]}, "labels_type", "labels"),
    (
        "loss",
        {"logits": LOGITS, "labels": [1, 2], "class_weight": [1, 2]},
        "class_weight_shape",
        "class_weight",
    ),
    ("predict", {"features": np.zeros((2, 3))}, "features_shape", "features"),
    ("predict", {"features": np.full((1, 64), np.inf)}, "non_finite_features", "features[0][0]"),
]


@pytest.mark.parametrize("kind", ["json", "npz"])
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake[2])
def test_mistakes_carry_code_and_path_in_both_media(
    url: str, kind: Literal["json", "npz"], mistake: tuple[str, dict[str, Any], str, str]
) -> None:
    operation, arguments, code, path = mistake
    with Client(url, media=kind) as client, pytest.raises(InvalidRequest) as caught:
        getattr(client, operation)(**arguments)
    assert caught.value.code == code
    assert caught.value.offences[0].path.startswith(path)


def test_an_unknown_head_is_a_mistake_of_the_caller(url: str) -> None:
    with Client(url) as client, pytest.raises(InvalidRequest) as caught:
        client.predict(np.zeros(64), model="letters")
    assert (caught.value.status, caught.value.code) == (404, "unknown_model")


def test_the_operations_side_is_there(url: str) -> None:
    with Client(url) as client:
        assert client.live()
        assert client.ready()
        assert client.models()[0]["versions"]
        client.softmax([1.0, 2.0])
        assert "logitserve_requests_total" in client.metrics_text()


def test_threads_may_share_a_client(url: str) -> None:
    losses = []
    with Client(url, connections=4) as client:
        threads = [
            threading.Thread(target=lambda: losses.append(client.loss(LOGITS, [1, 2]).loss)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(losses)) == 1
    assert len(losses) == 8


@pytest.mark.parametrize("kind", ["json", "npz"])
def test_a_decision_is_asked_for(url: str, kind: Literal["json", "npz"]) -> None:
    images, targets = load_digits(return_X_y=True)
    with Client(url, media=kind) as client:
        rules = {"mask": [f"{DIGITS[int(targets[0])]}"], "thresholds": np.full(10, 0.5)}
        answer = client.predict(images[:5], decision=rules)
        assert answer.decisions[0] != targets[0]
        assert answer.decisions[1:].tolist() == targets[1:5].tolist()
        assert answer.decided_names[1] == DIGITS[int(targets[1])]


@pytest.fixture
def several(tmp_path: Path) -> Iterator[str]:
    """A service of three heads, one of which has a name that begins with that of another and a point."""
    random = np.random.default_rng(0)
    for model, classes in (("pets", 2), ("pets.classes", 3), ("plants", 4)):
        folder = tmp_path / model / "7"
        folder.mkdir(parents=True)
        linear = Linear(random.normal(size=(5, classes)), random.normal(size=classes))
        (folder / "model.onnx").write_bytes(build_linear(linear))
    with listening(create_app(Settings(models=tmp_path))) as url:
        yield url


@pytest.mark.parametrize("kind", ["json", "npz"])
def test_several_heads_answer_each_under_its_name(several: str, kind: Literal["json", "npz"]) -> None:
    features = np.random.default_rng(1).normal(size=(6, 5))
    names = ["plants", "pets", "pets.classes"]
    with Client(several, media=kind) as client:
        outputs = ["classes", "probabilities", "contributions"]
        answers = client.predict_each(features, names, outputs=outputs, top_contributions=2)
        assert list(answers) == names
        for name, answer in answers.items():
            alone = client.predict(features, model=name, outputs=outputs, top_contributions=2)
            assert (answer.model, answer.version) == (name, "7")
            assert answer.request_id
            assert list(answer) == list(alone) == outputs
            assert answer.classes.tolist() == alone.classes.tolist()
            np.testing.assert_allclose(answer.probabilities, alone.probabilities, rtol=1e-12)
            assert answer.contributions["features"].tolist() == alone.contributions["features"].tolist()
        with pytest.raises(InvalidRequest) as caught:
            client.predict_each(features, ["plants", "stones"])
        assert (caught.value.code, caught.value.offences[0].path) == ("unknown_model", "models[1]")


@pytest.mark.anyio
async def test_the_asynchronous_client_asks_several_heads() -> None:
    async with in_memory() as client:
        answers = await client.predict_each(np.zeros(64), ["digits"])
        assert answers["digits"].probabilities.shape == (10,)


@pytest.mark.anyio
async def test_the_asynchronous_client_answers_the_same() -> None:
    async with in_memory() as client:
        answer = await client.loss(LOGITS, [1, 2], outputs=["loss", "accuracy"])
        assert answer.loss == pytest.approx(MEAN, abs=2e-16)
        assert answer.accuracy == 0.5
        assert (await client.softmax(LOGITS)).classes.tolist() == [1, 0]
        assert (await client.predict(np.zeros(64))).probabilities.shape == (10,)
        assert (await client.models())[0]["versions"]
        assert await client.ready()
        assert await client.live()
        assert "logitserve_" in await client.metrics_text()


@pytest.mark.anyio
async def test_the_asynchronous_client_answers_many_calls_at_once() -> None:
    async with in_memory() as client:
        rows = np.eye(20)
        answers = await asyncio.gather(*(client.softmax(row) for row in rows))
        assert [int(answer.classes) for answer in answers] == list(range(20))


@pytest.mark.anyio
async def test_a_mistake_is_raised_where_it_is_awaited() -> None:
    async with in_memory() as client:
        with pytest.raises(InvalidRequest) as caught:
            await client.softmax(LOGITS, top_k=4)
        assert caught.value.code == "top_k_range"


@pytest.mark.anyio
async def test_a_service_that_is_starting_lives_but_is_not_ready() -> None:
    app = create_app(Settings(models=MODELS))  # outside its lifespan
    async with AsyncClient("http://service", transport=httpx.ASGITransport(app)) as client:
        assert await client.live()
        assert not await client.ready()


@pytest.mark.anyio
async def test_a_service_that_drains_answers_but_is_not_ready() -> None:
    app = create_app(Settings(models=MODELS))
    async with (
        app.router.lifespan_context(app),
        AsyncClient("http://service", transport=httpx.ASGITransport(app)) as client,
    ):
        app.drain()
        assert not await client.ready()
        assert (await client.softmax(LOGITS)).classes.tolist() == [1, 0]


def test_the_two_clients_are_called_alike() -> None:
    def calls(kind: type) -> dict[str, inspect.Signature]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {name: inspect.signature(method) for name, method in methods if not name.startswith("_")}

    synchronous, asynchronous = calls(Client), calls(AsyncClient)
    assert synchronous.pop("close") == asynchronous.pop("aclose")
    assert synchronous == asynchronous
    assert all(asyncio.iscoroutinefunction(getattr(AsyncClient, name)) for name in PUBLIC)
    assert set(PUBLIC) <= set(synchronous)


@pytest.mark.parametrize("media", ["json", "npz"])
def test_labels_that_come_later_are_sent_by_the_ids_of_the_answer(
    url: str, media: Literal["json", "npz"]
) -> None:
    rows = np.zeros((2, 1, 64))
    with Client(url, media=media) as client:
        made = client.predict(rows, row_ids=True).row_ids
        assert (made.shape, made.dtype.kind) == ((2, 1), "U")
        one = client.predict(rows[0, 0], row_ids=[f"one of {media}"])
        assert (one.row_ids.shape, str(one.row_ids)) == ((), f"one of {media}")
        given = [f"{media} 1", f"{media} 2"]
        assert client.predict(rows[:, 0], row_ids=given).row_ids.tolist() == given
        joined = client.feedback(made, np.array([[1], [2]]))
        assert (joined.joined, joined.unknown.count) == (2, 0)
        labels: list[int | str] = [0, 0, 1, "two", 0]
        again = client.feedback([*made.ravel(), *given, "nobody's"], labels)
        assert (again.joined, again.expired.ids) == (2, ())
        assert again.repeated.ids == tuple(made.ravel())
        assert (again.unknown.count, again.unknown.ids) == (1, ("nobody's",))
        assert client.feedback(one.row_ids, "three").joined == 1
        assert "row_ids" not in client.predict(rows)
        with pytest.raises(AttributeError, match="row_ids"):
            _ = client.predict(rows).row_ids
        with pytest.raises(InvalidRequest) as caught:
            client.feedback(["a", "b"], [1])
        assert caught.value.code == "row_ids_shape"


def test_the_examples_of_the_documentation_run(url: str) -> None:
    images, targets = load_digits(return_X_y=True)
    with Client(url) as client:
        given = {"url": url, "client": client, "images": images, "targets": targets}
        runner = doctest.DocTestRunner()
        for example in doctest.DocTestFinder().find(endpoints, extraglobs=given):
            runner.run(example)
    assert runner.summarize(verbose=False).attempted >= 10
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=15, deadline=None)
@given(logits=arrays(np.float64, array_shapes(max_dims=3, max_side=4), elements=st.floats(-50, 50)))
def test_how_arrays_travel_cannot_be_seen_in_the_results(
    url: str, dtype: type[np.floating[Any]], logits: NDArray[np.float64]
) -> None:
    outputs = ["probabilities", "log_probabilities", "classes", "entropy", "one_hot"]
    with Client(url, media="json") as as_json, Client(url, media="npz") as as_npz:
        one, other = (client.softmax(logits.astype(dtype), outputs=outputs) for client in (as_json, as_npz))
    assert list(one) == list(other) == outputs
    for name in outputs:
        assert one[name].dtype == other[name].dtype
        assert one[name].shape == other[name].shape
        assert one[name].tobytes() == other[name].tobytes()
    assert one.probabilities.dtype == dtype


def test_calls_share_a_connection() -> None:
    with Scripted(OK, keep=2) as server, Client(server.url) as client:
        assert client.softmax([1.0, 2.0]).classes.tolist() == [1]
        assert client.softmax([3.0, 4.0]).classes.tolist() == [1]
    assert len(server.requests) == 2


@both
def test_a_connection_that_is_closed_before_any_answer_is_tried_again(call: Call) -> None:
    with Scripted(b"", OK) as server:
        assert call(server.url).classes.tolist() == [1]
    first, second = server.requests
    assert first.split(b"\r\n\r\n")[1] == second.split(b"\r\n\r\n")[1]


@both
def test_a_busy_service_is_asked_again(call: Call) -> None:
    with Scripted(BUSY, BUSY, OK) as server:
        assert call(server.url).classes.tolist() == [1]


@both
def test_a_service_that_stays_busy_is_given_up(call: Call) -> None:
    with Scripted(BUSY, BUSY) as server, pytest.raises(Unavailable):
        call(server.url, at_most=2)


@both
def test_an_answer_cut_in_two_is_not_asked_for_again(call: Call) -> None:
    with (
        Scripted(HALF) as server,
        pytest.raises(ConnectionFailed, match=r"incomplete|without sending complete"),
    ):
        call(server.url)


@both
def test_a_page_of_somebody_else_is_no_answer(call: Call) -> None:
    with Scripted(PAGE) as server, pytest.raises(ServiceError, match="expected an answer of logitserve"):
        call(server.url)


def test_a_page_of_somebody_else_is_no_list_of_models() -> None:
    with Scripted(PAGE) as server, Client(server.url) as client, pytest.raises(ServiceError, match="Welcome"):
        client.models()


@both
def test_a_server_that_says_nothing_is_waited_for_as_long_as_allowed(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConnectionFailed, match="no answer in time"):
            call(url, timeout_s=0.1)


@both
def test_an_address_where_nobody_listens_is_a_failed_connection(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(ConnectionFailed, match=r"^http://127\.0\.0\.1:\d+: "):
        call(url)


def test_the_timeout_of_a_call_replaces_that_of_the_client() -> None:
    with Scripted(OK) as server, Client(server.url, timeout_s=30) as client:
        client.softmax([1.0, 2.0], timeout_s=2.5)
    headers = server.requests[0].lower()
    told = int(headers.split(b"x-request-timeout-ms: ")[1].split(b"\r\n")[0])
    assert 2000 < told <= 2500


def test_a_client_that_is_closed_stays_closed() -> None:
    client = Client("http://127.0.0.1:9")
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.live()
