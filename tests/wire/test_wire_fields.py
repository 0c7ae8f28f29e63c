"""assemble: the fields of a request, whatever dialect brought them -> a checked ScoreRequest."""

from typing import Any

import numpy as np
import pytest

from service.errors import NotFound, NotReady, RequestError, TooLarge
from service.types import Calibration, HeadInfo, Operation, ScoreRequest, SparseRows
from service.wire.fields import FLOAT32, FLOAT64, assemble, assemble_each
from service.wire.limits import Limits

LIMITS = Limits(body_bytes=1 << 20, rows=50, elements=1000, json_depth=32)
LOGITS = [[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]]
FEATURES = [[0.0] * 64, [1.0] * 64]


def head(**changes: Any) -> HeadInfo:
    known = {
        "model": "digits",
        "version": "1",
        "num_features": 64,
        "num_classes": 10,
        "dtype": np.dtype(np.float32),
        "class_names": None,
        "digest": "0" * 64,
        "provider": "cpu",
    }
    return HeadInfo(**{**known, **changes})


def softmax(**fields: Any) -> ScoreRequest:
    return assemble("softmax", {"logits": LOGITS, **fields}, limits=LIMITS)


def loss(**fields: Any) -> ScoreRequest:
    return assemble("loss", {"logits": LOGITS, "labels": [1, 2], **fields}, limits=LIMITS)


def predict(
    info: HeadInfo | None = None, *, named: tuple[str, str | None] | None = None, **fields: Any
) -> ScoreRequest:
    def head_of(_model: str | None, _version: str | None) -> HeadInfo:
        return info or head()

    return assemble("predict", {"features": FEATURES, **fields}, limits=LIMITS, head_of=head_of, named=named)


def refused(operation: Operation, info: HeadInfo | None = None, **fields: Any) -> tuple[str, str]:
    with pytest.raises(RequestError) as caught:
        assemble(operation, fields, limits=LIMITS, head_of=lambda _model, _version: info or head())
    error = caught.value
    assert len(error.detail) < 400
    return error.code, error.offences[0].path


def test_logits_of_json_are_float64_unless_float32_is_asked_for() -> None:
    request = softmax()
    assert (request.operation, request.axis, request.temperature, request.top_k) == ("softmax", 1, 1.0, None)
    assert request.outputs == ("probabilities", "classes")
    assert (request.labels, request.head, request.class_names) == (None, None, None)
    assert request.dense.dtype == request.dtype == np.float64
    assert request.dense.tolist() == LOGITS
    rounded = softmax(dtype="float32")
    assert rounded.dense.dtype == rounded.dtype == np.float32


@pytest.mark.parametrize(
    ("sent", "computed"),
    [
        (np.float16, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.longdouble, np.float64),
        (np.int8, np.float64),
        (np.int32, np.float64),
        (np.uint64, np.float64),
    ],
)
def test_arrays_keep_the_type_they_can_be_computed_in(sent: type, computed: type) -> None:
    request = softmax(logits=np.array(LOGITS).astype(sent))
    assert request.dense.dtype == request.dtype == computed
    assert softmax(logits=np.array(LOGITS).astype(sent), dtype="float64").dense.dtype == np.float64


@pytest.mark.parametrize(("axis", "found"), [(-1, 2), (2, 2), (0, 0), (-3, 0), (1, 1)])
def test_the_class_axis_counts_from_the_front(axis: int, found: int) -> None:
    assert softmax(logits=np.zeros((2, 3, 4)), axis=axis).axis == found


def test_logits_of_one_row_have_one_axis() -> None:
    request = softmax(logits=[1, "-Infinity", 2])
    assert request.values.shape == (3,)
    assert request.axis == 0
    assert request.values[1] == -np.inf


def test_an_empty_batch_is_a_batch() -> None:
    request = assemble(
        "loss", {"logits": np.zeros((0, 3), np.float32), "labels": np.zeros(0, np.int64)}, limits=LIMITS
    )
    assert request.values.shape == (0, 3)
    assert request.labels is not None
    assert request.labels.format == "index"


