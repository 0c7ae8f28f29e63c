"""Outcomes: what is begun by a call and awaited by a coroutine."""

import asyncio

import pytest

from service.outcomes import Deliver, Gone, awaited, gathered, never

pytestmark = pytest.mark.anyio


async def test_a_value_is_returned_at_once_or_later() -> None:
    def at_once(deliver: Deliver[int], _gone: Gone) -> None:
        deliver(3)

    assert await awaited(at_once) == 3
    loop = asyncio.get_running_loop()

    def later(deliver: Deliver[str], _gone: Gone) -> None:
        loop.call_later(0.01, deliver, "late")

    assert await awaited(later) == "late"


async def test_an_error_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await awaited(lambda deliver, _gone: deliver(ZeroDivisionError()))

    def refuse(_deliver: Deliver[None], _gone: Gone) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await awaited(refuse)


async def test_a_cancelled_caller_is_gone_and_what_comes_then_harms_nobody() -> None:
    waiting: list[tuple[Deliver[int], Gone]] = []

    def begin(deliver: Deliver[int], gone: Gone) -> None:
        waiting.append((deliver, gone))

    task = asyncio.create_task(awaited(begin))
    await asyncio.sleep(0)
    ((deliver, gone),) = waiting
    assert not gone()
    task.cancel()
    await asyncio.wait([task])
    assert gone()
    deliver(1)
    deliver(ValueError())
    assert task.cancelled()


def test_who_never_goes_is_never_gone() -> None:
    assert never() is False


def test_several_outcomes_are_delivered_once_all_are_there_in_their_order() -> None:
    delivered: list[object] = []
    shares: list[Deliver[str]] = gathered(3, delivered.append)
    shares[2]("c")
    shares[0]("a")
    assert delivered == []
    shares[1]("b")
    assert delivered == [("a", "b", "c")]


def test_of_several_errors_the_first_in_order_is_delivered_when_all_have_ended() -> None:
    delivered: list[object] = []
    shares: list[Deliver[str]] = gathered(3, delivered.append)
    late, early = LookupError(), ZeroDivisionError()
    shares[2](late)
    shares[0]("a")
    assert delivered == []
    shares[1](early)
    assert delivered == [early]
