"""The counts as JSON and as series: by hand, and bounded."""

from typing import Any

import numpy as np
import pytest

from service import instruments
from service.instruments import SUM
from service.numeric.kernel import Float64Array
from service.numeric.quality import judged, layout_of, observed
from service.numeric.softmax import normalise
from service.quality.online import Key
from service.quality.told import LEAST_ROWS_OF_DRIFT, describe, sums, values
from service.types import IndexArray

KEY = Key("pets", "3", "d" * 64, 3)
NAMES = ("cat", "dog", "eel")
LOGITS = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.25, 0.15, 0.6], [0.9, 0.05, 0.05]]))
LABELS = np.array([0, 1, 0, 0])


def nothing(_key: Key) -> Float64Array | None:
    return None


def counted(logits: Float64Array = LOGITS, labels: IndexArray = LABELS) -> Float64Array:
    layout = layout_of(logits.shape[1])
    return judged(layout, normalise(logits, with_others=True), labels) + observed(layout, logits)


def told(vector: Float64Array, names: tuple[str, ...] | None = NAMES) -> dict[str, Any]:
    answer = describe(({KEY: vector}, {}), "pets", window_s=60, class_names={KEY: names}, reference=nothing)
    since_start: dict[str, Any] = answer["versions"][0]["since_start"]
    return since_start


def test_labelled_rows_by_hand() -> None:
    labelled = told(counted())["labelled"]
    assert labelled["rows"] == 4
    assert labelled["log_loss"] == pytest.approx(-np.log([0.5, 0.8, 0.25, 0.9]).mean())
    assert labelled["accuracy"] == 0.75
    assert labelled["top_k_accuracy"] == {"1": 0.75, "2": 1.0, "3": 1.0}
    assert labelled["brier"]["score"] == pytest.approx(
        np.square(np.exp(LOGITS) - np.eye(3)[LABELS]).sum(axis=1).mean()
    )
    gaps = {0.5: 0.5, 0.6: -0.6, 0.8: 0.2, 0.9: 0.1}
    assert labelled["ece_equal_width"] == pytest.approx(np.abs(list(gaps.values())).sum() / 4)
    assert labelled["mce"] == pytest.approx(0.6)
    full = [bin_ for bin_ in labelled["equal_width_bins"] if bin_["rows"]]
    assert [round(bin_["confidence"], 9) for bin_ in full] == list(gaps)
    assert [bin_["accuracy"] for bin_ in full] == [1, 0, 1, 1]
    assert all(bin_["above"] < bin_["confidence"] <= bin_["up_to"] for bin_ in full)
    assert len(labelled["equal_width_bins"]) == 15


def test_classes_and_mistakes_by_hand() -> None:
    labelled = told(counted())["labelled"]
    assert labelled["classes"] == [
        {
            "name": "cat",
            "rows": 3,
            "predicted": 2,
            "correct": 2,
            "precision": 1.0,
            "recall": 2 / 3,
            "f1": 0.8,
        },
        {"name": "dog", "rows": 1, "predicted": 1, "correct": 1, "precision": 1.0, "recall": 1.0, "f1": 1.0},
        {"name": "eel", "rows": 0, "predicted": 1, "correct": 0, "precision": 0.0, "recall": None, "f1": 0.0},
    ]
    assert labelled["mistakes"] == [{"label": "cat", "predicted": "eel", "rows": 1}]
    assert told(counted(), None)["labelled"]["mistakes"] == [{"label": 0, "predicted": 2, "rows": 1}]


def test_traffic_by_hand() -> None:
    traffic = told(counted())["traffic"]
    assert traffic["rows"] == 4
    assert traffic["classes"] == {"cat": 0.5, "dog": 0.25, "eel": 0.25}
    assert traffic["confidence"]["mean"] == pytest.approx(0.7)
    assert traffic["margin"]["mean"] == pytest.approx((0.2 + 0.7 + 0.35 + 0.85) / 4)
    assert traffic["energy"]["mean"] == pytest.approx(0, abs=1e-15)
    for name in ("confidence", "margin", "entropy", "energy"):
        assert sum(traffic[name]["rows"]) == 4
    assert len(traffic["energy"]["rows"]) == len(traffic["energy"]["up_to"]) + 1


def test_what_nobody_knows_is_null() -> None:
    found = told(np.zeros(layout_of(3).size))
    labelled = found["labelled"]
    assert labelled["rows"] == 0
    for name in ("log_loss", "accuracy", "ece_equal_width", "mce"):
        assert labelled[name] is None
    assert found["traffic"]["confidence"]["mean"] is None
    assert (labelled["classes"], labelled["mistakes"], found["drift"]) == ([], [], None)


def test_versions_come_in_their_order_and_what_a_window_lacks_is_null() -> None:
    keys = [Key("pets", version, "d" * 64, 3) for version in ("10", "9")]
    life = dict.fromkeys([*keys, Key("plants", "1", "e" * 64, 3)], counted())
    answer = describe((life, {keys[0]: counted()}), "pets", window_s=5, class_names={}, reference=nothing)
    assert (answer["name"], answer["window_s"]) == ("pets", 5)
    assert [(one["version"], one["window"] is None) for one in answer["versions"]] == [
        ("9", True),
        ("10", False),
    ]


