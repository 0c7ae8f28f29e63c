"""head.json: what is read, what is refused and how, and the digest."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.errors import ModelError
from service.heads import description
from service.heads.description import (
    HeadDescription,
    TemperatureScaling,
    VectorScaling,
    digest_of,
    parse,
    schema,
)

FULL: dict[str, Any] = {
    "class_names": ["cat", "dog"],
    "input": "features",
    "output": "logits",
    "dtype": "float32",
    "calibration": None,
    "decision": None,
    "reference": None,
    "golden": {"features": [[1, 2.5, 3]], "logits": [[0.5, -1]]},
    "examples": {"features": [[0, 2.5, 3], [3, 0, 1]], "labels": [1, 0]},
    "image": {"height": 1, "width": 3, "largest": 3},
    "source": {"data": "made up", "licence": "none"},
    "metrics": {"accuracy": 0.5, "rows": 10},
    "digest": "0" * 64,
}


def text(**changes: Any) -> bytes:
    return json.dumps({**FULL, **changes}).encode()


def sparse(**changes: Any) -> dict[str, Any]:
    return {"indptr": [0, 1, 2], "indices": [0, 2], "data": [1, 2.5], "num_features": 3, **changes}


def test_a_full_description_is_read() -> None:
    read = parse(text())
    assert read.class_names == ("cat", "dog")
    assert (read.input, read.output, read.dtype) == ("features", "logits", "float32")
    assert read.golden is not None
    assert read.golden.features == ((1.0, 2.5, 3.0),)
    assert read.golden.logits == ((0.5, -1.0),)
    assert read.examples is not None
    assert read.examples.features == ((0.0, 2.5, 3.0), (3.0, 0.0, 1.0))
    assert read.examples.labels == (1, 0)
    assert read.image is not None
    assert (read.image.height, read.image.width, read.image.largest) == (1, 3, 3.0)
    assert read.source == FULL["source"]
    assert read.metrics == FULL["metrics"]
    assert read.digest == "0" * 64


def test_a_calibration_is_read_with_how_it_was_fitted() -> None:
    fitted = {"rows": 40, "loss_before": 0.5, "loss_after": 0.25, "at_bound": ["temperature"]}
    by_temperature = parse(
        text(calibration={"method": "temperature", "temperature": 2, "fitted": fitted})
    ).calibration
    assert isinstance(by_temperature, TemperatureScaling)
    assert by_temperature.temperature == 2.0
    assert by_temperature.fitted is not None
    assert (by_temperature.fitted.rows, by_temperature.fitted.held_out_rows) == (40, 0)
    by_vector = parse(text(calibration={"method": "vector", "scale": [1, -2.5], "bias": [0, 1]})).calibration
    assert isinstance(by_vector, VectorScaling)
    assert (by_vector.scale, by_vector.bias, by_vector.fitted) == ((1.0, -2.5), (0.0, 1.0), None)


def test_every_key_may_be_left_out() -> None:
    read = parse(b"{}")
    assert read == HeadDescription()
    assert read.model_dump(exclude={"source", "metrics"}) == dict.fromkeys(
        FULL.keys() - {"source", "metrics"}
    )
    assert read.source == {}
    assert read.metrics == {}


def test_a_description_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        parse(b"{}").input = "other"


REFUSED = {
    "no JSON": (b"{", "head.json: Invalid JSON"),
    "empty": (b"", "head.json: Invalid JSON"),
    "bytes that are no UTF-8": (b'{"input": "\xff"}', "head.json: Invalid JSON"),
    "half a character": (b'{"input": "\\ud800"}', "head.json: Invalid JSON"),
    "no object": (b"[]", "head.json: Input should be an object"),
    "an unknown key": (text(classes=["a"]), "head.json: classes: Extra inputs are not permitted"),
    "an unknown key of any length": (text(**{"x" * 5000: 1}), "head.json: xxxx"),
    "class_names of one string": (text(class_names="ab"), "head.json: class_names: "),
    "class_names with a number": (text(class_names=["a", 2]), "head.json: class_names[1]: "),
    "an empty class name": (text(class_names=["a", ""]), "head.json: class_names[1]: "),
    "no class names": (text(class_names=[]), "head.json: class_names: "),
    "a class name twice": (
        text(class_names=["a", "b", "a"]),
        "class_names: expected distinct names, got 'a' twice",
    ),
    "an unknown dtype": (text(dtype="float16"), "head.json: dtype: Input should be 'float32' or 'float64'"),
    "an input without a name": (text(input=""), "head.json: input: "),
    "a calibration without a method": (
        text(calibration={"temperature": 2}),
        "head.json: calibration: Unable to extract tag using discriminator 'method'",
    ),
    "an unknown calibration": (
        text(calibration={"method": "isotonic"}),
        "expected tags: 'temperature', 'vector'",
    ),
    "a temperature of 0": (
        text(calibration={"method": "temperature", "temperature": 0}),
        "temperature: Input should be greater than 0",
    ),
    "an infinite temperature": (
        text(calibration={"method": "temperature", "temperature": float("inf")}),
        "finite number",
    ),
    "a scale without a bias": (
        text(calibration={"method": "vector", "scale": [1, 2]}),
        "calibration.vector.bias: Field required",
    ),
    "a scale beyond all bounds": (
        text(calibration={"method": "vector", "scale": [1, 1e200], "bias": [0, 0]}),
        "calibration.vector.scale[1]: ",
    ),
    "a bias that is text": (
        text(calibration={"method": "vector", "scale": [1, 1], "bias": [0, "0"]}),
        "calibration.vector.bias[1]: ",
    ),
    "a calibration fitted to nothing": (
        text(
            calibration={
                "method": "temperature",
                "temperature": 2,
                "fitted": {"rows": 0, "loss_before": 1, "loss_after": 1},
            }
        ),
        "fitted.rows: ",
    ),
    "no decision": (text(decision=[]), "head.json: decision: Input should be an object"),
    "golden without logits": (text(golden={"features": [[1]]}), "head.json: golden.logits: Field required"),
    "golden without rows": (text(golden={"features": [], "logits": []}), "head.json: golden.features: "),
    "golden sparse that falls": (
        text(golden={"features": sparse(indptr=[0, 2, 1]), "logits": [[1]]}),
        "head.json: golden.features: expected indptr to rise from 0 to 2",
    ),
    "golden sparse that ends elsewhere": (
        text(golden={"features": sparse(indptr=[0, 1, 3]), "logits": [[1]]}),
        "head.json: golden.features: expected indptr to rise from 0 to 2, as many as indices",
    ),
    "golden sparse with too few numbers": (
        text(golden={"features": sparse(data=[1]), "logits": [[1]]}),
        "head.json: golden.features: expected 2 numbers of data, as many as indices, got 1",
    ),
    "golden sparse out of order": (
        text(golden={"features": sparse(indptr=[0, 2, 2], indices=[2, 1]), "logits": [[1]]}),
        "head.json: golden.features: expected ascending indices below 3 in each row",
    ),
    "golden sparse beyond the last": (
        text(golden={"features": sparse(indices=[0, 3]), "logits": [[1]]}),
        "head.json: golden.features: expected ascending indices below 3",
    ),
    "golden sparse without a part": (
        text(golden={"features": {"indptr": [0, 1]}, "logits": [[1]]}),
        "head.json: golden.features.indices: Field required",
    ),
    "golden with text": (
        text(golden={"features": [[1, 2], ["1", 2]], "logits": [[1]]}),
        "head.json: golden.features[1][0]: Input should be a valid number",
    ),
    "golden with null": (text(golden={"features": [[1, None]], "logits": [[1]]}), "golden.features[0][1]: "),
    "golden with NaN": (text(golden={"features": [[float("nan")]], "logits": [[1]]}), "finite number"),
    "golden beyond float64": (b'{"golden": {"features": [[1e999]], "logits": [[1]]}}', "finite number"),
    "examples without rows": (text(examples={"features": []}), "head.json: examples.features: "),
    "examples that are no rows": (
        text(examples={"features": [1, 2, 3]}),
        "head.json: examples.features[0]: ",
    ),
    "examples without features": (
        text(examples={"labels": [0]}),
        "head.json: examples.features: Field required",
    ),
    "an example too short": (
        text(examples={"features": [[1, 2, 3], [1, 2]]}),
        "head.json: examples: expected rows of one length, got 3 and, at 1, 2 numbers",
    ),
    "an example with null": (text(examples={"features": [[1, None]]}), "examples.features[0][1]: "),
    "a label too few": (
        text(examples={"features": [[1], [2]], "labels": [0]}),
        "head.json: examples: expected 2 labels, one a row, got 1",
    ),
    "a label below 0": (
        text(examples={"features": [[1]], "labels": [-1]}),
        "head.json: examples.labels[0]: ",
    ),
    "a label that is a name": (text(examples={"features": [[1]], "labels": ["cat"]}), "examples.labels[0]: "),
    "a label that is no class": (text(examples={"features": [[1]], "labels": [0.5]}), "examples.labels[0]: "),
    "an example darker than its image can be": (
        text(examples={"features": [[0, 0, 0], [0, 3.5, 0]]}),
        "head.json: examples.features[1]: expected numbers from 0 to image.largest, 3, got 3.5",
    ),
    "an example below the ground": (
        text(examples={"features": [[0, -0.5, 0]]}),
        "head.json: examples.features[0]: expected numbers from 0 to image.largest, 3, got -0.5",
    ),
    "an image without a width": (text(image={"height": 3, "largest": 1}), "head.json: image.width: "),
    "an image of no height": (
        text(image={"height": 0, "width": 3, "largest": 1}),
        "head.json: image.height: ",
    ),
    "an image of half a pixel": (
        text(image={"height": 1.5, "width": 2, "largest": 1}),
        "head.json: image.height: ",
    ),
    "an image of one grey": (
        text(image={"height": 1, "width": 3, "largest": 0}),
        "head.json: image.largest: Input should be greater than 0",
    ),
    "a metric that is text": (text(metrics={"accuracy": "high"}), "head.json: metrics.accuracy: "),
    "a source that is a number": (text(source={"year": 1998}), "head.json: source.year: "),
    "a digest in capitals": (text(digest="A" * 64), "head.json: digest: String should match"),
    "a digest too short": (text(digest="a" * 63), "head.json: digest: String should match"),
}


@pytest.mark.parametrize(("written", "said"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_told_with_its_place_in_one_line(written: bytes, said: str) -> None:
    with pytest.raises(ModelError) as raised:
        parse(written)
    told = str(raised.value)
    assert said in told
    assert told.startswith("head.json: ")
    assert "\n" not in told
    assert len(told) <= description.MAX_REASON


def reference(**changes: Any) -> dict[str, Any]:
    shares = {name: [0] * 19 + [5] for name in ("confidence", "margin", "entropy")}
    return {"rows": 5, "predicted": [2, 3], **shares, "energy": [0] * 65 + [5], **changes}


def test_a_reference_has_as_many_numbers_as_there_are_bins() -> None:
    read = parse(text(reference=reference())).reference
    assert read is not None
    assert (read.rows, read.predicted, read.energy[-1]) == (5, (2.0, 3.0), 5)
    for changes, place in (
        ({"confidence": [1] * 19}, "reference.confidence"),
        ({"energy": [1] * 67}, "reference.energy"),
        ({"margin": [-1] + [0] * 19}, r"reference.margin\[0\]"),
        ({"rows": 0}, "reference.rows"),
    ):
        with pytest.raises(ModelError, match=f"head.json: {place}: "):
            parse(text(reference=reference(**changes)))


def test_examples_are_bounded_in_rows_and_in_numbers() -> None:
    rows, numbers = description.MOST_EXAMPLE_ROWS, description.MOST_EXAMPLE_NUMBERS

    def examples(count: int, width: int) -> HeadDescription:
        return parse(json.dumps({"examples": {"features": [[0] * width] * count}}).encode())

    for count, width in ((rows, numbers // rows), (1, numbers)):
        read = examples(count, width).examples
        assert read is not None
        assert (len(read.features), len(read.features[0]), read.labels) == (count, width, None)
    with pytest.raises(ModelError, match=r"head\.json: examples\.features: .* at most 1000 items"):
        examples(rows + 1, 1)
    with pytest.raises(ModelError, match="examples: expected at most 262144 numbers, got 262146"):
        examples(2, numbers // 2 + 1)


def test_a_mistake_never_repeats_the_file_at_length() -> None:
    with pytest.raises(ModelError) as raised:
        parse(text(class_names=["x" * 5000, "x" * 5000]))
    assert len(str(raised.value)) < 150


def test_the_digest_is_what_an_outsider_computes() -> None:
    canonical = b'{"class_names":["a","\xc3\xa9"],"metrics":{"a":0.5,"b":1}}'
    written = '{ "metrics": {"b": 1, "a": 0.50}, "class_names": ["a", "\\u00e9"],\n "digest": "whatever" }'
    assert digest_of(b"model", written.encode()) == hashlib.sha256(b"model" + canonical).hexdigest()


def test_a_model_without_a_description_has_the_digest_of_an_empty_one() -> None:
    assert digest_of(b"model") == digest_of(b"model", b" { } ") == hashlib.sha256(b"model{}").hexdigest()


def test_the_digest_depends_on_the_model_and_on_every_key_but_itself() -> None:
    digest = digest_of(b"model", text())
    assert digest_of(b"Model", text()) != digest
    assert digest_of(b"model", text(digest="1" * 64)) == digest
    for key in FULL.keys() - {"digest"}:
        assert digest_of(b"model", text(**{key: "changed"})) != digest, key


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(described=st.dictionaries(st.text(), JSON_VALUES, max_size=4), indent=st.sampled_from([None, 1, 4]))
@settings(max_examples=40, deadline=None)
def test_the_digest_does_not_depend_on_white_space_or_the_order_of_keys(
    described: dict[str, Any], indent: int | None
) -> None:
    turned = dict(reversed(described.items()))
    same = json.dumps(turned, indent=indent, ensure_ascii=indent is None).encode()
    assert digest_of(b"model", same) == digest_of(b"model", json.dumps(described).encode())


def test_the_schema_in_the_package_is_that_of_the_model() -> None:
    kept = Path(description.__file__).with_name("head.schema.json").read_text(encoding="utf-8")
    assert kept == schema(), "write service.heads.description.schema() to service/heads/head.schema.json"


def test_the_schema_says_what_the_contract_lists_and_a_reference() -> None:
    described = json.loads(schema())
    assert set(described["properties"]) == set(FULL)
    assert described["additionalProperties"] is False
    (calibration, null) = described["properties"]["calibration"]["anyOf"]
    assert set(calibration["discriminator"]["mapping"]) == {"temperature", "vector"}
    assert null == {"type": "null"}
    assert all(written.get("description") for written in described["properties"].values())
