"""The store in a file: its clock, its size, other processes, and what breaks it."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from stores import BY, scored, take_all

from service.feedback import sqlite
from service.feedback.sqlite import SqliteStore
from service.feedback.store import ScoredBy, StoreFailed, Waiting

TTL_S = 100.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.sqlite"


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[SqliteStore]:
    store = SqliteStore(path, TTL_S, 1000, clock)
    yield store
    store.close()


def rows_in(path: Path, table: str = "waiting") -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    rows = connection.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 - a name of this file
    connection.close()
    return rows


def test_a_row_waits_until_the_very_moment(store: SqliteStore, clock: Clock) -> None:
    store.add([scored("a", "b")])
    clock.now_s += TTL_S - 0.001
    assert isinstance(store.find(["a"])["a"], Waiting)
    assert take_all(store, "b") == {"b"}
    assert store.find(["b"]) == {"b": "joined"}
    clock.now_s += 0.001
    assert store.find(["a", "b"]) == {"a": "expired"}
    clock.now_s += TTL_S
    assert store.find(["a", "b"]) == {}


def test_what_expires_between_a_look_and_the_taking_is_not_taken(store: SqliteStore, clock: Clock) -> None:
    store.add([scored("a")])
    row = store.find(["a"])["a"]
    assert isinstance(row, Waiting)
    clock.now_s += TTL_S
    assert store.take({"a": row}) == set()


def test_the_time_goes_on_while_nobody_has_it_open(path: Path, clock: Clock) -> None:
    store = SqliteStore(path, TTL_S, 1000, clock)
    store.add([scored("a")])
    store.close()
    clock.now_s += TTL_S
    store = SqliteStore(path, TTL_S, 1000, clock)
    assert store.find(["a"]) == {"a": "expired"}
    store.close()


def test_nothing_is_left_of_rows_once_they_are_forgotten(
    store: SqliteStore, path: Path, clock: Clock
) -> None:
    store.add([scored("a", "b")])
    take_all(store, "b")
    clock.now_s += TTL_S
    other = ScoredBy("other", "1", "sha", "float32", 3, None)
    store.add([scored("c", by=other)])
    kept = {row[1]: row[3] for row in rows_in(path)}
    assert kept.keys() == {"a", "c"}, "joined ones go when they expire"
    assert kept["a"] is None, "of an expired one only the id is kept"
    clock.now_s += TTL_S
    store.add([scored("d", by=other)])
    assert {row[1] for row in rows_in(path)} == {"c", "d"}
    assert {row[1] for row in rows_in(path, "heads")} == {"other"}, "heads go after their rows"


def test_the_file_stays_as_small_as_the_limit_says(path: Path, clock: Clock) -> None:
    store = SqliteStore(path, TTL_S, 50, clock)
    for number in range(40):
        store.add([scored(*(f"{number}-{row}" for row in range(20)))])
    assert len(rows_in(path)) == 50
    store.close()
    assert path.stat().st_size < 100_000


def test_one_request_of_more_rows_than_the_limit_leaves_its_last(path: Path) -> None:
    store = SqliteStore(path, TTL_S, 2)
    store.add([scored("a", "b", "c")])
    assert store.find(["a", "b", "c"]).keys() == {"b", "c"}
    store.close()


def test_nobody_else_may_read_the_file_or_those_beside_it(store: SqliteStore, path: Path) -> None:
    store.add([scored("a")])
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == {"rows.sqlite": 0o600, "rows.sqlite-wal": 0o600, "rows.sqlite-shm": 0o600}


def test_a_file_that_somebody_else_has_laid_there_is_not_used(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.touch(0o666)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)  # as if this were another user
    with pytest.raises(StoreFailed, match="belongs to another user; remove it, or name another file"):
        SqliteStore(path, 60, 10)


def test_opening_it_again_leaves_the_locks_of_this_process_alone(store: SqliteStore, path: Path) -> None:
    """POSIX drops them when any of its descriptors of the file is closed."""
    connection = store._connection
    connection.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreFailed, match="locked"):
        SqliteStore(path, TTL_S, 1000)
    code = f"import sqlite3; sqlite3.connect({str(path)!r}, timeout=0).execute('BEGIN IMMEDIATE')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "locked" in done.stderr
    connection.execute("ROLLBACK")


def test_what_fails_leaves_nothing_half_done(store: SqliteStore) -> None:
    broken = scored("b", "c")._replace(ids=["b"])
    with pytest.raises(ValueError, match="zip"):
        store.add([scored("a"), broken])
    assert store.find(["a", "b", "c"]) == {}
    store.add([scored("a")])
    assert store.find(["a"]).keys() == {"a"}


def test_a_full_disk_is_told_and_nothing_is_lost(store: SqliteStore) -> None:
    store.add([scored("a")])
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreFailed, match="full"):
        store.add([scored(*map(str, range(1000)))])
    assert store.find(["a", "0"]).keys() == {"a"}
    store._connection.execute(f"PRAGMA max_page_count = {pages + 1000}")
    store.add([scored("b")])
    assert store.find(["a", "b"]).keys() == {"a", "b"}


def test_a_place_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match="No such file"):
        SqliteStore(tmp_path / "no" / "rows.sqlite", TTL_S, 1000)
    (tmp_path / "text").write_bytes(b"This is no database, but a file of somebody's." * 100)
    with pytest.raises(StoreFailed, match="not a database"):
        SqliteStore(tmp_path / "text", TTL_S, 1000)


def test_a_file_of_other_tables_is_left_alone(path: Path) -> None:
    SqliteStore(path, TTL_S, 1000).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(StoreFailed, match="another version of logitserve"):
        SqliteStore(path, TTL_S, 1000)


def test_another_writer_is_waited_for_but_not_for_ever(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "PATIENCE_S", 0.05)
    impatient = SqliteStore(path, TTL_S, 1000)
    store._connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreFailed, match="locked"):
        impatient.add([scored("a")])
    assert impatient.find(["a"]) == {}, "readers wait for nobody"
    store._connection.execute("COMMIT")
    impatient.add([scored("a")])
    impatient.close()


WRITER = """
import sys
from pathlib import Path
import numpy as np
from service.feedback.sqlite import SqliteStore
from service.feedback.store import Scored, ScoredBy, Waiting

path, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
by = ScoredBy("digits", "1", "sha", "float32", 3, ("cat", "dog", "eel"))
store = SqliteStore(path, 1e6, 100_000)
for number in range(count):
    store.add([Scored(by, [f"{name}-{number}"], np.zeros((1, 3), np.float32))])
    print(number, flush=True)
mine = {f"shared-{number}" for number in range(200)}
waiting = {i: row for i, row in store.find(mine).items() if isinstance(row, Waiting)}
print(len(store.take(waiting)), flush=True)
"""


def test_processes_write_and_take_at_once(path: Path) -> None:
    """All open a file that is not there, write to it, and take the same 200 rows: each of those goes to one."""
    names = ("a", "b", "c")
    command = [sys.executable, "-c", WRITER, str(path)]
    processes = [
        subprocess.Popen([*command, name, "60"], stdout=subprocess.PIPE, text=True) for name in names
    ]
    store = SqliteStore(path, 1e6, 100_000)
    store.add([scored(*(f"shared-{number}" for number in range(200)))])
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sum(int(output[-1]) for output in outputs) == 200
    ids = [f"{name}-{number}" for name in names for number in range(60)]
    assert len(store.find(ids)) == len(ids)
    store.close()


def test_what_was_written_outlives_a_process_that_is_killed(path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(path), "a", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline().strip() for _ in range(50)]
        os.kill(process.pid, signal.SIGKILL)
        said += process.stdout.read().split()
    store = SqliteStore(path, 1e6, 100_000)
    ids = [f"a-{number}" for number in said if number]
    assert store.find(ids).keys() == set(ids)
    row = store.find(["a-0"])["a-0"]
    assert isinstance(row, Waiting)
    assert row.by == BY
    store.close()
