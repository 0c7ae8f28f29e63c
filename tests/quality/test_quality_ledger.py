"""The ledger: what was appended is counted once, whatever dies in between."""

import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.quality import ledger
from service.quality.ledger import RING_BYTES, Ledger, read_counts


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "worker-0.quality"


def test_records_wait_in_their_order_until_they_are_counted() -> None:
    book = Ledger(None)
    assert book.waiting() == (0, [])
    assert book.append(b"one", memoryview(b" and more"))
    assert book.append()
    end, records = book.waiting()
    assert records == [b"one and more", b""]
    assert book.append(b"two")
    assert book.keep(end, b"counts")
    assert book.waiting()[1] == [b"two"]
    assert book.counts() == b"counts"


def test_a_successor_finds_counts_and_what_is_not_in_them(path: Path) -> None:
    book = Ledger(path)
    book.append(b"one")
    book.keep(book.waiting()[0], b"1")
    book.append(b"two")
    successor = Ledger(path)  # the first one is never closed: it was killed
    assert (successor.counts(), successor.waiting()[1]) == (b"1", [b"two"])
    assert read_counts(path) == b"1"
    successor.append(b"three")
    end, records = successor.waiting()
    assert records == [b"two", b"three"]
    successor.keep(end, b"3")
    assert (Ledger(path).counts(), Ledger(path).waiting()[1]) == (b"3", [])


def test_a_ring_that_is_full_takes_no_more_until_it_is_counted() -> None:
    book = Ledger(None)
    record = bytes(RING_BYTES // 8)
    taken = 0
    while book.append(record):
        taken += 1
    assert taken == 7
    end, records = book.waiting()
    assert len(records) == 7
    book.keep(end, b"7")
    assert book.append(record)
    assert book.waiting()[1] == [record]
    assert not book.append(bytes(RING_BYTES))


@given(st.lists(st.one_of(st.none(), st.integers(0, RING_BYTES // 3)), max_size=40), st.integers(0, 255))
def test_nothing_is_lost_or_said_twice_however_long_records_are(steps: list[int | None], fill: int) -> None:
    book = Ledger(None)
    expected: list[bytes] = []
    found: list[bytes] = []
    for number, length in enumerate(steps):
        if length is None:
            end, records = book.waiting()
            found += records
            assert book.keep(end, b"x")
            continue
        record = number.to_bytes(2, "little") + bytes([fill]) * length
        if book.append(record):
            expected.append(record)
    found += book.waiting()[1]
    assert found == expected
    book.close()


def test_a_record_that_ends_with_the_ring_leaves_no_room_for_a_sign(path: Path) -> None:
    book = Ledger(path)
    for rest in range(9):  # the ring's last bytes: fewer than a length takes, and just as many
        _end, _ = book.waiting()
        fits = RING_BYTES - _end % RING_BYTES - 4 - rest
        for length in (fits // 2 - 8, fits - fits // 2 - 4):
            assert book.append(b"a" * length)
            book.keep(book.waiting()[0], b"n")
        assert book.append(b"b" * 100)
        assert Ledger(path).waiting()[1] == [b"b" * 100]
        book.keep(book.waiting()[0], b"n")


def test_counts_that_do_not_fit_leave_the_former_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "SNAPSHOT_BYTES", 1000)
    book = Ledger(None)
    assert book.keep(0, b"small")
    book.append(b"one")
    assert not book.keep(book.waiting()[0], bytes(1000))
    assert book.counts() == b"small"
    assert book.waiting()[1] == []  # its own process has them


def test_a_half_written_snapshot_is_not_read(path: Path) -> None:
    book = Ledger(path)
    book.keep(0, b"first")
    book.keep(0, b"second")
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        place = memory.find(b"second")
        memory[place : place + 3] = b"???"
    assert read_counts(path) == b""


def test_there_is_nothing_at_first(path: Path) -> None:
    Ledger(path).close()
    assert read_counts(path) == b""


WRITER = """
import sys
from pathlib import Path
from service.quality.ledger import Ledger

book = Ledger(Path(sys.argv[1]))
total = int(book.counts() or b"0") + len(book.waiting()[1])
while True:
    assert book.append(b"x" * (total % 500))
    total += 1
    sys.stdout.write(f"{total}\\n")
    sys.stdout.flush()
    if total % 7 == 0:
        end, records = book.waiting()
        book.keep(end, str(int(book.counts() or b"0") + len(records)).encode())
"""


def test_whatever_was_said_to_be_there_is_there_after_kill_9(path: Path) -> None:
    said = 0
    for patience_s in (0.3, 0.05, 0.11):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(patience_s)
            os.kill(writer.pid, signal.SIGKILL)
            said = int(writer.stdout.read().splitlines()[-1].decode() or said)
        book = Ledger(path)
        found = int(book.counts() or b"0") + len(book.waiting()[1])
        assert said <= found <= said + 1  # it may have been killed before it could say so
        book.close()
    assert said > 100