def test_options_reach_the_request() -> None:
    request = softmax(temperature=2, top_k=2, class_names=["a", "b", "c"], outputs=["top_names"])
    assert request.temperature == 2.0
    assert request.top_k == 2
    assert request.class_names == ("a", "b", "c")
    assert request.outputs == ("top_names",)


def test_class_names_add_names_to_the_answer_and_meaning_to_labels() -> None:
    request = loss(labels=["b", "a"], class_names=["a", "b", "c"])
    assert request.outputs == ("loss", "losses", "count", "predicted_names")
    assert request.labels is not None
    assert request.labels.values.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("logits", "code", "path"),
    [
        (3, "rank", "logits"),
        ("NaN", "rank", "logits"),
        ([], "no_classes", "logits"),
        ([[], []], "no_classes", "logits"),
        (np.zeros((2, 0)), "no_classes", "logits"),
        (np.array(1.0), "rank", "logits"),
        (None, "logits_type", "logits"),
        ("x" * 10_000, "logits_type", "logits"),
        ([[1, None]], "logits_type", "logits[0][1]"),
        (np.array([True]), "logits_type", "logits"),
        (np.array(["a"]), "logits_type", "logits"),
        (np.array([1j]), "logits_type", "logits"),
        ([[1, 2], [3]], "ragged", "logits[1]"),
        ([[1, "NaN"]], "non_finite_logits", "logits[0][1]"),
        ([["Infinity", 1]], "non_finite_logits", "logits[0][0]"),
        (np.array([np.inf, 1]), "non_finite_logits", "logits[0]"),
        ([[1, 2], ["-Infinity", "-Infinity"]], "row_all_masked", "logits[1]"),
    ],
)
def test_logits_without_a_softmax_are_refused_at_their_place(logits: Any, code: str, path: str) -> None:
    assert refused("softmax", logits=logits) == (code, path)


def test_what_is_infinite_in_float32_alone_is_refused_there_alone() -> None:
    assert softmax(logits=[1, -1e39]).dense[1] == -1e39
    assert refused("softmax", logits=[1, -1e39], dtype="float32") == ("float32_overflow", "logits[1]")


@pytest.mark.parametrize(
    ("names", "code", "path"),
    [
        (["a", "b"], "class_names_shape", "class_names"),
        ([], "class_names_shape", "class_names"),
        (["a", "b", "a"], "class_names_value", "class_names[2]"),
        (["x" * 10_000] * 3, "class_names_value", "class_names[1]"),
    ],
)
def test_class_names_must_be_distinct_and_one_a_class(names: list[str], code: str, path: str) -> None:
    assert refused("softmax", logits=LOGITS, class_names=names) == (code, path)
    ten = [*names, *"0123456"] if code == "class_names_value" else names
    assert refused("predict", features=FEATURES, class_names=ten) == (code, path)


def test_very_many_names_with_a_late_repetition_are_refused_in_good_time() -> None:
    # Looking each name up among those before it would take minutes.
    count = 100_000
    limits = Limits(body_bytes=1 << 30, rows=10, elements=count, json_depth=8)
    names = [str(index) for index in range(count - 1)] + ["0"]
    with pytest.raises(RequestError) as caught:
        assemble("softmax", {"logits": np.zeros(count), "class_names": names}, limits=limits)
    assert caught.value.offences[0].path == f"class_names[{count - 1}]"


@pytest.mark.parametrize("top_k", [0, -1, 4])
def test_top_k_must_be_a_number_of_classes(top_k: int) -> None:
    assert refused("softmax", logits=LOGITS, top_k=top_k) == ("top_k_range", "top_k")
    many = top_k if top_k < 1 else 11
    assert refused("predict", features=FEATURES, top_k=many) == ("top_k_range", "top_k")


