"""What the dialects share: words, rows, spellings, reading one output at a time."""

from typing import Any

import httpx
import numpy as np
import pytest
from test_conformance_vectors import named

from service.conformance.dialect import Request, Words, as_rows, error_of, read_each, read_json, spellings
from service.conformance.discovery import DIALECTS, OPERATIONS
from service.conformance.native import Native
from service.errors import Invalid

TARGETS: Any = {"softmax": ("softmax",), "loss": ("loss",)}
SEED = named("seed_ce_index_mean")


def answering(handler: Any) -> httpx.Client:
    return httpx.Client(transport=httpx.MockTransport(handler), base_url="http://server")


def test_a_question_of_an_operation_or_type_that_there_is_not_cannot_be_put() -> None:
    nobody = answering(lambda _: httpx.Response(500))
    for kind in DIALECTS.values():
        without = kind(nobody, Words({"softmax": ("softmax",), "loss": ()}))
        assert without.cannot_say(SEED) == "the server has no loss"
        assert not without.cannot_say(named("seed_ce_index_mean", "softmax"))
        single = kind(nobody, Words(TARGETS, dtypes=frozenset({"float32"})))
        assert single.cannot_say(SEED) == "the server does not compute in float64"
        assert not single.cannot_say(named("seed_ce_index_f32"))


def test_options_are_sent_where_the_server_has_words_for_them() -> None:
    question = named("weight_smoothing_index")
    nobody = answering(lambda _: httpx.Response(500))
    said = Native(nobody, Words(TARGETS, options=frozenset({"label_smoothing", "dtype"}))).options_said(
        question
    )
    assert said == {"label_smoothing": 0.1, "dtype": "float32"}
    asked = Native(nobody, Words(TARGETS, options=frozenset({"outputs", "non_finite"})))
    assert asked.options_said(question) == {"outputs": ["losses", "count", "loss"]}
    assert asked.options_said(named("masked_label_is_infinite"))["non_finite"] == "string"
    assert not asked.options_said(named("label_negative"))


@pytest.mark.parametrize(
    ("vector", "shape", "labels"),
    [
        ("tf_doc_softmax", (1, 3), None),
        ("keras_ignore_class", (2, 3), (2,)),
        ("fuzz_007_dense_r4_float32", (6, 5), (6, 5)),
        ("fuzz_001_index_r1_float32", (1, 6), (1,)),
    ],
)
def test_other_ranks_are_laid_out_as_rows(vector: str, shape: tuple[int, ...], labels: Any) -> None:
    question = named(vector, "softmax" if labels is None else "loss")
    rows, row_labels, changed = as_rows(question, 2)
    assert changed
    assert rows.shape == shape
    assert labels is None or (row_labels is not None and row_labels.shape == labels)
    same, _, unchanged = as_rows(question, None)
    assert same is question.logits
    assert not unchanged


def test_bad_input_stays_as_bad_as_it_is() -> None:
    question = named("label_negative")._replace(logits=np.zeros((1, 2, 3)))
    assert as_rows(question, 2)[0].shape == (1, 2, 3)


def test_what_is_no_number_is_spelt_in_two_ways() -> None:
    assert spellings(b'[1, "-Infinity", "NaN"]') == [b'[1, "-Infinity", "NaN"]', b"[1, -Infinity, NaN]"]
    assert spellings(b'{"Infinity and": "Infinity"}')[1] == b'{"Infinity and": Infinity}'
    assert spellings(b"[1]") == [b"[1]"]


@pytest.mark.parametrize(
    ("body", "read", "fault"),
    [
        (b'{"a": 1}', {"a": 1}, ""),
        (b'{"a": -Infinity}', {"a": -np.inf}, "no JSON: it has bare words for numbers that JSON lacks"),
        (b"<html>", None, "no JSON"),
    ],
)
def test_bare_words_are_read_and_blamed(body: bytes, read: Any, fault: str) -> None:
    assert read_json(body) == (read, fault)


@pytest.mark.parametrize(
    ("body", "text", "code"),
    [
        (b'{"error": "bad shape"}', "bad shape", ""),
        (b'{"detail": "labels: no", "code": "labels_type"}', "labels: no", "labels_type"),
        (b'{"message": "m", "code": 3}', "m", ""),
        (b"Internal Server Error", "Internal Server Error", ""),
        (b"[]", "[]", ""),
    ],
)
def test_an_error_says_something_whatever_its_form(body: bytes, text: str, code: str) -> None:
    assert error_of(httpx.Response(400, content=body)) == (text, code)


def test_a_fault_in_one_output_says_nothing_of_the_others() -> None:
    def read(name: str, value: Any) -> dict[str, Any]:
        if value is None:
            raise Invalid("logits_type", "expected a number, got null", path=name)
        return {name: None if value == "nothing" else np.float64(value)}

    outputs, faults = read_each({"a": 1, "b": None, "c": "nothing", "d": "x"}, read)
    assert outputs == {"a": 1.0, "c": None}
    assert faults == {
        "b": "b: expected a number, got null",
        "d": "null, or what is no number, among the numbers",
    }


class Echo(Native):
    """A dialect that always sends the same bytes."""

    def write(self, question: Any) -> Request:
        return Request("/softmax", b'["NaN"]', {}, {}, keeps_shape=False)


def test_each_spelling_is_asked_and_no_answer_is_one_too() -> None:
    asked: list[bytes] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.content)
        if len(asked) == 1:
            return httpx.Response(422, json={"detail": "no number"})
        raise httpx.ReadError("reset")

    refused, silent = Echo(answering(handler), Words(TARGETS)).ask(SEED)
    assert asked == [b'["NaN"]', b"[NaN]"]
    assert (refused.status, refused.text) == (422, "no number")
    assert (silent.status, silent.text) == (0, "no answer: ReadError reset")


def test_operations_have_outputs_and_dialects_titles() -> None:
    assert set(OPERATIONS) == {"softmax", "loss"}
    nobody = answering(lambda _: httpx.Response(500))
    titles = {kind(nobody, Words(TARGETS), binary=binary).title for kind in DIALECTS.values() for binary in (False, True)}  # fmt: skip
    assert titles == {"JSON", "npz", "V2 JSON", "V2 binary", "V1 JSON"}
