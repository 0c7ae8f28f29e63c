"""The bodies of MLflow and SageMaker: what each form says, what each fault is called, and what is answered."""

import io
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import NotFound, RequestError, UnsupportedMedia
from service.settings import Settings
from service.types import HeadInfo, ScoreResult
from service.wire import arrays, invocations, media
from service.wire.invocations import FORMS, READABLE, WRITABLE, Form, Invocation, form_of
from service.wire.limits import Limits
from service.wire.media import CSV, JSON, LINES, NPY, NPZ, RAW, X_LINES

LIMITS = Limits(body_bytes=1 << 20, rows=1000, elements=10_000, json_depth=16)
HEADS = {
    name: HeadInfo(name, "1", 2, 3, np.dtype(np.float32), ("a", "b", "c"), "0" * 64, "cpu")
    for name in ("cats", "dogs")
}
FEATURES = [[1, 2], [3, 4]]
SPLIT = {"columns": ["x", "y"], "index": [0, 1], "data": FEATURES}
RECORDS = [{"x": 1, "y": 2}, {"x": 3, "y": 4}]


def head_of(model: str | None, version: str | None) -> HeadInfo:
    if model not in HEADS:
        raise NotFound("unknown_model", "expected one of 'cats', 'dogs'", path="model")
    if version not in {None, "1"}:
        raise NotFound("unknown_version", "expected one of '1'", path="version")
    return HEADS[model]


def decode(
    body: object, content_type: str = "", target: str | None = "cats", limits: Limits = LIMITS, **query: str
) -> Invocation:
    return invocations.decode(
        body if isinstance(body, bytes) else orjson.dumps(body),
        form_of(content_type),
        query=list(query.items()),
        target=target,
        limits=limits,
        head_of=head_of,
    )


def refused(body: object, content_type: str = "", target: str | None = "cats") -> tuple[int, str, str]:
    with pytest.raises(RequestError) as caught:
        decode(body, content_type, target)
    assert 0 < len(caught.value.detail) < 400
    offences = caught.value.offences
    return caught.value.status, caught.value.code, offences[0].path if offences else ""


def npz(**members: Any) -> bytes:
    return arrays.write_npz({name: np.asarray(value) for name, value in members.items()})


LINE_BODY = b"[1,2]\n[3,4]\n"
BODIES: dict[str, tuple[object, str]] = {
    "split": ({"dataframe_split": SPLIT}, ""),
    "split without names": ({"dataframe_split": {"data": FEATURES}}, JSON),
    "records": ({"dataframe_records": RECORDS}, ""),
    "records in another order": ({"dataframe_records": [RECORDS[0], {"y": 4, "x": 3}]}, ""),
    "instances": ({"instances": FEATURES}, "application/json; charset=utf-8"),
    "instances as objects": ({"instances": [{"features": row} for row in FEATURES]}, ""),
    "inputs": ({"inputs": FEATURES}, ""),
    "inputs by name": ({"inputs": {"features": FEATURES}}, ""),
    "a bare list": (FEATURES, ""),
    "csv": (b"1,2\n3,4", CSV),
    "csv with names": (b"x,y\n1,2\n3,4", "text/csv; header=present"),
    "csv in utf-8": (b"1,2\n3,4", 'TEXT/CSV;charset="UTF-8";header=absent'),
    "lines": (LINE_BODY, LINES),
    "lines of objects": (b'{"features":[1,2]}\r\n{"features":[3,4]}', X_LINES),
    "npy": (arrays.write_npy(np.array(FEATURES)), NPY),
    "npz": (npz(features=FEATURES), NPZ),
}
COLUMN_FORMS = {"inputs", "inputs by name", "npy", "npz"}


@pytest.mark.parametrize("name", BODIES)
def test_every_form_says_the_same(name: str) -> None:
    asked = decode(*BODIES[name])
    request = asked.request
    np.testing.assert_array_equal(request.values, np.array(FEATURES, np.float32), strict=True)
    assert (request.operation, request.head, request.outputs) == (
        "predict",
        HEADS["cats"],
        ("probabilities",),
    )
    assert asked.by_rows == (name not in COLUMN_FORMS)


