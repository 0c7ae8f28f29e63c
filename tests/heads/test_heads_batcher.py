"""The batcher: first where peers break, then what it promises of rows, order, turns and limits."""

import asyncio
import math
import threading
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import DeadlineExceeded, QueueFull
from service.heads.batcher import Batched, Batcher
from service.outcomes import Abandoned

pytestmark = pytest.mark.anyio

Array = NDArray[Any]


class Doubling:
    """Twice the rows and their sums; waits or fails when told to, and remembers what ran together."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.threads: list[threading.Thread] = []
        self.begun = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def __call__(self, rows: Array) -> tuple[Array, ...]:
        self.batches.append(len(rows))
        self.threads.append(threading.current_thread())
        self.begun.set()
        assert self.go.wait(10)
        if (rows < 0).any():
            raise ValueError("a row below 0")
        return 2 * rows, rows.sum(axis=-1)


def batcher(function: Doubling, **options: Any) -> Batcher:
    limits = {"inline_rows": 100, "max_batch_rows": 1000, "max_queue_rows": 1000}
    return Batcher(function, **{**limits, **options})


def rows(*values: float) -> Array:
    return np.array([[value, value] for value in values], dtype=np.float64)


def check(batched: Batched, *values: float) -> None:
    doubled, sums = batched.arrays
    np.testing.assert_array_equal(doubled, 2 * rows(*values).reshape(-1, 2))
    np.testing.assert_array_equal(sums, [2 * value for value in values])


async def test_a_caller_cancelled_while_queued_harms_nobody() -> None:
    function = Doubling()
    batch = batcher(function)
    first, gone, last = (asyncio.create_task(batch.submit(rows(n))) for n in (1, 2, 3))
    await asyncio.sleep(0)
    gone.cancel()
    check(await first, 1)
    check(await last, 3)
    assert gone.cancelled() or (await asyncio.wait([gone]))[0].pop().cancelled()
    assert function.batches == [2], "who is gone is not computed"
    assert batch.queue_rows == 0
    check(await batch.submit(rows(4)), 4)


async def test_whoever_went_away_is_told_so_once_and_not_computed() -> None:
    function = Doubling()
    batch = batcher(function)
    outcomes: dict[str, list[Batched | Exception]] = {"gone": [], "late": [], "both": [], "kept": []}
    past_s = time.monotonic() - 1
    batch.enter(rows(1), math.inf, outcomes["gone"].append, lambda: True)
    batch.enter(rows(2), past_s, outcomes["late"].append)
    batch.enter(rows(3), past_s, outcomes["both"].append, lambda: True)
    batch.enter(rows(4), math.inf, outcomes["kept"].append)
    await asyncio.sleep(0.02)
    kinds = {name: [type(outcome) for outcome in found] for name, found in outcomes.items()}
    assert kinds == {"gone": [Abandoned], "late": [DeadlineExceeded], "both": [Abandoned], "kept": [Batched]}
    assert function.batches == [1]
    assert batch.queue_rows == 0


async def test_who_waits_behind_a_whole_batch_of_those_gone_is_answered() -> None:
    batch = batcher(Doubling(), max_batch_rows=2)
    dropped: list[Batched | Exception] = []
    for _ in range(4):
        batch.enter(rows(1), math.inf, dropped.append, lambda: True)
    check(await asyncio.wait_for(batch.submit(rows(2)), 5), 2)
    assert [type(outcome) for outcome in dropped] == [Abandoned] * 4
    assert batch.queue_rows == 0


async def test_a_waiter_that_fails_at_its_outcome_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_outcome: Batched | Exception) -> None:
        raise ZeroDivisionError

    batch = batcher(Doubling())
    batch.enter(rows(1), math.inf, fail)
    check(await asyncio.wait_for(batch.submit(rows(2)), 5), 2)
    assert "a waiter failed" in caplog.text


async def test_a_caller_cancelled_while_running_harms_nobody() -> None:
    function = Doubling()
    function.go.clear()
    batch = batcher(function, inline_rows=0)
    first, gone = (asyncio.create_task(batch.submit(rows(n))) for n in (1, 2))
    assert await asyncio.to_thread(function.begun.wait, 10)
    gone.cancel()
    await asyncio.sleep(0)
    function.go.set()
    check(await first, 1)
    with pytest.raises(asyncio.CancelledError):
        await gone
    check(await batch.submit(rows(3)), 3)
    batch.close()


@pytest.mark.parametrize("inline_rows", [0, 100])
async def test_an_engine_that_raises_fails_only_who_caused_it(inline_rows: int) -> None:
    batch = batcher(Doubling(), inline_rows=inline_rows)
    results = await asyncio.gather(*(batch.submit(rows(n)) for n in (1, -2, 3, -4)), return_exceptions=True)
    for result, value in zip(results, (1, -2, 3, -4), strict=True):
        if value < 0:
            assert isinstance(result, ValueError)
        else:
            assert isinstance(result, Batched)
            check(result, value)
    check(await batch.submit(rows(5)), 5)
    batch.close()


async def test_what_comes_in_one_turn_runs_together() -> None:
    function = Doubling()
    batch = batcher(function)
    results = await asyncio.gather(*(batch.submit(rows(*range(n))) for n in (1, 2, 3)))
    assert function.batches == [6]
    for result, n in zip(results, (1, 2, 3), strict=True):
        check(result, *range(n))
        assert result.batch_rows == 6
        assert result.seconds_queued >= 0


async def test_an_idle_function_answers_at_once() -> None:
    function = Doubling()
    batch = batcher(function)
    for n in range(3):
        check(await batch.submit(rows(n)), n)
    assert function.batches == [1, 1, 1]


async def test_what_comes_while_the_function_is_busy_runs_together_afterwards() -> None:
    function = Doubling()
    function.go.clear()
    batch = batcher(function, inline_rows=0)
    first = asyncio.create_task(batch.submit(rows(1)))
    assert await asyncio.to_thread(function.begun.wait, 10)
    later = [asyncio.create_task(batch.submit(rows(n))) for n in (2, 3)]
    await asyncio.sleep(0.01)
    later += [asyncio.create_task(batch.submit(rows(4)))]
    await asyncio.sleep(0.01)
    assert batch.queue_rows == 3
    function.go.set()
    check(await first, 1)
    for task, n in zip(later, (2, 3, 4), strict=True):
        check(await task, n)
    assert function.batches == [1, 3]
    batch.close()


async def test_few_rows_run_on_the_event_loop_and_many_in_one_thread() -> None:
    function = Doubling()
    batch = batcher(function, inline_rows=2)
    await batch.submit(rows(1, 2))
    await batch.submit(rows(1, 2, 3))
    await batch.submit(rows(1, 2, 3))
    here, *elsewhere = function.threads
    assert here is threading.current_thread()
    assert elsewhere[0] is elsewhere[1]
    assert elsewhere[0] is not here
    batch.close()


async def test_rows_are_counted_not_requests() -> None:
    function = Doubling()
    batch = batcher(function, max_batch_rows=5)
    await asyncio.gather(*(batch.submit(rows(*range(n))) for n in (2, 2, 2, 4, 1)))
    assert function.batches == [4, 2, 5]


async def test_a_submission_larger_than_a_batch_runs_in_pieces() -> None:
    function = Doubling()
    batch = batcher(function, max_batch_rows=4)
    check(await batch.submit(rows(*range(11))), *range(11))
    assert function.batches == [4, 4, 3]


async def test_no_rows_are_an_answer_too() -> None:
    check(await batcher(Doubling()).submit(np.empty((0, 2))))


@pytest.mark.parametrize("inline_rows", [0, 100])
async def test_rows_past_their_deadline_are_dropped_before_they_run(inline_rows: int) -> None:
    function = Doubling()
    batch = batcher(function, inline_rows=inline_rows)
    results = await asyncio.gather(
        batch.submit(rows(1), time.monotonic() - 1),
        batch.submit(rows(2), time.monotonic() + 60),
        return_exceptions=True,
    )
    assert isinstance(results[0], DeadlineExceeded)
    assert isinstance(results[1], Batched)
    assert function.batches == [1]
    batch.close()


async def test_if_everybody_is_late_nothing_runs() -> None:
    function = Doubling()
    batch = batcher(function)
    with pytest.raises(DeadlineExceeded):
        await batch.submit(rows(1), time.monotonic() - 1)
    assert function.batches == []
    check(await batch.submit(rows(2)), 2)


async def test_who_comes_to_a_full_queue_is_refused_at_once_and_told_when_to_come_again() -> None:
    function = Doubling()
    batch = batcher(function, max_queue_rows=3)
    results = await asyncio.gather(*(batch.submit(rows(1, 2)) for _ in range(2)), return_exceptions=True)
    check(results[0], 1, 2)  # type: ignore[arg-type]
    refused = results[1]
    assert isinstance(refused, QueueFull)
    assert refused.code == "queue_full"
    assert int(refused.headers["Retry-After"]) >= 1
    assert "LOGITSERVE_QUEUE_ROWS_LIMIT" in refused.message
    check(await batch.submit(rows(1, 2)), 1, 2)


async def test_the_time_to_come_again_follows_the_measured_rate() -> None:
    function = Doubling()
    batch = batcher(function, max_queue_rows=50, inline_rows=0)
    batch._rows_per_s = 10.0
    function.go.clear()
    running = asyncio.create_task(batch.submit(rows(0)))
    assert await asyncio.to_thread(function.begun.wait, 10)
    waiting = asyncio.create_task(batch.submit(rows(*range(50))))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull) as caught:
        await batch.submit(rows(1))
    assert caught.value.headers["Retry-After"] == "5"
    function.go.set()
    await asyncio.gather(running, waiting)
    batch.close()


async def test_an_empty_queue_takes_any_single_submission() -> None:
    batch = batcher(Doubling(), max_queue_rows=3)
    check(await batch.submit(rows(*range(20))), *range(20))


async def test_a_delay_counts_from_the_first_row() -> None:
    function = Doubling()
    batch = batcher(function, delay_s=0.05)
    begun_s = time.monotonic()
    first = asyncio.create_task(batch.submit(rows(1)))
    await asyncio.sleep(0.02)
    second = asyncio.create_task(batch.submit(rows(2)))
    await first
    waited_s = time.monotonic() - begun_s
    await second
    assert function.batches == [2]
    assert waited_s >= 0.045


async def test_what_runs_together_is_observed() -> None:
    seen: list[int] = []
    batch = batcher(Doubling(), max_batch_rows=4, observe=seen.append)
    await asyncio.gather(*(batch.submit(rows(*range(n))) for n in (3, 1, 2)))
    assert seen == [4, 2]


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=20),
    max_batch_rows=st.integers(1, 12),
    inline_rows=st.sampled_from([0, 5, 100]),
)
def test_rows_in_are_rows_out_in_order_and_as_if_alone(
    sizes: list[int], max_batch_rows: int, inline_rows: int
) -> None:
    async def run() -> list[Batched]:
        batch = batcher(Doubling(), max_batch_rows=max_batch_rows, inline_rows=inline_rows)
        submissions = [rows(*range(start, start + n)).reshape(-1, 2) for start, n in enumerate(sizes)]
        results = await asyncio.gather(*map(batch.submit, submissions))
        batch.close()
        return results

    for start, (n, result) in enumerate(zip(sizes, asyncio.run(run()), strict=True)):
        check(result, *range(start, start + n))


async def test_what_is_no_array_is_stacked_and_weighed_as_its_maker_says() -> None:
    """Lists of arrays stand for rows that are laid out otherwise."""
    ran: list[tuple[list[Array], threading.Thread]] = []

    def function(stacked: list[Array]) -> tuple[Array, ...]:
        ran.append((stacked, threading.current_thread()))
        return (np.array([row.sum() for row in stacked]),)

    batch = Batcher(
        function,
        inline_rows=3,
        max_batch_rows=100,
        max_queue_rows=100,
        stack=lambda parts: [row for part in parts for row in part],
        weigh=lambda part: sum(row.size for row in part),
    )
    ones = [np.ones(1), np.ones(2)]
    together = await asyncio.gather(batch.submit(ones), batch.submit([np.ones(3)]))
    assert [batched.arrays[0].tolist() for batched in together] == [[1, 2], [3]]
    assert [batched.batch_rows for batched in together] == [3, 3]
    alone = await batch.submit(ones)
    assert alone.arrays[0].tolist() == [1, 2]
    assert [len(stacked) for stacked, _ in ran] == [3, 2]
    here = threading.current_thread()
    assert [thread is here for _, thread in ran] == [False, True], "6 weigh more than 3, and 3 do not"
    batch.close()
