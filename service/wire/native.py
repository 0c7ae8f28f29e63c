"""The native dialect: JSON, npz and npy bodies, seen from the server and from the client.

How arrays and JSON are read is known to the modules below, and what the fields mean to `fields`.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.errors import Invalid
from service.types import Operation, Output, ScoreRequest, ScoreResult
from service.wire import arrays, json_writer, media, nested, sparse
from service.wire.fields import FLOAT32, HeadOf, assemble, assemble_each, own_dtype
from service.wire.json_reader import read_object
from service.wire.limits import Limits
from service.wire.media import accepted
from service.wire.options import ARRAY, FIELDS, REQUIRED, TENSOR, check_names, parse_query

# One door to this dialect, `accepted` included.
__all__ = [
    "accepted",
    "decode",
    "decode_result",
    "decode_results",
    "encode",
    "encode_each",
    "encode_json",
    "encode_request",
]

INTEGER_OUTPUTS = {"classes", "decisions", "top_classes", "count", "contributions.features"}
TEXT_OUTPUTS = {"predicted_names", "decided_names", "top_names", "model", "version", "row_ids"}

_PART = f"{sparse.FIELD}."
_CONTRIBUTIONS = {"contributions.features": "features", "contributions.values": "values"}

# What a client reads comes from the server that it chose to ask.
_UNLIMITED = Limits(sys.maxsize, sys.maxsize, sys.maxsize, sys.maxsize)


def decode(
    operation: Operation,
    body: bytes,
    *,
    media_type: str,
    query: Sequence[tuple[str, str]],
    limits: Limits,
    head_of: HeadOf | None = None,
    named: tuple[str, str | None] | None = None,
) -> ScoreRequest | tuple[ScoreRequest, ...]:
    """Read one request; where it asks several models, the requests to each of them.

    Parameters
    ----------
    operation : "softmax", "loss" or "predict"
    body : bytes
        Already decompressed.
    media_type : str
        The Content-Type header; empty counts as JSON.
    query : sequence of name and text
        The options of a binary body; JSON bodies carry their own.
    limits, head_of, named
        As in `fields.assemble`.

    Raises
    ------
    RequestError
        The first fault in the contract's order, with its place.
    """
    kind = media.readable(operation, media_type)
    if kind == media.JSON:
        fields = read_object(body, limits.json_depth, tensor=REQUIRED[operation][0])
        if query:
            message = "expected the options of a JSON request in its body, got a query string"
            raise Invalid("unknown_field", message, path=query[0][0][:40])
    else:
        fields = _read_binary(operation, body, kind, query, limits=limits, named=named)
    if "models" in fields and named is None and head_of is not None and operation == "predict":
        return assemble_each(fields, limits=limits, head_of=head_of)
    return assemble(operation, fields, limits=limits, head_of=head_of, named=named)


def encode(result: ScoreResult, media_type: str) -> bytes:
    """Write one answer.

    Parameters
    ----------
    result : ScoreResult
    media_type : str
        As `accepted` picked it: JSON; npz with a key for each output, where the mean of nothing has none;
        or npy with the first output alone, where it is an empty array.
    """
    if media_type == media.JSON:
        return encode_json(result)
    answered = arrays.as_arrays(result.outputs)
    if media_type == media.NPZ:
        return arrays.write_npz(answered)
    first = next(iter(result.outputs))
    return arrays.write_npy(answered.get(first, np.empty(0)))


def encode_each(results: tuple[ScoreResult, ...], media_type: str) -> bytes:
    """Write the answers of several models, each under its name.

    Parameters
    ----------
    results : tuple of ScoreResult
    media_type : str
        JSON, with all of them in the object `results`; npz with keys such as `digits.probabilities`, and the
        version of each as `digits.version`; or npy with the first output of the first.
    """
    if media_type == media.NPY:
        return encode(results[0], media_type)
    by_model = {result.head.model: result for result in results if result.head is not None}
    if media_type == media.JSON:
        answer = {"results": {model: _answer(result) for model, result in by_model.items()}}
        return json_writer.write(answer, [value for result in results for value in result.outputs.values()])
    answered: dict[str, NDArray[Any]] = {}
    for model, result in by_model.items():
        outputs: dict[str, Output] = {"version": _answer(result)["version"], **result.outputs}
        answered |= {f"{model}.{name}": array for name, array in arrays.as_arrays(outputs).items()}
    return arrays.write_npz(answered)


def encode_request(
    operation: Operation, fields: Mapping[str, Any], media_type: str
) -> tuple[bytes, dict[str, str]]:
    """Write the body and the query string of a request: what `decode` reads.

    Parameters
    ----------
    operation : "softmax", "loss" or "predict"
    fields : mapping of field name to value
        Arrays or nested lists, numbers, text, or for sparse features a dict of their parts; None is left out.
    media_type : str
        JSON or npz; both say the same, so float32 logits bring their dtype along in JSON.

    Returns
    -------
    tuple of bytes and dict of str to str
        The body, and the parameters of the query string (none beside JSON).
    """
    said = {name: value for name, value in fields.items() if value is not None}
    if media_type == media.JSON:
        logits = said.get("logits")
        if isinstance(logits, np.ndarray) and own_dtype(logits) == FLOAT32:
            said.setdefault("dtype", "float32")
        return json_writer.dumps({name: _as_json(value) for name, value in said.items()}), {}
    kinds = FIELDS[operation]
    in_body = {name for name in said if kinds.get(name) in (ARRAY, TENSOR) or name == "class_names"}
    if said.get("row_ids", True) is not True:
        in_body.add("row_ids")
    sent = dict(_flattened({name: value for name, value in said.items() if name in in_body}))
    body = arrays.write_npz({name: _sent_array(name, value) for name, value in sent.items()})
    return body, {name: _query_text(said[name]) for name in said if name not in in_body}


def decode_result(body: bytes, media_type: str) -> dict[str, Any]:
    """Read an answer: what `encode` wrote.

    Returns
    -------
    dict of output name to value
        Arrays (float64 and int64 from JSON, as computed from npz), numbers and text; names of classes as
        arrays of text; `contributions` as a dict of the arrays `features` and `values`. The mean of nothing
        is None in JSON and missing in npz.
    """
    if media_type.partition(";")[0] == media.JSON:
        return _from_json(orjson.loads(body))
    return _from_npz(arrays.read_npz(body, _UNLIMITED))


def decode_results(body: bytes, media_type: str, models: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read the answers of several models: what `encode_each` wrote.

    Parameters
    ----------
    body : bytes
    media_type : str
        JSON or npz.
    models : sequence of str
        Whose answers these are: in npz a name may end at any of its points.

    Returns
    -------
    dict of model name to dict
        Each as `decode_result` gives it, in the order of `models`.
    """
    if media_type.partition(";")[0] == media.JSON:
        results = orjson.loads(body)["results"]
        return {model: _from_json(results[model]) for model in models}
    found: dict[str, dict[str, NDArray[Any]]] = {model: {} for model in models}
    longest_first = sorted(models, key=len, reverse=True)
    for name, array in arrays.read_npz(body, _UNLIMITED).items():
        model = next(model for model in longest_first if name.startswith(f"{model}."))
        found[model][name.removeprefix(f"{model}.")] = array
    return {model: {"model": model, **_from_npz(answered)} for model, answered in found.items()}