# Each pair holds two faults; the first is the one to be found.
ORDER: list[tuple[Operation, dict[str, Any], str]] = [
    ("softmax", {"logit": [1]}, "unknown_field"),
    ("loss", {"logits": [None], "axis": "x"}, "missing_field"),
    ("softmax", {"logits": [None], "axis": "x"}, "option_type"),
    ("softmax", {"logits": [None], "dtype": "float16"}, "unknown_option_value"),
    ("softmax", {"logits": [None], "outputs": []}, "unknown_output"),
    ("softmax", {"logits": [None], "outputs": ["top_names"], "top_k": 1}, "unknown_output"),
    ("softmax", {"logits": [[1], [None, 2]], "axis": 5}, "logits_type"),
    ("softmax", {"logits": [[1], [2, 3]], "axis": 5}, "ragged"),
    ("softmax", {"logits": [[], []], "axis": 5}, "axis_range"),
    ("softmax", {"logits": [[], []], "top_k": 0}, "no_classes"),
    ("softmax", {"logits": [["NaN", 1]], "top_k": 3, "class_names": ["a"]}, "top_k_range"),
    ("softmax", {"logits": [["NaN", 1]], "class_names": ["a"]}, "class_names_shape"),
    ("softmax", {"logits": [["NaN", 1e39]], "dtype": "float32"}, "float32_overflow"),
    ("loss", {"logits": [["NaN", 1]], "labels": [None]}, "non_finite_logits"),
    ("loss", {"logits": [[1, 2]], "labels": [5], "class_weight": [1]}, "label_out_of_range"),
    (
        "loss",
        {"logits": [[1, 2]], "labels": [1], "class_weight": [1], "sample_weight": []},
        "class_weight_shape",
    ),
    ("predict", {"features": [None], "outputs": ["loss"]}, "missing_field"),
    ("predict", {"features": [None], "axis": 0}, "axis_range"),
    ("predict", {"features": [[1], [2, None]]}, "features_type"),
    ("predict", {"features": [[1], [2, 3]]}, "ragged"),
    ("predict", {"features": ["NaN"] * 63, "top_k": 0}, "features_shape"),
    ("predict", {"features": ["NaN"] * 64, "top_k": 0}, "top_k_range"),
    ("predict", {"features": ["NaN"] * 63 + [1e39]}, "float32_overflow"),
    ("predict", {"features": ["NaN"] * 64, "labels": 99}, "non_finite_features"),
]


@pytest.mark.parametrize(("operation", "fields", "code"), ORDER)
def test_of_two_faults_the_first_in_the_contracts_order_is_found(
    operation: Operation, fields: dict[str, Any], code: str
) -> None:
    assert refused(operation, **fields)[0] == code


def test_features_take_the_heads_type_and_the_answer_too() -> None:
    request = predict()
    assert request.operation == "predict"
    assert request.dense.dtype == request.dtype == np.float32
    assert request.values.shape == (2, 64)
    assert request.axis == 1
    assert request.head == head()
    double = predict(dtype="float64")
    assert double.dense.dtype == np.float32
    assert double.dtype == np.float64
    wide = predict(head(dtype=np.dtype(np.float64)), features=np.zeros(64, np.float16))
    assert wide.dense.dtype == wide.dtype == np.float64
    assert wide.axis == 0


def test_features_have_any_rank_and_labels_follow_it() -> None:
    request = predict(features=np.zeros((2, 3, 64)), labels=np.zeros((2, 3), np.int64))
    assert request.axis == 2
    assert request.labels is not None
    assert request.labels.values.shape == (2, 3)
    dense = predict(labels=np.zeros((2, 10)), dtype="float64").labels
    assert dense is not None
    assert dense.values.dtype == np.float64


def test_an_empty_batch_of_features_is_a_batch() -> None:
    assert predict(features=np.zeros((0, 64))).values.shape == (0, 64)


