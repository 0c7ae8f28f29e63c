"""The report: everything the scores say, in bounded tables and in JSON that any reader takes."""

import json
import math
from typing import Any

import numpy as np
import pytest
from rich.console import Console, RenderableType

from service.evaluation.judging import judge
from service.evaluation.report import SHOWN_CLASSES, SHOWN_CONFUSIONS, by_class, compared, document
from service.numeric.scores import Scores


def scores_of(classes: int, rows: int = 200) -> Scores:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(rows, classes)) * 2
    return judge(logits, (logits + generator.normal(size=logits.shape) * 2).argmax(axis=1))


def printed(table: RenderableType) -> str:
    console = Console(width=200, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_columns_stand_side_by_side() -> None:
    lines = printed(compared({"raw": scores_of(3), "calibrated": scores_of(3, rows=1200)})).splitlines()
    assert "raw" in lines[1]
    assert "calibrated" in lines[1]
    (rows,) = [line for line in lines if "│ rows" in line]
    assert rows.split()[3::2] == ["200", "1,200"]
    for name in ("log loss", "ECE, equal width", "ECE, equal mass", "ECE, classwise", "MCE", "accuracy"):
        assert any(line.startswith(f"│ {name} ") for line in lines), name
    for part in ("reliability", "resolution", "uncertainty", "within bins"):
        assert any(part in line for line in lines), part


def test_a_part_of_nothing_is_no_minus_zero() -> None:
    assert "-0.0000" not in printed(compared({"raw": judge(np.eye(3) * 50, np.arange(3))}))


def test_a_few_classes_have_a_matrix() -> None:
    text = printed(by_class(scores_of(3), ("cat", "dog", "a name much longer than a table has room for")))
    assert "confusion" in text
    assert "cat" in text
    assert "a name much longer than…" in text
    assert "top 2" in text
    assert "top 3" not in text  # of three classes one is always among three


def test_many_classes_have_their_worst_and_their_most_frequent_mistakes() -> None:
    scores = scores_of(SHOWN_CLASSES + 5, rows=2000)
    text = printed(by_class(scores))
    assert "confusion" not in text
    assert f"the {SHOWN_CLASSES} of {SHOWN_CLASSES + 5} classes with the least F1" in text
    assert "most frequent mistakes" in text
    assert len(text.splitlines()) < 60
    label, predicted, _ = scores.confused()[0]
    assert f"{label}" in text
    assert f"{predicted}" in text
    best = int(np.nanargmax(scores.per_class.f1))
    assert f"│ {best} " not in text.split("most frequent")[0].split("classes")[1]


@pytest.mark.parametrize("classes", [1, 2, SHOWN_CONFUSIONS, SHOWN_CONFUSIONS + 1, 300])
def test_any_number_of_classes_can_be_told(classes: int) -> None:
    scores = scores_of(classes)
    assert len(printed(by_class(scores)).splitlines()) < 80
    assert len(document(scores)["classes"]) == classes


def test_names_of_classes_are_no_markup() -> None:
    assert "[bold]" in printed(by_class(scores_of(2), ("[bold]", "b")))


def test_the_document_has_every_score_and_is_plain_json() -> None:
    scores = judge(np.array([[2.0, 0, 0], [0, 1, 0], [3, 0, 0]]), np.array([0, 1, 1]))
    told: dict[str, Any] = json.loads(json.dumps(document(scores, ("a", "b", "c")), allow_nan=False))
    assert (told["rows"], told["bins"]) == (3, 15)
    assert told["accuracy"] == pytest.approx(2 / 3)
    assert told["top_k_accuracy"]["2"] == 1
    assert told["log_loss"] == scores.log_loss
    assert told["brier"]["score"] == scores.brier.score
    a, b, c = told["classes"]
    assert a == {
        "name": "a",
        "rows": 1,
        "predicted": 2,
        "precision": 0.5,
        "recall": 1,
        "f1": pytest.approx(2 / 3),
    }
    assert (b["precision"], b["recall"]) == (1, 0.5)
    assert (c["precision"], c["recall"], c["f1"]) == (None, None, None)
    assert told["mistakes"] == [{"label": "b", "predicted": "a", "rows": 1}]


def test_the_bins_of_the_document_make_the_error_again() -> None:
    told = document(scores_of(4))
    for kind in ("equal_width", "equal_mass"):
        bins = told[f"{kind}_bins"]
        assert sum(bin_["rows"] for bin_ in bins) == 200
        error = math.fsum(abs(b["accuracy"] - b["confidence"]) * b["rows"] for b in bins) / 200
        assert told[f"ece_{kind}"] == pytest.approx(error, rel=1e-12)
