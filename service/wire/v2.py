"""The Open Inference Protocol V2 over HTTP, seen from the server and from the client.

A body is JSON, and behind it the raw bytes of the tensors that the JSON describes but does not hold. How
tensors are laid out is known to `tensors`, and what they and the options mean to `fields`. Of HTTP only one
header is known here: the length of the JSON part, without which a body cannot be read.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from service.errors import Invalid, Malformed, RequestError
from service.types import HeadInfo, Operation, ScoreResult
from service.wire import tensors
from service.wire.fields import HeadOf
from service.wire.inference import (
    TYPE_CODES,
    Asked,
    Inference,
    Wanted,
    answer_of,
    asked_of,
    check_input,
    check_wanted,
    compose,
    operation_of,
    read_options,
    read_wanted,
)
from service.wire.json_reader import name_of, read_object
from service.wire.limits import Limits, check_elements
from service.wire.media import JSON
from service.wire.tensors import DATATYPES, Body, write

JSON_LENGTH = "Inference-Header-Content-Length"

# So many JSON parts of at most so many bytes are remembered: a few MB at worst.
_REMEMBERED, _REMEMBERED_BYTES = 128, 2048

# Checking raw numbers costs so much less than parsing as many bytes of text.
_RAW_BYTES_PER_JSON_BYTE = 16

# What a client reads comes from the server that it chose to ask.
_UNLIMITED = Limits(sys.maxsize, sys.maxsize, sys.maxsize, sys.maxsize)

_KINDS = {str: "a string", bool: "true or false", int: "an integer", list: "a list", dict: "an object"}


class _Input(NamedTuple):
    """A tensor as the JSON describes it; `size_bytes` are behind the JSON, or else `data` are in it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    size_bytes: int | None
    data: Any


class _Said(NamedTuple):
    """What the JSON part says."""

    inputs: tuple[_Input, ...]
    asked: Asked


def error_body(error: RequestError) -> tuple[int, bytes, str]:
    """Write an error as the protocol does: its status, one sentence, and the media type.

    The protocol has no 422: every mistake in a request that can be read is a 400 too. Its clients read an error only
    where the media type is exactly so, without a charset.
    """
    status = 400 if error.status == 422 else error.status
    return status, orjson.dumps({"error": error.detail}), JSON


def decode(
    body: bytes, json_length: str | None, *, model: str, version: str | None, limits: Limits, head_of: HeadOf
) -> Inference:
    """Read one request.

    Parameters
    ----------
    body : bytes
        Already decompressed.
    json_length : str or None
        The header `JSON_LENGTH`: none where all is JSON, "0" where the body is the bare features of a head,
        as many rows as the bytes make.
    model, version : str, str or None
        What the path says; "softmax" and "loss" are the operations on bare logits.
    limits, head_of
        As in `fields.assemble`.

    Raises
    ------
    RequestError
        The first fault: of the bytes, of the protocol, then in the order of `fields.assemble`.
    """
    operation = operation_of(model, version)
    fields: dict[str, Any]
    if json_length == "0":
        head = head_of(model, version) if operation == "predict" else None
        asked, fields = Asked(all_binary=True), {"features": _read_bare(body, head)}
    else:
        json_bytes = _read_length(json_length, len(body))
        # Clients of raw tensors send the same JSON again and again, and all but the tensors depends on it alone.
        known = json_length is not None and json_bytes <= _REMEMBERED_BYTES
        inputs, asked = (_remembered if known else _read_json)(body[:json_bytes], operation, limits)
        fields = _read_tensors(inputs, body, json_bytes, limits)
    return compose(operation, model, version, asked, fields, limits=limits, head_of=head_of)


def json_bytes_worth(body: bytes, json_length: str | None) -> int:
    """Say how many bytes of JSON take as long to decode: raw tensors are not parsed, only checked."""
    if json_length is None or not (json_length.isascii() and json_length.isdecimal()):
        return len(body)
    json_bytes = int(min(float(json_length), len(body)))
    return json_bytes + (len(body) - json_bytes) // _RAW_BYTES_PER_JSON_BYTE


