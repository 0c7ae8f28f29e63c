"""Loading, unloading and naming versions while serving, in all workers alike.

Whoever is asked makes a new plan of the one agreed upon; every worker follows it, and the one that was asked waits
until all have. It knows plans, the repository and the agreement; it knows no HTTP and nothing of requests.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from service.agreement import FIRST, Agreed, Agreement, Note, Value
from service.errors import MAX_OFFENCES, DeadlineExceeded, Invalid, LogitserveError, StartError
from service.heads.plan import Key, Plan
from service.heads.repository import Repository
from service.heads.storage import StoredVersion

# How long another worker's change may go unseen; to look costs some 20 µs.
LOOK_INTERVAL_S = 0.25
# How often to see whether all have followed, while somebody waits for it.
WAIT_INTERVAL_S = 0.02
# How long a handle that serves no more is kept for requests that found it before: reading and checking the largest
# body takes less. Whoever comes later gets a 503.
LINGER_S = 5.0
# How long the others may take to follow what was noticed, before the log says so: loading the largest heads takes less.
NOTICE_TIMEOUT_S = 60.0

PART = "models"  # of the value agreed upon

_log = logging.getLogger("logitserve")


class Rollout:
    """Makes one worker's repository follow the plan that all have agreed upon.

    `changed` is called, on the event loop, when other versions serve than before or handles have been let go.
    """

    def __init__(self, repository: Repository, agreement: Agreement, changed: Callable[[], None]) -> None:
        self._repository = repository
        self._agreement = agreement
        self._changed = changed
        self._generation = 0
        self._asked = asyncio.Event()
        # One for all loads: malloc keeps a heap for each thread, so that a dozen of them would keep a dozen versions.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="models")

    async def start(self) -> None:
        """Load what is agreed upon, or first of all what lies in the folder; raise what `Repository.load` does.

        A worker that takes the place of a dead one thus serves what the others do. Once something was changed, a
        version that fails is told as such and ends no start: the others serve on without it, too.
        """
        agreed = await asyncio.to_thread(self._agreement.begin, self._first)
        await self._follow(agreed, strict=agreed.generation == FIRST)

    async def run(self) -> None:
        """Follow the others until cancelled."""
        while True:
            try:
                agreed = self._agreement.read()
                if agreed.generation != self._generation:
                    await self._follow(agreed)
                if self._repository.release(time.monotonic() - LINGER_S):
                    self._changed()
            except Exception:  # noqa: BLE001 - the next look may go well, and nobody else would ever look
                _log.exception("this worker could not follow what was agreed upon")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await self._asked.wait()
            self._asked.clear()

    async def watch(self, interval_s: float) -> None:
        """Do what `reload` does whenever something has changed at the location, until cancelled.

        Only what two looks have found alike is acted upon: files that are still being copied differ from one to the
        next. Who fails is tried again when its files change.
        """
        before: list[StoredVersion] = []
        told = ""
        while True:
            await asyncio.sleep(interval_s)
            try:
                found = await asyncio.to_thread(self._repository.stored)
                if found == before:
                    await self._notice(found)
                before, told = found, ""
            except LogitserveError as error:
                if str(error) != told:
                    _log.warning("looking for changed models: %s", error)
                told = str(error)
            except Exception:  # noqa: BLE001 - as in `run`
                _log.exception("looking for changed models failed")

    async def load(self, model: str, version: str | None, deadline_s: float) -> None:
        """Let a version, or all that the folder has of a model, serve in every worker.

        `deadline_s` is on the clock of `time.monotonic`. Raises `NotFound` for a name that is not there, `Invalid` with
        the reason where a version cannot be loaded (what served before still does), and `DeadlineExceeded` naming the
        workers that have not followed in time (they still will).
        """
        policy = self._repository.policy
        await self._agree(lambda plan: plan.load(self._stored(), model, version, policy), deadline_s)

    async def unload(self, model: str, version: str | None, deadline_s: float) -> None:
        """Let a version, or all of a model, serve no more in any worker; see `load`."""
        await self._agree(lambda plan: plan.unload(model, version), deadline_s)

    async def reload(self, deadline_s: float) -> None:
        """Look at the location again in every worker; see `load` and `Plan.reload`."""
        await self._look(lambda plan: plan.reload(self._stored(), self._repository.policy), deadline_s)

    async def name(self, model: str, alias: str, version: str | None, deadline_s: float) -> None:
        """Let a name stand for a version in every worker, or for none any more; see `load`."""
        await self._agree(lambda plan: plan.name(model, alias, version), deadline_s)

    def _first(self) -> Value:
        return {PART: self._repository.first().to_json()}

    def _stored(self) -> list[StoredVersion]:
        try:
            return self._repository.stored()
        except StartError as error:
            raise Invalid("not_loadable", str(error)) from error

    async def _notice(self, found: list[StoredVersion]) -> None:
        policy = self._repository.policy
        planned = self._planned()
        if planned.notice(found, policy) is not planned:
            # Looked at anew while nobody else changes anything: another may have been asked to in the meantime.
            await self._look(
                lambda plan: plan.notice(self._stored(), policy), time.monotonic() + NOTICE_TIMEOUT_S
            )

    async def _look(self, change: Callable[[Plan], Plan], deadline_s: float) -> None:
        """Let go of what the policy no longer wants, too, once every worker has tried what it does want."""
        try:
            await self._agree(change, deadline_s)
        finally:
            policy, planned = self._repository.policy, self._planned()
            failed = {key for key in planned.stored if self._reasons(key)}
            lagging = self._agreement.lagging(self._agreement.read().generation)
            if not lagging and planned.settle(policy, failed) != planned:
                await self._agree(lambda plan: plan.settle(policy, failed), deadline_s)

    def _planned(self) -> Plan:
        return Plan.from_json(self._agreement.read().value[PART])

    async def _follow(self, agreed: Agreed, *, strict: bool = False) -> None:
        plan = Plan.from_json(agreed.value[PART])
        follow = partial(self._repository.follow, plan, strict=strict)
        failures = await asyncio.get_running_loop().run_in_executor(self._thread, follow)
        self._changed()
        troubles = {_name_of(key): reason for key, reason in failures.items()}
        self._agreement.acknowledge(Note(agreed.generation, troubles))
        self._generation = agreed.generation

    async def _agree(self, change: Callable[[Plan], Plan], deadline_s: float) -> None:
        asked: set[Key] = set()

        def changed(value: Value) -> Value:
            before = Plan.from_json(value[PART])
            after = change(before)
            if after.ask != before.ask:
                asked.update(after.asked_last())
            return {**value, PART: after.to_json()}

        agreed = await asyncio.to_thread(self._agreement.change, changed)
        self._asked.set()
        while lagging := self._agreement.lagging(agreed.generation):
            if time.monotonic() >= deadline_s:
                raise _late(lagging)
            await asyncio.sleep(WAIT_INTERVAL_S)
        self._raise_troubles(sorted(asked))

    def _raise_troubles(self, asked: list[Key]) -> None:
        failed = {key: reasons for key in asked if (reasons := self._reasons(key))}
        if failed:
            told = [f"{_name_of(key)}: {'; '.join(reasons)}" for key, reasons in failed.items()]
            raise Invalid("not_loadable", "; ".join(told[:MAX_OFFENCES]))

    def _reasons(self, key: Key) -> dict[str, None]:
        """Why a version fails, once for all workers that say the same."""
        notes = [note for note in self._agreement.notes() if note is not None]
        return {note.troubles[_name_of(key)]: None for note in notes if _name_of(key) in note.troubles}


def _name_of(key: Key) -> str:
    return f"{key[0]} version {key[1]}"


def _late(lagging: list[int]) -> DeadlineExceeded:
    named = "worker " if len(lagging) == 1 else "workers "
    named += ", ".join(str(slot + 1) for slot in lagging)  # as the log counts them
    return DeadlineExceeded(
        "deadline",
        f"the time allowed passed before {named} had followed; what was asked for stays agreed upon",
    )
