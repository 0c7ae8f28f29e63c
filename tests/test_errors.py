"""The exception tree: statuses, codes, and what an error says."""

import pytest

from service import errors
from service.errors import MAX_OFFENCES, Invalid, LogitserveError, Offence, RequestError

TREE = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LogitserveError)
]
ANSWERED = [kind for kind in TREE if issubclass(kind, RequestError) and kind is not RequestError]


def test_the_docstring_draws_every_class_with_its_status() -> None:
    drawing = errors.__doc__ or ""
    for kind in TREE:
        assert kind.__name__ in drawing
    for kind in ANSWERED:
        line = next(line for line in drawing.splitlines() if f"── {kind.__name__} " in line)
        assert str(kind.status) in line


def test_a_code_belongs_to_one_class_only() -> None:
    codes = [code for kind in ANSWERED for code in kind.titles]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("kind", ANSWERED)
def test_statuses_are_plain_integers_and_titles_are_sentences_of_their_own(kind: type[RequestError]) -> None:
    assert type(kind.status) is int
    assert 400 <= kind.status <= 599
    assert len(set(kind.titles.values())) == len(kind.titles)


def test_the_detail_names_the_place_first() -> None:
    error = Invalid("labels_shape", "expected shape [2], got [3]", path="labels")
    assert error.detail == str(error) == "labels: expected shape [2], got [3]"
    assert error.title == "The labels do not fit the logits"
    assert error.offences == (Offence("labels", "expected shape [2], got [3]"),)


def test_an_error_about_the_whole_request_has_no_offence() -> None:
    error = Invalid("body_type", "expected a JSON object, got an array")
    assert error.detail == "expected a JSON object, got an array"
    assert error.offences == ()


def test_offences_are_bounded() -> None:
    places = [Offence(f"losses[{i}]", "infinite") for i in range(100)]
    error = Invalid("infinite_loss", "infinite", offences=places)
    assert error.offences == tuple(places[:MAX_OFFENCES])
    assert error.detail == "losses[0]: infinite"


def test_headers_travel_with_the_error() -> None:
    error = errors.MethodNotAllowed("method_not_allowed", "POST only", headers={"Allow": "POST"})
    assert error.headers == {"Allow": "POST"}
    assert errors.NotReady("not_ready", "starting").headers == {}