def encode(asked: Inference, result: ScoreResult) -> Body:
    """Write one answer."""
    said: dict[str, Any] = {"model_name": asked.model}
    if result.head is not None:
        said["model_version"] = result.head.version
    if asked.id is not None:
        said["id"] = asked.id
    return write(said, "outputs", answer_of(asked, result), asked.binary)


def encode_request(
    inputs: Mapping[str, NDArray[Any]],
    *,
    outputs: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    request_id: str | None = None,
    binary: bool = True,
) -> Body:
    """Write a request: what `decode` reads.

    Parameters
    ----------
    inputs : mapping of name to array of float32, float64 or int64, or object array of str
    outputs : sequence of str
        What to answer; all that the model has where empty.
    parameters : mapping of option to value, or None
    request_id : str or None
        Echoed in the answer.
    binary : bool
        Whether tensors travel as raw bytes, there and back.
    """
    said: dict[str, Any] = {} if request_id is None else {"id": request_id}
    said["parameters"] = {"binary_data_output": binary, **(parameters or {})}
    if outputs:
        said["outputs"] = [{"name": name} for name in outputs]
    return write(said, "inputs", inputs, frozenset(inputs if binary else ()), all_digits=True)


def decode_result(body: bytes, json_length: str | None) -> dict[str, NDArray[Any]]:
    """Read an answer: what `encode` wrote; raw tensors stay where they are in `body`."""
    offset = len(body) if json_length is None else int(json_length)
    found: dict[str, NDArray[Any]] = {}
    for output in orjson.loads(body[:offset])["outputs"]:
        name, datatype, shape = output["name"], output["datatype"], tuple(output["shape"])
        size_bytes = output.get("parameters", {}).get("binary_data_size")
        read: NDArray[Any] | list[Any]
        if size_bytes is None:
            read = tensors.read_data(
                output["data"], datatype, shape, _UNLIMITED, name=name, code="logits_type"
            )
        else:
            read = tensors.read_raw(body, datatype, shape, offset, size_bytes, name=name)
            offset += size_bytes
        found[name] = read if isinstance(read, np.ndarray) else np.asarray(read, np.object_)
    return found


def _read_length(json_length: str | None, body_bytes: int) -> int:
    if json_length is None:
        return body_bytes
    # int would take signs, spaces and underscores too, and refuse 5,000 digits in words of its own
    if json_length.isascii() and json_length.isdecimal() and len(json_length) < 20:
        length = int(json_length)
        if length <= body_bytes:
            return length
    message = f"expected the length of the JSON part, at most {body_bytes}, got {json_length[:20]!r}"
    raise Malformed("malformed_tensor", message, path=JSON_LENGTH)


def _read_bare(body: bytes, head: HeadInfo | None) -> NDArray[Any]:
    if head is None:
        message = "expected JSON before the tensors: bare bytes do not say how many classes there are"
        raise Malformed("malformed_tensor", message, path=JSON_LENGTH)
    row_bytes = head.num_features * head.dtype.itemsize
    rows, rest_bytes = divmod(len(body), row_bytes)
    if rest_bytes:
        message = f"expected rows of {row_bytes} bytes ({head.num_features} {head.dtype}), got {len(body)}"
        raise Malformed("malformed_tensor", message, path="features")
    return tensors.view(body, head.dtype.newbyteorder("<"), (rows, head.num_features), 0)


def _read_json(text: bytes, operation: Operation, limits: Limits) -> _Said:
    said = read_object(text, limits.json_depth)
    inputs = tuple(_read_inputs(operation, said, limits))
    parameters = _member(said, "parameters", dict) or {}
    all_binary = bool(_member(parameters, "binary_data_output", bool, "parameters."))
    options = read_options(operation, parameters)
    # The request's word holds where an output does not say: some servers forget it for listed outputs, the
    # protocol's text does not.
    wanted, request_id = _read_outputs(said), _member(said, "id", str)
    return _Said(inputs, asked_of(options, wanted, all_binary=all_binary, request_id=request_id))


