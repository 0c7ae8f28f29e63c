"""Everything asked of real servers: ours holds all of it, and a naive one is caught at each of its faults."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from listening import listening
from starlette.responses import JSONResponse, Response
from strangers import described, naive, naive_loss, naive_softmax, serving

from service.app import create_app
from service.conformance.discovery import Asked, connect, discover
from service.conformance.examination import Check, examine
from service.conformance.vectors import read
from service.settings import Settings

MODELS = Path(__file__).parents[2] / "models"


def examined(url: str, asked: Asked = Asked(), vectors: str = "") -> list[Check]:  # noqa: B008 - it is frozen
    questions = [question for question in read() if vectors in question.vector]
    with connect(url) as http:
        return examine(discover(http, asked), questions)


def found(checks: list[Check]) -> dict[tuple[str, str], Check]:
    """The checks by vector and output; the softmax of a vector of losses has outputs of its own."""
    return {(check.question.vector, check.output): check for check in checks}


@pytest.fixture(scope="module")
def ours() -> Iterator[str]:
    with listening(create_app(Settings(models=MODELS))) as url:
        yield url


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("dialect", ["auto", "v2"])
def test_our_own_service_holds_everything(ours: str, dialect: str, binary: bool) -> None:  # noqa: FBT001 - a parameter
    checks = examined(ours, Asked(dialect=dialect, binary=binary))
    assert len(checks) == 250
    assert [check for check in checks if check.state in {"inexact", "broken"}] == []
    unasked = {(check.question.vector, check.why) for check in checks if check.state == "not expressible"}
    json_alone = {("empty_batch", "JSON has no empty batch")}
    assert unasked == (json_alone if (dialect, binary) == ("auto", False) else set())


def test_our_own_service_holds_all_that_rows_can_say(ours: str) -> None:
    checks = examined(ours, Asked(dialect="v1"))
    assert [check for check in checks if check.state in {"inexact", "broken"}] == []
    assert sum(check.state == "held" for check in checks) == 164


def test_what_our_own_service_is_not_told_it_does_not_know(ours: str) -> None:
    checks = found(examined(ours, Asked(options=frozenset({"outputs", "dtype"})), "weight_index"))
    assert checks["weight_index", "losses"].why == "no word for class_weight"
    assert checks["weight_index", "probabilities"].state == "held"


@pytest.fixture(scope="module")
def wrong() -> Iterator[dict[tuple[str, str], Check]]:
    with listening(naive()) as url:
        yield found(examined(url))


@pytest.mark.parametrize(
    ("vector", "output", "why"),
    [
        # the maximum is not subtracted
        ("scipy_1000", "probabilities", "probabilities[0][0]: expected a number, got null"),
        ("large_1e4_f32", "probabilities", "probabilities[0][0]: expected a number, got null"),
        # -infinity is written as null
        ("masked_class", "log_probabilities", "log_probabilities[0][1]: expected a number, got null"),
        # an infinite loss is written as a word that JSON lacks
        ("masked_label_is_infinite", "losses", "no JSON: it has bare words for numbers that JSON lacks"),
        # nothing is refused
        ("nan_logit", "refusal", "it was answered: "),
        ("all_masked_row", "refusal", "it was answered: "),
        ("label_negative", "refusal", "it was answered: loss 1.289343, losses [1.879011 0.699676]"),
        ("label_float", "refusal", "it was answered: "),
        ("label_too_large", "refusal", "HTTP 500"),
        ("labels_broadcast_refused", "refusal", "it was answered: "),
    ],
)
def test_a_naive_server_is_caught(
    wrong: dict[tuple[str, str], Check], vector: str, output: str, why: str
) -> None:
    check = wrong[vector, output]
    assert check.state == "broken"
    assert check.why.startswith(why)


def test_the_logarithm_of_a_rounded_probability_is_inexact(wrong: dict[tuple[str, str], Check]) -> None:
    check = wrong["confident_small_loss_f64", "losses"]
    assert check.state == "inexact"
    assert check.ulp is not None
    assert check.ulp > 1e15
    assert check.why.startswith("[0] ")


def test_a_naive_server_is_right_where_nothing_is_hard(wrong: dict[tuple[str, str], Check]) -> None:
    for output in ("probabilities", "classes", "log_probabilities"):
        assert wrong["seed_softmax_f64", output].state == "held"
    assert wrong["seed_ce_index_mean", "loss"].state == "held"


def test_what_a_server_has_no_words_for_is_counted_apart(wrong: dict[tuple[str, str], Check]) -> None:
    for vector, output, why in (
        ("weight_index", "losses", "no word for class_weight"),
        ("axis_out_of_range", "refusal", "no word for axis"),
        ("seed_ce_dense_sum", "loss", "no word for reduction"),
        ("seed_ce_index_mean", "count", "the server answers no count"),
        ("empty_batch", "losses", "JSON has no empty batch"),
    ):
        assert (wrong[vector, output].state, wrong[vector, output].why) == ("not expressible", why)
    assert len(wrong) == len({(q.vector, o) for q in read() for o in (q.expected or ["refusal"])})


def standin(softmax: Any, loss: Any = naive_loss, paths: tuple[str, ...] = ("/softmax", "/loss")) -> Any:
    return serving({"/openapi.json": described(*paths)}, {"/softmax": softmax, "/loss": loss})


def test_an_output_that_is_left_out_once_is_missing_there() -> None:
    def forgetful(body: Any) -> Any:
        answered = naive_softmax(body)
        if len(answered["classes"]) == 1:
            del answered["classes"]
        return answered

    with listening(standin(forgetful)) as url:
        checks = found(examined(url, vectors="seed")) | found(examined(url, vectors="t"))
    assert checks["tf_doc_softmax", "classes"].why == "no classes in the answer"
    assert checks["seed_softmax_f64", "classes"].state == "held"


def test_one_spelling_of_masks_is_enough_for_an_answer() -> None:
    def without_strings(body: Any) -> Any:
        if any(isinstance(value, str) for row in body["logits"] for value in row):
            return JSONResponse({"error": "strings are no numbers"}, 400)
        return naive_softmax(body)

    with listening(standin(without_strings)) as url:
        checks = found(examined(url, vectors="masked_class") + examined(url, vectors="nan_logit"))
    assert checks["masked_class", "probabilities"].state == "held"
    assert checks["nan_logit", "refusal"].state == "broken"


def test_an_error_must_come_in_every_spelling_but_the_code_only_in_the_first() -> None:
    def strict(body: Any) -> Any:
        is_text = any(isinstance(value, str) for row in body["logits"] for value in row)
        return JSONResponse({"code": "non_finite_logits" if is_text else "malformed_json"}, 422)

    def unknowing(body: Any) -> Any:
        is_text = any(isinstance(value, str) for row in body["logits"] for value in row)
        return JSONResponse({}, 500 if is_text else 400)

    for softmax, code in (
        (strict, "held"),
        (unknowing, "held"),
        (lambda _: Response(status_code=500), "broken"),
    ):
        with listening(standin(softmax)) as url:
            assert found(examined(url, vectors="nan_logit"))["nan_logit", "refusal"].state == code

    with listening(standin(lambda _: JSONResponse({"code": "other"}, 422))) as url:
        check = found(examined(url, vectors="nan_logit"))["nan_logit", "refusal"]
    assert check.why == "the code other in place of non_finite_logits"


def test_a_route_that_is_not_there_is_no_fault() -> None:
    def absent(_: Any) -> Response:
        return Response(status_code=404)

    with listening(standin(naive_softmax, absent)) as url:
        checks = examined(url, Asked(dialect="native"), "seed") + examined(url, vectors="label_negative")
    losses = [check for check in checks if check.question.operation == "loss"]
    assert {check.why for check in losses} >= {"the server answers 404 to a loss"}
    assert {check.state for check in losses} == {"not expressible"}


def test_rows_are_asked_for_what_rows_can_have() -> None:
    def softmax(body: Any) -> Any:
        return {"predictions": naive_softmax({"logits": body["instances"]})["probabilities"]}

    def loss(body: Any) -> Any:
        rows = body["instances"]
        columns = {name: [row[name] for row in rows] for name in ("logits", "labels")}
        return {"predictions": naive_loss(columns)["losses"]}

    models = {f"/v1/models/{name}": {"ready": True} for name in ("softmax", "loss")}
    posts = {"/v1/models/softmax:predict": softmax, "/v1/models/loss:predict": loss}
    with listening(serving(models, posts)) as url:
        checks = found(examined(url))
    assert checks["seed_ce_index_mean", "losses"].state == "held"
    assert checks["seed_ce_index_mean", "loss"].why == "the protocol has no place for the loss"
    assert checks["seed_ce_index_mean", "classes"].why == "the server answers no classes"
    assert checks["scipy_1000", "probabilities"].state == "broken"
    assert checks["label_negative", "refusal"].why.startswith("it was answered: losses")


def test_whoever_watches_is_told_of_each_question() -> None:
    told: list[int] = []
    questions = [question for question in read() if question.family == "ties"]
    with listening(naive()) as url, connect(url) as http:
        examine(discover(http, Asked()), questions, told.append)
    assert told == list(range(1, len(questions) + 1))
