"""What calls return and raise, made of whole responses."""

import pickle

import httpx
import numpy as np
import orjson
import pytest

from service import client
from service.client.answers import QUOTED_CHARACTERS, Answer, answer_of, error_of
from service.errors import LogitserveError, Offence

REQUEST = httpx.Request("POST", "http://scores.example/loss")
PROBLEM = {
    "type": "urn:logitserve:error:labels_shape",
    "title": "The labels do not fit the logits",
    "status": 422,
    "detail": "labels: expected shape [2], got [3]",
    "code": "labels_shape",
    "request_id": "r-1",
    "errors": [{"path": "labels", "message": "expected shape [2], got [3]"}],
}


def problem(status: int, document: object = PROBLEM, **headers: str) -> httpx.Response:
    headers = {"content-type": "application/problem+json", "x-request-id": "r-1", **headers}
    return httpx.Response(status, content=orjson.dumps(document), headers=headers, request=REQUEST)


def scored(outputs: dict[str, object], **headers: str) -> Answer:
    dashed = {name.replace("_", "-"): value for name, value in headers.items()}
    return answer_of(httpx.Response(200, headers=dashed, request=REQUEST), outputs)


def test_outputs_are_attributes_and_items() -> None:
    answer = scored({"classes": np.array([1, 0]), "loss": 0.5})
    assert answer.classes is answer["classes"]
    assert answer.loss == 0.5
    assert list(answer) == ["classes", "loss"]
    assert len(answer) == 2
    assert "classes" in answer
    assert answer.get("entropy") is None


def test_an_output_that_was_not_asked_for_says_how_to_ask() -> None:
    answer = scored({"classes": np.array([1])})
    with pytest.raises(AttributeError, match=r"the answer has classes; .*outputs=\['entropy', …\]"):
        _ = answer.entropy
    assert not hasattr(answer, "loss")


def test_the_head_and_the_times_come_from_the_headers() -> None:
    answer = scored(
        {},
        x_request_id="r-7",
        x_model="digits",
        x_model_version="3",
        x_model_digest="sha256:ab",
        server_timing="decode;dur=0.031, queue;dur=0, infer;dur=12.5, cache;desc=hit, edge",
    )
    assert (answer.request_id, answer.model, answer.version) == ("r-7", "digits", "3")
    assert answer.digest == "sha256:ab"
    assert answer.server_timing_ms == {"decode": 0.031, "queue": 0.0, "infer": 12.5}


def test_headers_that_are_not_there_are_none() -> None:
    answer = scored({})
    assert (answer.model, answer.version, answer.digest) == (None, None, None)
    assert answer.request_id == ""
    assert answer.server_timing_ms == {}


def test_an_answer_cannot_be_changed() -> None:
    answer = scored({"loss": 0.5})
    with pytest.raises(AttributeError):
        answer.request_id = "other"  # type: ignore[misc]


def test_an_answer_equals_itself_alone_and_can_be_a_key() -> None:
    answer, same = scored({"losses": np.zeros(2)}), scored({"losses": np.zeros(2)})
    assert {answer, same, answer} == {answer, same}
    assert answer != same


def test_the_repr_is_short_for_large_arrays() -> None:
    answer = scored({"probabilities": np.zeros((100, 1000), np.float32), "loss": 0.25, "count": 100})
    assert repr(answer) == "Answer(probabilities=float32[100, 1000], loss=0.25, count=100)"


def test_the_class_knows_its_outputs() -> None:
    assert "classes" in dir(Answer)
    assert Answer.classes is not None


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, client.InvalidRequest),
        (401, client.InvalidRequest),
        (413, client.InvalidRequest),
        (422, client.InvalidRequest),
        (429, client.Unavailable),
        (500, client.ServiceError),
        (502, client.ServiceError),
        (503, client.Unavailable),
        (504, client.Unavailable),
        (304, client.ServiceError),
    ],
)
def test_each_status_has_its_exception(status: int, kind: type[client.ServiceError]) -> None:
    error = error_of(problem(status))
    assert type(error) is kind
    assert error.status == status


def test_a_problem_is_rebuilt_whole() -> None:
    error = error_of(problem(422))
    assert error.code == "labels_shape"
    assert error.detail == "labels: expected shape [2], got [3]"
    assert error.offences == (Offence("labels", "expected shape [2], got [3]"),)
    assert error.request_id == "r-1"
    assert error.retry_after_s is None
    assert str(error) == "422 labels_shape: labels: expected shape [2], got [3]"


def test_a_problem_without_places_has_no_offences() -> None:
    error = error_of(problem(503, {"code": "not_ready", "detail": "starting"}, **{"retry-after": "2"}))
    assert error.offences == ()
    assert error.retry_after_s == 2.0


def test_a_problem_of_somebody_else_has_no_code() -> None:
    error = error_of(problem(500, {"title": "Oops"}))
    assert error.code == ""
    assert error.detail == ""


def test_a_page_of_a_proxy_is_quoted_in_short() -> None:
    page = "<html>\n  <h1>Bad gateway</h1>" + "x" * 5000
    response = httpx.Response(502, text=page, request=REQUEST)
    error = error_of(response)
    assert error.code == ""
    assert "expected an answer of logitserve, got '<html> <h1>Bad gateway</h1>" in error.detail
    assert "scores.example" in error.detail
    assert len(error.detail) < QUOTED_CHARACTERS + 100
    assert str(error).startswith("502: expected")


def test_errors_survive_pickling() -> None:
    error = error_of(problem(503, **{"retry-after": "1"}))
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 # made in the line above
    assert type(again) is client.Unavailable
    assert (str(again), again.offences, again.retry_after_s) == (str(error), error.offences, 1.0)


def test_the_tree_of_errors_has_one_root() -> None:
    for kind in (client.ConnectionFailed, client.ServiceError, client.InvalidRequest, client.Unavailable):
        assert issubclass(kind, client.ClientError)
    assert issubclass(client.ClientError, LogitserveError)
    assert not issubclass(client.ConnectionFailed, client.ServiceError)


def test_the_public_names_are_these() -> None:
    assert client.__all__ == [
        "Answer",
        "AsyncClient",
        "Client",
        "ClientError",
        "ConnectionFailed",
        "InvalidRequest",
        "Joined",
        "LossOptions",
        "PredictOptions",
        "ServiceError",
        "SoftmaxOptions",
        "Unavailable",
    ]