LONG = np.random.default_rng(0).standard_normal((100, 2))


@pytest.mark.parametrize("form", FORMS)
def test_long_bodies_say_the_same_as_short_ones(form: str) -> None:
    table: dict[str, Any] = {
        "dataframe_split": {"columns": ["x", "y"], "data": LONG.tolist()},
        "dataframe_records": [{"x": x, "y": y} for x, y in LONG.tolist()],
    }
    asked = decode(
        {form: table.get(form, LONG.tolist()), "params": {"temperature": 2, "outputs": ["logits"]}}
    )
    np.testing.assert_array_equal(asked.request.values, LONG.astype(np.float32), strict=True)
    assert (asked.request.temperature, asked.request.outputs) == (2, ("logits",))


@pytest.mark.parametrize("form", FORMS)
def test_the_form_may_come_after_any_params(form: str) -> None:
    table: dict[str, Any] = {
        "dataframe_split": {"columns": ["x", "y"], "data": LONG.tolist()},
        "dataframe_records": [{"x": x, "y": y} for x, y in LONG.tolist()],
    }
    params = {"class_names": ["a" * invocations.HINT_BYTES, "b", "c"]}
    asked = decode({"params": params, form: table.get(form, LONG.tolist())})
    np.testing.assert_array_equal(asked.request.values, LONG.astype(np.float32), strict=True)


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        ("", Form(JSON)),
        ("application/json", Form(JSON)),
        (" Application/JSON ; Charset=UTF-8;", Form(JSON)),
        ("text/csv", Form(CSV)),
        ("text/csv;header=present", Form(CSV, header=True)),
        ("text/csv; charset=utf-8; header=absent", Form(CSV, header=False)),
        (f"{RAW};json-header-size=17", Form(RAW, json_length="17")),
        (f"{RAW}; json-header-size=x", Form(RAW, json_length="x")),
        *((media_type, Form(media_type)) for media_type in (LINES, X_LINES, NPY, NPZ)),
    ],
)
def test_a_content_type_says_the_form(content_type: str, form: Form) -> None:
    assert form_of(content_type) == form


@pytest.mark.parametrize(
    ("content_type", "words"),
    [
        ("text/plain", "text/csv"),
        ("application/octet-stream", "application/x-npy"),
        ("application/x-www-form-urlencoded", "-H 'Content-Type: application/json'"),
        ("application/json; charset=latin-1", "charset=utf-8"),
        ("text/csv; charset=utf-16", "charset=utf-8"),
        ("text/csv; header=maybe", "header=present or absent"),
        ("text/csv; label_size=0", "header=present or absent"),
        ("application/json; header=present", "charset=utf-8"),
        ("application/json; json-header-size=3", "charset=utf-8"),
        (RAW, "json-header-size"),
        ("x" * 10_000, "expected Content-Type"),
    ],
)
def test_what_is_not_read_is_unsupported(content_type: str, words: str) -> None:
    with pytest.raises(UnsupportedMedia, match=words) as caught:
        form_of(content_type)
    assert len(caught.value.detail) < 350


@pytest.mark.parametrize(
    ("params", "outputs"),
    [
        ({}, ("probabilities",)),
        ({"outputs": ["classes", "predicted_names"]}, ("classes", "predicted_names")),
        ({"top_k": 2}, ("probabilities", "top_classes", "top_probabilities")),
        ({"top_k": 2, "outputs": ["top_names"]}, ("top_names",)),
    ],
)
def test_params_choose_what_is_answered(params: dict[str, Any], outputs: tuple[str, ...]) -> None:
    assert decode({"inputs": FEATURES, "params": params}).request.outputs == outputs


def test_labels_add_losses() -> None:
    rows = [{"features": row, "labels": 1} for row in FEATURES]
    for body, kind in ((({"instances": rows}), ""), (npz(features=FEATURES, labels=[1, 1]), NPZ)):
        request = decode(body, kind).request
        assert request.outputs == ("probabilities", "losses")
        assert request.labels is not None
        assert request.labels.values.tolist() == [1, 1]


