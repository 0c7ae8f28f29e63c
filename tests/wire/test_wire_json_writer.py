"""Answers as JSON: the shortest digits of each type, and a word for what JSON has no number for."""

import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.wire import json_writer


def write(**answer: Any) -> bytes:
    return json_writer.write(answer, answer.values())


def test_a_number_has_the_shortest_digits_of_its_type() -> None:
    assert write(x=np.array([0.1, 1 / 3], np.float32)) == b'{"x":[0.1,0.33333334]}'
    assert write(x=np.array([0.1, 1 / 3])) == b'{"x":[0.1,0.3333333333333333]}'
    assert write(x=np.float32(0.1), n=np.int64(3)) == b'{"x":0.1,"n":3}'


@pytest.mark.parametrize("length", [1, json_writer.SCANNED_BYTES])  # either side of how infinities are found
@pytest.mark.parametrize(
    ("number", "word"), [(math.inf, "Infinity"), (-math.inf, "-Infinity"), (math.nan, "NaN")]
)
def test_what_is_not_finite_is_a_word_wherever_it_stands(length: int, number: float, word: str) -> None:
    row = np.full(length, 0.1, np.float32)
    row[-1] = number
    answer = {"rows": [{"x": row, "y": row[-1]}], "z": float(number)}
    found = orjson.loads(json_writer.write(answer, [row]))
    assert found == {"rows": [{"x": [0.1] * (length - 1) + [word], "y": word}], "z": word}


def test_none_and_text_stay_what_they_are() -> None:
    assert write(x=None, y="null", z=["null", "Infinity"]) == b'{"x":null,"y":"null","z":["null","Infinity"]}'


def test_arrays_that_orjson_does_not_read_are_written_too() -> None:
    grid = np.arange(6.0).reshape(2, 3)
    assert write(x=grid.T) == b'{"x":[[0.0,3.0],[1.0,4.0],[2.0,5.0]]}'
    assert write(x=grid.astype(">f4")) == write(x=grid)
    assert write(x=np.array([["a"], ["b"]])) == b'{"x":[["a"],["b"]]}'
    assert write(x=np.array(-math.inf), n=np.array(2)) == b'{"x":"-Infinity","n":2}'


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(data=st.data())
def test_what_is_written_reads_back_to_the_last_bit(dtype: type, data: st.DataObject) -> None:
    array = data.draw(hnp.arrays(dtype, hnp.array_shapes(max_dims=3, max_side=4)))
    found = np.array(orjson.loads(write(x=array))["x"], dtype=object)
    words = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    read: Any = np.array([words.get(leaf, leaf) for leaf in found.ravel()], dtype).reshape(array.shape)
    np.testing.assert_array_equal(read, array, strict=True)


def test_text_is_a_list_whichever_kind_of_array_it_is_in() -> None:
    for kind in (np.str_, np.object_):
        assert write(x=np.array([["a", "\u00e9"]], kind)) == b'{"x":[["a","\xc3\xa9"]]}'
        assert json_writer.plain_leaves(np.array(["a"], kind)) == ["a"]


def test_a_flat_array_of_finite_numbers_stays_an_array() -> None:
    flat = np.array([1.0, 2.0], np.float32)
    assert np.shares_memory(json_writer.plain_leaves(flat), flat)
    assert json_writer.plain_leaves(np.array([1, 2])).tolist() == [1, 2]
    assert json_writer.plain_leaves(np.array([1.0, -math.inf])) == [1.0, "-Infinity"]