@pytest.mark.parametrize(
    ("features", "code", "path"),
    [
        (3, "features_shape", "features"),
        ([], "features_shape", "features"),
        ([0.0] * 63, "features_shape", "features"),
        ([[0.0] * 65], "features_shape", "features"),
        (np.zeros((64, 1)), "features_shape", "features"),
        (None, "features_type", "features"),
        ([[0.0] * 63 + ["x"]], "features_type", "features[0][63]"),
        ({"indptr": [0]}, "missing_field", "features.indices"),
        (
            {"indptr": [0], "indices": [], "data": [], "num_features": 9},
            "features_shape",
            "features.num_features",
        ),
        (np.zeros(64, bool), "features_type", "features"),
        (["NaN"] + [0.0] * 63, "non_finite_features", "features[0]"),
        ([0.0] * 63 + ["-Infinity"], "non_finite_features", "features[63]"),
        ([0.0] * 63 + [1e39], "float32_overflow", "features[63]"),
    ],
)
def test_features_that_do_not_fit_the_head_are_refused_at_their_place(
    features: Any, code: str, path: str
) -> None:
    assert refused("predict", features=features) == (code, path)


def test_the_heads_names_answer_and_are_understood_unless_the_request_has_its_own() -> None:
    digits = tuple("0123456789")
    named = head(class_names=digits)
    request = predict(named, labels=["7", "0"])
    assert request.class_names == digits
    assert request.outputs[:3] == ("probabilities", "classes", "predicted_names")
    assert request.labels is not None
    assert request.labels.values.tolist() == [7, 0]
    own = predict(named, class_names=list("abcdefghij"), labels=["b", "a"])
    assert own.class_names == tuple("abcdefghij")
    assert own.labels is not None
    assert own.labels.values.tolist() == [1, 0]


def test_names_that_a_head_lacks_cannot_be_asked_for() -> None:
    assert refused("predict", features=FEATURES, outputs=["predicted_names"]) == (
        "unknown_output",
        "outputs[0]",
    )
    assert predict(head(class_names=tuple("0123456789")), outputs=["predicted_names"]).outputs == (
        "predicted_names",
    )


def test_the_heads_calibration_is_taken_unless_the_request_says_otherwise() -> None:
    own = Calibration(2.0)
    calibrated = head(calibration=own)
    assert predict(calibrated).calibration is own
    assert predict(calibrated, calibration="model").calibration is own
    raw = predict(calibrated, calibration="none")
    assert (raw.calibration, raw.temperature) == (None, 1.0)
    replaced = predict(calibrated, temperature=3)
    assert (replaced.calibration, replaced.temperature) == (None, 3.0)
    assert predict().calibration is None
    assert refused("softmax", logits=LOGITS, calibration="none") == ("unknown_field", "calibration")


def test_contributions_are_at_most_as_many_as_features() -> None:
    assert predict().top_contributions == 10
    assert predict(top_contributions=64).top_contributions == 64
    assert predict(top_contributions=1000).top_contributions == 64
    assert predict(head(num_features=3), features=[1, 2, 3]).top_contributions == 3


@pytest.mark.parametrize(
    ("named", "fields", "asked"),
    [
        (None, {}, (None, None)),
        (None, {"model": "digits", "version": "stable"}, ("digits", "stable")),
        (("digits", None), {}, ("digits", None)),
        (("digits", None), {"version": "2"}, ("digits", "2")),
        (("digits", "2"), {}, ("digits", "2")),
    ],
)
def test_the_head_is_the_one_that_path_and_fields_name(
    named: tuple[str, str | None] | None, fields: dict[str, str], asked: tuple[str | None, str | None]
) -> None:
    seen: list[tuple[str | None, str | None]] = []

    def head_of(model: str | None, version: str | None) -> HeadInfo:
        seen.append((model, version))
        return head()

    assemble("predict", {"features": FEATURES, **fields}, limits=LIMITS, head_of=head_of, named=named)
    assert seen == [asked]


