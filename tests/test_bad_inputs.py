"""What callers get wrong, sent over raw sockets to the real service.

Each case names the status, the code and the place of the first offender; none is a 500, and a good request
follows on the same connection.
"""

import gzip
import io
import json
import socket
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import zstandard
from conftest import running_service

ROWS_LIMIT = 100
ELEMENTS_LIMIT = 5000
BODY_LIMIT_BYTES = 200_000
DEPTH_LIMIT = 16

JSON = {"Content-Type": "application/json"}
NPZ = {"Content-Type": "application/x-npz"}
NPY = {"Content-Type": "application/x-npy"}


@dataclass(frozen=True)
class Case:
    name: str
    path: str
    body: bytes
    status: int
    code: str
    place: str | None = None
    headers: dict[str, str] = field(default_factory=lambda: JSON)
    method: str = "POST"
    detail: str = ""


def as_json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **arrays)
    return file.getvalue()


def header_of_huge_array() -> bytes:
    """An npy header that promises 8 TB and brings nothing."""
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    text = text.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def softmax(name: str, body: bytes, status: int, code: str, place: str | None = None, **more: Any) -> Case:
    return Case(f"softmax: {name}", "/softmax", body, status, code, place, **more)


def loss(name: str, code: str, place: str | None = None, status: int = 422, **fields: Any) -> Case:
    given = {"logits": [[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]], "labels": [1, 2], **fields}
    body = as_json(**{key: value for key, value in given.items() if value is not ...})
    return Case(f"loss: {name}", "/loss", body, status, code, place)


def predict(name: str, code: str, place: str | None = None, status: int = 422, **fields: Any) -> Case:
    body = as_json(**{"features": [[0.0] * 64], **fields})
    return Case(f"predict: {name}", "/predict", body, status, code, place)


LOGITS = as_json(logits=[[1.0, 2.0], [3.0, 4.0]])
BOMB = b"[" + b"1.5," * 2_000_000 + b"1.5]"

BYTES = [
    softmax("empty body", b"", 400, "malformed_json"),
    softmax("byte order mark", b"\xef\xbb\xbf" + LOGITS, 400, "malformed_json"),
    softmax("bad UTF-8", b'{"logits": [1, 2], "dtype": "\xff"}', 400, "malformed_json"),
    softmax("cut off", LOGITS[:-3], 400, "malformed_json"),
    softmax("two values", LOGITS + LOGITS, 400, "malformed_json"),
    softmax("trailing comma", b'{"logits": [1, 2,]}', 400, "malformed_json"),
    softmax("NaN literal", b'{"logits": [NaN, 1]}', 400, "malformed_json"),
    softmax("Infinity literal", b'{"logits": [Infinity, 1]}', 400, "malformed_json"),
    softmax("-Infinity literal", b'{"logits": [-Infinity, 1]}', 400, "malformed_json", detail='"-Infinity"'),
    softmax("1e400", b'{"logits": [1e400, 1]}', 400, "malformed_json"),
    softmax("a key twice", b'{"logits": [1, 2], "logits": [3, 4]}', 400, "malformed_json", detail="logits"),
    softmax("nesting over the limit", b'{"logits": ' + b"[" * 40 + b"1" + b"]" * 40 + b"}", 400, "malformed_json"),
    softmax("nesting without end", b"[" * 100_000, 400, "malformed_json"),
    softmax("an array as body", b"[[1, 2]]", 422, "body_type"),
    softmax("null as body", b"null", 422, "body_type"),
    softmax("a string as body", b'"logits"', 422, "body_type"),
    softmax("a form", b"logits=1", 415, "unsupported_media_type", headers={"Content-Type": "application/x-www-form-urlencoded"}, detail="-H"),
    softmax("pickle", b"\x80\x04.", 415, "unsupported_media_type", headers={"Content-Type": "application/x-pickle"}),
    softmax("an unknown encoding", LOGITS, 415, "unsupported_encoding", headers={**JSON, "Content-Encoding": "br"}),
    softmax("no gzip after all", LOGITS, 400, "malformed_encoding", headers={**JSON, "Content-Encoding": "gzip"}),
    softmax("gzip cut off", gzip.compress(LOGITS)[:-9], 400, "malformed_encoding", headers={**JSON, "Content-Encoding": "gzip"}),
    softmax("zstd cut off", zstandard.compress(LOGITS)[:-3], 400, "malformed_encoding", headers={**JSON, "Content-Encoding": "zstd"}),
    softmax("a gzip bomb", gzip.compress(BOMB), 413, "body_too_large", headers={**JSON, "Content-Encoding": "gzip"}),
    softmax("a deflate bomb", zlib.compress(BOMB), 413, "body_too_large", headers={**JSON, "Content-Encoding": "deflate"}),
    softmax("a zstd bomb", zstandard.compress(BOMB), 413, "body_too_large", headers={**JSON, "Content-Encoding": "zstd"}),
    softmax("a body over the limit", b" " * (BODY_LIMIT_BYTES + 1), 413, "body_too_large", detail="LOGITSERVE_BODY_LIMIT_BYTES"),
    softmax("an answer nobody can write", LOGITS, 406, "not_acceptable", headers={**JSON, "Accept": "text/html"}),
    softmax("a deadline that is no number", LOGITS, 422, "option_type", "X-Request-Timeout-Ms", headers={**JSON, "X-Request-Timeout-Ms": "soon"}),
    softmax("the wrong method", b"", 405, "method_not_allowed", method="GET"),
    Case("no such route", "/sofmax", LOGITS, 404, "unknown_route"),
]  # fmt: skip