def _read_binary(
    operation: Operation,
    body: bytes,
    kind: str,
    query: Sequence[tuple[str, str]],
    *,
    limits: Limits,
    named: tuple[str, str | None] | None,
) -> dict[str, Any]:
    sent: dict[str, Any]
    if kind == media.NPZ:
        sent = arrays.read_npz(body, limits)
    else:
        (name,) = REQUIRED[operation]
        sent = {name: arrays.read_npy(body, limits, path=name)}
    if operation == "predict":
        sent = _with_parts(sent)
    check_names(operation, [*sent, *(name for name, _ in query)], named)
    said = parse_query(operation, query)
    if twice := sent.keys() & said.keys():
        raise Invalid("option_type", "expected it in the archive or in the query, got both", path=min(twice))
    return sent | said


def _with_parts(sent: dict[str, Any]) -> dict[str, Any]:
    """Put what an archive has as `features.indptr` and so on together, as an object in JSON has it."""
    parts = {name: array for name, array in sent.items() if name.startswith(_PART)}
    if not parts:
        return sent
    if sparse.FIELD in sent:
        raise Invalid("unknown_field", f"expected {sparse.FIELD} once, dense or sparse", path=min(parts)[:40])
    whole = {name: array for name, array in sent.items() if name not in parts}
    return whole | {sparse.FIELD: {name.removeprefix(_PART): array for name, array in parts.items()}}


def encode_json(result: ScoreResult) -> bytes:
    """Write one answer as JSON."""
    return json_writer.write(_answer(result), result.outputs.values())


def _answer(result: ScoreResult) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    if result.head is not None:
        answer["model"], answer["version"] = result.head.model, result.head.version
    for name, value in result.outputs.items():
        number = value[()] if type(value) is np.ndarray and not value.ndim else value
        if name in _CONTRIBUTIONS:
            answer.setdefault("contributions", {})[_CONTRIBUTIONS[name]] = number
        else:
            answer[name] = number
    return answer


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _as_json(part) for name, part in value.items()}
    return json_writer.plain(_widened(value))


def _widened(value: Any) -> Any:
    """Give floats all their digits: those that suffice for float32 may round differently by way of float64."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return value.astype(np.float64)
    return float(value) if isinstance(value, np.floating) else value


def _sent_array(name: str, value: Any) -> NDArray[Any]:
    if (
        isinstance(value, np.ndarray)
        or name in {"labels", "class_names", "row_ids"}
        or name.startswith(_PART)
    ):
        return np.asarray(value)
    try:
        # numpy would make text of all numbers among which the string "-Infinity" masks a class.
        return nested.read_floats(json_writer.plain(value), _UNLIMITED, path=name, code=f"{name}_type")
    except Invalid:
        return np.asarray(value)  # what is wrong with it is the service's to say


def _query_text(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return json_writer.dumps(_as_json(value)).decode()
    return str(value) if isinstance(value, str | int | float) else ",".join(value)


def _flattened(answered: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in answered.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", item) for key, item in value.items())
        else:
            yield name, value


def _from_json(answered: Mapping[str, Any]) -> dict[str, Any]:
    return _with_contributions({name: _read_output(name, value) for name, value in _flattened(answered)})


def _from_npz(answered: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    return _with_contributions(
        {name: array if array.ndim else array.item() for name, array in answered.items()}
    )


def _with_contributions(found: dict[str, Any]) -> dict[str, Any]:
    if "contributions.values" in found:
        found["contributions"] = {key: found.pop(f"contributions.{key}") for key in ("features", "values")}
    return found


def _read_output(name: str, value: Any) -> Any:
    if name in TEXT_OUTPUTS:
        return value if isinstance(value, str) else np.asarray(value, dtype=np.str_)
    if name in INTEGER_OUTPUTS:
        return np.asarray(value, dtype=np.int64) if isinstance(value, list) else value
    if value is None:
        return None
    array = nested.read_floats(value, _UNLIMITED, path=name, code="logits_type")
    return array if array.ndim else array.item()
