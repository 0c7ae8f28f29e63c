"""How many connections each worker holds: who may take one more, and who is woken."""

import contextlib
import os
import select
import time
from collections.abc import Iterator

import pytest

from service.workers.shares import PATIENCE_S, Shares


@pytest.fixture
def shares() -> Iterator[Shares]:
    with contextlib.closing(Shares(3)) as made:
        yield made


def hold(shares: Shares, *numbers: int) -> None:
    """All of them listen and hold so many."""
    for slot, number in enumerate(numbers):
        shares.listen(slot)
        for _ in range(number):
            shares.take(slot)


def woken(shares: Shares) -> list[int]:
    ready, _, _ = select.select([shares.waker(slot) for slot in range(3)], [], [], 0)
    return [slot for slot in range(3) if shares.waker(slot) in ready]


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    at_ns = time.monotonic_ns() + int(1.1 * PATIENCE_S * 1e9)
    monkeypatch.setattr(time, "monotonic_ns", lambda: at_ns)


def may_take(shares: Shares) -> list[bool]:
    return [shares.may_take(slot) for slot in range(3)]


def test_whoever_holds_no_more_than_any_other_may_take_one(shares: Shares) -> None:
    hold(shares, 2, 1, 1)
    assert may_take(shares) == [False, True, True]
    shares.take(1)
    assert may_take(shares) == [False, False, True]
    shares.take(2)
    assert may_take(shares) == [True, True, True]
    shares.drop(0)
    assert may_take(shares) == [True, False, False]


def test_those_who_are_not_there_are_not_waited_for(shares: Shares) -> None:
    shares.listen(0)
    shares.take(0)
    assert shares.may_take(0)
    assert not shares.has_others(0)
    shares.listen(1)
    assert not shares.may_take(0)
    assert shares.has_others(0)
    shares.leave(1)
    assert shares.may_take(0)
    assert not shares.has_others(0)


def test_a_worker_that_rests_is_waited_for(shares: Shares) -> None:
    hold(shares, 1, 0)
    shares.rest(1)
    assert not shares.may_take(0)


def test_a_worker_that_stands_still_is_not_waited_for(
    shares: Shares, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(shares, 5, 0, 3)
    assert not shares.may_take(0)
    later(monkeypatch)
    shares.show_life(0)
    assert shares.may_take(0)
    shares.show_life(2)
    assert not shares.may_take(0)


def test_who_wakes_after_a_long_time_may_take_by_itself(
    shares: Shares, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(shares, 5, 0, 3)
    later(monkeypatch)
    assert may_take(shares) == [True, True, True], "or nobody would"


def test_a_rest_is_over_when_the_others_have_caught_up(shares: Shares) -> None:
    hold(shares, 2, 1, 1)
    shares.rest(0)
    shares.take(1)
    assert woken(shares) == []
    shares.take(2)
    assert woken(shares) == [0]
    shares.heard(0)
    assert woken(shares) == []
    shares.heard(0)  # nothing was said, and it does not wait for it


def test_those_who_listen_are_not_woken(shares: Shares) -> None:
    hold(shares, 1, 0, 0)
    shares.take(1)
    shares.take(2)
    assert woken(shares) == []


@pytest.mark.parametrize("way", ["leave", "clear"])
def test_a_rest_is_over_when_the_one_waited_for_is_gone(shares: Shares, way: str) -> None:
    hold(shares, 2, 0, 2)
    shares.rest(0)
    shares.rest(2)
    getattr(shares, way)(1)
    assert woken(shares) == [0, 2]


def test_who_rests_longest_while_nobody_shows_life_is_woken(
    shares: Shares, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(shares, 2, 0)
    shares.rest(0)
    later(monkeypatch)
    shares.leave(1)
    assert woken(shares) == [0]


def test_the_next_process_in_a_slot_begins_with_none(shares: Shares) -> None:
    hold(shares, 4, 4, 4)
    shares.clear(1)
    assert list(shares.held) == [4, 0, 4]
    shares.listen(1)
    assert may_take(shares) == [False, True, False]


def test_a_count_never_falls_below_none(shares: Shares) -> None:
    shares.drop(0)
    assert shares.held[0] == 0


def test_more_calls_than_a_waker_holds_block_nobody(shares: Shares) -> None:
    os.set_blocking(shares.waker(0), True)  # its other end must not block, whatever is done to this one
    hold(shares, 0, 0)
    shares.rest(0)
    for _ in range(70_000):  # a pipe holds 65536 bytes
        shares.leave(2)
    assert woken(shares) == [0]


def test_forked_processes_see_each_others_counts(shares: Shares) -> None:
    hold(shares, 1, 0)
    shares.rest(0)
    child = os.fork()
    if not child:
        shares.take(1)
        os._exit(0)
    os.waitpid(child, 0)
    assert list(shares.held) == [1, 1, 0]
    assert woken(shares) == [0]
