"""Labels that are joined to rows: what becomes of each id, and who hears of it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from stores import DAY_S, scored, take_all

from service.errors import MAX_OFFENCES, Invalid
from service.feedback.joining import TAKEN_AT_ONCE, Outcomes, join
from service.feedback.sqlite import SqliteStore
from service.feedback.store import Found, ScoredBy, Waiting
from service.types import FloatArray, IndexArray

WORDS = ScoredBy("words", "12", "other", "float64", 2, None)


class Judge:
    """Hears of rows, as online evaluation does."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, FloatArray, IndexArray]] = []

    def __call__(self, model: str, version: str, logits: FloatArray, labels: IndexArray) -> None:
        self.heard.append((model, version, logits, labels))

    @property
    def labels(self) -> list[int]:
        return [label for *_, labels in self.heard for label in labels.tolist()]


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "rows.sqlite", DAY_S, 100_000)
    yield store
    store.close()


def test_labels_are_joined_by_index_or_name_and_judged_by_head(store: SqliteStore, judge: Judge) -> None:
    store.add([scored("a", "b", "c"), scored("w", by=WORDS)])
    outcomes = join(store, ["c", "w", "x", "a"], ["eel", 1, 99, 0], judge)
    assert outcomes == Outcomes(3, ["x"], [], [])
    told = {model: (version, logits, labels) for model, version, logits, labels in judge.heard}
    version, logits, labels = told["digits"]
    assert (version, logits.dtype.name, labels.dtype.name) == ("1", "float32", "int64")
    order = np.argsort(labels)
    assert labels[order].tolist() == [0, 2]
    assert logits[order].tobytes() == scored("a", "b", "c").logits[[0, 2]].tobytes()
    version, logits, labels = told["words"]
    assert (version, logits.dtype.name, logits.shape, labels.tolist()) == ("12", "float64", (1, 2), [1])


def test_an_id_that_comes_again_is_repeated_and_its_first_label_holds(
    store: SqliteStore, judge: Judge
) -> None:
    store.add([scored("a", "b")])
    assert join(store, ["a", "b", "a"], [1, 0, 2], judge) == Outcomes(2, [], [], ["a"])
    assert join(store, ["b", "a"], [2, 2], judge) == Outcomes(0, [], [], ["b", "a"])
    assert sorted(judge.labels) == [0, 1]


def test_expired_ids_are_told_apart(tmp_path: Path, judge: Judge) -> None:
    now = [0.0]
    store = SqliteStore(tmp_path / "rows.sqlite", 10, 100, lambda: now[0])
    store.add([scored("late")])
    now[0] = 5
    store.add([scored("a")])
    now[0] = 12
    assert join(store, ["late", "a", "x"], [0, 0, 0], judge) == Outcomes(1, ["x"], ["late"], [])
    store.close()


FAULTS: list[tuple[int | str, str, str]] = [
    (3, "label_out_of_range", "from 0 to 2 of digits version 1"),
    (-1, "label_out_of_range", "got -1"),
    (2**62, "label_out_of_range", "got 4611686018427387904"),
    ("cow", "unknown_class_name", "one of 3 class names of digits version 1"),
    ("", "unknown_class_name", "got ''"),
    ("x" * 1000, "unknown_class_name", f"got '{'x' * 40}'"),
]


@pytest.mark.parametrize(("label", "code", "message"), FAULTS)
def test_a_label_that_the_head_does_not_have_joins_nothing(
    store: SqliteStore, judge: Judge, label: int | str, code: str, message: str
) -> None:
    store.add([scored("a", "b")])
    with pytest.raises(Invalid) as caught:
        join(store, ["x", "a", "b"], [7, "dog", label], judge)
    assert caught.value.code == code
    assert [offence.path for offence in caught.value.offences] == ["labels[2]"]
    assert message in caught.value.message
    assert join(store, ["a", "b"], [1, 2], judge).joined == 2, "they still wait"
    assert sorted(judge.labels) == [1, 2]


def test_a_name_is_no_label_of_a_head_without_names(store: SqliteStore, judge: Judge) -> None:
    store.add([scored("w", by=WORDS)])
    with pytest.raises(Invalid, match="has no names") as caught:
        join(store, ["w"], ["cat"], judge)
    assert caught.value.code == "unknown_class_name"


def test_only_labels_of_rows_that_wait_are_looked_at(store: SqliteStore, judge: Judge) -> None:
    store.add([scored("a")])
    take_all(store, "a")
    assert join(store, ["a", "x"], [99, "cow"], judge) == Outcomes(0, ["x"], [], ["a"])
    assert judge.heard == []


def test_offences_have_one_code_and_are_at_most_so_many(store: SqliteStore, judge: Judge) -> None:
    ids = [str(number) for number in range(40)]
    store.add([scored(*ids)])
    with pytest.raises(Invalid) as caught:
        join(store, ids, ["cow", 9] * 20, judge)
    assert caught.value.code == "unknown_class_name"
    assert [offence.path for offence in caught.value.offences] == [
        f"labels[{place}]" for place in range(0, MAX_OFFENCES, 2)
    ]


def test_many_are_taken_in_pieces_and_all_are_judged(store: SqliteStore, judge: Judge) -> None:
    ids = [str(number) for number in range(2 * TAKEN_AT_ONCE + 1)]
    store.add([scored(*ids)])
    assert join(store, ids, [int(i) % 3 for i in ids], judge).joined == len(ids)
    assert len(judge.heard) == 3
    assert sum(len(logits) for _, _, logits, _ in judge.heard) == len(ids)
    for _, _, logits, labels in judge.heard:
        assert (logits[:, 0].astype(int) % 3).tolist() == labels.tolist(), "each row has its own label"


def test_a_row_that_another_takes_meanwhile_is_repeated(store: SqliteStore, judge: Judge) -> None:
    class Slow(SqliteStore):
        """Between the look and the taking another worker joins a row."""

        def take(self, waiting: Mapping[str, Waiting]) -> set[str]:
            take_all(store, "a")
            return super().take(waiting)

        def find(self, ids: object) -> Mapping[str, Found]:
            return store.find(["a", "b"])

    store.add([scored("a", "b")])
    slow = Slow(Path(store._connection.execute("PRAGMA database_list").fetchone()[2]), DAY_S, 100)
    assert join(slow, ["a", "b"], [0, 1], judge) == Outcomes(1, [], [], ["a"])
    assert judge.labels == [1]
    slow.close()


def test_nothing_comes_of_nothing(store: SqliteStore, judge: Judge) -> None:
    assert join(store, [], [], judge) == Outcomes(0, [], [], [])
