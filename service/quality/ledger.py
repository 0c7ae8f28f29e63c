"""A file that outlives its process: what was answered and is not counted yet, and the counts of all before.

A worker that is killed takes nothing along: a record is in the file before its answer is sent, counts are replaced as
a whole together with the place up to which records are in them, and whoever has the file next counts the rest. The
file is mapped into memory, so that an entry costs a copy and no call into the kernel. What records and counts mean is
not known here.
"""

import mmap
import struct
import threading
import zlib
from pathlib import Path

# Records that wait to be counted; of one labelled row of 1000 classes there is room for a thousand.
RING_BYTES = 1 << 22
# Counts of hundreds of heads. Pages that nobody has written take no memory.
SNAPSHOT_BYTES = 1 << 24

_HEADER_BYTES = 4096
_END = struct.Struct("<Q")  # where the next record goes, counted from the first byte ever written
_ACTIVE = struct.Struct("<B")  # which of the two snapshots holds
_ACTIVE_AT = 64
_SNAPSHOT = struct.Struct("<IIQ")  # checksum, length, and up to where records are counted in it
_RECORD = struct.Struct("<I")  # length
_WRAP = 0xFFFFFFFF
_READ_ATTEMPTS = 16


class Ledger:
    """One worker's file, or memory of its own where `path` is None. Records are appended from any thread."""

    def __init__(self, path: Path | None) -> None:
        size = _HEADER_BYTES + 2 * SNAPSHOT_BYTES + RING_BYTES
        if path is None:
            self._memory = mmap.mmap(-1, size)
        else:
            with path.open("a+b") as file:
                file.truncate(size)
                self._memory = mmap.mmap(file.fileno(), size)
        self._lock = threading.Lock()
        (self._end,) = _END.unpack_from(self._memory)
        found = _read(self._memory)
        self._counted = found[0] if found else 0

    def append(self, *parts: bytes | memoryview) -> bool:
        """Add a record; False where there is no room for it before others are counted."""
        length = sum(len(part) for part in parts)
        with self._lock:
            end, needed = self._end, _RECORD.size + length
            place = end % RING_BYTES
            if place + needed + _RECORD.size > RING_BYTES:  # it goes on at the beginning
                if end + RING_BYTES - place + needed - self._counted > RING_BYTES:
                    return False
                if place + _RECORD.size <= RING_BYTES:
                    _RECORD.pack_into(self._memory, _ring(place), _WRAP)
                end += RING_BYTES - place
                place = 0
            elif end + needed - self._counted > RING_BYTES:
                return False
            at = _ring(place)
            _RECORD.pack_into(self._memory, at, length)
            at += _RECORD.size
            for part in parts:
                self._memory[at : at + len(part)] = part
                at += len(part)
            self._end = end + needed
            _END.pack_into(self._memory, 0, self._end)  # the record is there from now on
        return True

    def waiting(self) -> tuple[int, list[bytes]]:
        """Copy the records that are not counted yet, and say where they end."""
        with self._lock:
            place, end = self._counted, self._end
        records = []
        while place < end:
            within = place % RING_BYTES
            length = _WRAP
            if within + _RECORD.size <= RING_BYTES:
                (length,) = _RECORD.unpack_from(self._memory, _ring(within))
            if length == _WRAP:
                place += RING_BYTES - within
                continue
            at = _ring(within) + _RECORD.size
            records.append(self._memory[at : at + length])
            place += _RECORD.size + length
        return end, records

    def keep(self, counted: int, counts: bytes) -> bool:
        """Replace the counts by such as have all records up to `counted`; False where they do not fit.

        Where they do not, they live in this process alone, and records make room all the same.
        """
        fits = _SNAPSHOT.size + len(counts) <= SNAPSHOT_BYTES
        if fits:
            (active,) = _ACTIVE.unpack_from(self._memory, _ACTIVE_AT)
            at = _HEADER_BYTES + (1 - active) * SNAPSHOT_BYTES
            header = _SNAPSHOT.pack(zlib.crc32(counts), len(counts), counted)
            self._memory[at + _SNAPSHOT.size : at + _SNAPSHOT.size + len(counts)] = counts
            self._memory[at : at + _SNAPSHOT.size] = header
            _ACTIVE.pack_into(self._memory, _ACTIVE_AT, 1 - active)
        with self._lock:
            self._counted = counted
        return fits

    def counts(self) -> bytes:
        """The counts as they were kept last, perhaps by another process."""
        found = _read(self._memory)
        return found[1] if found else b""

    def close(self) -> None:
        self._memory.close()


def read_counts(path: Path) -> bytes:
    """The counts that another worker has kept in its file."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        found = _read(memory)
    return found[1] if found else b""


def _read(memory: mmap.mmap) -> tuple[int, bytes] | None:
    """Read the snapshot that holds; it may be replaced, twice even, while it is read."""
    for _ in range(_READ_ATTEMPTS):
        (active,) = _ACTIVE.unpack_from(memory, _ACTIVE_AT)
        at = _HEADER_BYTES + active * SNAPSHOT_BYTES
        checksum, length, counted = _SNAPSHOT.unpack_from(memory, at)
        counts = memory[at + _SNAPSHOT.size : at + _SNAPSHOT.size + length]
        if length and zlib.crc32(counts) == checksum:
            return counted, counts
    return None


def _ring(place: int) -> int:
    return _HEADER_BYTES + 2 * SNAPSHOT_BYTES + place
