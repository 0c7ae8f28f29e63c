"""MLflow's scoring server and SageMaker's containers, which share a route: a body in one of many forms.

How rows and tensors stand in JSON is known to `instances`, in CSV to `csv_rows`, and what they and the options
mean to `fields`. Both platforms read Content-Type and Accept, so what these say is known here, and no more of HTTP.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from service.errors import Invalid, Malformed, NotFound, UnsupportedMedia
from service.types import HeadInfo, Output, ScoreRequest, ScoreResult
from service.wire import arrays, csv_rows, instances, json_writer, media
from service.wire.fields import HeadOf, assemble
from service.wire.instances import COLUMNS, ROWS, Fields, Inputs
from service.wire.json_reader import count_byte, name_of, read_object
from service.wire.limits import Limits, check_rows
from service.wire.media import CSV, FORM, JSON, LINES, NPY, NPZ, RAW, X_LINES
from service.wire.options import parse_query, unknown_name

RAW_LENGTH = "json-header-size"

READABLE = (JSON, CSV, LINES, X_LINES, NPY, NPZ, RAW)
WRITABLE = (JSON, CSV, LINES, X_LINES, NPY, NPZ)

_SPLIT, _RECORDS = "dataframe_split", "dataframe_records"
FORMS = (_SPLIT, _RECORDS, ROWS, COLUMNS)
PARAMS = "params"
# Where each form has its numbers, if they stand together.
_TENSORS = {_SPLIT: f"{_SPLIT}.data", _RECORDS: None, ROWS: ROWS, COLUMNS: COLUMNS}

# So far a body is looked at for its form, before it is read: the key comes before the numbers.
HINT_BYTES = 256

_HEADERS = {"present": True, "absent": False}


class Form(NamedTuple):
    """What a Content-Type says; `header` is CSV's, and `json_length` that of the JSON before raw tensors."""

    media_type: str
    header: bool | None = None
    json_length: str | None = None


class Invocation(NamedTuple):
    """What to score, and whether it came row by row."""

    request: ScoreRequest
    by_rows: bool


@lru_cache(media.CACHED_HEADERS)
def form_of(content_type: str) -> Form:
    """Read a Content-Type; none counts as JSON.

    Raises
    ------
    UnsupportedMedia
        Also for a charset other than UTF-8, and for a parameter that the type does not have.
    """
    name, *parameters = [part.strip() for part in content_type.split(";")]
    media_type = name.lower() or JSON
    if media_type not in READABLE:
        hint = f"; with curl, add -H 'Content-Type: {JSON}'" if media_type == FORM else ""
        message = f"expected Content-Type {', '.join(READABLE)}; got {media_type[:40]!r}{hint}"
        raise UnsupportedMedia("unsupported_media_type", message)
    header, json_length = None, None
    for parameter in filter(None, parameters):
        key, _, value = (part.strip().strip('"').lower() for part in parameter.partition("="))
        if media_type == CSV and key == "header" and value in _HEADERS:
            header = _HEADERS[value]
        elif media_type == RAW and key == RAW_LENGTH:
            json_length = value
        elif key != "charset" or value != "utf-8":
            known = {CSV: " or header=present or absent", RAW: f" or {RAW_LENGTH}"}.get(media_type, "")
            message = (
                f"expected no parameter of {media_type} but charset=utf-8{known}, got {parameter[:40]!r}"
            )
            raise UnsupportedMedia("unsupported_media_type", message)
    if media_type == RAW and json_length is None:
        message = f"expected {RAW};{RAW_LENGTH}=LENGTH, which says where the JSON ends"
        raise UnsupportedMedia("unsupported_media_type", message)
    return Form(media_type, header, json_length)


def writable(default: str) -> tuple[str, ...]:
    """List the media types of answers for `media.accepted`, first the one for whoever takes any."""
    return (default, *(media_type for media_type in WRITABLE if media_type != default))


def is_v2(body: bytes, limits: Limits) -> bool:
    """Tell whether JSON is a request of the V2 protocol, whose inputs are a list of objects; no other form's are."""
    # Most bodies have one object, and a byte is looked for much faster than a word.
    if body.find(b"{", 1) < 0 or b'"datatype"' not in body:
        return False
    said = _read_object(body, limits).get(COLUMNS)
    return type(said) is list and bool(said) and type(said[0]) is dict


