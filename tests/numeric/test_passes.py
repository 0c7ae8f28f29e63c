"""One pass over rows, in float32 and float64: what it fills, and that nothing beside a number changes it."""

import platform
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.numeric.float32 import FEW_CLASSES, normalise_float32
from service.numeric.float64 import normalise_float64
from service.numeric.kernel import BLOCK_ELEMENTS, LONG_ROW, Float64Array, Wanted
from service.numeric.softmax import normalise

FILL: dict[Any, Any] = {np.float32: normalise_float32, np.float64: normalise_float64}
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
# Few and many classes at their limit, short and long rows at theirs, a row longer than a block.
CLASSES = [1, 2, 10, FEW_CLASSES, FEW_CLASSES + 1, LONG_ROW - 1, LONG_ROW, 700, BLOCK_ELEMENTS + 1]


def logits_of(num_rows: int, num_classes: int, dtype: type) -> NDArray[Any]:
    """Rows of every nature: ordinary, wide, confident, with masks, with ties."""
    rng = np.random.default_rng([num_rows, num_classes])
    x = rng.standard_normal((num_rows, num_classes)) * rng.choice([1, 20, 200], (num_rows, 1))
    x[::5, 0] += 90
    x[1::5, 1:2] = -np.inf
    x[2::5] = np.round(x[2::5] / 100)
    return np.asarray(x, dtype)


def filled(
    x: NDArray[Any],
    temperature: float = 1.0,
    *,
    probabilities: bool = True,
    logarithms: bool = True,
    others: bool = True,
) -> Wanted:
    wanted = Wanted(
        np.full_like(x, np.nan) if probabilities else None,
        np.full_like(x, np.nan) if logarithms else None,
        np.full(len(x), np.nan) if others else None,
    )
    FILL[x.dtype.type](x, x.argmax(-1), temperature, wanted)
    return wanted


def bits(wanted: Wanted) -> list[bytes | None]:
    return [None if array is None else array.tobytes() for array in wanted]


@pytest.mark.parametrize("num_classes", [1, 2, 8, 9, FEW_CLASSES, FEW_CLASSES + 1, 700])
@pytest.mark.parametrize("num_rows", [1, 2, 23])
@pytest.mark.parametrize("temperature", [1.0, 0.25, 3.0])
def test_float32_is_what_float64_rounds_to(num_classes: int, num_rows: int, temperature: float) -> None:
    x = (5 * np.random.default_rng(num_classes).standard_normal((num_rows, num_classes))).astype(np.float32)
    narrow, wide = filled(x, temperature), filled(x.astype(np.float64), temperature)
    assert narrow.others is not None
    assert wide.others is not None
    np.testing.assert_allclose(narrow.others, wide.others, rtol=1e-13)
    for found, exact in ((narrow.probabilities, wide.probabilities), (narrow.logarithms, wide.logarithms)):
        assert found is not None
        assert exact is not None
        assert found.dtype == np.float32
        assert np.all(np.abs(found - exact) <= 0.5001 * np.spacing(np.abs(found)))


@DTYPES
@pytest.mark.parametrize("num_classes", CLASSES)
@pytest.mark.parametrize("num_rows", [1, 7])
def test_what_else_is_wanted_changes_no_bit(dtype: type, num_classes: int, num_rows: int) -> None:
    x = logits_of(num_rows, num_classes, dtype)
    whole = bits(filled(x, 0.7))
    for asked in product((False, True), repeat=3):
        names = dict(zip(Wanted._fields, asked, strict=True))
        expected = [array if wanted else None for array, wanted in zip(whole, asked, strict=True)]
        assert bits(filled(x, 0.7, **names)) == expected


