"""The Open Inference Protocol V2 over gRPC: the messages of an inference, and what errors are called.

A request describes its tensors and brings each of them as raw bytes behind the description, or all of them written
out number by number within it. Answers are raw, as Triton's are. Messages are read within bounds and their tensors
where they lie; see `protobuf`. How messages come and go is not known here.
"""

import enum
import math
import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from service.errors import Invalid, Malformed, RequestError
from service.types import Operation, ScoreResult
from service.wire import contents, protobuf, tensors
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
from service.wire.limits import Limits, check_elements
from service.wire.options import parse_query
from service.wire.protobuf import FIXED64, LENGTH, VARINT, Field, key_of, read_fields, read_text
from service.wire.tensors import DATATYPES

# Descriptions of so many requests of at most so many bytes are remembered, and of so many answers.
_REMEMBERED, _REMEMBERED_BYTES = 128, 2048

# Checking raw numbers costs so much less than reading as many bytes of a description.
_RAW_BYTES_PER_READ_BYTE = 16

# Of a request, of one of its inputs, of an output it asks for, and of a parameter by its name.
_MODEL, _VERSION, _ID, _PARAMETER, _INPUT, _OUTPUT, _RAW = (key_of(number, LENGTH) for number in range(1, 8))
_NAME, _DATATYPE, _SHAPE, _CONTENTS = (key_of(number, LENGTH) for number in (1, 2, 3, 5))
_SHAPE_AXIS = key_of(3, VARINT)
_OUTPUT_PARAMETER = key_of(2, LENGTH)
_NAMED, _VALUE = key_of(1, LENGTH), key_of(2, LENGTH)
_BOOL, _INT64, _STRING, _DOUBLE, _UINT64 = (
    key_of(1, VARINT),
    key_of(2, VARINT),
    key_of(3, LENGTH),
    key_of(4, FIXED64),
    key_of(5, VARINT),
)
_FLOAT64 = struct.Struct("<d")

TENSOR = {"name": 1, "datatype": 2, "shape": 3}
RESPONSE = {"model_name": 1, "model_version": 2, "id": 3, "outputs": (5, TENSOR)}
_RAW_OUTPUT = 6
STREAMED = {"error_message": 1}
_STREAMED_RESPONSE = 2


class Code(enum.IntEnum):
    """gRPC's status codes that we answer; they are called by their names, also where they are counted."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16

    def __str__(self) -> str:
        return self.name


# What is not here is a mistake in the request.
_CODES = {
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    413: Code.RESOURCE_EXHAUSTED,
    429: Code.RESOURCE_EXHAUSTED,
    500: Code.INTERNAL,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


class _Input(NamedTuple):
    """A tensor as it is described, and where its contents are written out, if they are."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    pieces: tuple[Field, ...]


class _Said(NamedTuple):
    """What a request says beside its raw tensors."""

    operation: Operation
    model: str
    version: str | None
    inputs: tuple[_Input, ...]
    asked: Asked


def error_body(error: RequestError) -> tuple[int, bytes, str]:
    """Write an error as gRPC does: its code and one sentence."""
    is_method = error.code == "unknown_route"
    code = Code.UNIMPLEMENTED if is_method else _CODES.get(error.status, Code.INVALID_ARGUMENT)
    return code, error.detail.encode(), ""


def decode(body: bytes, *, limits: Limits, head_of: HeadOf) -> Inference:
    """Read one ModelInferRequest.

    Parameters
    ----------
    body : bytes
        The message. Options are among its parameters; lists are text there, with commas between.
    limits, head_of
        As in `fields.assemble`.

    Raises
    ------
    RequestError
        The first fault: of the bytes, of the protocol, then in the order of `fields.assemble`.
    """
    description, raws = _part(body)
    # Clients of raw tensors describe them the same way again and again, and all but the tensors depends on it alone.
    known = len(description) <= _REMEMBERED_BYTES
    said = (_remembered if known else _read)(description, limits)
    inputs = _read_raw(said.inputs, raws, body) if raws else _read_written(said.inputs, description, limits)
    return compose(
        said.operation, said.model, said.version, said.asked, dict(inputs), limits=limits, head_of=head_of
    )