@pytest.mark.parametrize("content_type", [CSV, LINES, NPY, NPZ])
def test_a_body_without_params_has_its_options_in_the_query(content_type: str) -> None:
    body = next(body for body, kind in BODIES.values() if kind.startswith(content_type))
    request = decode(
        body, content_type, None, temperature="2", outputs="classes,logits", model="dogs"
    ).request
    assert (request.temperature, request.outputs, request.head) == (2, ("classes", "logits"), HEADS["dogs"])


def test_the_head_is_named_by_params_else_by_the_header() -> None:
    for params, target, name in (
        ({"model": "dogs"}, None, "dogs"),
        ({"model": "dogs", "version": "1"}, "cats", "dogs"),
        ({}, "dogs", "dogs"),
    ):
        assert decode({"inputs": FEATURES, "params": params}, "", target).request.head == HEADS[name]
    assert refused({"inputs": FEATURES}, "", None) == (422, "missing_field", "params.model")
    assert refused({"inputs": FEATURES}, "", "mice") == (404, "unknown_model", "model")
    assert refused({"inputs": FEATURES, "params": {"version": "2"}}) == (404, "unknown_version", "version")
    assert refused({"inputs": FEATURES, "params": {"model": 7}}) == (422, "option_type", "model")


def test_one_head_needs_no_name() -> None:
    form, body = form_of(""), orjson.dumps(FEATURES)
    found = invocations.decode(
        body, form, query=(), target=None, limits=LIMITS, head_of=lambda *_names: HEADS["cats"]
    )
    assert found.request.head == HEADS["cats"]


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        (b"", "malformed_json", ""),
        (b"{", "malformed_json", ""),
        (b'[[1,2]],"params":{}', "malformed_json", ""),
        (b"[[1,2]]}", "malformed_json", ""),
        (b'{"inputs": [[1, NaN]]}', "malformed_json", ""),
        (b'{"inputs": [[1, 2]], "inputs": [[3, 4]]}', "malformed_json", ""),
        (b'{"dataframe_split": {"data": [[1, 2]], "data": [[1, 2]]}}', "malformed_json", ""),
        (b'{"dataframe_records": [{"x": 1, "x": 2}]}', "malformed_json", ""),
        ("rows", "body_type", ""),
        ({}, "missing_field", ""),
        ({"instances": None}, "missing_field", ""),
        ({"params": {}}, "missing_field", ""),
        ({"instances": FEATURES, "inputs": FEATURES}, "unknown_field", ""),
        ({"inputs": FEATURES, "dataframe_split": SPLIT}, "unknown_field", ""),
        ({"inputs": FEATURES, "signature_name": "serving_default"}, "unknown_field", "signature_name"),
        ({"inputs": FEATURES, "parameters": {}}, "unknown_field", "parameters"),
        ({"messages": []}, "unknown_field", "messages"),
        ({"inputs": FEATURES, "params": []}, "option_type", "params"),
        ({"inputs": FEATURES, "params": {"temprature": 1}}, "unknown_field", "params.temprature"),
        ({"inputs": FEATURES, "params": {"temperature": 0}}, "temperature_range", "temperature"),
        ({"inputs": FEATURES, "params": {"outputs": ["odds"]}}, "unknown_output", "outputs[0]"),
        ({"inputs": FEATURES, "params": {"outputs": ["loss"]}}, "missing_field", "labels"),
        ({"inputs": [[1, 2, 3]]}, "features_shape", "features"),
        ({"inputs": [[1, "x"]]}, "features_type", "features[0][1]"),
        ({"instances": [1, 2]}, "option_type", "instances[0]"),
        ({"instances": []}, "option_type", "instances"),
        ({"instances": [{"x": 1}]}, "unknown_field", "instances[0].x"),
        ([], "option_type", "instances"),
        ([1, 2], "option_type", "instances[0]"),
        ([[1, 2], [3]], "ragged", "features[1]"),
        ({"dataframe_split": FEATURES}, "option_type", "dataframe_split"),
        ({"dataframe_split": {}}, "option_type", "dataframe_split.data"),
        ({"dataframe_split": {"data": []}}, "option_type", "dataframe_split.data"),
        ({"dataframe_split": {"data": 7}}, "option_type", "dataframe_split.data"),
        ({"dataframe_split": {"data": [1, 2]}}, "option_type", "dataframe_split.data[0]"),
        ({"dataframe_split": {"data": [[1, 2], 3]}}, "option_type", "dataframe_split.data[1]"),
        ({"dataframe_split": {"data": [[[1, 2]]]}}, "features_type", "dataframe_split.data[0]"),
        ({"dataframe_split": {"data": [[1, 2], [3]]}}, "ragged", "features[1]"),
        ({"dataframe_split": {"data": [[1, None]]}}, "features_type", "features[0][1]"),
        ({"dataframe_split": {"rows": FEATURES}}, "unknown_field", "dataframe_split.rows"),
        ({"dataframe_split": {**SPLIT, "columns": ["x"]}}, "features_shape", "dataframe_split.columns"),
        ({"dataframe_split": {**SPLIT, "columns": "xy"}}, "features_shape", "dataframe_split.columns"),
        ({"dataframe_split": {**SPLIT, "index": [0]}}, "features_shape", "dataframe_split.index"),
        ({"dataframe_records": RECORDS[0]}, "option_type", "dataframe_records"),
        ({"dataframe_records": []}, "option_type", "dataframe_records"),
        ({"dataframe_records": FEATURES}, "option_type", "dataframe_records[0]"),
        ({"dataframe_records": [*RECORDS, {"x": 1}]}, "ragged", "dataframe_records[2]"),
        ({"dataframe_records": [*RECORDS, {"x": 1, "z": 1}]}, "ragged", "dataframe_records[2]"),
        ({"dataframe_records": [{"x": [1, 2]}]}, "features_type", "dataframe_records[0]"),
        ({"dataframe_records": [{"x": 1, "y": "2"}]}, "features_type", "features[0][1]"),
        ({"dataframe_records": [{"x": 1}]}, "features_shape", "features"),
        ({"dataframe_records": [{}]}, "features_shape", "features"),
    ],
)  # fmt: skip
def test_a_mistake_in_json_has_its_code_and_place(body: object, code: str, path: str) -> None:
    status, found, place = refused(body)
    assert (found, place) == (code, path)
    assert status == (400 if code == "malformed_json" else 422)


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (b"", CSV, "malformed_csv"),
        (b"1,x", "text/csv; header=absent", "features_type"),
        (b"1,2,3", CSV, "features_shape"),
        (b"1,2\n3", CSV, "ragged"),
        (b"", LINES, "malformed_json"),
        (b"[1,2]\n\n[3,4]", LINES, "malformed_json"),
        (b"[1,2] [3,4]", LINES, "malformed_json"),
        (b"[1,2],[3,4]", LINES, "malformed_json"),
        (b"[1,2],[3,4]\n[5,6]", LINES, "malformed_json"),
        (b"[1\n,2]", LINES, "malformed_json"),
        (b"[[1,2]\n[3,4]]", LINES, "malformed_json"),
        (b"[[1,2]]\n[[3,4]]", LINES, "features_type"),
        (b"[[1,2],[[3,4]]\n[[5,6]]]", LINES, "malformed_json"),
        (b'{"features":[1,2]\n"labels":0}', LINES, "malformed_json"),
        (b'{"features":[1,2]}\n[3,4]', LINES, "ragged"),
        (b'{"rows":[1,2]}', LINES, "unknown_field"),
        (b'"features"', LINES, "malformed_json"),
        (b"1", LINES, "malformed_json"),
        (b"1,2", NPY, "malformed_npy"),
        (b"PK", NPZ, "malformed_npz"),
        (npz(rows=FEATURES), NPZ, "unknown_field"),
        (npz(features=FEATURES, model="cats"), NPZ, "option_type"),
    ],
)
def test_a_mistake_in_another_form_has_its_code(body: bytes, content_type: str, code: str) -> None:
    assert refused(body, content_type)[1] == code


