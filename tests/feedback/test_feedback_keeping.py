"""Keeping and joining beside the event loop: together where many come, and harming nobody where the store fails."""

import asyncio
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from stores import DAY_S, eventually

from service.errors import DeadlineExceeded, Invalid, NotReady, StartError
from service.feedback import keeping
from service.feedback.joining import Label, Outcomes
from service.feedback.keeping import Feedback, feedback_off, store_at
from service.feedback.sqlite import SqliteStore
from service.feedback.store import Found, Scored, StoreFailed, Waiting
from service.outcomes import awaited
from service.types import FloatArray, HeadInfo, IndexArray, Output, RowIds

pytestmark = pytest.mark.anyio

HEAD = HeadInfo("digits", "1", 4, 3, np.dtype(np.float32), ("cat", "dog", "eel"), "sha", "cpu")
ROW = np.zeros((1, 3), np.float32)


class Kept:
    """A store in memory that can be held up and made to fail."""

    def __init__(self) -> None:
        self.transactions: list[list[str]] = []
        self.held = threading.Event()
        self.held.set()
        self.fails: Exception | None = None
        self.opened = 0
        self.closed = 0
        self.threads: set[str] = set()

    def opening(self) -> "Kept":
        self.opened += 1
        return self

    def add(self, scored: Sequence[Scored]) -> None:
        self.threads.add(threading.current_thread().name)
        self.held.wait(10)
        if self.fails:
            raise self.fails
        self.transactions.append([i for one in scored for i in one.ids])

    def find(self, ids: Collection[str]) -> Mapping[str, Found]:
        self.threads.add(threading.current_thread().name)
        if self.fails:
            raise self.fails
        return {}

    def take(self, waiting: Mapping[str, Waiting]) -> set[str]:
        return set(waiting)

    def close(self) -> None:
        self.closed += 1


class Desk:
    """`Feedback` with what it counted and whom it told."""

    def __init__(self, opening: keeping.Opening) -> None:
        self.counts: Counter[str] = Counter()
        self.judged: list[tuple[str, str, FloatArray, IndexArray]] = []
        self.feedback = Feedback(opening, lambda *row: self.judged.append(row), self.count)

    def count(self, outcome: str, rows: int) -> None:
        asyncio.get_running_loop()  # raises elsewhere
        self.counts[outcome] += rows

    async def keep(self, row_ids: RowIds, logits: FloatArray = ROW, deadline_s: float = math.inf) -> Output:
        return await awaited(
            lambda deliver, _gone: self.feedback.keep(HEAD, row_ids, logits, deadline_s, deliver)
        )

    async def join(
        self, ids: Sequence[str], labels: Sequence[Label], deadline_s: float = math.inf
    ) -> Outcomes:
        return await self.join_read(lambda: (ids, labels), deadline_s)

    async def join_read(self, read: keeping.Labelled, deadline_s: float = math.inf) -> Outcomes:
        return await awaited(lambda deliver, _gone: self.feedback.join(read, deadline_s, deliver))


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def desk(kept: Kept) -> Desk:
    return Desk(kept.opening)


async def test_nothing_is_opened_and_no_thread_begun_before_somebody_asks(desk: Desk, kept: Kept) -> None:
    before = threading.active_count()
    await asyncio.sleep(0.01)
    assert (kept.opened, threading.active_count()) == (0, before)
    desk.feedback.close()


async def test_ids_come_nested_as_the_rows_are(desk: Desk) -> None:
    assert await desk.keep(("a",), ROW[0]) == "a"
    assert await desk.keep(("a", "b"), np.zeros((2, 3), np.float32)) == ["a", "b"]
    assert await desk.keep(tuple("abcd"), np.zeros((2, 2, 3), np.float32)) == [["a", "b"], ["c", "d"]]
    assert await desk.keep((), np.zeros((0, 3), np.float32)) == []
    desk.feedback.close()


async def test_ids_that_are_made_are_new_for_every_row(desk: Desk) -> None:
    many = np.zeros((50, 3), np.float32)
    one, other = await desk.keep(True, many), await desk.keep(True, many)  # noqa: FBT003 - as it is asked for
    assert isinstance(one, list)
    assert isinstance(other, list)
    assert len({*map(str, one), *map(str, other)}) == 100
    assert all(isinstance(i, str) and 32 < len(i) < 50 and i.isprintable() for i in one)
    desk.feedback.close()


async def test_what_comes_while_it_writes_is_written_together(desk: Desk, kept: Kept) -> None:
    kept.held.clear()
    first = asyncio.create_task(desk.keep(("first",)))
    await asyncio.sleep(0)
    eventually(lambda: bool(kept.threads))  # it is being written
    others = [asyncio.create_task(desk.keep((f"{number}",))) for number in range(20)]
    await asyncio.sleep(0.01)
    assert not first.done(), "nobody hears of ids before they are written"
    kept.held.set()
    assert await asyncio.gather(first, *others) == [["first"], *([f"{number}"] for number in range(20))]
    assert kept.transactions == [["first"], [f"{number}" for number in range(20)]]
    assert all(name.startswith("feedback-writer") for name in kept.threads)
    desk.feedback.close()


