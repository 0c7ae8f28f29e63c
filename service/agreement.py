"""What all workers hold alike: one value, changed by whichever of them is asked to, and followed by each.

The value is a JSON object in one file of the run folder, with a generation that grows by one with every change. The
file is replaced atomically, and a lock lets one change at a time be made of the value that is there, so that none is
lost. Each worker leaves a note of the generation that it has reached. Without a folder there is one worker, and the
same is kept in memory.

This module must not know what is agreed upon.
"""

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

Value: TypeAlias = Mapping[str, Any]

# The generation of what was there at the start, before anybody changed it.
FIRST = 1


class Agreed(NamedTuple):
    """The value, and how many there have been."""

    generation: int
    value: Value


class Note(NamedTuple):
    """What a worker says of the generation that it has reached: whatever went wrong, in words, by name."""

    generation: int
    troubles: Mapping[str, str]


class _Store(Protocol):
    def read(self, name: str) -> bytes | None: ...

    def write(self, name: str, content: bytes) -> None: ...

    def lock(self) -> contextlib.AbstractContextManager[None]: ...


class _Folder:
    """Files that are replaced whole; the lock ends with the process that holds it."""

    def __init__(self, folder: Path, slot: int) -> None:
        self._folder = folder
        self._slot = slot

    def read(self, name: str) -> bytes | None:
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        written = self._folder / f"{name}.{self._slot}"
        written.write_bytes(content)
        written.replace(self._folder / name)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        file = os.open(self._folder / "agreed.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)


class _Memory:
    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def read(self, name: str) -> bytes | None:
        return self._contents.get(name)

    def write(self, name: str, content: bytes) -> None:
        self._contents[name] = content

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        with self._lock:
            yield


class Agreement:
    """One worker's view of what is agreed upon.

    Parameters
    ----------
    folder : Path or None
        The run folder; None where this worker is the only one.
    slot : int
        This worker's number, from 0.
    workers : int
        How many there are.
    """

    def __init__(self, folder: Path | None = None, slot: int = 0, workers: int = 1) -> None:
        self._store: _Store = _Memory() if folder is None else _Folder(folder, slot)
        self._slot = slot
        self._workers = workers

    def begin(self, first: Callable[[], Value]) -> Agreed:
        """Take what is agreed upon; whoever comes first says what that is. May wait for another worker."""
        with self._store.lock():
            agreed = self._read()
            return agreed or self._write(FIRST, first())

    def read(self) -> Agreed:
        """Take what is agreed upon now; it costs as much as reading a small file."""
        agreed = self._read()
        if agreed is None:
            raise LookupError("nothing is agreed upon before `begin`")
        return agreed

    def change(self, change: Callable[[Value], Value]) -> Agreed:
        """Replace the value by what is made of it; what `change` raises leaves it as it is. May wait for another.

        The same value again is no change.
        """
        with self._store.lock():
            before = self.read()
            after = change(before.value)
            return before if after == before.value else self._write(before.generation + 1, after)

    def acknowledge(self, note: Note) -> None:
        """Say that this worker has done all up to a generation."""
        self._store.write(_note_of(self._slot), json.dumps(note).encode())

    def notes(self) -> list[Note | None]:
        """What each worker has said last, by its number."""
        written = [self._store.read(_note_of(slot)) for slot in range(self._workers)]
        return [None if content is None else Note(*json.loads(content)) for content in written]

    def lagging(self, generation: int) -> list[int]:
        """The numbers of the workers that have not reached a generation."""
        return [
            slot for slot, note in enumerate(self.notes()) if note is None or note.generation < generation
        ]

    def _read(self) -> Agreed | None:
        content = self._store.read("agreed")
        return None if content is None else Agreed(*json.loads(content))

    def _write(self, generation: int, value: Value) -> Agreed:
        agreed = Agreed(generation, value)
        self._store.write("agreed", json.dumps(agreed).encode())
        return agreed


def _note_of(slot: int) -> str:
    return f"worker-{slot}.agreed"