@pytest.mark.parametrize("save", [np.save, np.savez])
def test_nothing_is_unpickled(save: Any) -> None:
    file = io.BytesIO()
    save(file, np.array([{"a": 1}, None], object), allow_pickle=True)
    content_type = NPY if save is np.save else NPZ
    status, code, _ = refused(file.getvalue(), content_type)
    assert (status, code) == (400, f"malformed_{content_type[-3:]}")


def test_options_stand_in_one_place() -> None:
    with pytest.raises(RequestError, match=r"expected the options of a JSON request at params"):
        decode({"inputs": FEATURES}, temperature="2")
    with pytest.raises(RequestError, match="in the body or in the query, got both"):
        decode(npz(features=FEATURES, temperature=2.0), NPZ, temperature="2")


def test_limits_hold_for_every_form() -> None:
    few = Limits(1 << 20, rows=1, elements=10_000, json_depth=16)
    for body, content_type in BODIES.values():
        with pytest.raises(RequestError) as caught:
            decode(body, content_type, limits=few)
        assert (caught.value.status, caught.value.code) == (413, "rows_too_many")


def test_what_no_row_has_is_refused_by_rows_only() -> None:
    weights = {"features": FEATURES, "labels": [0, 1]}
    params = {"outputs": ["loss"]}
    assert decode({"inputs": weights, "params": params}).request.outputs == ("loss",)
    rows = [{"features": row, "labels": 0} for row in FEATURES]
    assert refused({"instances": rows, "params": params})[1] == "unknown_output"