def cuts(num_rows: int) -> Iterator[slice]:
    yield from (slice(row, row + 1) for row in (0, 1, 2, num_rows - 1))
    yield from (slice(5, 7), slice(3, 8), slice(1, num_rows), slice(0, num_rows // 2))


@DTYPES
@pytest.mark.parametrize(
    ("num_rows", "num_classes"),
    [
        (29, 1),
        (29, 10),
        (29, FEW_CLASSES),
        (29, FEW_CLASSES + 1),
        (29, LONG_ROW),
        (67, 900),
        (BLOCK_ELEMENTS // 10 + 9, 10),
        (BLOCK_ELEMENTS // FEW_CLASSES + 1, FEW_CLASSES),
        (8, BLOCK_ELEMENTS + 1),
    ],
)
def test_no_bit_depends_on_how_rows_are_cut(dtype: type, num_rows: int, num_classes: int) -> None:
    # The sums of the others have twice the bits of a float32 probability, which would hide a difference.
    x = logits_of(num_rows, num_classes, dtype)
    together = filled(x)
    for rows in cuts(num_rows):
        assert bits(filled(np.ascontiguousarray(x[rows]))) == bits(together.of(rows))


@DTYPES
@pytest.mark.parametrize("num_classes", [10, 700])
def test_no_batch_has_nothing_filled_and_fails_nowhere(dtype: type, num_classes: int) -> None:
    found = filled(logits_of(0, num_classes, dtype))
    assert [len(array) for array in found if array is not None] == [0, 0, 0]


@DTYPES
@pytest.mark.parametrize("num_classes", CLASSES)
@pytest.mark.parametrize("num_rows", [1, 6])
def test_the_logarithm_of_1_has_no_sign_and_of_nearly_1_has_its_digits(
    dtype: type, num_classes: int, num_rows: int
) -> None:
    x: NDArray[Any] = np.full((num_rows, num_classes), -60, dtype)
    x[:, 0] = 0
    x[0, 0] = 600  # its others vanish in float32, though not in float64
    logarithms = filled(x).logarithms
    assert logarithms is not None
    zeros = logarithms == 0
    assert not np.signbit(logarithms[zeros]).any()
    if num_classes > 1:
        assert zeros[0, 0] == (dtype is np.float32)
        np.testing.assert_allclose(logarithms[1:, 0], -(num_classes - 1) * np.exp(-60.0), rtol=1e-6)


@pytest.mark.parametrize("num_rows", [1, 3])
@pytest.mark.parametrize("num_classes", [3, 40])
def test_a_difference_beyond_float32_is_a_logarithm_of_minus_infinity(
    num_rows: int, num_classes: int
) -> None:
    x = np.zeros((num_rows, num_classes), np.float32)
    x[:, 0], x[:, 1] = 3e38, -3e38
    found = filled(x)
    assert found.logarithms is not None
    assert found.probabilities is not None
    assert found.logarithms[:, 0].tolist() == [0.0] * num_rows
    assert found.logarithms[:, 1].tolist() == [-np.inf] * num_rows
    assert found.probabilities[:, 1:].max() == 0


def test_threads_do_not_share_what_they_work_in() -> None:
    batches = [logits_of(40, 1000, np.float32) + np.float32(shift) for shift in range(8)]
    alone = [bits(filled(x)) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda x: bits(filled(x)), batches * 6)) == alone * 6


@DTYPES
@pytest.mark.parametrize("num_classes", [3, 40])
def test_what_is_foreseen_is_made_at_once_and_the_same(
    dtype: type, num_classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[Any] = []

    def counting(*arguments: Any) -> None:
        passes.append(arguments)
        FILL[dtype](*arguments)

    monkeypatch.setattr(f"service.numeric.softmax.normalise_{dtype.__name__}", counting)
    x = logits_of(6, num_classes, dtype)
    foreseen, unforeseen = normalise(x, with_logarithms=True, with_others=True), normalise(x)
    assert not passes  # classes take none
    answers = [
        (n.probabilities(), n.log_probabilities(), n.others, n.classes) for n in (foreseen, unforeseen)
    ]
    for found, expected in zip(*answers, strict=True):
        assert found.tobytes() == expected.tobytes()
    assert len(passes) == (4 if dtype is np.float32 and num_classes <= FEW_CLASSES else 3)
    for normalised in (foreseen, unforeseen):  # nothing is made twice
        before = len(passes)
        assert normalised.probabilities() is not None
        assert normalised.log_probabilities() is not None
        assert normalised.others is normalised.others
        assert len(passes) == before


def test_a_loss_alone_makes_no_probabilities() -> None:
    normalised = normalise(logits_of(5, 40, np.float32), with_logarithms=True, with_others=True)
    others: Float64Array = normalised.others
    assert others.shape == (5,)
    assert normalised._probabilities is None
    assert normalised._logarithms is None


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators keep what is freed anyway")
def test_the_memory_of_one_batch_serves_the_next() -> None:
    # A process of its own: in this one, others have freed pieces of any size.
    code = """
import resource
import numpy as np
from service.numeric.softmax import normalise
x = np.zeros((256, 1000), np.float32)
def faults():
    normalised = normalise(x, with_logarithms=True)
    answers = normalised.probabilities(), normalised.log_probabilities()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
seen = [faults() for _ in range(40)]
print(seen[-1] - seen[-21])
"""
    pages = (2 * 256 * 1000 * 4 + 2 * BLOCK_ELEMENTS * 8) // 4096
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(run.stdout) < pages, "fewer page faults in twenty batches than one has pages"