def bytes_worth(body: bytes) -> int:
    """Say how many bytes of a description take as long to decode: raw tensors are only checked."""
    try:
        raws = _part(body)[1]
    except Malformed:
        return 0
    raw_bytes = sum(raw.end - raw.start for raw in raws)
    return len(body) - raw_bytes + raw_bytes // _RAW_BYTES_PER_READ_BYTE


def encode(asked: Inference, result: ScoreResult) -> bytes:
    """Write one ModelInferResponse."""
    arrays = answer_of(asked, result)
    version = "" if result.head is None else result.head.version
    shapes = tuple([(name, array.dtype.char, array.shape) for name, array in arrays.items()])
    parts: list[Any] = [_described(asked.model, version, asked.id or "", shapes)]
    for array in arrays.values():
        raw = tensors.raw_of(array)
        parts += [protobuf.write_head(_RAW_OUTPUT, memoryview(raw).nbytes), raw]
    return b"".join(parts)


def streamed(response: bytes, error: str = "") -> bytes:
    """Write one ModelStreamInferResponse: what `encode` wrote, or what went wrong."""
    if error:
        return protobuf.write({"error_message": error}, STREAMED)
    return protobuf.write_bytes(_STREAMED_RESPONSE, response)


@lru_cache(_REMEMBERED)
def _described(
    model: str, version: str, request_id: str, shapes: tuple[tuple[str, str, tuple[int, ...]], ...]
) -> bytes:
    outputs = [
        {"name": name, "datatype": tensors.datatype_of(np.dtype(char)), "shape": list(shape)}
        for name, char, shape in shapes
    ]
    said = {"model_name": model, "model_version": version, "id": request_id, "outputs": outputs}
    return protobuf.write(said, RESPONSE)


def _part(body: bytes) -> tuple[bytes, list[Field]]:
    """Part the description from the raw tensors, which are behind it unless somebody wrote them otherwise."""
    raws: list[Field] = []
    stretches: list[bytes] = []
    begun = 0
    for field in read_fields(body, 0, len(body)):
        if field.key == _RAW:
            raws.append(field)
            stretches.append(body[begun : field.at])
            begun = field.end
    stretches.append(body[begun:])
    return b"".join(stretches), raws


def _read(description: bytes, limits: Limits) -> _Said:
    model = version = request_id = ""
    inputs: list[Field] = []
    outputs: list[Field] = []
    parameters: list[Field] = []
    for field in read_fields(description, 0, len(description)):
        if field.key == _INPUT:
            inputs.append(field)
        elif field.key == _OUTPUT:
            outputs.append(field)
        elif field.key == _PARAMETER:
            parameters.append(field)
        elif field.key == _MODEL:
            model = read_text(description, field)
        elif field.key == _VERSION:
            version = read_text(description, field)
        elif field.key == _ID:
            request_id = read_text(description, field)
    operation = operation_of(model, version or None)
    read = tuple(_read_inputs(operation, description, inputs, limits))
    options = read_options(operation, dict(read_parameters(description, parameters)))
    texts = [(name, value) for name, value in options.items() if type(value) is str]
    options |= parse_query(operation, texts)
    wanted = _read_outputs(description, outputs)
    asked = asked_of(options, wanted, all_binary=False, request_id=request_id or None)
    return _Said(operation, model, version or None, read, asked)


_remembered = lru_cache(_REMEMBERED)(_read)


def _read_inputs(
    operation: Operation, description: bytes, fields: Iterable[Field], limits: Limits
) -> Iterator[_Input]:
    names: set[str] = set()
    for index, field in enumerate(fields):
        place = f"inputs[{index}]."
        read = _read_input(description, field, place)
        check_input(operation, read.name, names, place)
        names.add(read.name)
        check_elements(read.shape, limits, path=read.name)
        yield read