@pytest.mark.parametrize(
    "error", [NotFound("unknown_model", "no such model", path="model"), NotReady("not_ready", "starting")]
)
def test_a_head_that_is_not_there_comes_after_options_and_before_features(error: RequestError) -> None:
    def head_of(_model: str | None, _version: str | None) -> HeadInfo:
        raise error

    def code_of(**fields: Any) -> str:
        with pytest.raises(RequestError) as caught:
            assemble("predict", {"features": [None], **fields}, limits=LIMITS, head_of=head_of)
        return caught.value.code

    assert code_of() == error.code
    assert code_of(temperature=0) == "temperature_range"
    assert code_of(outputs=["probs"]) == "unknown_output"


def test_predict_without_a_way_to_heads_is_a_fault_of_the_program() -> None:
    with pytest.raises(TypeError):
        assemble("predict", {"features": FEATURES}, limits=LIMITS)


@pytest.mark.parametrize("name", ["class_weight", "sample_weight"])
def test_weights_without_labels_are_a_mistake(name: str) -> None:
    fields: dict[str, Any] = {"features": FEATURES, name: [1, 2]}
    assert refused("predict", **fields) == ("missing_field", "labels")


def test_options_of_the_loss_without_labels_are_idle() -> None:
    assert predict(reduction="sum", label_smoothing=0.1).labels is None


@pytest.mark.parametrize(
    ("operation", "fields", "code"),
    [
        ("softmax", {"logits": [[1.0]] * 51}, "rows_too_many"),
        ("softmax", {"logits": np.zeros((51, 1))}, "rows_too_many"),
        ("softmax", {"logits": np.zeros((2, 51)), "axis": 0}, "rows_too_many"),
        ("softmax", {"logits": [[1.0] * 1001]}, "elements_too_many"),
        ("softmax", {"logits": np.zeros(1001)}, "elements_too_many"),
        ("softmax", {"logits": np.zeros((0, 1001))}, "elements_too_many"),
        ("predict", {"features": np.zeros((16, 64))}, "elements_too_many"),
    ],
)
def test_what_is_over_a_limit_is_refused(operation: Operation, fields: dict[str, Any], code: str) -> None:
    assert refused(operation, **fields)[0] == code


def test_few_features_that_become_too_many_rows_or_logits_are_refused() -> None:
    with pytest.raises(TooLarge, match="ROWS"):
        predict(head(num_features=1), features=np.zeros((51, 1)))
    with pytest.raises(TooLarge, match="ELEMENTS"):
        predict(head(num_features=1, num_classes=500), features=np.zeros((3, 1)))


def test_sparse_features_are_rows_of_the_head() -> None:
    parts = {"indptr": [0, 1, 1], "indices": [63], "data": [0.1], "num_features": 64}
    request = predict(features=parts, labels=[0, 1])
    assert isinstance(request.values, SparseRows)
    assert request.values.shape == (2, 64)
    assert request.values.data.tolist() == [np.float32(0.1)]
    assert request.axis == 1
    assert request.dtype == np.float32


