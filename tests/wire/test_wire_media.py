"""Media types: which are read and written, and what an Accept header picks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import NotAcceptable, UnsupportedMedia
from service.types import Operation
from service.wire.media import JSON, NPY, NPZ, WRITABLE, accepted, readable


@pytest.mark.parametrize(
    ("header", "media_type"),
    [
        ("", JSON),
        (" ", JSON),
        ("application/json", JSON),
        ("application/json; charset=utf-8", JSON),
        ("Application/JSON;charset=UTF-8", JSON),
        ("application/x-npz", NPZ),
        ("application/x-npy", NPY),
    ],
)
def test_what_is_read(header: str, media_type: str) -> None:
    assert readable("softmax", header) == media_type
    assert readable("predict", header) == media_type


def refused(operation: Operation, header: str) -> str:
    with pytest.raises(UnsupportedMedia) as caught:
        readable(operation, header)
    assert (caught.value.status, caught.value.code) == (415, "unsupported_media_type")
    assert len(caught.value.message) < 300
    return caught.value.message


@pytest.mark.parametrize(
    "header", ["text/plain", "application/x-pickle", "application/octet-stream", "json", "*/*", "x" * 10_000]
)
def test_other_types_are_refused_with_those_that_are_read(header: str) -> None:
    message = refused("softmax", header)
    assert JSON in message
    assert NPY in message


def test_a_form_gets_curls_remedy() -> None:
    message = refused("softmax", "application/x-www-form-urlencoded")
    assert "-H 'Content-Type: application/json'" in message


def test_one_array_is_no_loss() -> None:
    assert "application/x-npz with logits and labels" in refused("loss", NPY)
    assert readable("loss", NPZ) == NPZ


@pytest.mark.parametrize(
    ("header", "media_type"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("application/json", JSON),
        ("application/x-npz", NPZ),
        ("application/x-npy", NPY),
        ("APPLICATION/X-NPZ", NPZ),
        ("application/x-npz, application/json", JSON),
        ("application/x-npz, application/json;q=0.9", NPZ),
        ("application/x-npz;q=0.2, application/json;q=0.1", NPZ),
        ("text/html, application/xhtml+xml, */*;q=0.8", JSON),
        ("application/json;q=0, */*", NPZ),
        ("application/json;q=0, application/x-npz;q=0, */*;q=0.1", NPY),
        ("application/x-npy;q=0.5, */*;q=0.4", NPY),
        ("application/*;q=0.2, application/x-npz;q=0.1, application/json; q=0.1", NPY),
        ("application/json; charset=utf-8 ; q=0.5, application/x-npz;q=0.4", JSON),
        ("application/x-npz;q=many, application/json;q=0.5", NPZ),
        ("application/x-npz;q=7", NPZ),
        (" , application/x-npz", NPZ),
    ],
)
def test_the_answer_is_what_accept_prefers(header: str | None, media_type: str) -> None:
    assert accepted(header) == media_type


@pytest.mark.parametrize(
    "header",
    [
        "text/html",
        "application/json;q=0",
        "*/*;q=0",
        "application/*;q=0.000, text/*",
        "json",
        ",",
        "x" * 10_000,
    ],
)
def test_an_accept_that_leaves_nothing_is_refused_with_what_is_written(header: str) -> None:
    with pytest.raises(NotAcceptable) as caught:
        accepted(header)
    assert (caught.value.status, caught.value.code) == (406, "not_acceptable")
    assert all(media_type in caught.value.message for media_type in WRITABLE)
    assert len(caught.value.message) < 200


def test_whoever_takes_any_gets_the_first_of_what_is_written() -> None:
    for first, second in (("text/csv", JSON), (JSON, "text/csv")):
        for header in (None, "", "*/*", f"{first}, {second}", "text/html, */*;q=0.1"):
            assert accepted(header, (first, second)) == first
    assert accepted("text/*", (JSON, "text/csv")) == "text/csv"
    assert accepted("application/*", ("text/csv", JSON)) == JSON
    with pytest.raises(NotAcceptable, match="text/csv"):
        accepted(JSON, ("text/csv",))


def outcome(header: str) -> str:
    try:
        return accepted(header)
    except NotAcceptable as error:
        return error.code


@given(st.text(alphabet="aplicton/json*;q=0.1, xz", max_size=60))
def test_any_accept_picks_a_type_or_is_refused(header: str) -> None:
    assert outcome(header) in {*WRITABLE, "not_acceptable"}