NUMPY = [
    softmax("npy: no array", b"hello", 400, "malformed_npy", headers=NPY),
    softmax("npy: cut off", npy(np.zeros((3, 4)))[:-5], 400, "malformed_npy", headers=NPY),
    softmax("npy: a huge shape and no data", header_of_huge_array(), 413, "elements_too_many", headers=NPY),
    softmax("npy: objects", npy(np.array([{}, []], dtype=object)), 400, "malformed_npy", headers=NPY),
    softmax("npy: records", npy(np.zeros(3, dtype=[("a", "f4")])), 400, "malformed_npy", headers=NPY),
    softmax("npz: no archive", b"PK\x03\x04 not really", 400, "malformed_npz", headers=NPZ),
    softmax("npz: objects", npz(logits=np.array([None, 1], dtype=object)), 400, "malformed_npz", headers=NPZ),
    softmax("npz: a huge shape and no data", zipped({"logits.npy": header_of_huge_array()}), 413, "elements_too_many", headers=NPZ),
    softmax("npz: a zip bomb", zipped({"logits.npy": npy(np.zeros((100, 50_000)))}), 413, "elements_too_many", headers=NPZ),
    softmax("npz: an unknown array", npz(logits=[1.0, 2.0], logit=[1.0]), 422, "unknown_field", "logit", headers=NPZ),
    softmax("npz: text for logits", npz(logits=np.array(["a", "b"])), 422, "logits_type", headers=NPZ),
    Case("npz: an unknown option", "/softmax?temprature=2", npz(logits=[1.0, 2.0]), 422, "unknown_field", "temprature", NPZ),
    Case("npz: an option of the wrong type", "/softmax?top_k=two", npz(logits=[1.0, 2.0]), 422, "option_type", "top_k", NPZ),
    Case("npy: labels have no place in it", "/loss", npy(np.zeros((2, 3))), 415, "unsupported_media_type", None, NPY),
    Case("json: options in the query", "/softmax?top_k=1", LOGITS, 422, "unknown_field", "top_k"),
]  # fmt: skip