def _read_input(description: bytes, field: Field, place: str) -> _Input:
    name = datatype = ""
    shape: list[int] = []
    pieces: list[Field] = []
    for member in read_fields(description, field.start, field.end):
        if member.key == _NAME:
            name = read_text(description, member)
        elif member.key == _DATATYPE:
            datatype = read_text(description, member)
        elif member.key == _SHAPE:
            packed = description[member.start : member.end]
            shape += protobuf.read_integers(packed).astype(np.int64).tolist()
        elif member.key == _SHAPE_AXIS:
            shape.append(protobuf.read_integer(description, member, signed=True))
        elif member.key == _CONTENTS:
            pieces.append(member)
    if datatype not in DATATYPES:
        message = f"expected one of {', '.join(DATATYPES)}; got {datatype[:40]!r}"
        raise Invalid("unknown_option_value", message, path=f"{place}datatype")
    if min(shape, default=0) < 0:
        raise Invalid("option_type", "expected integers of at least 0", path=f"{place}shape")
    return _Input(name, datatype, tuple(shape), tuple(pieces))


def _read_outputs(description: bytes, fields: Iterable[Field]) -> dict[str, Wanted]:
    asked: dict[str, Wanted] = {}
    for index, field in enumerate(fields):
        place = f"outputs[{index}]."
        name = ""
        parameters: list[Field] = []
        for member in read_fields(description, field.start, field.end):
            if member.key == _NAME:
                name = read_text(description, member)
            elif member.key == _OUTPUT_PARAMETER:
                parameters.append(member)
        wanted = read_wanted(dict(read_parameters(description, parameters)), place)
        check_wanted(name, wanted, asked, place)
        asked[name] = wanted
    return asked


def read_parameters(description: bytes, fields: Iterable[Field]) -> Iterator[tuple[str, Any]]:
    """Read the entries of a map of parameters, each with its name."""
    for field in fields:
        name = ""
        value: Any = None
        for member in read_fields(description, field.start, field.end):
            if member.key == _NAMED:
                name = read_text(description, member)
            elif member.key == _VALUE:
                for choice in read_fields(description, member.start, member.end):
                    value = _read_choice(description, choice, value)
        yield name, value


def _read_choice(description: bytes, choice: Field, before: Any) -> Any:
    """Read what a parameter is; the last that is said of it holds."""
    if choice.key == _BOOL:
        return protobuf.read_integer(description, choice) != 0
    if choice.key in {_INT64, _UINT64}:
        return protobuf.read_integer(description, choice, signed=choice.key == _INT64)
    if choice.key == _STRING:
        return read_text(description, choice)
    if choice.key == _DOUBLE:
        return _FLOAT64.unpack_from(description, choice.start)[0]
    return before


def _read_raw(inputs: tuple[_Input, ...], raws: list[Field], body: bytes) -> Iterator[tuple[str, Any]]:
    if len(raws) != len(inputs):
        message = f"expected {len(inputs)} of them, one for each input, got {len(raws)}"
        raise Malformed("malformed_tensor", message, path="raw_input_contents")
    for index, ((name, datatype, shape, pieces), raw) in enumerate(zip(inputs, raws, strict=True)):
        if pieces:
            message = "expected no contents beside raw_input_contents"
            raise Invalid("unknown_field", message, path=f"inputs[{index}].contents")
        size_bytes = raw.end - raw.start
        tensors.check_size(datatype, shape, size_bytes, name=name)
        yield name, tensors.read_raw(body, datatype, shape, raw.start, size_bytes, name=name)


def _read_written(
    inputs: tuple[_Input, ...], description: bytes, limits: Limits
) -> Iterator[tuple[str, Any]]:
    for index, (name, datatype, shape, pieces) in enumerate(inputs):
        place = f"inputs[{index}].contents"
        if math.prod(shape) and not pieces:
            message = "expected the tensor here or in raw_input_contents; shared memory is not supported"
            raise Invalid("missing_field", message, path=place)
        read = contents.read(
            description,
            pieces,
            datatype,
            shape,
            limits,
            name=name,
            code=TYPE_CODES[name],
            place=place,
        )
        yield name, read