async def test_a_label_may_come_the_moment_after(tmp_path: Path) -> None:
    desk = Desk(store_at(tmp_path / "rows.sqlite", DAY_S, 100))
    logits = np.arange(6, dtype=np.float32).reshape(2, 3)
    ids = await desk.keep(("a", "b"), logits)
    assert ids == ["a", "b"]
    assert await desk.join(["b", "a", "x"], ["dog", 2, 0]) == Outcomes(2, ["x"], [], [])
    assert desk.counts == {"joined": 2, "unknown": 1, "expired": 0, "repeated": 0}
    ((model, version, judged, labels),) = desk.judged
    assert (model, version) == ("digits", "1")
    assert judged[np.argsort(-labels)].tobytes() == logits.tobytes()
    desk.feedback.close()


async def test_a_store_that_fails_is_told_logged_and_opened_again(
    desk: Desk, kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    kept.fails = StoreFailed("database or disk is full at /secret/place")
    for call in (desk.keep(("a",)), desk.join(["a"], [0])):
        with pytest.raises(NotReady) as caught:
            await call
        assert caught.value.code == "feedback_unavailable"
        assert "secret" not in caught.value.detail
        assert caught.value.headers == {"Retry-After": "1"}
    assert caplog.text.count("disk is full at /secret/place") == 2
    kept.fails = None
    assert await desk.keep(("b",)) == ["b"]
    assert (kept.opened, kept.closed) == (3, 2)
    assert desk.counts == {}
    desk.feedback.close()


async def test_a_place_that_cannot_be_opened_is_tried_again_each_time(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    desk = Desk(partial(SqliteStore, folder / "rows.sqlite", DAY_S, 100))
    with pytest.raises(NotReady):
        await desk.keep(("a",))
    folder.mkdir()
    assert await desk.keep(("a",)) == ["a"]
    desk.feedback.close()


async def test_what_is_a_bug_stays_one(desk: Desk, kept: Kept) -> None:
    kept.fails = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await desk.keep(("a",))
    kept.fails = None
    assert await desk.keep(("a",)) == ["a"]
    desk.feedback.close()


async def test_what_cannot_be_read_is_the_readers_error_and_keeps_the_store(desk: Desk, kept: Kept) -> None:
    def read() -> tuple[list[str], list[Label]]:
        raise Invalid("row_ids_type", "expected a list", path="ids")

    assert await desk.join([], []) == Outcomes(0, [], [], [])
    with pytest.raises(Invalid):
        await desk.join_read(read)
    assert (kept.opened, kept.closed) == (1, 0)
    desk.feedback.close()


async def test_more_than_the_store_can_follow_is_refused_at_once(
    desk: Desk, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "WAITING_ROWS", 3)
    kept.held.clear()
    first = asyncio.create_task(desk.keep(("first",)))
    await asyncio.sleep(0)
    eventually(lambda: bool(kept.threads))
    large = asyncio.create_task(desk.keep(tuple("abcd"), np.zeros((4, 3), np.float32)))
    await asyncio.sleep(0)
    with pytest.raises(NotReady, match="3 rows wait to be written"):
        await desk.keep(("e",))
    kept.held.set()
    assert await first == ["first"]
    assert await large == ["a", "b", "c", "d"], "one request may have more, where nothing waits"
    desk.feedback.close()


async def test_what_is_late_is_not_written_and_not_joined(desk: Desk, kept: Kept) -> None:
    late_s = time.monotonic() - 1
    with pytest.raises(DeadlineExceeded):
        await desk.keep(("a",), deadline_s=late_s)
    with pytest.raises(DeadlineExceeded):
        await desk.join(["a"], [0], deadline_s=late_s)
    assert kept.opened == 0
    desk.feedback.close()


async def test_a_judge_that_fails_is_logged_and_the_rows_stay_joined(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(store_at(tmp_path / "rows.sqlite", DAY_S, 100))
    desk.feedback._judged = lambda *_row: 1 / 0  # type: ignore[assignment] # it is to fail
    await desk.keep(("a",))
    with caplog.at_level(logging.ERROR):
        assert (await desk.join(["a"], [0])).joined == 1
    assert "joined rows of digits version 1 could not be judged" in caplog.text
    assert (await desk.join(["a"], [0])).repeated == ["a"]
    desk.feedback.close()


async def test_closing_writes_what_waits_first(desk: Desk, kept: Kept) -> None:
    task = asyncio.create_task(desk.keep(("a",)))
    await asyncio.sleep(0)
    desk.feedback.close()
    assert kept.transactions == [["a"]]
    assert (kept.opened, kept.closed) == (1, 1)
    assert await task == ["a"]


def test_a_url_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "service.feedback.redis", raising=False)
    with pytest.raises(StartError, match=r"pip install logitserve\[cpu,redis\]"):
        store_at("redis://127.0.0.1:6379/0", DAY_S, 100)


def test_off_is_the_callers_to_know() -> None:
    error = feedback_off("row_ids")
    assert (error.status, error.code, error.offences[0].path) == (422, "feedback_off", "row_ids")
    assert "LOGITSERVE_FEEDBACK" in error.detail