def decode(
    body: bytes,
    form: Form,
    *,
    query: Sequence[tuple[str, str]],
    target: str | None,
    limits: Limits,
    head_of: HeadOf,
) -> Invocation:
    """Read one request.

    Parameters
    ----------
    body : bytes
        Already decompressed. JSON is an object with exactly one of `FORMS`, and `PARAMS` with the options of the
        native routes, model and version; or a bare list of rows.
    form : Form
    query : sequence of name and text
        The options of a body that is no JSON; JSON brings its own.
    target : str or None
        The head that a header names, where the options name none.
    limits, head_of
        As in `fields.assemble`.

    Raises
    ------
    RequestError
        The first fault: of the bytes, of the form, then in the order of `fields.assemble`.
    """
    if form.media_type == JSON:
        fields, by_rows = _read_json(body, limits)
        if query:
            message = f"expected the options of a JSON request at {PARAMS}, got a query string"
            raise Invalid("unknown_field", message, path=query[0][0][:40])
    else:
        fields, by_rows = _read_other(body, form, limits)
        options = parse_query("predict", query)
        if twice := fields.keys() & options.keys():
            message = "expected it in the body or in the query, got both"
            raise Invalid("option_type", message, path=min(twice))
        fields |= options
    if target:
        fields.setdefault("model", target)
    fields.setdefault("outputs", _outputs(fields))
    request = assemble("predict", fields, limits=limits, head_of=naming(head_of))
    if by_rows:
        instances.check_rows(request.outputs)
        if form.media_type != JSON and request.values.ndim != 2:
            raise Invalid("features_type", "expected numbers in a row, got lists in it", path="features")
    return Invocation(request, by_rows)


def encode(asked: Invocation, result: ScoreResult, media_type: str) -> bytes:
    """Write one answer.

    Parameters
    ----------
    asked : Invocation
    result : ScoreResult
    media_type : one of `WRITABLE`
        JSON has all outputs at "predictions", npz each by its name, JSON lines all of a row in its line; CSV and npy
        have the first one alone, CSV with a line for each row.
    """
    outputs = result.outputs
    if media_type == JSON:
        tabled = instances.tabled(outputs, by_rows=asked.by_rows)
        return json_writer.write({"predictions": tabled}, outputs.values())
    if media_type in {LINES, X_LINES}:
        return b"".join(_lines(outputs, by_rows=asked.by_rows))
    first = next(iter(outputs))
    if media_type == CSV:
        return csv_rows.write(outputs[first])
    answered = arrays.as_arrays(outputs)
    return (
        arrays.write_npz(answered)
        if media_type == NPZ
        else arrays.write_npy(answered.get(first, np.empty(0)))
    )


def naming(head_of: HeadOf) -> HeadOf:
    """Let a request that names no head where there are several be at fault: no address of it is wrong."""

    def found(model: str | None, version: str | None) -> HeadInfo:
        try:
            return head_of(model, version)
        except NotFound as error:
            if model is not None or error.code != "unknown_model":
                raise
            raise Invalid("missing_field", error.message, path=f"{PARAMS}.model") from None

    return found


def _read_json(body: bytes, limits: Limits) -> Inputs:
    said = _read_object(body, limits)
    if "signature_name" in said:
        message = "there are no signatures here; params.outputs names what is answered"
        raise Invalid("unknown_field", message, path="signature_name")
    for name in said:
        if name not in FORMS and name != PARAMS:
            raise Invalid("unknown_field", unknown_name(name, (*FORMS, PARAMS)), path=name[:40])
    keys = [key for key in FORMS if said.get(key) is not None]
    if len(keys) != 1:
        message = f"expected exactly one of {', '.join(FORMS)}; got {' and '.join(keys) or 'none'}"
        raise Invalid("unknown_field" if keys else "missing_field", message)
    (key,) = keys
    if key in _FRAMES:
        inputs = Inputs({"features": _FRAMES[key](said[key])}, by_rows=True)
    else:
        inputs = instances.read("predict", said)
    return inputs._replace(fields=inputs.fields | _read_params(said.get(PARAMS)))


def _read_object(body: bytes, limits: Limits) -> Fields:
    """Read the JSON; a bare list becomes the value of `ROWS`, and must be one to its end."""
    if not body.lstrip().startswith(b"["):
        start = body[:HINT_BYTES]
        key = next((key for key in FORMS if b'"%b"' % key.encode() in start), ROWS)
        return read_object(body, limits.json_depth, tensor=_TENSORS[key])
    said = read_object(b'{"%s":%b}' % (ROWS.encode(), body), limits.json_depth, tensor=ROWS)
    if len(said) > 1:
        raise Malformed("malformed_json", "expected nothing behind the list")
    return said


def _read_params(params: Any) -> Fields:
    """Read options, among which the head may be named too."""
    head = {name: params[name] for name in ("model", "version") if type(params) is dict and name in params}
    if not head:
        return instances.read_options("predict", params, PARAMS)
    rest = {name: value for name, value in params.items() if name not in head}
    return instances.read_options("predict", rest, PARAMS) | head


