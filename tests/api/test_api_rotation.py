"""Keys that change while the service runs: what is taken, when, and what is said of it."""

import asyncio
import json
import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import MODELS, connected

from service.api import rotation
from service.api.exchange import Exchange
from service.api.rotation import FILE_LIMIT_BYTES, Rotation
from service.api.security import Scope
from service.api.transport import Edge
from service.app import create_app
from service.errors import Forbidden, StartError, Unauthenticated
from service.keys import Grant, Key, digest_of, line_of
from service.metrics import Metrics
from service.settings import Settings

ADMIN = Key("admin_key", digest_of(b"admin-key"), frozenset({"admin"}))


def line(name: str, scope: Grant = "infer", **fields: Any) -> str:
    return line_of(Key(name, digest_of(f"{name}-key".encode()), frozenset({scope}), **fields)) + "\n"


class Worker:
    """The edge of one worker, and what follows the file for it."""

    def __init__(
        self,
        path: Path | None,
        run_folder: Path | None = None,
        slot: int = 0,
        fixed: Collection[Key] = (ADMIN,),
    ) -> None:
        self.edge = Edge(Metrics(), body_limit_bytes=1000, request_timeout_s=60)
        self.rotation = Rotation(self.edge, fixed, path, run_folder, slot)

    def looks(self) -> None:
        """Look twice, as it takes."""
        self.rotation.look()
        self.rotation.look()

    def lets_in(self, name: str | None, scope: Scope = "infer") -> bool:
        headers = {} if name is None else {b"authorization": f"Bearer {name}-key".encode()}
        try:
            self.edge.keys.check(Exchange(headers, "POST", "id", 60.0, 1000), scope)
        except (Unauthenticated, Forbidden):
            return False
        return True


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(line("old"), encoding="utf-8")
    return path


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "logitserve")
    return caplog


def test_without_a_file_the_fixed_keys_hold() -> None:
    worker = Worker(None)
    assert not worker.rotation.follows
    assert worker.lets_in("admin", "admin")
    assert worker.lets_in(None)


def test_the_keys_of_the_file_stand_beside_the_fixed_ones(path: Path) -> None:
    worker = Worker(path)
    assert worker.rotation.follows
    assert [worker.lets_in(name) for name in ("old", "admin", None, "new")] == [True, True, False, False]


def test_a_changed_file_is_taken_and_told(path: Path, log: pytest.LogCaptureFixture) -> None:
    worker = Worker(path)
    path.write_text(line("new") + line("other", "metrics"), encoding="utf-8")
    worker.looks()
    assert (worker.lets_in("old"), worker.lets_in("new")) == (False, True)
    assert log.messages == [
        f"keys in force: 1 of {path}",
        f"keys in force: 2 of {path}; new: new, other; gone: old",
    ]
    assert "-key" not in log.text.replace(str(path), "")


def test_a_file_that_stays_is_not_taken_again(path: Path, log: pytest.LogCaptureFixture) -> None:
    worker = Worker(path)
    before = worker.edge.keys
    os.utime(path, (0, 0))
    worker.looks()
    worker.looks()
    assert worker.edge.keys is before
    assert len(log.messages) == 1


def test_what_is_being_written_is_not_taken_half(path: Path) -> None:
    worker = Worker(path)
    whole = line("old") + line("new")
    path.write_text(line("new"), encoding="utf-8")  # as far as it has come
    worker.rotation.look()
    path.write_text(whole, encoding="utf-8")
    worker.rotation.look()
    assert worker.lets_in("old"), "never locked out"
    worker.rotation.look()
    assert (worker.lets_in("old"), worker.lets_in("new")) == (True, True)


def test_a_look_at_something_else_between_two_that_agree_counts(path: Path) -> None:
    worker = Worker(path)
    for text in (line("new"), line("old"), line("new")):
        path.write_text(text, encoding="utf-8")
        worker.rotation.look()
    assert worker.lets_in("old")
    worker.rotation.look()
    assert not worker.lets_in("old")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "the keys cannot be read: No such file or directory"),
        (b"", "expected at least one key"),
        (b"old =", "not valid TOML"),
        (b"\xff\xfe", "expected TOML in UTF-8"),
        (b"#" * (FILE_LIMIT_BYTES + 1), "expected at most 1048576 bytes"),
        (line("admin_key").encode(), "two keys are named admin_key"),
        (line("admin").encode(), "admin_key and admin are the same key"),
        (line("old").encode() + b"x = {}", "x: sha256: expected"),
    ],
)
def test_a_file_that_has_become_wrong_changes_nothing_and_is_told_once(
    path: Path, log: pytest.LogCaptureFixture, content: bytes | None, said: str
) -> None:
    worker = Worker(path)
    before = worker.edge.keys
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    for _ in range(3):
        worker.looks()
    assert worker.edge.keys is before
    assert len(log.records) == 2
    assert log.records[1].levelname == "ERROR"
    assert log.messages[1].startswith(f"the keys stay as they were: {path}: {said}")
    path.write_text(line("old"), encoding="utf-8")
    worker.looks()
    assert log.messages[2].endswith("new: none; gone: none"), "whoever has mended it is told"
    assert worker.lets_in("old")


