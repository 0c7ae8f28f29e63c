"""Loading and unloading in several workers at once: all follow, nobody's change is lost, failures are told."""

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from conftest import MODELS

from service import rollout
from service.agreement import FIRST, Agreement
from service.errors import DeadlineExceeded, Invalid, ModelError, NotFound, NotReady, StartError
from service.heads.policy import read_policy
from service.heads.repository import Repository
from service.rollout import Rollout

pytestmark = pytest.mark.anyio

MODEL = (MODELS / "digits" / "1" / "model.onnx").read_bytes()


def put(folder: Path, model: str, version: int, content: bytes = MODEL) -> Path:
    (folder / model / str(version)).mkdir(parents=True, exist_ok=True)
    (folder / model / str(version) / "model.onnx").write_bytes(content)
    return folder / model / str(version)


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    return put(tmp_path / "heads", "pets", 1).parent.parent


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


class Worker:
    """What a worker has of it; `changes` counts how often it was told that other versions serve."""

    def __init__(
        self,
        heads: Path,
        run_folder: Path | None = None,
        slot: int = 0,
        workers: int = 1,
        policy: str = "all",
    ) -> None:
        self.repository = Repository(heads, provider="cpu", policy=read_policy(policy))
        self.changes = 0
        self.rollout = Rollout(self.repository, Agreement(run_folder, slot, workers), self.on_changed)

    def on_changed(self) -> None:
        self.changes += 1

    def ready(self) -> set[str]:
        return {
            f"{model['name']} {version['version']}"
            for model in self.repository.describe()
            for version in model["versions"]
            if version["state"] == "ready"
        }


