"""What is said about an examination."""

import json
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from test_conformance_vectors import named

from service.conformance.examination import Check
from service.conformance.report import Report
from service.conformance.vectors import FAMILIES, PUBLISHED

SEED32, SEED64 = named("seed_softmax_f32", "softmax"), named("seed_ce_index_mean")
HELD = Check(SEED64, "loss", "held", 1.0, "")
INEXACT = Check(SEED32, "probabilities", "inexact", 1.76, "[0][0] 0.2278 in place of 0.2279")
BROKEN = Check(named("nan_logit", "softmax"), "refusal", "broken", None, "it was answered: classes [1]")
UNASKED = [
    Check(named(vector), output, "not expressible", None, "no word for class_weight")
    for vector in ("weight_index", "weights_all_zero_mean_is_null")
    for output in ("losses", "loss")
]


def printed(report: Report) -> str:
    text = StringIO()
    Console(width=200, file=text).print(report.tables())
    return text.getvalue()


@pytest.mark.parametrize(
    ("checks", "passed", "summary"),
    [
        ([HELD], True, "1 of 1 checks hold through JSON"),
        ([HELD, *UNASKED], True, "1 of 1 checks hold through JSON; 4 more are not expressible"),
        ([HELD, INEXACT], False, "1 of 2 checks hold through JSON, 1 inexact"),
        ([HELD, BROKEN], False, "1 of 2 checks hold through JSON"),
        (UNASKED, False, "nothing could be asked through JSON; 4 checks are not expressible"),
    ],
)
def test_it_passes_where_all_that_could_be_asked_holds(checks: Any, passed: bool, summary: str) -> None:  # noqa: FBT001 - a parameter
    report = Report("http://server", "JSON", checks)
    assert report.passed == passed
    assert report.summary() == summary
    assert summary in printed(report)


def test_every_check_that_does_not_hold_is_listed_with_what_came() -> None:
    text = printed(Report("http://server", "JSON", [HELD, INEXACT, BROKEN, *UNASKED]))
    for said in (
        "nan_logit",
        "it was answered: classes [1]",
        "seed_softmax_f32",
        "[0][0] 0.2278 in place of 0.2279",
        "no word for class_weight",
        "weight_index, weights_all_zero_mean_is_null",
        "losses, loss",
        "1.76",
    ):
        assert said in text
    assert all(family in text for family in (PUBLISHED, *FAMILIES))
    alone = printed(Report("http://server", "JSON", [HELD]))
    assert "what came" not in alone
    assert "why" not in alone


def test_many_vectors_with_one_reason_are_counted() -> None:
    vectors = ["one_class", "axis0", "empty_batch", "optax_int", "optax_sce", "tf_doc_xent"]
    checks = [Check(named(vector), "count", "not expressible", None, "none") for vector in vectors]
    assert "one_class, axis0, empty_batch, optax_int and 2 more" in printed(Report("", "JSON", checks))


def test_scores_and_ulps_are_of_a_family_or_of_all() -> None:
    report = Report("http://server", "JSON", [HELD, INEXACT, BROKEN, *UNASKED])
    assert report.score() == "1 of 3"
    assert report.score(PUBLISHED) == "1 of 2"
    assert report.score("bad input") == "0 of 1"
    assert report.score("ties") == "-"
    assert (report.worst_ulp("float32"), report.worst_ulp("float64")) == ("1.76", "1")
    assert report.worst_ulp("float32", "ties") == ""


def test_the_document_has_every_check() -> None:
    said = json.loads(
        json.dumps(Report("http://server", "V1 JSON", [HELD, INEXACT, BROKEN, *UNASKED]).document())
    )
    assert {key: said[key] for key in ("url", "dialect", "held", "inexact", "broken", "not_expressible")} == {
        "url": "http://server",
        "dialect": "V1 JSON",
        "held": 1,
        "inexact": 1,
        "broken": 1,
        "not_expressible": 4,
    }
    assert said["checks"][1] == {
        "vector": "seed_softmax_f32",
        "family": PUBLISHED,
        "operation": "softmax",
        "dtype": "float32",
        "output": "probabilities",
        "state": "inexact",
        "ulp": 1.76,
        "why": "[0][0] 0.2278 in place of 0.2279",
    }
    assert len(said["checks"]) == 7
