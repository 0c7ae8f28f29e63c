"""What is noted and what comes of it: calibrations, windows, workers, and nothing lost or twice."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from service.numeric.quality import judged, layout_of, observed
from service.numeric.softmax import normalise
from service.quality import online
from service.quality.ledger import RING_BYTES
from service.quality.online import MOST_SEEN, MOST_WAITING, Key, Quality, key_of
from service.types import Calibration, FloatArray, HeadInfo, Labels, ScoreRequest

FLOAT32 = np.dtype(np.float32)
HEAD = HeadInfo("pets", "3", 4, 3, FLOAT32, ("cat", "dog", "eel"), "d" * 64, "cpu")
KEY = Key("pets", "3", "d" * 64, 3)
LAYOUT = layout_of(3)


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def rows(count: int = 20, classes: int = 3, seed: int = 0) -> tuple[FloatArray, NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    return random.normal(0, 2, (count, classes)).astype(np.float32), random.integers(0, classes, count)


def asked(logits: FloatArray, labels: Any, *, head: HeadInfo | None = HEAD, **options: Any) -> ScoreRequest:
    fields: dict[str, Any] = {"axis": logits.ndim - 1, "dtype": logits.dtype, "outputs": (), **options}
    if not isinstance(labels, Labels):
        labels = Labels(np.asarray(labels), "index")
    return ScoreRequest(
        "predict" if head else "loss",
        logits if head is None else np.zeros(4),
        labels=labels,
        head=head,
        **fields,
    )


def expected(logits: Any, labels: NDArray[np.int64], temperature: float = 1.0) -> NDArray[np.float64]:
    exact = np.asarray(logits, np.float64)
    return judged(LAYOUT, normalise(exact, temperature=temperature, with_others=True), labels)


@pytest.fixture
def quality() -> Quality:
    return Quality(None, 0, window_s=60)


def life(quality: Quality, key: Key = KEY) -> NDArray[np.float64]:
    return quality.totals()[0][key]


# Labels


def test_labelled_rows_are_judged(quality: Quality) -> None:
    logits, labels = rows()
    quality.answered(asked(logits[:5], labels[:5]), logits[:5])
    quality.answered(asked(logits[5:], labels[5:]), logits[5:])
    np.testing.assert_allclose(life(quality), expected(logits, labels), rtol=1e-13)


def test_a_request_of_any_shape_and_axis_is_its_rows(quality: Quality) -> None:
    logits, labels = rows(24)
    deep, truth = logits.reshape(2, 3, 4, 3), labels.reshape(2, 3, 4)
    quality.answered(asked(deep, truth), deep)
    first = cast("FloatArray", np.ascontiguousarray(np.moveaxis(deep, -1, 1)))
    quality.answered(asked(first, truth, axis=1), first)
    quality.answered(asked(logits[0], labels[0]), logits[0])
    whole = 2 * expected(logits, labels) + expected(logits[:1], labels[:1])
    np.testing.assert_allclose(life(quality), whole, rtol=1e-13)


@pytest.mark.parametrize(
    ("calibration", "scaled"),
    [
        (Calibration(2.5), lambda logits: logits / 2.5),
        (
            Calibration(scale=np.array([1.0, -0.5, 2]), bias=np.array([0.0, 1, 2])),
            lambda logits: logits * np.array([1.0, -0.5, 2]) + np.array([0.0, 1, 2]),
        ),
    ],
    ids=["temperature", "vector"],
)
def test_a_head_is_judged_with_its_own_calibration(
    quality: Quality, calibration: Calibration, scaled: Any
) -> None:
    head = HeadInfo(*KEY[:2], 4, 3, FLOAT32, None, KEY.digest, "cpu", calibration=calibration)
    logits, labels = rows()
    for at in range(0, 20, 5):
        quality.saw(head, logits[at : at + 5])
    quality.answered(asked(logits, labels, head=head, temperature=9.0), logits)
    exact = scaled(logits.astype(np.float64))
    np.testing.assert_allclose(
        life(quality), expected(exact, labels) + observed(LAYOUT, exact), rtol=1e-12, atol=1e-12
    )


def test_bare_logits_are_judged_with_the_temperature_of_the_request(quality: Quality) -> None:
    logits, labels = rows()
    quality.answered(asked(logits, labels, head=None, temperature=3.0), logits)
    key = Key("loss", "", "", 0)
    layout, vector = layout_of(0), life(quality, key)
    assert layout.of(vector, "loss")[0] == pytest.approx(expected(logits, labels, 3.0)[1])
    other, more = rows(7, classes=5)
    quality.answered(asked(other, more, head=None), other)
    assert layout.of(life(quality, key), "rows")[0] == 27


def test_rows_to_be_ignored_and_shares_of_classes_are_no_labels(quality: Quality) -> None:
    logits, labels = rows(4)
    ignoring = Labels(np.array([labels[0], -1, labels[2], -1]), "index", ignore_index=-1)
    quality.answered(asked(logits, ignoring), logits)
    dense = np.eye(3)[labels]
    dense[1] = [0.5, 0.5, 0]
    dense[3] = [0, 0.9, 0]
    quality.answered(asked(logits, Labels(dense, "dense")), logits)
    np.testing.assert_allclose(life(quality), 2 * expected(logits[[0, 2]], labels[[0, 2]]), rtol=1e-13)
    nothing = Labels(np.full(4, -1), "index", ignore_index=-1)
    before = life(quality)
    quality.answered(asked(logits, nothing), logits)
    np.testing.assert_array_equal(life(quality), before)


def test_more_rows_than_the_ledger_has_room_for_are_counted_at_once(quality: Quality) -> None:
    many, labels = rows(RING_BYTES // 12)
    quality.label(HEAD, many[:5], labels[:5])
    quality.label(HEAD, many, labels)
    assert LAYOUT.of(life(quality), "rows")[0] == len(many) + 5


def test_a_ledger_that_is_full_is_counted_first(quality: Quality) -> None:
    part, labels = rows(RING_BYTES // 60)
    for _ in range(5):
        quality.label(HEAD, part, labels)
    assert LAYOUT.of(life(quality), "rows")[0] == 5 * len(part)


# Traffic


def test_traffic_of_several_heads_is_counted_apart(quality: Quality) -> None:
    other = HeadInfo("plants", "1", 4, 5, np.dtype(np.float64), None, "e" * 64, "cpu")
    ours, _ = rows()
    theirs = rows(6, classes=5)[0].astype(np.float64)
    for at in range(0, 20, 4):
        quality.saw(HEAD, ours[at : at + 4])
    quality.saw(other, theirs)
    counts = quality.totals()[0]
    np.testing.assert_allclose(counts[KEY], observed(LAYOUT, ours), rtol=1e-13)
    np.testing.assert_allclose(counts[key_of(other)], observed(layout_of(5), theirs), rtol=1e-13)


@pytest.mark.parametrize("size", [17, 64, 5 * MOST_SEEN // 3])
def test_of_a_large_batch_a_part_stands_for_all(quality: Quality, size: int) -> None:
    large = rows(size)[0]
    times = max(1, 20_000 // size)
    for _ in range(times):  # each time other rows are looked at
        quality.saw(HEAD, large)
    assert len(quality._seen[0][1]) <= max(
        online.ALWAYS_SEEN, size / online.SEEN_OF_OTHERS + online.ALWAYS_SEEN
    )
    found = life(quality)
    assert LAYOUT.of(found, "seen")[0] == pytest.approx(times * size)
    share = LAYOUT.of(found, "predicted") / (times * size)
    np.testing.assert_allclose(share, np.bincount(large.argmax(1), minlength=3) / size, atol=0.03)


def test_of_a_batch_of_very_many_classes_a_row_stands_for_all(quality: Quality) -> None:
    wide = HeadInfo("wide", "1", 4, 3 * MOST_SEEN, FLOAT32, None, "f" * 64, "cpu")
    quality.saw(wide, np.zeros((2, 3 * MOST_SEEN), np.float32))
    assert len(quality._seen[0][1]) == 1
    assert layout_of(3 * MOST_SEEN).of(life(quality, key_of(wide)), "seen")[0] == 2


def test_traffic_that_nobody_counts_takes_bounded_memory(quality: Quality) -> None:
    batch = np.zeros((1, MOST_SEEN), np.float32)
    wide = HeadInfo("pets", "3", 4, MOST_SEEN, FLOAT32, None, "d" * 64, "cpu")
    for _ in range(2 * MOST_WAITING // batch.size):
        quality.saw(wide, batch)
    assert sum(logits.size for _, logits, _ in quality._seen) < MOST_WAITING + batch.size
    found = life(quality, key_of(wide))
    assert layout_of(MOST_SEEN).of(found, "seen")[0] == MOST_WAITING / MOST_SEEN


def test_logits_that_a_calibration_makes_infinite_are_not_seen(quality: Quality) -> None:
    calibration = Calibration(scale=np.array([1e300, 1]), bias=np.zeros(2))
    head = HeadInfo("huge", "1", 4, 2, np.dtype(np.float64), None, "a" * 64, "cpu", calibration=calibration)
    quality.saw(head, np.array([[1e100, 0.0], [1.0, 2.0]]))
    assert layout_of(2).of(life(quality, key_of(head)), "seen")[0] == 1
    quality.saw(head, np.array([[1e100, 0.0]]))
    assert layout_of(2).of(life(quality, key_of(head)), "seen")[0] == 1


# Time


def test_the_window_forgets_what_the_life_does_not() -> None:
    clock = Clock()
    quality = Quality(None, 0, window_s=60, clock=clock)
    logits, labels = rows(30)
    for minute in range(3):
        quality.label(HEAD, logits[10 * minute : 10 * minute + 10], labels[10 * minute : 10 * minute + 10])
        for _ in range(30):
            clock.now_s += 1
            quality.count()
    whole, window = quality.totals()
    assert LAYOUT.of(whole[KEY], "rows")[0] == 30
    np.testing.assert_allclose(window[KEY], expected(logits[10:], labels[10:]), rtol=1e-12, atol=1e-12)
    clock.now_s += 61
    quality.count()
    clock.now_s += 61
    _, window = quality.totals()
    assert not window[KEY].any()


def test_the_window_slides_in_steps() -> None:
    clock = Clock()
    quality = Quality(None, 0, window_s=60, clock=clock)
    for _ in range(600):
        quality.saw(HEAD, rows(1)[0])
        clock.now_s += 0.5
        quality.count()
    assert len(quality._past) <= online.WINDOW_STEPS + 2
    _, window = quality.totals()
    assert 118 <= LAYOUT.of(window[KEY], "seen")[0] <= 122


# Workers


def test_counts_of_workers_add_up_to_those_of_one(tmp_path: Path) -> None:
    logits, labels = rows(90)
    alone = Quality(None, 0, window_s=60)
    workers = [Quality(tmp_path, slot, window_s=60) for slot in range(3)]
    for at in range(90):
        for judge in (alone, workers[at % 3]):
            judge.saw(HEAD, logits[at : at + 1])
            judge.answered(asked(logits[at : at + 1], labels[at : at + 1]), logits[at : at + 1])
    for worker in workers:
        worker.count()
    for worker in workers:
        for mine, ours in zip(alone.totals(), worker.totals(), strict=True):
            np.testing.assert_allclose(ours[KEY], mine[KEY], rtol=1e-12)
            for name in ("rows", "correct", "bin_rows", "confusion", "predicted", "energy"):
                np.testing.assert_array_equal(LAYOUT.of(ours[KEY], name), LAYOUT.of(mine[KEY], name))


def test_a_successor_counts_what_a_killed_worker_had_answered(tmp_path: Path) -> None:
    logits, labels = rows()
    killed = Quality(tmp_path, 1, window_s=60)
    killed.label(HEAD, logits[:7], labels[:7])
    killed.count()
    killed.label(HEAD, logits[7:], labels[7:])  # and there it dies
    other = Quality(tmp_path, 0, window_s=60)
    assert LAYOUT.of(life(other), "rows")[0] == 7
    successor = Quality(tmp_path, 1, window_s=60)
    np.testing.assert_allclose(life(successor), expected(logits, labels), rtol=1e-13)
    np.testing.assert_allclose(life(other), expected(logits, labels), rtol=1e-13)
    again = Quality(tmp_path, 1, window_s=60)
    np.testing.assert_array_equal(life(again), life(successor))


def test_other_files_of_one_version_are_other_heads(quality: Quality) -> None:
    changed = HeadInfo("pets", "3", 4, 2, FLOAT32, None, "e" * 64, "cpu")
    quality.label(HEAD, *rows(3))
    quality.label(changed, *rows(4, classes=2))
    counts = quality.totals()[0]
    assert {key: layout_of(key.num_classes).of(vector, "rows")[0] for key, vector in counts.items()} == {
        KEY: 3,
        key_of(changed): 4,
    }
    quality.close()