OPTIONS = [
    softmax("no logits", b"{}", 422, "missing_field", "logits"),
    softmax("an unknown field", as_json(logits=[1, 2], logit=1), 422, "unknown_field", "logit"),
    softmax("an axis that is no integer", as_json(logits=[1, 2], axis="last"), 422, "option_type", "axis"),
    softmax("an axis out of range", as_json(logits=[1, 2], axis=1), 422, "axis_range", "axis"),
    softmax("a boolean temperature", as_json(logits=[1, 2], temperature=True), 422, "option_type", "temperature"),
    softmax("temperature 0", as_json(logits=[1, 2], temperature=0), 422, "temperature_range", "temperature"),
    softmax("an unknown dtype", as_json(logits=[1, 2], dtype="float16"), 422, "unknown_option_value", "dtype"),
    softmax("top_k 0", as_json(logits=[1, 2], top_k=0), 422, "top_k_range", "top_k"),
    softmax("top_k over the classes", as_json(logits=[1, 2], top_k=3), 422, "top_k_range", "top_k"),
    softmax("an unknown output", as_json(logits=[1, 2], outputs=["probs"]), 422, "unknown_output", "outputs[0]"),
    softmax("no output", as_json(logits=[1, 2], outputs=[]), 422, "unknown_output", "outputs"),
    softmax("an output twice", as_json(logits=[1, 2], outputs=["classes", "classes"]), 422, "unknown_output", "outputs[1]"),
    softmax("top_classes without top_k", as_json(logits=[1, 2], outputs=["top_classes"]), 422, "top_k_range"),
    softmax("a class name too few", as_json(logits=[1, 2], class_names=["a"]), 422, "class_names_shape", "class_names"),
    softmax("a class name twice", as_json(logits=[1, 2], class_names=["a", "a"]), 422, "class_names_value", "class_names[1]"),
]  # fmt: skip

