"""Rows in one SQLite file that all workers of a machine share, and that outlives them.

The write-ahead log lets readers and a writer work at once. It is not flushed to the disk with every commit: what was
committed outlives every process, and a loss of power costs the last moments only, which no label has come for yet.
"""

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from service.feedback.store import PATIENCE_S, Found, Scored, ScoredBy, StoreFailed, Waiting, pieces

# What changes when the tables do: a file of other tables is refused, not misread.
SCHEMA_VERSION = 1
# SQLite takes 999 values in a statement where it is old, and 32,766 since.
IDS_AT_ONCE = 900

# Numbers only grow, so the oldest rows have the least, and none ever stands for two rows.
_SCHEMA = """
CREATE TABLE heads (
    number INTEGER PRIMARY KEY,
    model TEXT, version TEXT, digest TEXT, dtype TEXT, num_classes INTEGER, class_names TEXT,
    last_s REAL,
    UNIQUE (model, version, digest)
);
CREATE TABLE waiting (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT UNIQUE,
    head INTEGER,
    logits BLOB,
    expires_s REAL,
    joined INTEGER DEFAULT 0
);
CREATE INDEX by_expiry ON waiting (expires_s);
"""


class SqliteStore:
    """See `Store`; `clock` gives seconds since the epoch, which outlive a restart and are the same everywhere."""

    def __init__(
        self, path: Path, ttl_s: float, rows_limit: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._ttl_s = ttl_s
        self._rows_limit = rows_limit
        self._clock = clock
        self._swept_s = 0.0
        with _told():
            self._connection = _open(path)

    def add(self, scored: Sequence[Scored]) -> None:
        now_s = self._clock()
        with self._writing() as connection:
            for by, ids, logits in scored:
                rows = ((i, row.tobytes()) for i, row in zip(ids, logits, strict=True))
                head = self._number_of(by, now_s)
                connection.executemany(
                    "INSERT OR REPLACE INTO waiting (id, head, logits, expires_s) VALUES (?, ?, ?, ?)",
                    ((i, head, logits, now_s + self._ttl_s) for i, logits in rows),
                )
            self._sweep(now_s)

    def find(self, ids: Collection[str]) -> Mapping[str, Found]:
        now_s = self._clock()
        found: dict[str, Found] = {}
        heads: dict[int, ScoredBy] = {}
        with _told():
            for some in pieces(ids, IDS_AT_ONCE):
                marks = ", ".join("?" * len(some))
                columns = "id, number, head, logits, expires_s, joined"
                statement = f"SELECT {columns} FROM waiting WHERE id IN ({marks})"  # noqa: S608 - of marks only
                for row_id, number, head, logits, expires_s, joined in self._connection.execute(
                    statement, some
                ).fetchall():
                    if now_s >= expires_s:
                        if not joined and now_s < expires_s + self._ttl_s:
                            found[row_id] = "expired"
                    elif joined:
                        found[row_id] = "joined"
                    else:
                        if head not in heads:
                            heads[head] = self._head(head)
                        found[row_id] = Waiting(str(number), heads[head], logits)
        return found

    def take(self, waiting: Mapping[str, Waiting]) -> set[str]:
        now_s = self._clock()
        taken = set()
        statement = (
            "UPDATE waiting SET joined = 1, logits = NULL WHERE number = ? AND NOT joined AND expires_s > ?"
        )
        with self._writing() as connection:
            for row_id, row in waiting.items():
                if connection.execute(statement, (int(row.stamp), now_s)).rowcount:
                    taken.add(row_id)
        return taken

    def close(self) -> None:
        self._connection.close()

    def _head(self, number: int) -> ScoredBy:
        columns = "model, version, digest, dtype, num_classes, class_names"
        statement = f"SELECT {columns} FROM heads WHERE number = ?"  # noqa: S608 - of names only
        by = ScoredBy(*self._connection.execute(statement, (number,)).fetchone())
        names = json.loads(str(by.class_names))
        return by._replace(class_names=None if names is None else tuple(names))

    def _number_of(self, by: ScoredBy, now_s: float) -> int:
        names = json.dumps(by.class_names)
        statement = """
            INSERT INTO heads (model, version, digest, dtype, num_classes, class_names, last_s)
            VALUES (?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT DO UPDATE SET last_s = excluded.last_s RETURNING number
        """
        ((number,),) = self._connection.execute(statement, (*by[:-1], names, now_s)).fetchall()
        return int(number)

    def _sweep(self, now_s: float) -> None:
        """Forget what is too old or too much; of what has expired only the id is kept."""
        execute = self._connection.execute
        execute("DELETE FROM waiting WHERE expires_s <= ?", (now_s - self._ttl_s,))
        execute("DELETE FROM waiting WHERE expires_s <= ? AND joined", (now_s,))
        expired = "UPDATE waiting SET logits = NULL WHERE expires_s > ? AND expires_s <= ?"
        execute(expired, (self._swept_s, now_s))
        oldest = "DELETE FROM waiting WHERE number <= (SELECT max(number) FROM waiting) - ?"
        execute(oldest, (self._rows_limit,))
        execute("DELETE FROM heads WHERE last_s <= ?", (now_s - 2 * self._ttl_s,))  # its rows have gone
        self._swept_s = now_s

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Be the only one who writes, and leave nothing half done."""
        with _told():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.rollback()
                raise


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreFailed(str(error)) from error


def _open(path: Path) -> sqlite3.Connection:
    # What is in it is nobody else's business; SQLite gives the files beside it the same mode. One that is there is
    # left alone: closing it would drop the locks that this process holds on it.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    if (
        path.stat().st_uid != os.geteuid()
    ):  # in a folder like /tmp anybody may have laid it there, to read what comes
        raise StoreFailed(f"{path} belongs to another user; remove it, or name another file")
    connection = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")  # the others who open it wait here
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
        _check(version, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(version: int, path: Path) -> None:
    if version not in {0, SCHEMA_VERSION}:
        raise StoreFailed(f"{path} is of another version of logitserve; remove it, or name another file")