@contextlib.asynccontextmanager
async def running(*workers: Worker) -> AsyncIterator[None]:
    """Start workers and let them follow."""
    await asyncio.gather(*(worker.rollout.start() for worker in workers))
    tasks = [asyncio.create_task(worker.rollout.run()) for worker in workers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


async def test_at_first_all_serve_what_lies_in_the_folder(heads: Path, run_folder: Path) -> None:
    workers = [Worker(heads, run_folder, slot, 2) for slot in range(2)]
    async with running(*workers):
        assert [worker.ready() for worker in workers] == [{"pets 1"}] * 2
        assert all(worker.changes for worker in workers)


async def test_what_appears_between_two_starts_serves_in_both_or_neither(
    heads: Path, run_folder: Path
) -> None:
    async with running(Worker(heads, run_folder, 0, 2)):
        put(heads, "pets", 2)
        late = Worker(heads, run_folder, 1, 2)
        await late.rollout.start()
        assert late.ready() == {"pets 1"}


async def test_every_worker_has_followed_when_a_call_returns(heads: Path, run_folder: Path) -> None:
    workers = [Worker(heads, run_folder, slot, 3) for slot in range(3)]
    async with running(*workers):
        put(heads, "pets", 2)
        put(heads, "cars", 1)
        await workers[0].rollout.reload(soon())
        assert [worker.ready() for worker in workers] == [{"pets 1", "pets 2", "cars 1"}] * 3
        await workers[1].rollout.unload("pets", "1", soon())
        await workers[2].rollout.unload("cars", None, soon())
        assert [worker.ready() for worker in workers] == [{"pets 2"}] * 3
        await workers[0].rollout.load("pets", None, soon())
        await workers[1].rollout.name("pets", "stable", "1", soon())
        for worker in workers:
            assert worker.ready() == {"pets 1", "pets 2"}
            assert worker.repository.info("pets", "stable").version == "1"
        await workers[2].rollout.name("pets", "stable", None, soon())
        with pytest.raises(NotFound):
            workers[0].repository.info("pets", "stable")


async def test_alone_the_same_works_in_memory_and_at_once(
    heads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "LOOK_INTERVAL_S", 60)
    worker = Worker(heads)
    async with running(worker):
        await worker.rollout.unload("pets", "1", soon())
        assert worker.ready() == set()
        with pytest.raises(NotReady):
            worker.repository.info("pets", None)
        await worker.rollout.load("pets", "1", soon())
        assert worker.ready() == {"pets 1"}


async def test_changes_asked_of_several_workers_at_once_are_all_made(heads: Path, run_folder: Path) -> None:
    for version in range(2, 8):
        put(heads, "pets", version)
    workers = [Worker(heads, run_folder, slot, 3) for slot in range(3)]
    async with running(*workers):
        await asyncio.gather(
            *(workers[number % 3].rollout.unload("pets", str(number), soon()) for number in range(1, 7)),
            workers[0].rollout.name("pets", "stable", "7", soon()),
        )
        for worker in workers:
            assert worker.ready() == {"pets 7"}
            assert worker.repository.info("pets", "stable").version == "7"


async def test_who_takes_a_dead_ones_place_serves_what_was_agreed(heads: Path, run_folder: Path) -> None:
    put(heads, "pets", 2)
    workers = [Worker(heads, run_folder, slot, 2) for slot in range(2)]
    async with running(*workers):
        await workers[0].rollout.unload("pets", "1", soon())
    put(heads, "pets", 3)
    replacement = Worker(heads, run_folder, 1, 2)
    await replacement.rollout.start()
    assert replacement.ready() == {"pets 2"}, "neither what was unloaded nor what nobody asked for"


async def test_who_takes_a_dead_ones_place_goes_without_a_version_that_fails(
    heads: Path, run_folder: Path
) -> None:
    put(heads, "pets", 2)
    worker = Worker(heads, run_folder)
    async with running(worker):
        await worker.rollout.name("pets", "stable", "1", soon())
    put(heads, "pets", 2, b"garbage")
    replacement = Worker(heads, run_folder)
    await replacement.rollout.start()
    assert replacement.ready() == {"pets 1"}


@pytest.mark.parametrize("broken", [True, False])
async def test_the_first_start_fails_in_words(heads: Path, *, broken: bool) -> None:
    if broken:
        put(heads, "pets", 2, b"garbage")
    else:
        shutil.rmtree(heads)
    with pytest.raises(
        ModelError if broken else StartError, match="pets version 2" if broken else "cannot read"
    ):
        await Worker(heads).rollout.start()


async def test_a_load_that_fails_is_told_and_harms_nothing(heads: Path, run_folder: Path) -> None:
    workers = [Worker(heads, run_folder, slot, 2) for slot in range(2)]
    async with running(*workers):
        put(heads, "pets", 2, b"garbage")
        for _ in range(2):
            with pytest.raises(Invalid, match="pets version 2: onnxruntime cannot open the model") as raised:
                await workers[0].rollout.load("pets", "2", soon())
            assert raised.value.code == "not_loadable"
            assert raised.value.detail.count("onnxruntime") == 1, "told once, not by each worker"
        for worker in workers:
            assert worker.ready() == {"pets 1"}
            assert worker.repository.describe()[0]["versions"][1]["state"] == "failed"
        await workers[1].rollout.load("pets", "1", soon())  # the other one's failure is not its own
        await workers[1].rollout.unload("pets", "2", soon())
        put(heads, "pets", 2)
        await workers[1].rollout.load("pets", "2", soon())
        assert [worker.ready() for worker in workers] == [{"pets 1", "pets 2"}] * 2


async def test_an_empty_folder_is_no_reason_to_unload_everything(heads: Path) -> None:
    worker = Worker(heads)
    async with running(worker):
        shutil.rmtree(heads)
        for call in (worker.rollout.reload(soon()), worker.rollout.load("pets", "1", soon())):
            with pytest.raises(Invalid, match="cannot read the models at") as raised:
                await call
            assert raised.value.code == "not_loadable"
        assert worker.ready() == {"pets 1"}


async def test_names_that_are_not_there_change_nothing(heads: Path, run_folder: Path) -> None:
    worker = Worker(heads, run_folder)
    async with running(worker):
        for call in (
            worker.rollout.load("cats", None, soon()),
            worker.rollout.unload("pets", "2", soon()),
            worker.rollout.name("pets", "stable", "2", soon()),
        ):
            with pytest.raises(NotFound):
                await call
        assert Agreement(run_folder).read().generation == FIRST


async def test_who_has_not_followed_in_time_is_named_and_still_follows(heads: Path, run_folder: Path) -> None:
    put(heads, "pets", 2)
    here, slow = (Worker(heads, run_folder, slot, 2) for slot in range(2))
    await slow.rollout.start()
    async with running(here):
        begun_s = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"before worker 2 had followed") as raised:
            await here.rollout.unload("pets", "2", soon(0.3))
        assert 0.3 <= time.monotonic() - begun_s < 2
        assert raised.value.code == "deadline"
        assert (here.ready(), slow.ready()) == ({"pets 1"}, {"pets 1", "pets 2"})
        following = asyncio.create_task(slow.rollout.run())
        await here.rollout.unload("pets", "2", soon())
        assert slow.ready() == {"pets 1"}
        following.cancel()
        await asyncio.wait([following])


