"""The table of fields, and the options among them."""

from typing import Any, get_args

import numpy as np
import pytest

from service.errors import Invalid
from service.types import Operation, Reduction
from service.wire.options import FIELDS, Options, check_names, parse_query, read_options, unknown_name

OPERATIONS = get_args(Operation)


def refused(operation: Operation, **fields: Any) -> tuple[str, str]:
    with pytest.raises(Invalid) as caught:
        read_options(operation, fields)
    assert len(caught.value.message) < 200
    return caught.value.code, caught.value.offences[0].path


def refused_names(
    operation: Operation, *names: str, named: tuple[str, str | None] | None = None
) -> tuple[str, str]:
    with pytest.raises(Invalid) as caught:
        check_names(operation, names, named)
    return caught.value.code, caught.value.offences[0].path


@pytest.mark.parametrize("operation", OPERATIONS)
def test_nothing_said_means_the_defaults(operation: Operation) -> None:
    assert read_options(operation, {}) == Options()


def test_every_option_is_read() -> None:
    said = {
        "axis": -1,
        "dtype": "float32",
        "top_k": 3,
        "class_names": ["a", "b"],
        "outputs": ["loss"],
        "label_format": "index",
        "reduction": "sum",
        "label_smoothing": 0.1,
        "ignore_index": -100,
        "broadcast_labels": True,
        "validate_labels": True,
        "non_finite": "string",
        "model": "digits",
        "version": "1",
        "calibration": "none",
        "top_contributions": 5,
    }
    options = read_options("predict", {**said, "features": object(), "labels": object()})
    for name, value in said.items():
        assert getattr(options, name) == (tuple(value) if isinstance(value, list) else value)


def test_a_temperature_stands_in_place_of_the_heads_calibration() -> None:
    assert read_options("predict", {"calibration": "model"}) == Options(calibration="model")
    for said in ({"temperature": 2}, {"temperature": 2, "calibration": "model"}):
        options = read_options("predict", said)
        assert isinstance(options.temperature, float)
        assert options == Options(temperature=2.0, calibration="none")
    assert read_options("predict", {"temperature": 1}).calibration == "none"


def test_the_table_has_every_option_and_no_other() -> None:
    tensors = {"logits", "features", "labels", "class_weight", "sample_weight", "row_ids"}  # read elsewhere
    assert set(FIELDS["predict"]) | {"logits"} == {*Options.__dataclass_fields__, *tensors}
    assert set(FIELDS["softmax"]) < set(FIELDS["loss"])
    assert "features" not in FIELDS["loss"]
    assert "logits" not in FIELDS["predict"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("axis", 1.0),
        ("axis", "0"),
        ("axis", True),
        ("axis", None),
        ("axis", [0]),
        ("axis", 2**63),
        ("dtype", 32),
        ("dtype", None),
        ("temperature", "2"),
        ("temperature", True),
        ("temperature", None),
        ("temperature", np.float64(2)),
        ("top_k", 1.5),
        ("top_k", True),
        ("top_k", -(2**63) - 1),
        ("class_names", "a,b"),
        ("class_names", ["a", 1]),
        ("class_names", [["a"]]),
        ("class_names", {"a": 1}),
        ("class_names", np.zeros(2)),
        ("class_names", np.array([["a"]])),
        ("class_names", np.array("a")),
        ("outputs", "classes"),
        ("outputs", [None]),
        ("label_format", 1),
        ("reduction", None),
        ("label_smoothing", "0.1"),
        ("ignore_index", 1.0),
        ("ignore_index", "a"),
        ("broadcast_labels", 1),
        ("broadcast_labels", "true"),
        ("validate_labels", None),
        ("non_finite", False),
        ("class_weight", "1,2"),
        ("class_weight", None),
        ("class_weight", {"0": 1}),
        ("class_weight", True),
        ("sample_weight", "x" * 10_000),
        ("model", 1),
        ("version", 1),
        ("top_contributions", 1.0),
        ("top_contributions", np.zeros(())),
    ],
)
def test_an_option_of_another_type_is_refused(name: str, value: Any) -> None:
    assert refused("predict", **{name: value}) == ("option_type", name)


