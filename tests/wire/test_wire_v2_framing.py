"""A hundred thousand ways to get the binary framing wrong: each is read, or refused as the caller's mistake."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest

from service.errors import RequestError
from service.types import HeadInfo
from service.wire import v2
from service.wire.limits import Limits
from service.wire.tensors import DATATYPES

LIMITS = Limits(body_bytes=1 << 20, rows=1000, elements=10_000, json_depth=16)
HEAD = HeadInfo("digits", "3", 4, 3, np.dtype(np.float32), ("a", "b", "c"), "0" * 64, "cpu")
FEATURES = np.arange(8, dtype=np.float32).reshape(2, 4)
LABELS = np.array([2, 0])

# Where arithmetic on lengths goes wrong: nothing, signs, what fits, and the ends of every integer type.
EDGES = [
    0,
    1,
    -1,
    2,
    15,
    16,
    17,
    31,
    32,
    33,
    48,
    -32,
    *(s * (1 << b) + d for b in (8, 16, 31, 32, 62, 63, 64) for d in (-1, 0, 1) for s in (1, -1)),
]
MUTATIONS = 12_500

Body = tuple[bytes, str | None]
Mutation = Callable[[random.Random], Body]


def told(**changes: Any) -> dict[str, Any]:
    """The JSON of a sound request of two raw tensors, with members of the first changed."""
    features = {
        "name": "features",
        "datatype": "FP32",
        "shape": [2, 4],
        "parameters": {"binary_data_size": 32},
    }
    labels = {"name": "labels", "datatype": "INT64", "shape": [2], "parameters": {"binary_data_size": 16}}
    return {"inputs": [{**features, **changes}, labels], "parameters": {"binary_data_output": True}}


def framed(said: Any, tensors: bytes = FEATURES.tobytes() + LABELS.tobytes()) -> Body:
    text = orjson.dumps(said)
    return text + tensors, str(len(text))


def edge(chance: random.Random) -> int:
    """A number of 64 bits, such as JSON has; most are of the edges."""
    number = chance.choice(EDGES) if chance.random() < 0.9 else chance.randrange(-(1 << 63), 1 << 63)
    return min(max(number, -(1 << 63)), (1 << 64) - 1)


def too_short_or_too_long(chance: random.Random) -> Body:
    body, length = framed(told())
    if chance.random() < 0.5:
        return body[: chance.randrange(len(body))], length
    return body + chance.randbytes(chance.randrange(1, 64)), length


def another_length_in_the_header(chance: random.Random) -> Body:
    body, length = framed(told())
    wrong: list[Any] = [
        edge(chance),
        len(orjson.dumps(told())) + chance.randrange(-40, 40),
        f"{length} ",
        f"+{length}",
        "",
        "x",
    ]
    return body, str(chance.choice(wrong))


def another_size(chance: random.Random) -> Body:
    size = chance.choice([edge(chance), 32 + chance.randrange(-9, 9)])
    return framed(told(parameters={"binary_data_size": size}))


def another_shape(chance: random.Random) -> Body:
    shape = [edge(chance) for _ in range(chance.randrange(5))]
    return framed(told(shape=shape, parameters={"binary_data_size": chance.choice([32, edge(chance)])}))


def another_datatype(chance: random.Random) -> Body:
    datatype = chance.choice([*DATATYPES])
    size = chance.choice([32, 8 * DATATYPES[datatype].itemsize])
    return framed(told(datatype=datatype, parameters={"binary_data_size": size}), chance.randbytes(size + 16))


def overlapping_tensors(chance: random.Random) -> Body:
    """More is described than there is: were they laid out, they would lie over each other."""
    said = told()
    entries = [chance.choice(said["inputs"]) for _ in range(chance.randrange(1, 5))]
    tensors = FEATURES.tobytes() + LABELS.tobytes()
    return framed({**said, "inputs": entries}, tensors[: chance.randrange(len(tensors) + 1)])


def damaged_bytes(chance: random.Random) -> Body:
    body, length = framed(told())
    content = bytearray(body)
    for _ in range(chance.randrange(1, 4)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content), length


def bare_rows(chance: random.Random) -> Body:
    return chance.randbytes(chance.choice([0, 1, 15, 16, 17, 32, chance.randrange(200)])), "0"


@pytest.mark.parametrize(
    "mutate",
    [
        too_short_or_too_long,
        another_length_in_the_header,
        another_size,
        another_shape,
        another_datatype,
        overlapping_tensors,
        damaged_bytes,
        bare_rows,
    ],
)
def test_every_mutation_is_read_or_refused_as_a_mistake_of_the_caller(mutate: Mutation) -> None:
    chance = random.Random(mutate.__name__)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(MUTATIONS):
        body, length = mutate(chance)
        try:
            asked = v2.decode(
                body, length, model="digits", version=None, limits=LIMITS, head_of=lambda *_: HEAD
            )
        except RequestError as error:
            assert error.status in {400, 413, 422}, error  # noqa: PT017 - any other exception fails the test
            assert len(error.detail) < 500  # noqa: PT017 - as above
            outcomes["refused"] += 1
        else:
            assert asked.request.values.shape[-1] == HEAD.num_features
            outcomes["read"] += 1
    assert outcomes["refused"] > MUTATIONS // 20, "they do get it wrong"


def test_what_is_mutated_is_sound() -> None:
    body, length = framed(told())
    asked = v2.decode(body, length, model="digits", version=None, limits=LIMITS, head_of=lambda *_: HEAD)
    np.testing.assert_array_equal(asked.request.values, FEATURES)
    assert asked.request.labels is not None
    assert asked.request.labels.values.tolist() == [2, 0]
