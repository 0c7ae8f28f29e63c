"""What every store must do, whichever it is."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from stores import BY, DAY_S, eventually, needs_redis, running_redis, scored, take_all

from service.feedback.keeping import Opening, store_at
from service.feedback.store import Scored, ScoredBy, Store, Waiting, as_array, pieces

OpeningOf = Callable[..., Opening]


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=needs_redis)])
def opening_of(request: pytest.FixtureRequest, tmp_path: Path) -> OpeningOf:
    """Open stores of one kind, all of them at one place that was empty before."""
    place: str | Path = tmp_path / "rows.sqlite"
    if request.param == "redis":
        import redis

        place = request.getfixturevalue("redis_url")
        with redis.Redis.from_url(str(place)) as client:
            client.flushall()

    def opening_of(ttl_s: float = DAY_S, rows_limit: int = 1000) -> Opening:
        return store_at(place, ttl_s, rows_limit)

    return opening_of


@pytest.fixture
def store(opening_of: OpeningOf) -> Iterator[Store]:
    store = opening_of()()
    yield store
    store.close()


def test_what_nobody_added_is_unknown(store: Store) -> None:
    assert store.find(["a", "b"]) == {}
    assert store.find([]) == {}


def test_a_row_waits_with_its_head_and_every_bit_of_its_logits(store: Store) -> None:
    float64 = ScoredBy("words", "12", "other", "float64", 2, None)
    logits = np.array([[np.pi, -np.inf], [1e300, -0.0]])
    store.add([scored("a", "b"), Scored(float64, ["c", "d"], logits)])
    found = store.find(["d", "a", "x", "c"])
    assert found.keys() == {"a", "c", "d"}
    rows = [found[i] for i in ("c", "d")]
    assert isinstance(rows[0], Waiting)
    assert isinstance(rows[1], Waiting)
    assert rows[0].by == rows[1].by == float64
    assert as_array([rows[0], rows[1]]).tobytes() == logits.tobytes()
    row = found["a"]
    assert isinstance(row, Waiting)
    assert (row.by, row.logits) == (BY, scored("a").logits.tobytes())


def test_ids_may_be_any_text(store: Store) -> None:
    ids = ("a b", "Ü", "{x}:*", "row:1", "'; DROP TABLE waiting; --", "1" * 200)
    store.add([scored(*ids)])
    assert store.find(ids).keys() == set(ids)
    assert take_all(store, *ids) == set(ids)


def test_a_row_is_taken_once_and_then_known_as_joined(store: Store) -> None:
    store.add([scored("a", "b")])
    found = store.find(["a"])
    waiting = {i: row for i, row in found.items() if isinstance(row, Waiting)}
    assert store.take(waiting) == {"a"}
    assert store.take(waiting) == set()
    assert store.find(["a"]) == {"a": "joined"}
    assert isinstance(store.find(["b"])["b"], Waiting)
    assert store.take({}) == set()


def test_an_id_that_is_given_again_stands_for_the_row_scored_last(store: Store) -> None:
    store.add([scored("a", first=1), scored("a", first=2)])
    old = store.find(["a"])["a"]
    assert isinstance(old, Waiting)
    assert as_array([old])[0, 0] == 2
    store.add([scored("a", first=3)])
    assert store.take({"a": old}) == set(), "the row that was found is no more"
    assert take_all(store, "a") == {"a"}
    store.add([scored("a", first=4)])
    new = store.find(["a"])["a"]
    assert isinstance(new, Waiting)
    assert as_array([new])[0, 0] == 4


def test_the_oldest_are_forgotten_where_there_are_too_many(opening_of: OpeningOf) -> None:
    store = opening_of(rows_limit=4)()
    for number in range(3):
        store.add([scored(f"{number}a", f"{number}b")])
        time.sleep(0.002)  # so that Redis, which counts milliseconds, knows their order
    assert store.find([f"{n}{x}" for n in range(3) for x in "ab"]).keys() == {"1a", "1b", "2a", "2b"}
    take_all(store, "2a")
    time.sleep(0.002)
    store.add([scored("3a")])
    assert {"2a", "2b", "3a"} <= store.find(["1a", "1b", "2a", "2b", "3a"]).keys()
    assert len(store.find(["1a", "1b", "2a", "2b", "3a"])) == 4
    store.close()


def test_rows_expire_and_are_remembered_for_as_long_again(opening_of: OpeningOf) -> None:
    store = opening_of(ttl_s=0.3)()
    begun_s = time.monotonic()
    store.add([scored("late", "joined")])
    late = store.find(["late"])["late"]
    assert isinstance(late, Waiting)
    assert take_all(store, "joined") == {"joined"}
    eventually(lambda: store.find(["late"]).get("late") == "expired")
    assert time.monotonic() - begun_s >= 0.29
    assert store.take({"late": late}) == set()
    assert store.find(["joined"]) == {}, "a joined one is remembered until it would have expired"
    eventually(lambda: store.find(["late"]) == {})
    assert time.monotonic() - begun_s >= 0.59
    store.close()


def test_what_was_kept_is_there_for_whoever_opens_the_place_next(opening_of: OpeningOf) -> None:
    first = opening_of()()
    first.add([scored("a", "b")])
    take_all(first, "b")
    first.close()
    second = opening_of()()
    assert isinstance(second.find(["a"])["a"], Waiting)
    assert second.find(["b"]) == {"b": "joined"}
    second.close()


def test_of_several_who_take_a_row_at_once_one_gets_it(opening_of: OpeningOf) -> None:
    ids = [str(number) for number in range(300)]
    stores = [opening_of()() for _ in range(4)]
    stores[0].add([scored(*ids)])
    start = threading.Barrier(len(stores))
    taken: list[set[str]] = []

    def take(store: Store) -> None:
        waiting = {i: row for i, row in store.find(ids).items() if isinstance(row, Waiting)}
        start.wait()
        taken.extend(store.take({i: waiting[i] for i in some}) for some in pieces(ids, 30))

    threads = [threading.Thread(target=take, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(map(len, taken)) == len(ids)
    assert set().union(*taken) == set(ids)
    for store in stores:
        store.close()


def test_thousands_of_rows_go_in_and_out(opening_of: OpeningOf) -> None:
    store = opening_of(rows_limit=10_000)()
    ids = [str(number) for number in range(2500)]
    store.add([scored(*ids)])
    found = store.find(ids)
    rows = [row for row in found.values() if isinstance(row, Waiting)]
    assert list(found) == ids or set(found) == set(ids)
    assert len(rows) == len(ids)
    assert take_all(store, *ids) == set(ids)
    store.close()


def test_ids_are_cut_into_pieces() -> None:
    assert list(pieces(dict.fromkeys("abcde"), 2)) == [["a", "b"], ["c", "d"], ["e"]]
    assert list(pieces([], 2)) == []
