"""Keys that change while the service runs: a file that is looked at again and again, and followed.

A file that cannot be read, or is wrong, changes nothing: what was in force stays so, and the log says why. Each worker
looks for itself. What it took last it leaves in the run folder, for one that has to start while the file is wrong.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from service.api.security import Keys, Scope
from service.api.transport import Edge
from service.errors import StartError
from service.keys import Key, check_distinct, read

# A look costs some 20 µs, in a thread of its own; a key that has leaked should not open anything for much longer.
LOOK_INTERVAL_S = 0.5
# Some seven thousand keys; more is another file.
FILE_LIMIT_BYTES = 1024**2

_log = logging.getLogger("logitserve")


class _Seen(NamedTuple):
    """What a look at the file has found: its text, or why there is none."""

    text: str
    trouble: str = ""


class Rotation:
    """Gives `edge` the keys in force: `fixed` ones, and those of the file at `path`, if there is one.

    A scope that has once asked for a key goes on asking, whatever the file says later: who takes the last key out of it
    wants to lock somebody out, not to let everybody in. `slot` is this worker's number; the first one tells what all do.

    Raises
    ------
    StartError
        The file is wrong, and no other worker has read it before.
    """

    def __init__(
        self, edge: Edge, fixed: Collection[Key], path: Path | None, run_folder: Path | None, slot: int
    ) -> None:
        self._edge = edge
        self._fixed = fixed
        self._path = path
        self._copy = run_folder / "keys.json" if run_folder else None
        self._slot = slot
        self._names: set[str] = set()
        self._closed: frozenset[Scope] = frozenset()
        edge.keys = Keys(fixed)
        if path is not None:
            self._settled = self._last = self._start()

    @property
    def follows(self) -> bool:
        return self._path is not None

    async def run(self) -> None:
        """Follow the file until cancelled."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Look at the file, and take what is new in it once it has stood there twice: it may just be being written."""
        last, self._last = self._last, self._see()
        if self._last == self._settled or self._last != last:
            return
        self._settled = self._last
        try:
            self._take(self._last)
        except StartError as error:
            self._tell(logging.ERROR, "the keys stay as they were: %s", error)

    def _start(self) -> _Seen:
        seen = self._see()
        copied = self._copied()
        try:
            self._take(seen)
        except StartError as error:
            if copied is None:
                raise
            self._take(copied)
            self._tell(logging.ERROR, "the keys are those that other workers have: %s", error)
        return seen

    def _see(self) -> _Seen:
        assert self._path is not None  # noqa: S101 - for the type checker: nobody looks where there is none
        try:
            with self._path.open("rb") as file:
                content = file.read(FILE_LIMIT_BYTES + 1)
            if len(content) > FILE_LIMIT_BYTES:
                return _Seen("", f"{self._path}: expected at most {FILE_LIMIT_BYTES} bytes")
            return _Seen(content.decode())
        except UnicodeDecodeError:
            return _Seen("", f"{self._path}: expected TOML in UTF-8")
        except OSError as error:
            return _Seen("", f"{self._path}: the keys cannot be read: {error.strerror}")

    def _take(self, seen: _Seen) -> None:
        if seen.trouble:
            raise StartError(seen.trouble)
        of_file = read(seen.text, str(self._path))
        keys = [*self._fixed, *of_file]
        check_distinct(keys, str(self._path))
        self._edge.keys = Keys(keys, self._closed)
        self._closed = self._edge.keys.guarded
        self._leave_copy(seen.text)
        names = {key.name for key in of_file}
        told = [f"{len(names)} of {self._path}"]
        if self._names:
            told += [f"new: {_listed(names - self._names)}", f"gone: {_listed(self._names - names)}"]
        self._names = names
        self._tell(logging.INFO, "keys in force: %s", "; ".join(told))
        now_s = time.time()
        if expired := {key.name for key in of_file if key.expires_s <= now_s}:
            self._tell(logging.WARNING, "keys that have expired: %s", _listed(expired))

    def _copied(self) -> _Seen | None:
        """Find what another worker has taken last, and what asked for a key then."""
        if self._copy is None or not self._copy.exists():
            return None
        copied = json.loads(self._copy.read_text(encoding="utf-8"))
        self._closed = frozenset(copied["closed"])
        return _Seen(copied["text"])

    def _leave_copy(self, text: str) -> None:
        if self._copy is None:
            return
        written = self._copy.with_suffix(f".{self._slot}")
        with contextlib.suppress(OSError):  # a full disk is no reason to let a key that is gone live on
            written.write_text(json.dumps({"text": text, "closed": sorted(self._closed)}), encoding="utf-8")
            written.replace(self._copy)

    def _tell(self, level: int, message: str, *args: object) -> None:
        _log.log(level if self._slot == 0 else logging.DEBUG, message, *args)


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