def test_the_series_say_the_same() -> None:
    vector = counted()
    found = values({KEY: vector}, {}, nothing)
    place = ("pets", "3")
    assert found[instruments.QUALITY_ROWS.name] == {place: 4}
    assert found[instruments.QUALITY_LOSS.name][place] / 4 == told(vector)["labelled"]["log_loss"]
    assert found[instruments.QUALITY_CORRECT.name][*place, "1"] == 3
    bins = {
        name: found[name.name] for name in (instruments.QUALITY_BIN_ROWS, instruments.QUALITY_BIN_CORRECT)
    }
    assert [len(series) for series in bins.values()] == [15, 15]
    gaps = [
        abs(correct - found[instruments.QUALITY_BIN_CONFIDENCE.name][labels])
        for labels, correct in bins[instruments.QUALITY_BIN_CORRECT].items()
    ]
    assert sum(gaps) / 4 == pytest.approx(told(vector)["labelled"]["ece_equal_width"])
    assert found[instruments.QUALITY_CONFUSIONS.name] == {(*place, "0", "2"): 1}
    assert found[instruments.PREDICTIONS.name][*place, "0"] == 2
    confidence = found[instruments.CONFIDENCE.name]
    assert confidence[*place, SUM] == pytest.approx(2.8)
    assert sum(count for labels, count in confidence.items() if labels[-1] != SUM) == 4


def test_all_kinds_of_mistakes_are_told_where_a_matrix_can_be_drawn() -> None:
    random = np.random.default_rng(0)
    for classes, told_of in ((32, 32 * 31), (33, 100)):
        key = Key("wide", "1", "d" * 64, classes)
        pairs = np.arange(classes * classes)
        logits = 9.0 * np.eye(classes)[pairs % classes] + random.normal(size=(len(pairs), classes)) / 9
        vector = counted(logits, pairs // classes)
        answer = describe(({key: vector}, {}), "wide", window_s=1, class_names={}, reference=nothing)
        mistakes = answer["versions"][0]["since_start"]["labelled"]["mistakes"]
        assert len(mistakes) == told_of
        assert {mistake["rows"] for mistake in mistakes} == {1}


def test_sums_are_those_of_a_version_whatever_its_files() -> None:
    other, bare = KEY._replace(digest="e" * 64), Key("loss", "", "", 0)
    vector = judged(layout_of(0), normalise(LOGITS, with_others=True), LABELS)
    found = sums({KEY: counted(), other: counted(), bare: vector})
    losses = -np.log([0.5, 0.8, 0.25, 0.9]).sum()
    assert found["pets", "3"] == pytest.approx((8, 2 * losses, 6))
    assert found["loss", ""] == pytest.approx((4, losses, 3))
    assert sums({}) == {}


def test_files_that_took_each_others_place_count_together() -> None:
    other = KEY._replace(digest="e" * 64)
    found = values({KEY: counted(), other: counted()}, {}, nothing)
    assert found[instruments.QUALITY_ROWS.name] == {("pets", "3"): 8}


def test_series_of_many_classes_are_left_to_json() -> None:
    random = np.random.default_rng(0)
    for classes, by_class, by_pair in ((100, True, False), (101, False, False), (32, True, True)):
        key = Key("wide", "1", "d" * 64, classes)
        vector = counted(random.normal(size=(50, classes)), random.integers(0, classes, 50))
        found = values({key: vector}, {}, nothing)
        for instrument in (instruments.QUALITY_CLASS_ROWS, instruments.PREDICTIONS):
            assert (len(found[instrument.name]) == classes) == by_class
        assert bool(found[instruments.QUALITY_CONFUSIONS.name]) == by_pair
        assert found[instruments.QUALITY_ROWS.name]


def test_bare_logits_have_no_classes() -> None:
    layout = layout_of(0)
    vector = judged(layout, normalise(LOGITS, with_others=True), LABELS)
    key = Key("loss", "", "", 0)
    answer = describe(({key: vector}, {}), "loss", window_s=1, class_names={}, reference=nothing)
    labelled = answer["versions"][0]["since_start"]["labelled"]
    assert "classes" not in labelled
    assert "mistakes" not in labelled
    assert labelled["top_k_accuracy"]["5"] == 1
    assert values({key: vector}, {}, nothing)[instruments.QUALITY_ROWS.name] == {("loss", ""): 4}


def test_drift_is_told_where_there_is_a_reference_and_enough_traffic() -> None:
    random = np.random.default_rng(0)
    layout = layout_of(3)
    reference = observed(layout, random.normal(size=(1000, 3)))
    alike = observed(layout, random.normal(size=(1000, 3)))
    shifted = observed(layout, random.normal([4, 0, 0], size=(1000, 3)))
    few = observed(layout, random.normal(size=(LEAST_ROWS_OF_DRIFT - 1, 3)))
    found = {
        name: values({KEY: window}, {KEY: window}, lambda _: reference)
        for name, window in (("alike", alike), ("shifted", shifted), ("few", few))
    }
    psi, ks = instruments.DRIFT_PSI.name, instruments.DRIFT_KS.name
    assert set(found["alike"][psi]) == {
        ("pets", "3", of) for of in ("classes", "confidence", "margin", "entropy", "energy")
    }
    assert max(found["alike"][psi].values()) < 0.1
    assert found["shifted"][psi]["pets", "3", "classes"] > 0.25
    assert found["shifted"][ks]["pets", "3", "energy"] > 0.5
    assert ("pets", "3", "classes") not in found["shifted"][ks]
    assert found["few"][psi] == {}
    answer = describe(
        ({KEY: shifted}, {KEY: shifted}), "pets", window_s=1, class_names={}, reference=lambda _: reference
    )
    drift = answer["versions"][0]["window"]["drift"]
    assert drift["classes"]["ks"] is None
    assert drift["energy"]["ks"] == found["shifted"][ks]["pets", "3", "energy"]