_remembered = lru_cache(_REMEMBERED)(_read_json)


def _read_inputs(operation: Operation, said: Mapping[str, Any], limits: Limits) -> Iterator[_Input]:
    names: set[str] = set()
    for place, entry in _entries(said, "inputs"):
        name = _required(entry, "name", str, place)
        check_input(operation, name, names, place)
        names.add(name)
        datatype, shape = _read_description(entry, place)
        check_elements(shape, limits, path=name)
        parameters = _member(entry, "parameters", dict, place) or {}
        size_bytes = _member(parameters, "binary_data_size", int, f"{place}parameters.")
        if (entry.get("data") is None) == (size_bytes is None):
            message = "expected exactly one of data and parameters.binary_data_size"
            raise Invalid("missing_field", message, path=f"{place}data")
        if size_bytes is not None:
            tensors.check_size(datatype, shape, size_bytes, name=name)
        yield _Input(name, datatype, shape, size_bytes, entry.get("data"))


def _read_tensors(inputs: Iterable[_Input], body: bytes, offset: int, limits: Limits) -> dict[str, Any]:
    """Lay the arrays over the body, in the order of their description."""
    found: dict[str, Any] = {}
    for name, datatype, shape, size_bytes, data in inputs:
        code = TYPE_CODES[name]
        if size_bytes is None:
            found[name] = tensors.read_data(data, datatype, shape, limits, name=name, code=code)
            continue
        if offset + size_bytes > len(body):
            missing = f"expecting {offset + size_bytes - len(body)} additional bytes"
            message = f"unexpected size for input {name!r}, {missing}"
            raise Malformed("malformed_tensor", message, path=name)
        found[name] = tensors.read_raw(body, datatype, shape, offset, size_bytes, name=name)
        offset += size_bytes
    if offset != len(body):
        message = f"unexpected additional input data: {len(body) - offset} bytes behind the last input"
        raise Malformed("malformed_tensor", message)
    return found


def _read_description(entry: Mapping[str, Any], place: str) -> tuple[str, tuple[int, ...]]:
    datatype = _required(entry, "datatype", str, place)
    if datatype not in DATATYPES:
        message = f"expected one of {', '.join(DATATYPES)}; got {datatype[:40]!r}"
        raise Invalid("unknown_option_value", message, path=f"{place}datatype")
    shape = _required(entry, "shape", list, place)
    if not set(map(type, shape)) <= {int} or min(shape, default=0) < 0:
        raise Invalid("option_type", "expected a list of integers of at least 0", path=f"{place}shape")
    return datatype, tuple(shape)


def _read_outputs(said: Mapping[str, Any]) -> dict[str, Wanted]:
    """Read which outputs are asked for, and how."""
    asked: dict[str, Wanted] = {}
    for place, entry in _entries(said, "outputs") if said.get("outputs") is not None else ():
        name = _required(entry, "name", str, place)
        wanted = read_wanted(_member(entry, "parameters", dict, place) or {}, place)
        check_wanted(name, wanted, asked, place)
        asked[name] = wanted
    return asked


def _entries(said: Mapping[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
    """Give the objects of a list, each with the beginning of its members' paths."""
    entries = [(f"{key}[{index}]", entry) for index, entry in enumerate(_required(said, key, list))]
    for place, entry in entries:
        if type(entry) is not dict:
            raise Invalid("option_type", f"expected an object, got {name_of(entry)}", path=place)
    return [(f"{place}.", entry) for place, entry in entries]


def _required(said: Mapping[str, Any], key: str, kind: type, place: str = "") -> Any:
    value = _member(said, key, kind, place)
    if value is None:
        raise Invalid("missing_field", "the protocol needs it", path=place + key)
    return value


def _member(said: Mapping[str, Any], key: str, kind: type, place: str = "") -> Any:
    """Give a member of its kind, or None where it is null or not there, as some clients write alike."""
    value = said.get(key)
    if value is not None and type(value) is not kind:
        raise Invalid("option_type", f"expected {_KINDS[kind]}, got {name_of(value)}", path=place + key)
    return value