TENSOR = {"name": "features", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}


@pytest.mark.parametrize(
    ("said", "is_v2"),
    [
        ({"inputs": [TENSOR]}, True),
        ({"id": "7", "inputs": [{"name": "features", "datatype": 3}]}, True),
        ({"inputs": FEATURES, "params": {"model": "datatype"}}, False),
        ({"inputs": {"datatype": [1]}}, False),
        ({"dataframe_records": [{"datatype": 1}]}, False),
        ({"dataframe_split": {"columns": ["datatype"], "data": [[1]]}}, False),
        ({"instances": [TENSOR]}, False),
        ({"inputs": []}, False),
        ([["datatype"]], False),
    ],
)
def test_a_request_of_v2_is_known_by_its_inputs(said: object, is_v2: bool) -> None:  # noqa: FBT001
    assert invocations.is_v2(orjson.dumps(said), LIMITS) == is_v2


PROBABILITIES = np.array([[0.25, 0.75], [1, 0]], np.float32)
CLASSES = np.array([1, 0])
NAMES = ["cat", "dog, big"]


def answered(media_type: str, *, by_rows: bool = True, **outputs: Any) -> bytes:
    asked = decode({"instances": FEATURES} if by_rows else {"inputs": FEATURES})
    return invocations.encode(asked, ScoreResult(outputs, 2), media_type)


@pytest.mark.parametrize(
    ("media_type", "outputs", "text"),
    [
        (JSON, {"probabilities": PROBABILITIES}, '{"predictions":[[0.25,0.75],[1.0,0.0]]}'),
        (JSON, {"predicted_names": NAMES}, '{"predictions":["cat","dog, big"]}'),
        (
            JSON,
            {"classes": CLASSES, "predicted_names": NAMES},
            '{"predictions":[{"classes":1,"predicted_names":"cat"},{"classes":0,"predicted_names":"dog, big"}]}',
        ),
        (JSON, {"losses": np.array([np.inf, 1])}, '{"predictions":["Infinity",1.0]}'),
        (CSV, {"probabilities": PROBABILITIES, "classes": CLASSES}, "0.25,0.75\n1.0,0.0\n"),
        (CSV, {"classes": CLASSES}, "1\n0\n"),
        (CSV, {"predicted_names": NAMES}, 'cat\n"dog, big"\n'),
        (LINES, {"probabilities": PROBABILITIES}, "[0.25,0.75]\n[1.0,0.0]\n"),
        (LINES, {"log_probabilities": np.array([[-np.inf, 0]])}, '["-Infinity",0.0]\n'),
        (X_LINES, {"classes": CLASSES}, "1\n0\n"),
        (
            LINES,
            {"probabilities": PROBABILITIES, "predicted_names": NAMES},
            (
                '{"probabilities":[0.25,0.75],"predicted_names":"cat"}\n'
                '{"probabilities":[1.0,0.0],"predicted_names":"dog, big"}\n'
            ),
        ),
    ],
)
def test_an_answer_by_rows(media_type: str, outputs: dict[str, Any], text: str) -> None:
    assert answered(media_type, **outputs).decode() == text


