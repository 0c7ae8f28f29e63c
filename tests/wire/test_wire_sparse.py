"""Sparse features: what is read, what is refused and where, and that nothing falls through."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Invalid, RequestError, TooLarge
from service.types import FloatType, SparseRows
from service.wire import sparse
from service.wire.limits import Limits

LIMITS = Limits(body_bytes=1 << 20, rows=10, elements=100, json_depth=16)
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
GOOD: dict[str, Any] = {
    "indptr": [0, 2, 2, 3],
    "indices": [1, 4, 0],
    "data": [0.5, -2, 3],
    "num_features": 5,
}
DENSE = [[0, 0.5, 0, 0, -2], [0] * 5, [3, 0, 0, 0, 0]]


def read(dtype: FloatType = FLOAT32, **parts: Any) -> SparseRows:
    given = {name: part for name, part in {**GOOD, **parts}.items() if part is not ...}
    return sparse.read(given, 5, dtype, LIMITS)


def refused(**parts: Any) -> tuple[str, str]:
    with pytest.raises(RequestError) as raised:
        read(**parts)
    assert len(raised.value.detail) < 300
    return raised.value.code, raised.value.offences[0].path


def as_arrays(index: type = np.int64, number: type = np.float64, **parts: Any) -> dict[str, Any]:
    given = {**GOOD, **parts}
    return {name: np.array(part, number if name == "data" else index) for name, part in given.items()}


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
def test_lists_are_read_in_the_heads_type(dtype: FloatType) -> None:
    rows = read(dtype)
    assert rows.to_dense().tolist() == DENSE
    assert rows.data.dtype == dtype
    assert rows.indptr.dtype == rows.indices.dtype == np.int64


@pytest.mark.parametrize("index", [np.int32, np.int64, np.uint8, np.uint64])
@pytest.mark.parametrize("number", [np.float16, np.float32, np.float64, np.int8])
def test_arrays_of_any_numbers_are_read(index: type, number: type) -> None:
    rows = read(**as_arrays(index, number, data=[1, -2, 3]))
    assert rows.to_dense().tolist() == [[0, 1, 0, 0, -2], [0] * 5, [3, 0, 0, 0, 0]]
    assert rows.indices.dtype == np.int64
    assert rows.data.dtype == FLOAT32


def test_no_rows_and_no_entries_are_both_fine() -> None:
    assert read(indptr=[0], indices=[], data=[]).shape == (0, 5)
    assert read(indptr=[0, 0, 0], indices=[], data=[]).to_dense().tolist() == [[0] * 5] * 2
    empty = as_arrays(indptr=[0], indices=[], data=[])
    assert read(**empty).shape == (0, 5)


def test_features_in_any_order_are_put_in_theirs() -> None:
    rows = read(indptr=[0, 3, 4], indices=[4, 0, 2, 1], data=[1, 2, 3, 4])
    assert rows.indices.tolist() == [0, 2, 4, 1]
    assert rows.data.tolist() == [2, 3, 1, 4]


def test_the_last_feature_of_a_row_may_be_the_first_of_the_next() -> None:
    rows = read(indptr=[0, 1, 1, 2], indices=[3, 3], data=[1, 2])
    assert rows.indices.tolist() == [3, 3]
    assert rows.indptr.tolist() == [0, 1, 1, 2]


def test_features_that_a_row_has_twice_add_up_and_are_rounded_once() -> None:
    rows = read(indptr=[0, 4, 5], indices=[2, 0, 2, 2, 2], data=[1, 7, 2**-24, 2**-24, 9])
    assert rows.indptr.tolist() == [0, 2, 3]
    assert rows.indices.tolist() == [0, 2, 2]
    assert rows.data.tolist() == [7, 1 + 2**-23, 9], "in float32 neither half would have counted"


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 6),
    features=st.integers(1, 12),
    entries=st.integers(0, 30),
)
def test_any_rows_mean_what_they_mean_to_scipy(seed: int, rows: int, features: int, entries: int) -> None:
    random = np.random.default_rng(seed)
    entries = entries if rows else 0
    indptr = np.concatenate([[0], np.sort(random.integers(0, entries + 1, rows))]).astype(np.int64)
    indptr[-1] = entries
    indices = random.integers(0, features, entries)
    data = random.integers(-8, 8, entries).astype(np.float64)  # sums of which are exact
    expected = scipy.sparse.csr_array((data, indices, indptr), shape=(rows, features)).toarray()
    sent = {"indptr": indptr, "indices": indices, "data": data, "num_features": np.array(features)}
    lists = {name: part.tolist() for name, part in sent.items()}
    for parts in (sent, lists):
        found = sparse.read(parts, features, FLOAT32, LIMITS)
        np.testing.assert_array_equal(found.to_dense(), expected)
        for row in range(rows):
            assert (np.diff(found.indices[found.indptr[row] : found.indptr[row + 1]]) > 0).all()


HUGE = np.array([0, 2**63, 2, 3], np.uint64)


@pytest.mark.parametrize(
    ("parts", "code", "path"),
    [
        ({"shape": [3, 5]}, "unknown_field", "features.shape"),
        ({"indptr": ...}, "missing_field", "features.indptr"),
        ({"num_features": ...}, "missing_field", "features.num_features"),
        ({"indptr": None}, "features_type", "features.indptr"),
        ({"indptr": [0, 2.0, 2, 3]}, "features_type", "features.indptr[1]"),
        ({"indptr": [0, True, 2, 3]}, "features_type", "features.indptr[1]"),
        ({"indptr": [0, 2, 2, 2**63]}, "features_type", "features.indptr[3]"),
        ({"indptr": [0, 2, [2], 3]}, "ragged", "features.indptr[2]"),
        ({"indptr": HUGE}, "features_type", "features.indptr[1]"),
        ({"indptr": np.array([0.0, 2, 2, 3])}, "features_type", "features.indptr"),
        ({"indptr": np.array(["0"])}, "features_type", "features.indptr"),
        ({"indptr": [[0, 2, 2, 3]]}, "features_shape", "features.indptr"),
        ({"indptr": 3}, "features_shape", "features.indptr"),
        ({"indptr": []}, "features_shape", "features.indptr"),
        ({"indptr": [1, 2, 2, 3]}, "features_shape", "features.indptr[0]"),
        ({"indptr": [0, 2, 1, 3]}, "features_shape", "features.indptr[2]"),
        ({"indptr": [0, 2, -1, 3]}, "features_shape", "features.indptr[2]"),
        ({"indptr": [0, 2, 2, 4]}, "features_shape", "features.indptr[3]"),
        ({"indptr": [0, 2, 2, 2]}, "features_shape", "features.indptr[3]"),
        ({"indptr": [0, 2**63 - 1, -(2**63), 3]}, "features_shape", "features.indptr[2]"),
        ({"indices": ["1", 4, 0]}, "features_type", "features.indices[0]"),
        ({"indices": np.zeros(3, bool)}, "features_type", "features.indices"),
        ({"indices": [1, 5, 0]}, "features_shape", "features.indices[1]"),
        ({"indices": [1, 4, -1]}, "features_shape", "features.indices[2]"),
        ({"indices": [[1], [4], [0]]}, "features_shape", "features.indices"),
        ({"indices": [1, 4]}, "features_shape", "features.data"),
        ({"data": [1, None, 3]}, "features_type", "features.data[1]"),
        ({"data": {}}, "features_type", "features.data"),
        ({"data": np.array(["a"])}, "features_type", "features.data"),
        ({"data": [[1, 2, 3]]}, "features_shape", "features.data"),
        ({"data": [1, "NaN", 3]}, "non_finite_features", "features.data[1]"),
        ({"data": np.array([1, 2, -np.inf])}, "non_finite_features", "features.data[2]"),
        ({"data": [1, 2, 1e39]}, "float32_overflow", "features.data[2]"),
        ({"data": [3e38, 1, 3e38], "indices": [1, 1, 0], "indptr": [0, 2, 2, 3]}, "read", ""),
        ({"data": [1, 3e38, 3e38], "indices": [0, 1, 1], "indptr": [0, 3]}, "float32_overflow", "features.data[1]"),
        ({"num_features": 4}, "features_shape", "features.num_features"),
        ({"num_features": [5]}, "features_shape", "features.num_features"),
        ({"num_features": 5.0}, "features_type", "features.num_features"),
        ({"num_features": "5"}, "features_type", "features.num_features"),
        ({"indptr": [0] * 12}, "rows_too_many", "features.indptr"),
        ({"indices": [0] * 101, "data": [0] * 101}, "elements_too_many", "features.indices"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(parts: dict[str, Any], code: str, path: str) -> None:
    if code == "read":
        assert read(**parts).data.tolist() == [np.float32(3e38)] * 2
    else:
        assert refused(**parts) == (code, path)


def test_a_sum_beyond_float64_is_not_finite() -> None:
    with pytest.raises(Invalid) as raised:
        read(FLOAT64, indptr=[0, 3], indices=[2, 2, 0], data=[1.7e308, 1.7e308, 1])
    assert (raised.value.code, raised.value.offences[0].path) == ("non_finite_features", "features.data[0]")


def test_the_zeros_between_do_not_count_against_the_limit() -> None:
    wide = {"indptr": [0] + [1] * 9, "indices": [10**12], "data": [1.0], "num_features": 10**12 + 1}
    assert sparse.read(wide, 10**12 + 1, FLOAT32, LIMITS).shape == (9, 10**12 + 1)


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from([np.zeros(2), np.array(3), np.array([1, 2], np.uint64), np.array([]), np.array("x")]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=8,
)


@given(
    parts=st.dictionaries(st.sampled_from([*sparse.PARTS, "shape"]), JUNK), base=st.sampled_from([{}, GOOD])
)
def test_junk_is_refused_with_a_code_and_never_falls_through(
    parts: dict[str, Any], base: dict[str, Any]
) -> None:
    try:
        rows = sparse.read({**base, **parts}, 5, FLOAT32, LIMITS)
    except (Invalid, TooLarge):
        return
    assert rows.num_features == 5
    assert np.isfinite(rows.data).all()