TENSORS = [
    softmax("scalar logits", as_json(logits=3), 422, "rank", "logits"),
    softmax("no classes", as_json(logits=[]), 422, "no_classes", "logits"),
    softmax("rows without classes", as_json(logits=[[], []]), 422, "no_classes", "logits"),
    softmax("ragged rows", as_json(logits=[[1, 2], [3]]), 422, "ragged", "logits[1]"),
    softmax("a number among rows", as_json(logits=[[1, 2], 3]), 422, "ragged", "logits[1]"),
    softmax("null", as_json(logits=[[1, None]]), 422, "logits_type", "logits[0][1]"),
    softmax("a boolean", as_json(logits=[[1, 2], [True, 2]]), 422, "logits_type", "logits[1][0]"),
    softmax("text", as_json(logits=[["1.0", 2]]), 422, "logits_type", "logits[0][0]"),
    softmax("an object", as_json(logits=[[{}, 2]]), 422, "logits_type", "logits[0][0]"),
    softmax("the string NaN", as_json(logits=[[1, 2], [3, "NaN"]]), 422, "non_finite_logits", "logits[1][1]"),
    softmax("the string Infinity", as_json(logits=["Infinity", 2]), 422, "non_finite_logits", "logits[0]"),
    softmax("every class masked", as_json(logits=[[1, 2], ["-Infinity", "-Infinity"]]), 422, "row_all_masked", "logits[1]"),
    softmax("over float32", as_json(logits=[1, -1e39], dtype="float32"), 422, "float32_overflow", "logits[1]"),
    softmax("too many rows", as_json(logits=[[1, 2]] * (ROWS_LIMIT + 1)), 413, "rows_too_many", detail="LOGITSERVE_ROWS_LIMIT"),
    softmax("too many numbers", as_json(logits=[[1] * (ELEMENTS_LIMIT + 1)]), 413, "elements_too_many", detail="LOGITSERVE_ELEMENTS_LIMIT"),
    loss("no labels", "missing_field", "labels", labels=...),
    loss("too many labels", "labels_shape", "labels", labels=[1, 2, 0]),
    loss("labels of a strange rank", "labels_shape", "labels", labels=[[[1, 2]]]),
    loss("a column of labels", "labels_shape", "labels", labels=[[1], [2]]),
    loss("a label out of range", "label_out_of_range", "labels[1]", labels=[0, 3]),
    loss("a negative label", "label_out_of_range", "labels[0]", labels=[-100, 0]),
    loss("a label beyond 64 bits", "label_out_of_range", "labels[0]", labels=[2**64, 0]),
    loss("labels with a fraction", "labels_type", "labels[0]", labels=[1.0, 2]),
    loss("boolean labels", "labels_type", "labels[0]", labels=[True, False]),
    loss("names where none are known", "labels_type", "labels[0]", labels=["cat", "dog"]),
    loss("an unknown name", "unknown_class_name", "labels[1]", labels=["a", "x"], class_names=["a", "b", "c"]),
    loss("ragged labels", "ragged", "labels[1]", labels=[[0, 1, 0], [0, 1]]),
    loss("dense labels that are not finite", "non_finite_labels", "labels[0][1]", labels=[[0, "NaN", 0], [0, 0, 1]]),
    loss("labels that are no distribution", "labels_distribution", "labels[0]", labels=[[0, 2, 0], [0, 0, 1]], validate_labels=True),
    loss("smoothing over 1", "label_smoothing_range", "label_smoothing", label_smoothing=1.5),
    loss("an unknown reduction", "unknown_reduction", "reduction", reduction="median"),
    loss("an unknown label format", "unknown_option_value", "label_format", label_format="sparse"),
    loss("ignore_index for dense labels", "ignore_index_with_dense", "ignore_index", labels=[[0, 1, 0], [0, 0, 1]], ignore_index=0),
    loss("a class weight too few", "class_weight_shape", "class_weight", class_weight=[1, 2]),
    loss("a negative class weight", "class_weight_value", "class_weight[1]", class_weight=[1, -2, 3]),
    loss("a sample weight too many", "sample_weight_shape", "sample_weight", sample_weight=[1, 2, 3]),
    loss("a negative sample weight", "sample_weight_value", "sample_weight[0]", sample_weight=[-1, 2]),
    loss("an infinite loss", "infinite_loss", "losses[0]", logits=[["-Infinity", 1.0, 2.0], [1, 2, 3]], labels=[0, 1]),
    predict("an unknown model", "unknown_model", "model", status=404, model="cats"),
    predict("an unknown version", "unknown_version", "version", status=404, version="9"),
    predict("too few features", "features_shape", "features", features=[[0.0] * 63]),
    predict("a feature that is no number", "features_type", "features[0][1]", features=[[0.0, None, *[0.0] * 62]]),
    predict("a feature that is not finite", "non_finite_features", "features[0][0]", features=[["NaN", *[0.0] * 63]]),
    predict("a feature over float32", "float32_overflow", "features[0][0]", features=[[1e39, *[0.0] * 63]]),
    predict("sparse: a part is missing", "missing_field", "features.data", features={"indptr": [0], "indices": [], "num_features": 64}),
    predict("sparse: a feature out of range", "features_shape", "features.indices[0]", features={"indptr": [0, 1], "indices": [64], "data": [1], "num_features": 64}),
    predict("sparse: rows that end before they begin", "features_shape", "features.indptr[1]", features={"indptr": [0, -1], "indices": [], "data": [], "num_features": 64}),
    predict("sparse: too many rows", "rows_too_many", "features.indptr", status=413, features={"indptr": [0] * (ROWS_LIMIT + 2), "indices": [], "data": [], "num_features": 64}),
    predict("logits instead of features", "unknown_field", "logits", logits=[[1, 2]]),
    predict("another axis", "axis_range", "axis", axis=0),
    predict("a loss without labels", "missing_field", "labels", outputs=["loss"]),
    predict("several models and one", "unknown_field", "model", models=["digits"], model="digits"),
    predict("several models, none of them", "unknown_option_value", "models", models=[]),
    predict("several models, one twice", "unknown_option_value", "models[1]", models=["digits", "digits"]),
    predict("several models, one unknown", "unknown_model", "models[1]", status=404, models=["digits", "cats"]),
    predict("several models that are no list", "option_type", "models", models="digits"),
    Case("predict: several models at the path of one", "/models/digits/predict", as_json(features=[0.0] * 64, models=["digits"]), 422, "unknown_field", "models"),
    Case("predict: a model in path and body", "/models/digits/predict", as_json(features=[0.0] * 64, model="digits"), 422, "unknown_field", "model"),
]  # fmt: skip