async def test_a_load_longer_than_the_deadline_is_told_in_time_and_goes_on(
    heads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(heads)
    follow = worker.repository.follow

    def slow_follow(*arguments: object, **options: object) -> object:
        time.sleep(0.5)
        return follow(*arguments, **options)  # type: ignore[arg-type] # as it came

    async with running(worker):
        monkeypatch.setattr(worker.repository, "follow", slow_follow)
        with pytest.raises(DeadlineExceeded, match="worker 1"):
            await worker.rollout.unload("pets", None, soon(0.1))
        assert worker.ready() == {"pets 1"}
        await asyncio.sleep(0.6)
        assert worker.ready() == set()


async def test_a_handle_that_left_is_let_go_after_a_while(
    heads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "LINGER_S", 0.3)
    worker = Worker(heads)
    async with running(worker):
        info = worker.repository.info("pets", None)
        await worker.rollout.unload("pets", None, soon())
        told = worker.changes
        assert worker.repository.head(info).info is info
        await asyncio.sleep(0.9)
        with pytest.raises(NotReady):
            worker.repository.head(info)
        assert worker.changes == told + 1


async def test_a_worker_that_could_not_follow_tries_again(
    heads: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(heads)
    follow = worker.repository.follow
    failed: list[int] = []

    def faulty(*arguments: object, **options: object) -> object:
        if not failed:
            failed.append(1)
            raise OSError("no space left")
        return follow(*arguments, **options)  # type: ignore[arg-type] # as it came

    async with running(worker):
        monkeypatch.setattr(worker.repository, "follow", faulty)
        await worker.rollout.unload("pets", None, soon())
        assert worker.ready() == set()
    assert "could not follow" in caplog.text


# A policy


async def test_under_a_policy_the_new_version_takes_the_place_of_the_old_in_every_worker(
    heads: Path, run_folder: Path
) -> None:
    workers = [Worker(heads, run_folder, slot, 2, "latest:1") for slot in range(2)]
    async with running(*workers):
        put(heads, "pets", 2)
        await workers[0].rollout.reload(soon())
        assert [worker.ready() for worker in workers] == [{"pets 2"}] * 2
        for worker in workers:
            (pets,) = worker.repository.describe()
            assert (pets["version_policy"], pets["default_version"]) == ("latest:1", "2")
            assert pets["versions"][0] == {
                "version": "1",
                "state": "unloaded",
                "reason": "left out by the version policy latest:1",
            }
            with pytest.raises(NotReady):
                worker.repository.info("pets", "1")


async def test_a_new_version_that_fails_leaves_the_old_one_in_every_worker_and_its_replacement(
    heads: Path, run_folder: Path
) -> None:
    workers = [Worker(heads, run_folder, slot, 2, "latest:1") for slot in range(2)]
    async with running(*workers):
        put(heads, "pets", 2, MODEL[:500])
        with pytest.raises(Invalid, match="pets version 2: onnxruntime cannot open the model"):
            await workers[0].rollout.reload(soon())
        assert [worker.ready() for worker in workers] == [{"pets 1"}] * 2
        replacement = Worker(heads, run_folder, 1, 2, "latest:1")
        await replacement.rollout.start()
        assert replacement.ready() == {"pets 1"}
        put(heads, "pets", 2)
        await workers[0].rollout.reload(soon())
        assert [worker.ready() for worker in workers] == [{"pets 2"}] * 2


async def test_what_is_asked_for_by_name_overrules_the_policy(heads: Path, run_folder: Path) -> None:
    put(heads, "pets", 2)
    workers = [Worker(heads, run_folder, slot, 2, "latest:1") for slot in range(2)]
    async with running(*workers):
        assert workers[0].ready() == {"pets 2"}
        await workers[1].rollout.load("pets", "1", soon())
        await workers[0].rollout.unload("pets", "2", soon())
        await workers[1].rollout.reload(soon())
        assert [worker.ready() for worker in workers] == [{"pets 1"}] * 2
        await workers[1].rollout.load("pets", None, soon())
        assert [worker.ready() for worker in workers] == [{"pets 1", "pets 2"}] * 2, "1 was asked for by name"


async def test_a_policy_that_leaves_nothing_ends_the_start(heads: Path) -> None:
    with pytest.raises(StartError, match=r"leaves nothing to serve: .* pets \(specific:3\)"):
        await Worker(heads, policy="specific:3").rollout.start()


# Watching

INTERVAL_S = 0.05


@contextlib.asynccontextmanager
async def watching(*workers: Worker) -> AsyncIterator[None]:
    """Started, following, and the first of them watching."""
    async with running(*workers):
        task = asyncio.create_task(workers[0].rollout.watch(INTERVAL_S))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


async def until_ready(expected: set[str], *workers: Worker) -> None:
    end_s = soon()
    while any(worker.ready() != expected for worker in workers):
        assert time.monotonic() < end_s, [worker.ready() for worker in workers]
        await asyncio.sleep(0.02)


async def test_what_appears_and_vanishes_is_followed_by_all_once_for_each_change(
    heads: Path, run_folder: Path
) -> None:
    workers = [Worker(heads, run_folder, slot, 2) for slot in range(2)]
    async with watching(*workers):
        await asyncio.sleep(5 * INTERVAL_S)
        assert Agreement(run_folder).read().generation == FIRST, "nothing has changed"
        put(heads, "pets", 2)
        await until_ready({"pets 1", "pets 2"}, *workers)
        await asyncio.sleep(5 * INTERVAL_S)
        assert Agreement(run_folder).read().generation == FIRST + 1
        shutil.rmtree(heads / "pets" / "1")
        await until_ready({"pets 2"}, *workers)
        await asyncio.sleep(5 * INTERVAL_S)
        assert Agreement(run_folder).read().generation == FIRST + 2


async def test_bytes_that_are_replaced_are_noticed_and_only_they_are_read_again(heads: Path) -> None:
    put(heads, "pets", 2)
    worker = Worker(heads)
    async with watching(worker):
        untouched = worker.repository.head(worker.repository.info("pets", "1"))
        before = worker.repository.info("pets", "2").digest
        (heads / "pets" / "2" / "head.json").write_text('{"source": {"data": "others"}}', encoding="utf-8")
        end_s = soon()
        while worker.repository.info("pets", "2").digest == before:
            assert time.monotonic() < end_s
            await asyncio.sleep(0.02)
        assert worker.repository.head(worker.repository.info("pets", "1")) is untouched


async def test_a_version_that_is_still_being_copied_is_left_alone(heads: Path, run_folder: Path) -> None:
    worker = Worker(heads, run_folder)
    async with watching(worker):
        path = put(heads, "pets", 2, b"") / "model.onnx"
        with path.open("ab", buffering=0) as file:
            for start in range(0, len(MODEL), 100):
                file.write(MODEL[start : start + 100])
                await asyncio.sleep(INTERVAL_S / 5)
                assert Agreement(run_folder).read().generation == FIRST
        await until_ready({"pets 1", "pets 2"}, worker)


async def test_a_copy_that_stopped_halfway_fails_in_words_once_and_is_tried_again_when_it_goes_on(
    heads: Path, run_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workers = [Worker(heads, run_folder, slot, 2, "latest:1") for slot in range(2)]
    async with watching(*workers):
        path = put(heads, "pets", 2, MODEL[:1000]) / "model.onnx"
        end_s = soon()
        while "pets version 2: onnxruntime cannot open" not in caplog.text:
            assert time.monotonic() < end_s
            await asyncio.sleep(0.02)
        generation = Agreement(run_folder).read().generation
        await asyncio.sleep(5 * INTERVAL_S)
        assert Agreement(run_folder).read().generation == generation, "not tried again for nothing"
        assert caplog.text.count("onnxruntime cannot open") == 1
        for worker in workers:
            assert worker.ready() == {"pets 1"}
            failed = worker.repository.describe()[0]["versions"][1]
            assert (failed["state"], failed["reason"][:23]) == ("failed", "onnxruntime cannot open")
        path.write_bytes(MODEL)
        await until_ready({"pets 2"}, *workers)


async def test_a_location_that_cannot_be_read_is_told_once_and_changes_nothing(
    heads: Path, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(heads)
    async with watching(worker):
        shutil.move(heads, heads.with_name("moved"))
        await asyncio.sleep(8 * INTERVAL_S)
        assert worker.ready() == {"pets 1"}
        assert caplog.text.count("cannot read the models at") == 1
        shutil.move(heads.with_name("moved"), heads)
        put(heads, "pets", 2)
        await until_ready({"pets 1", "pets 2"}, worker)


async def test_a_fault_while_looking_is_logged_and_it_looks_on(
    heads: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(heads)
    async with watching(worker):
        with monkeypatch.context() as patched:
            patched.setattr(worker.repository, "stored", lambda: 1 / 0)
            await asyncio.sleep(3 * INTERVAL_S)
        assert "looking for changed models failed" in caplog.text
        put(heads, "pets", 2)
        await until_ready({"pets 1", "pets 2"}, worker)


async def test_who_watches_and_who_is_asked_do_not_undo_each_other(heads: Path, run_folder: Path) -> None:
    workers = [Worker(heads, run_folder, slot, 2) for slot in range(2)]
    async with watching(*workers):
        for version in range(2, 8):
            put(heads, "pets", version)
            await workers[1].rollout.reload(soon())
            assert f"pets {version}" in workers[0].ready()
            await workers[1].rollout.unload("pets", str(version - 1), soon())
            await asyncio.sleep(INTERVAL_S)
        await asyncio.sleep(4 * INTERVAL_S)
        assert [worker.ready() for worker in workers] == [{"pets 7"}] * 2