@pytest.mark.parametrize("value", [[1, 2], 3, 2.5, np.ones(3)])
def test_weights_are_left_to_the_reader_of_weights(value: Any) -> None:
    assert read_options("loss", {"class_weight": value, "sample_weight": value}) == Options()


def test_class_names_may_be_an_array_of_text() -> None:
    assert read_options("softmax", {"class_names": np.array(["a", "bc"])}).class_names == ("a", "bc")


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("dtype", "float16", "unknown_option_value"),
        ("dtype", "", "unknown_option_value"),
        ("dtype", "f" * 10_000, "unknown_option_value"),
        ("label_format", "sparse", "unknown_option_value"),
        ("non_finite", "null", "unknown_option_value"),
        ("calibration", "temperature", "unknown_option_value"),
        ("top_contributions", 0, "unknown_option_value"),
        ("top_contributions", -1, "unknown_option_value"),
        ("reduction", "median", "unknown_reduction"),
        ("temperature", 0, "temperature_range"),
        ("temperature", -1.5, "temperature_range"),
        ("temperature", float("inf"), "temperature_range"),
        ("temperature", float("nan"), "temperature_range"),
        ("label_smoothing", -0.1, "label_smoothing_range"),
        ("label_smoothing", 1.5, "label_smoothing_range"),
        ("label_smoothing", float("nan"), "label_smoothing_range"),
        ("axis", 0, "axis_range"),
        ("models", [], "unknown_option_value"),
    ],
)
def test_an_option_of_another_value_is_refused(name: str, value: Any, code: str) -> None:
    assert refused("predict", **{name: value}) == (code, name)


def test_the_class_axis_is_free_without_a_head() -> None:
    assert read_options("softmax", {"axis": 7}).axis == 7  # its range is the logits' to say


@pytest.mark.parametrize("reduction", get_args(Reduction))
def test_every_reduction_is_known(reduction: Reduction) -> None:
    assert read_options("loss", {"reduction": reduction}).reduction == reduction


def test_ignore_index_needs_index_labels() -> None:
    said = {"label_format": "dense", "ignore_index": 0}
    assert refused("loss", **said) == ("ignore_index_with_dense", "ignore_index")
    assert read_options("loss", said | {"label_format": "auto"}).ignore_index == 0


def test_types_come_before_values() -> None:
    assert refused("softmax", dtype="float16", axis="x") == ("option_type", "axis")
    assert refused("loss", temperature=0, class_weight="x") == ("option_type", "class_weight")


def test_names_are_checked_unknown_before_missing() -> None:
    check_names("softmax", ["logits"])
    check_names("loss", ["labels", "logits", "sample_weight"])
    check_names("predict", ["features"])
    assert refused_names("softmax", "logit") == ("unknown_field", "logit")
    assert refused_names("softmax", "logits", "labels") == ("unknown_field", "labels")
    assert refused_names("softmax") == ("missing_field", "logits")
    assert refused_names("loss") == ("missing_field", "logits")
    assert refused_names("loss", "logits") == ("missing_field", "labels")
    assert refused_names("predict", "labels") == ("missing_field", "features")


@pytest.mark.parametrize("name", ["row_id", "decisions", "x" * 10_000, "Logits"])
def test_what_is_no_field_is_refused_briefly(name: str) -> None:
    code, path = refused_names("predict", "features", name)
    assert code == "unknown_field"
    assert path == name[:40]


def test_a_field_without_a_name_is_refused() -> None:
    with pytest.raises(Invalid, match="got ''") as caught:
        check_names("softmax", ["logits", ""])
    assert caught.value.code == "unknown_field"