def _read_split(frame: Any) -> Any:
    if type(frame) is not dict:
        raise Invalid("option_type", f"expected an object, got {name_of(frame)}", path=_SPLIT)
    known = ("columns", "index", "data")
    for name in frame:
        if name not in known:
            raise Invalid("unknown_field", unknown_name(name, known), path=f"{_SPLIT}.{name[:40]}")
    rows = _checked_rows(frame.get("data"), list, f"{_SPLIT}.data")
    for name, length in (("columns", len(rows[0])), ("index", len(rows))):
        names = frame.get(name)
        if names is not None and (type(names) is not list or len(names) != length):
            got = f"{len(names)}" if type(names) is list else name_of(names)
            message = f"expected a list of {length} {name} as the data have, got {got}"
            raise Invalid("features_shape", message, path=f"{_SPLIT}.{name}")
    return rows


def _read_records(records: Any) -> list[list[Any]]:
    rows = _checked_rows(records, dict, _RECORDS)
    order = list(rows[0])
    columns = rows[0].keys()
    for index, row in enumerate(rows):
        if list(row) == order:
            continue
        if row.keys() != columns:
            names = ", ".join(map(repr, row.keys() ^ columns))[:80]
            message = f"expected the columns of {_RECORDS}[0], but these are in one of them only: {names}"
            raise Invalid("ragged", message, path=f"{_RECORDS}[{index}]")
    order = list(columns)
    return [list(row.values()) if list(row) == order else [row[column] for column in order] for row in rows]


_FRAMES: dict[str, Callable[[Any], Any]] = {_SPLIT: _read_split, _RECORDS: _read_records}


def _checked_rows(rows: Any, kind: type, path: str) -> Any:
    """Check that there is a row, that all are of one kind, and flat as far as the first shows."""
    if isinstance(rows, np.ndarray) and rows.ndim > 1:
        return rows
    if type(rows) is not list or not rows:
        got = "an empty list" if rows == [] else name_of(rows)
        raise Invalid("option_type", f"expected a list of at least one row, got {got}", path=path)
    for index, row in enumerate(rows):
        if type(row) is not kind:
            expected = "an object" if kind is dict else "a list"
            raise Invalid("option_type", f"expected {expected}, got {name_of(row)}", path=f"{path}[{index}]")
    cells = rows[0].values() if kind is dict else rows[0]
    if any(type(cell) is list for cell in cells):
        raise Invalid("features_type", "expected a number in each cell, got a list", path=f"{path}[0]")
    return rows


def _read_other(body: bytes, form: Form, limits: Limits) -> Inputs:
    media_type = form.media_type
    if media_type == CSV:
        rows = csv_rows.read(body, limits, path="features", code="features_type", header=form.header)
        return Inputs({"features": rows}, by_rows=True)
    if media_type in {LINES, X_LINES}:
        return _read_lines(body, limits)
    if media_type == NPZ:
        return Inputs(dict(arrays.read_npz(body, limits)), by_rows=False)
    return Inputs({"features": arrays.read_npy(body, limits, path="features")}, by_rows=False)


def _read_lines(body: bytes, limits: Limits) -> Inputs:
    """Read a list or an object in each line, all together as one JSON list.

    Where there are as many rows as lines, each line begins and ends as a row does, and rows of numbers have no lists
    in them (which `decode` sees to), no row can go on in the next line.
    """
    text = body.rstrip()
    check_rows(count_byte(text, b"\n", len(text)) + 1, limits, path="features")
    lines = [line.strip() for line in text.split(b"\n")]
    for index, line in enumerate(lines):
        if line[:1] + line[-1:] not in {b"[]", b"{}"}:
            message = f"expected one list or object in each line, but line {index + 1} is none"
            raise Malformed("malformed_json", message)
    said = _read_object(b"[%b]" % b",".join(lines), limits)
    if len(said[ROWS]) != len(lines):
        message = f"expected one row a line, got {len(said[ROWS])} in {len(lines)} lines"
        raise Malformed("malformed_json", message)
    return instances.read("predict", said)


def _outputs(fields: Mapping[str, Any]) -> list[str]:
    outputs = ["probabilities"]
    if "labels" in fields:
        outputs.append("losses")
    return [*outputs, "top_classes", "top_probabilities"] if "top_k" in fields else outputs


def _lines(outputs: Mapping[str, Output], *, by_rows: bool) -> Iterable[bytes]:
    tabled = json_writer.plain(instances.tabled(outputs, by_rows=by_rows))
    rows = tabled if isinstance(tabled, list | np.ndarray) else [tabled]
    return [json_writer.dumps(row) + b"\n" for row in rows]