CASES = BYTES + NUMPY + OPTIONS + TENSORS


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    flags = [
        f"--rows-limit={ROWS_LIMIT}",
        f"--elements-limit={ELEMENTS_LIMIT}",
        f"--body-limit-bytes={BODY_LIMIT_BYTES}",
        f"--json-depth-limit={DEPTH_LIMIT}",
    ]
    with running_service(*flags) as service:
        yield "127.0.0.1", service.port


@pytest.fixture
def connect(address: tuple[str, int]) -> Iterator[Callable[[], socket.socket]]:
    opened: list[socket.socket] = []

    def connect() -> socket.socket:
        opened.append(socket.create_connection(address, timeout=20))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


@dataclass
class Received:
    status: int
    headers: dict[str, str]
    body: bytes


def exchange(
    connection: socket.socket, method: str, path: str, headers: dict[str, str], body: bytes
) -> Received:
    lines = [f"{method} {path} HTTP/1.1", "Host: service", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
    return receive(connection)


def receive(connection: socket.socket) -> Received:
    with connection.makefile("rb") as file:
        status = int(file.readline().split()[1])
        headers = dict(line.decode().strip().lower().split(": ", 1) for line in iter(file.readline, b"\r\n"))
        return Received(status, headers, file.read(int(headers["content-length"])))


def test_the_table_is_long_enough_and_names_each_case_once() -> None:
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mistake_gets_its_code_and_the_connection_goes_on(
    case: Case, connect: Callable[[], socket.socket]
) -> None:
    connection = connect()
    answer = exchange(connection, case.method, case.path, case.headers, case.body)
    problem = json.loads(answer.body)
    assert (answer.status, problem["code"]) == (case.status, case.code), problem["detail"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["request_id"] == answer.headers["x-request-id"]
    if case.place is not None:
        assert problem["errors"][0]["path"] == case.place
    assert case.detail in problem["detail"]
    assert len(answer.body) < 2000, "an error does not repeat what was sent"

    good = exchange(connection, "POST", "/softmax", JSON, LOGITS)
    assert good.status == 200
    assert json.loads(good.body)["classes"] == [1, 1]


def test_a_client_that_hangs_up_in_mid_body_harms_nobody(connect: Callable[[], socket.socket]) -> None:
    broken = connect()
    broken.sendall(b"POST /softmax HTTP/1.1\r\nHost: s\r\nContent-Length: 1000\r\n\r\n{")
    broken.close()
    assert exchange(connect(), "POST", "/softmax", JSON, LOGITS).status == 200


def test_what_is_no_http_is_refused_and_harms_nobody(connect: Callable[[], socket.socket]) -> None:
    for line in (
        b"\x16\x03\x01\x02\x00\x01",
        b"GET\r\n\r\n",
        b"POST /softmax HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ):
        connection = connect()
        connection.sendall(line + b"\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    assert exchange(connect(), "POST", "/softmax", JSON, LOGITS).status == 200


def test_a_chunked_body_over_the_limit_is_refused(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(b"POST /softmax HTTP/1.1\r\nHost: s\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"x" * 50_000
    for _ in range(5):
        connection.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
    connection.sendall(b"0\r\n\r\n")
    answer = receive(connection)
    assert (answer.status, json.loads(answer.body)["code"]) == (413, "body_too_large")
    assert exchange(connection, "POST", "/softmax", JSON, LOGITS).status == 200


def test_requests_sent_without_waiting_are_answered_in_order(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    requests = [as_json(logits=[0, k]) if k % 3 else b"oops" for k in range(30)]
    for body in requests:
        head = f"POST /softmax HTTP/1.1\r\nHost: s\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
    with connection.makefile("rb") as file:
        for number in range(30):
            status = int(file.readline().split()[1])
            headers = dict(
                line.decode().lower().strip().split(": ", 1) for line in iter(file.readline, b"\r\n")
            )
            file.read(int(headers["content-length"]))
            assert status == (200 if number % 3 else 400)