def test_an_unknown_name_gets_the_known_ones_and_a_guess() -> None:
    message = unknown_name("temprature", tuple(FIELDS["softmax"]))
    assert "did you mean 'temperature'?" in message
    assert "class_names" in message
    assert "did you mean" not in unknown_name("zzz", ("logits", "axis"))
    assert len(unknown_name("x" * 10_000, ("logits",))) < 100


def test_what_the_path_says_may_not_be_said_again() -> None:
    check_names("predict", ["features", "version"], ("digits", None))
    assert refused_names("predict", "features", "model", named=("digits", None)) == ("unknown_field", "model")
    assert refused_names("predict", "features", "version", named=("digits", "1")) == (
        "unknown_field",
        "version",
    )


def test_a_query_string_says_every_kind_of_option() -> None:
    query = [
        ("axis", "-2"),
        ("temperature", "1e-3"),
        ("broadcast_labels", "true"),
        ("validate_labels", "false"),
        ("dtype", "float32"),
        ("outputs", "loss,losses"),
        ("outputs", "count"),
        ("class_names", "a,b c,"),
    ]
    assert parse_query("loss", query) == {
        "axis": -2,
        "temperature": 0.001,
        "broadcast_labels": True,
        "validate_labels": False,
        "dtype": "float32",
        "outputs": ["loss", "losses", "count"],
        "class_names": ["a", "b c", ""],
    }


@pytest.mark.parametrize(
    "query",
    [
        [("axis", "1.0")],
        [("axis", "")],
        [("axis", "-")],
        [("axis", "--1")],
        [("axis", "0x1")],
        [("axis", "9" * 5000)],
        [("axis", "1"), ("axis", "1")],
        [("temperature", "warm")],
        [("temperature", "")],
        [("temperature", "1"), ("temperature", "2")],
        [("broadcast_labels", "yes")],
        [("broadcast_labels", "True")],
        [("broadcast_labels", "")],
        [("dtype", "float32"), ("dtype", "float64")],
        [("labels", "1,2")],
        [("logits", "1,2")],
        [("class_weight", "1,2")],
    ],
)
def test_a_query_string_that_says_no_such_value_is_refused(query: list[tuple[str, str]]) -> None:
    with pytest.raises(Invalid) as caught:
        parse_query("loss", query)
    assert caught.value.code == "option_type"
    assert caught.value.offences[0].path == query[0][0]
    assert len(caught.value.message) < 100


def test_a_decision_in_a_query_string_is_json() -> None:
    said = parse_query("predict", [("decision", '{"mask": ["cat"], "abstain": {"below": 0.5}}')])
    assert said == {"decision": {"mask": ["cat"], "abstain": {"below": 0.5}}}
    for text in ("mask", "", "{", "[" * 5000, "\ud800"):
        with pytest.raises(Invalid, match="expected an object") as caught:
            parse_query("predict", [("decision", text)])
        assert caught.value.code == "option_type"
    assert refused("predict", **parse_query("predict", [("decision", "[1]")])) == ("option_type", "decision")


def test_unknown_names_in_a_query_string_are_left_for_the_check_of_names() -> None:
    assert list(parse_query("softmax", [("temprature", "2")])) == ["temprature"]


def test_an_integer_of_20_digits_is_refused_as_no_integer_of_64_bits() -> None:
    said = parse_query("softmax", [("axis", "99999999999999999999")])
    assert refused("softmax", **said) == ("option_type", "axis")


def test_several_models_are_named_once_each_and_beside_no_other() -> None:
    assert read_options("predict", {"models": ["a", "b"]}).models == ("a", "b")
    assert refused("predict", models=["a", "b", "a"]) == ("unknown_option_value", "models[2]")
    assert refused("predict", models=["a"], model="b") == ("unknown_field", "model")
    assert refused("predict", models="a") == ("option_type", "models")
    assert refused("predict", models=["a", 1]) == ("option_type", "models")
    assert refused_names("predict", "features", "models", named=("a", None)) == ("unknown_field", "models")
    assert refused_names("loss", "logits", "labels", "models") == ("unknown_field", "models")
