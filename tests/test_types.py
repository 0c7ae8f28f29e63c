"""Sparse rows as a value: what a batcher does with rows, they can do."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from service.types import SparseRows


def random_rows(seed: int, rows: int, features: int = 7) -> SparseRows:
    found = scipy.sparse.random_array((rows, features), density=0.3, rng=np.random.default_rng(seed)).tocsr()
    found.sort_indices()
    return SparseRows(
        found.indptr.astype(np.int64), found.indices.astype(np.int64), found.data, found.shape[1]
    )


def test_they_say_their_shape_as_arrays_do() -> None:
    rows = random_rows(0, 4)
    assert (rows.shape, rows.ndim, len(rows)) == ((4, 7), 2, 4)
    assert rows.to_dense().shape == rows.shape
    assert rows.size == np.count_nonzero(rows.to_dense())


@given(seed=st.integers(0, 999), rows=st.integers(0, 6), start=st.integers(0, 8), stop=st.integers(0, 8))
def test_a_slice_is_the_slice_of_the_dense_rows(seed: int, rows: int, start: int, stop: int) -> None:
    whole = random_rows(seed, rows)
    part = whole[start:stop]
    np.testing.assert_array_equal(part.to_dense(), whole.to_dense()[start:stop])
    assert part.indptr[0] == 0
    assert len(part) == len(whole.to_dense()[start:stop])


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_a_stack_is_the_stack_of_the_dense_rows(sizes: list[int]) -> None:
    parts = [random_rows(seed, rows) for seed, rows in enumerate(sizes)]
    stacked = SparseRows.stack(parts)
    np.testing.assert_array_equal(stacked.to_dense(), np.concatenate([part.to_dense() for part in parts]))
    assert stacked.indptr.dtype == stacked.indices.dtype == np.int64


def test_they_cannot_be_changed_by_accident() -> None:
    with pytest.raises(AttributeError):
        random_rows(0, 1).num_features = 9  # type: ignore[misc]