def test_the_logits_of_sparse_features_are_bounded_though_their_zeros_are_not() -> None:
    parts = {"indptr": [0] * 41, "indices": [], "data": [], "num_features": 10**7}
    assert predict(head(num_features=10**7), features=parts).values.shape == (40, 10**7)
    with pytest.raises(TooLarge) as raised:
        predict(head(num_features=10**7, num_classes=LIMITS.elements // 40 + 1), features=parts)
    assert (raised.value.code, raised.value.offences[0].path) == ("elements_too_many", "features")


def test_the_contributions_of_sparse_features_are_bounded_too() -> None:
    parts = {"indptr": [0] * 41, "indices": [], "data": [], "num_features": 10**7}
    wide = head(num_features=10**7)
    asked: dict[str, Any] = {"features": parts, "top_contributions": LIMITS.elements // 40 + 1}
    assert predict(wide, **asked).top_contributions == 26
    with pytest.raises(TooLarge) as raised:
        predict(wide, **asked, outputs=["contributions"])
    assert (raised.value.code, raised.value.offences[0].path) == ("elements_too_many", "features")


KNOWN = {
    "digits": head(),
    "animals": head(model="animals", num_classes=3, class_names=("cat", "dog", "eel")),
    "exact": head(model="exact", dtype=np.dtype(np.float64)),
    "texts": head(model="texts", num_features=9),
}


def find(model: str | None, version: str | None) -> HeadInfo:
    if model not in KNOWN:
        raise NotFound("unknown_model", "expected one of digits", path="model")
    if version not in {None, "1"}:
        raise NotFound("unknown_version", "expected 1", path="version")
    return KNOWN[model]


def predict_each(*models: str, **fields: Any) -> tuple[ScoreRequest, ...]:
    given = {"features": FEATURES, "models": [*models], **fields}
    return assemble_each(given, limits=LIMITS, head_of=find)


def test_several_heads_are_asked_about_the_same_features_each_in_its_type() -> None:
    first, second, third = predict_each("digits", "exact", "animals", labels=[1, 2], top_k=2)
    assert [request.head for request in (first, second, third)] == [
        KNOWN["digits"],
        KNOWN["exact"],
        KNOWN["animals"],
    ]
    assert first.values is third.values
    assert [request.dense.dtype for request in (first, second)] == [FLOAT32, FLOAT64]
    assert third.class_names == ("cat", "dog", "eel")
    assert "predicted_names" in third.outputs
    assert "predicted_names" not in first.outputs
    assert first.labels is not None


def test_sparse_features_are_read_once_for_all_heads_of_a_type() -> None:
    parts = {"indptr": [0, 1], "indices": [3], "data": [0.1], "num_features": 64}
    first, second, third = predict_each("digits", "exact", "animals", features=parts)
    assert first.values is third.values
    assert isinstance(second.values, SparseRows)
    assert second.values.data.tolist() == [0.1]


@pytest.mark.parametrize(
    ("models", "fields", "code", "path"),
    [
        (("digits", "cats"), {}, "unknown_model", "models[1]"),
        (("digits", "animals"), {"version": "9"}, "unknown_version", "version"),
        (("digits", "animals", "texts"), {}, "features_shape", "models[2]"),
        (("digits", "digits"), {}, "unknown_option_value", "models[1]"),
        ((), {}, "unknown_option_value", "models"),
        (("digits", "animals"), {"features": [[0.0] * 9]}, "features_shape", "features"),
        (("digits", "animals"), {"labels": [0, 9]}, "label_out_of_range", "labels[1]"),
        (("digits", "animals"), {"top_k": 5}, "top_k_range", "top_k"),
        (("digits", "animals"), {"axis": 0, "labels": 99}, "axis_range", "axis"),
        (("digits", "animals"), {"fetures": 1}, "unknown_field", "fetures"),
    ],
)
def test_what_is_wrong_with_several_heads_is_said_with_its_place(
    models: tuple[str, ...], fields: dict[str, Any], code: str, path: str
) -> None:
    with pytest.raises(RequestError) as caught:
        predict_each(*models, **fields)
    assert (caught.value.code, caught.value.offences[0].path) == (code, path)


def test_the_logits_of_all_heads_together_are_bounded() -> None:
    rows = np.zeros((40, 9))
    wide = {"a": head(model="a", num_features=9, num_classes=20), "b": head(num_features=9, num_classes=20)}

    def ask(*models: str) -> tuple[ScoreRequest, ...]:
        fields = {"features": rows, "models": [*models]}
        return assemble_each(fields, limits=LIMITS, head_of=lambda name, _version: wide[str(name)])

    assert len(ask("a")) == 1
    with pytest.raises(TooLarge) as caught:
        ask("a", "b")
    assert (caught.value.code, caught.value.offences[0].path) == ("elements_too_many", "features")


def test_one_head_is_not_asked_as_several() -> None:
    assert refused("predict", features=FEATURES, models=["digits"]) == ("unknown_field", "models")
