"""Answers that come later, by a call.

Scoring a small request takes some ten microseconds, and a task with a future around it five more. So whatever
waits on the way of a request is begun with a function that gets the outcome; `awaited` makes a coroutine of it
for whoever has the time. Nothing is known here of what is waited for.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeAlias, TypeVar

T = TypeVar("T")

# Gets a value, or the error in its place; called once, on the event loop, whatever happens. It must not raise.
Deliver: TypeAlias = Callable[[T | Exception], None]
# Whether nobody waits for the outcome any more.
Gone: TypeAlias = Callable[[], bool]


class Abandoned(Exception):
    """The outcome of what was dropped because nobody waited for it any more."""


def never() -> bool:
    """Say of a waiter that it stays."""
    return False


def gathered(count: int, deliver: Deliver[tuple[T, ...]]) -> list[Deliver[T]]:
    """Make what takes so many outcomes and delivers them together, once all are there; or the first error among them."""
    outcomes: dict[int, T | Exception] = {}

    def take(place: int, outcome: T | Exception) -> None:
        outcomes[place] = outcome
        if len(outcomes) == count:
            found = [outcomes[place] for place in range(count)]
            errors = [one for one in found if isinstance(one, Exception)]
            deliver(errors[0] if errors else tuple(one for one in found if not isinstance(one, Exception)))

    return [partial(take, place) for place in range(count)]


async def awaited(begin: Callable[[Deliver[T], Gone], None]) -> T:
    """Begin something and wait for its outcome, which is returned or raised; a cancelled caller is gone."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def deliver(outcome: T | Exception) -> None:
        if future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    begin(deliver, future.done)
    return await future