@pytest.mark.parametrize(
    ("media_type", "outputs", "text"),
    [
        (JSON, {"probabilities": PROBABILITIES}, '{"predictions":[[0.25,0.75],[1.0,0.0]]}'),
        (JSON, {"loss": np.float32(0.5)}, '{"predictions":0.5}'),
        (JSON, {"loss": None}, '{"predictions":null}'),
        (
            JSON,
            {"loss": np.array(0.5), "classes": CLASSES},
            '{"predictions":{"loss":0.5,"classes":[1,0]}}',
        ),
        (LINES, {"loss": np.array(0.5), "classes": CLASSES}, '{"loss":0.5,"classes":[1,0]}\n'),
        (LINES, {"loss": np.array(0.5)}, "0.5\n"),
        (LINES, {"probabilities": PROBABILITIES}, "[0.25,0.75]\n[1.0,0.0]\n"),
        (CSV, {"loss": np.array(0.5)}, "0.5\n"),
        (CSV, {"loss": None}, "\n"),
    ],
)
def test_an_answer_as_a_whole(media_type: str, outputs: dict[str, Any], text: str) -> None:
    assert answered(media_type, by_rows=False, **outputs).decode() == text


def test_an_answer_in_arrays() -> None:
    found = arrays.read_npz(
        answered(NPZ, probabilities=PROBABILITIES, predicted_names=NAMES, loss=None), LIMITS
    )
    assert list(found) == ["probabilities", "predicted_names"]
    np.testing.assert_array_equal(found["probabilities"], PROBABILITIES, strict=True)
    assert found["predicted_names"].tolist() == NAMES
    first = arrays.read_npy(answered(NPY, probabilities=PROBABILITIES, classes=CLASSES), LIMITS, path="")
    np.testing.assert_array_equal(first, PROBABILITIES, strict=True)
    assert arrays.read_npy(answered(NPY, loss=None), LIMITS, path="").shape == (0,)


def test_whoever_takes_any_gets_what_the_setting_says() -> None:
    for media_type in WRITABLE:
        assert Settings.model_validate({"invocations_accept": media_type}).invocations_accept == media_type
        types = invocations.writable(media_type)
        assert sorted(types) == sorted(WRITABLE)
        assert media.accepted("*/*", types) == media.accepted(None, types) == media_type
        assert media.accepted(NPZ, types) == NPZ
    assert set(WRITABLE) < set(READABLE)


@given(st.binary(max_size=50), st.sampled_from(WRITABLE))
def test_any_bytes_in_any_form_are_read_or_refused(body: bytes, media_type: str) -> None:
    try:
        decode(body, media_type)
    except RequestError as error:
        assert error.status in {400, 404, 413, 422}  # noqa: PT017 - either outcome is right


@given(
    st.lists(
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=2),
        min_size=1,
        max_size=30,
    )
)
def test_csv_and_json_round_alike(rows: list[list[float]]) -> None:
    def values(body: object, content_type: str = "") -> NDArray[Any]:
        return decode(body, content_type).request.dense

    expected = values({"instances": rows})
    text = "\n".join(",".join(map(repr, row)) for row in rows).encode()
    np.testing.assert_array_equal(values(text, CSV), expected, strict=True)
    quoted = "\n".join(",".join(f'"{number!r}"' for number in row) for row in rows).encode()
    np.testing.assert_array_equal(values(quoted, CSV), expected, strict=True)
    lines = b"\n".join(map(orjson.dumps, rows))
    np.testing.assert_array_equal(values(lines, LINES), expected, strict=True)
    table = {"dataframe_split": {"data": rows}}
    np.testing.assert_array_equal(values(table), expected, strict=True)