@pytest.mark.parametrize("content", [None, b"", b"old ="])
def test_a_file_that_is_wrong_from_the_start_ends_it(path: Path, content: bytes | None) -> None:
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StartError) as caught:
        Worker(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_scope_that_has_lost_its_last_key_opens_to_nobody(path: Path) -> None:
    worker = Worker(path)
    path.write_text(line("scraper", "metrics"), encoding="utf-8")
    worker.looks()
    assert not worker.lets_in(None)
    assert not worker.lets_in("old")
    assert worker.lets_in("admin")
    assert worker.lets_in("scraper", "metrics")
    assert not worker.lets_in(None, "metrics")


def test_a_worker_that_starts_while_the_file_is_wrong_has_the_keys_of_the_others(
    path: Path, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    first = Worker(path, run_folder)
    path.write_text(line("new", "metrics"), encoding="utf-8")
    first.looks()
    path.write_text("half a li", encoding="utf-8")
    first.looks()
    late = Worker(path, run_folder)
    assert log.messages[-1].startswith(f"the keys are those that other workers have: {path}: not valid TOML")
    for worker in (first, late):
        assert worker.lets_in("new", "metrics")
        assert not worker.lets_in(None), "closed since before it started"
    path.write_text(line("newest"), encoding="utf-8")
    late.looks()
    assert (late.lets_in("newest"), late.lets_in("new", "metrics")) == (True, False)


def test_a_worker_that_starts_later_closes_what_the_others_have_closed(path: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    first = Worker(path, run_folder)
    path.write_text(line("scraper", "metrics"), encoding="utf-8")
    first.looks()
    late = Worker(path, run_folder, slot=1)
    assert not late.lets_in(None)
    kept = json.loads((run_folder / "keys.json").read_text(encoding="utf-8"))
    assert kept == {"text": line("scraper", "metrics"), "closed": ["admin", "infer", "metrics"]}
    assert [file.name for file in run_folder.iterdir()] == ["keys.json"], "replaced whole"


def test_a_folder_that_takes_no_copy_stops_no_rotation(path: Path, tmp_path: Path) -> None:
    worker = Worker(path, tmp_path / "gone")
    path.write_text(line("new"), encoding="utf-8")
    worker.looks()
    assert (worker.lets_in("old"), worker.lets_in("new")) == (False, True)


def test_of_several_workers_one_tells(path: Path, log: pytest.LogCaptureFixture) -> None:
    worker = Worker(path, slot=1)
    path.write_text("", encoding="utf-8")
    worker.looks()
    assert log.messages == []


def test_keys_that_have_expired_are_told(path: Path, log: pytest.LogCaptureFixture) -> None:
    path.write_text(line("old", expires_s=1.0) + line("older", expires_s=0.0) + line("new"), encoding="utf-8")
    worker = Worker(path)
    assert log.messages[-1] == "keys that have expired: old, older"
    assert [worker.lets_in(name) for name in ("old", "older", "new")] == [False, False, True]


@pytest.mark.anyio
async def test_the_application_follows_its_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "LOOK_INTERVAL_S", 0.01)
    app = create_app(Settings(models=MODELS, keys_file=str(path), feedback="off"))

    async def status(client: httpx.AsyncClient, name: str) -> int:
        headers = {"authorization": f"Bearer {name}-key"}
        return (await client.post("/softmax", json={"logits": [1, 2]}, headers=headers)).status_code

    async with app.router.lifespan_context(app), connected(app) as client:
        assert (await status(client, "old"), await status(client, "new")) == (200, 401)
        written = path.with_suffix(".new")
        written.write_text(line("new"), encoding="utf-8")
        written.replace(path)
        async with asyncio.timeout(10):
            while await status(client, "new") != 200:  # noqa: ASYNC110 - what is waited for is a file
                await asyncio.sleep(0.01)
        assert await status(client, "old") == 401
