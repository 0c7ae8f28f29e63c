"""Delayed labels on the wire, from both sides."""

import json
from typing import Any

import pytest

from service.errors import RequestError
from service.wire import feedback
from service.wire.limits import Limits

LIMITS = Limits(body_bytes=10_000, rows=5, elements=100, json_depth=5)


def refused(body: bytes | dict[str, Any]) -> tuple[int, str, str]:
    with pytest.raises(RequestError) as caught:
        feedback.decode(body if isinstance(body, bytes) else json.dumps(body).encode(), LIMITS)
    error = caught.value
    return error.status, error.code, error.offences[0].path if error.offences else ""


def test_indices_and_names_are_read_side_by_side() -> None:
    body = json.dumps({"labels": [7, "two"], "ids": ["a", "b"]}).encode()
    assert feedback.decode(body, LIMITS) == (["a", "b"], [7, "two"])
    assert feedback.decode(b'{"ids": [], "labels": []}', LIMITS) == ([], [])


def test_what_the_client_writes_is_read() -> None:
    labelled = feedback.Labelled(["a", "Ü"], [0, "zwei"])
    assert feedback.decode(feedback.encode_request(*labelled), LIMITS) == labelled


def test_the_example_is_read() -> None:
    ids, labels = feedback.decode(json.dumps(feedback.EXAMPLE).encode(), LIMITS)
    assert {"ids": ids, "labels": labels} == feedback.EXAMPLE
    assert feedback.EXAMPLE.keys() == set(feedback.BODY["required"]) == feedback.BODY["properties"].keys()


FAULTS: list[tuple[bytes | dict[str, Any], tuple[int, str, str]]] = [
    (b"", (400, "malformed_json", "")),
    (b"[]", (422, "body_type", "")),
    ({"ids": [], "labels": [], "model": "digits"}, (422, "unknown_field", "model")),
    ({"labels": []}, (422, "missing_field", "ids")),
    ({"ids": []}, (422, "missing_field", "labels")),
    ({"ids": "a", "labels": [1]}, (422, "row_ids_type", "ids")),
    ({"ids": ["a", 2], "labels": [1, 1]}, (422, "row_ids_type", "ids[1]")),
    ({"ids": ["a", "\n"], "labels": [1, 1]}, (422, "row_ids_value", "ids[1]")),
    ({"ids": ["a"], "labels": 1}, (422, "labels_type", "labels")),
    ({"ids": ["a"], "labels": [1.0]}, (422, "labels_type", "labels[0]")),
    ({"ids": ["a", "b"], "labels": [1, True]}, (422, "labels_type", "labels[1]")),
    ({"ids": ["a", "b"], "labels": [1, None]}, (422, "labels_type", "labels[1]")),
    ({"ids": ["a"], "labels": [[0, 1]]}, (422, "labels_type", "labels[0]")),
    ({"ids": ["a"], "labels": [2**70]}, (422, "labels_type", "labels[0]")),
    ({"ids": ["a"], "labels": [1, 2]}, (422, "row_ids_shape", "labels")),
    ({"ids": ["a"] * 6, "labels": [1] * 6}, (413, "rows_too_many", "ids")),
]


@pytest.mark.parametrize(("body", "fault"), FAULTS)
def test_the_first_fault_is_named_by_its_place(
    body: bytes | dict[str, Any], fault: tuple[int, str, str]
) -> None:
    assert refused(body) == fault


def test_an_answer_has_a_count_and_the_ids_of_all_that_were_not_joined() -> None:
    others = {"unknown": ["x"], "expired": [], "repeated": ["a", "a"]}
    body = feedback.encode(3, others)
    assert body == (
        b'{"joined":3,"unknown":{"count":1,"ids":["x"]},"expired":{"count":0,"ids":[]},'
        b'"repeated":{"count":2,"ids":["a","a"]}}'
    )
    answer = feedback.decode_result(body)
    assert list(answer) == feedback.ANSWER["required"] == list(feedback.ANSWER["properties"])
    assert answer["repeated"] == {"count": 2, "ids": ["a", "a"]}


@pytest.mark.parametrize("content_type", ["", "application/json", "Application/JSON; charset=utf-8"])
def test_json_is_read(content_type: str) -> None:
    feedback.check_media(content_type)


@pytest.mark.parametrize(
    "content_type", ["application/x-npz", "text/csv", "application/x-www-form-urlencoded"]
)
def test_nothing_else_is(content_type: str) -> None:
    with pytest.raises(RequestError, match="application/json") as caught:
        feedback.check_media(content_type)
    assert caught.value.code == "unsupported_media_type"
