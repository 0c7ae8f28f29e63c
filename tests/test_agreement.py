"""What workers agree upon: changed by any of them, one at a time, and acknowledged by each."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.agreement import FIRST, Agreed, Agreement, Note, Value

ROOT = Path(__file__).parent.parent


@pytest.fixture(params=["folder", "memory"])
def agreement(request: pytest.FixtureRequest, tmp_path: Path) -> Agreement:
    return Agreement(tmp_path if request.param == "folder" else None)


def grown(value: Value) -> Value:
    return {**value, "count": value["count"] + 1}


def test_whoever_comes_first_says_what_it_is(tmp_path: Path) -> None:
    first, second = Agreement(tmp_path, 0, 2), Agreement(tmp_path, 1, 2)
    assert first.begin(lambda: {"count": 0}) == Agreed(FIRST, {"count": 0})
    assert second.begin(lambda: {"count": 9}) == Agreed(FIRST, {"count": 0})
    assert second.read() == first.read()


def test_each_change_is_made_of_the_last_and_has_the_next_generation(agreement: Agreement) -> None:
    agreement.begin(lambda: {"count": 0, "other": ["kept"]})
    assert agreement.change(grown) == Agreed(FIRST + 1, {"count": 1, "other": ["kept"]})
    assert agreement.change(grown) == agreement.read() == Agreed(FIRST + 2, {"count": 2, "other": ["kept"]})


def test_who_takes_a_dead_ones_place_takes_what_is_agreed_upon(tmp_path: Path) -> None:
    Agreement(tmp_path, 0).begin(lambda: {"count": 0})
    Agreement(tmp_path, 0).change(grown)
    assert Agreement(tmp_path, 0).begin(lambda: {"count": 7}) == Agreed(FIRST + 1, {"count": 1})


def test_the_same_value_again_is_no_change(agreement: Agreement) -> None:
    agreement.begin(lambda: {"models": {"pets": ["1"]}})
    assert agreement.change(lambda value: {**value}).generation == FIRST
    assert agreement.change(lambda value: {**value, "models": {}}).generation == FIRST + 1


def test_a_change_that_fails_leaves_everything_as_it_is(agreement: Agreement) -> None:
    before = agreement.begin(lambda: {"count": 0})
    with pytest.raises(KeyError):
        agreement.change(lambda value: value["absent"])
    assert agreement.read() == before
    assert agreement.change(grown).generation == FIRST + 1, "and nobody is locked out"


def test_a_start_that_fails_leaves_it_to_the_next(agreement: Agreement) -> None:
    with pytest.raises(ZeroDivisionError):
        agreement.begin(lambda: {"count": 1 // 0})
    with pytest.raises(LookupError):
        agreement.read()
    assert agreement.begin(lambda: {"count": 3}).value == {"count": 3}


def test_who_has_not_followed_is_told_by_number(tmp_path: Path) -> None:
    workers = [Agreement(tmp_path, slot, 3) for slot in range(3)]
    workers[0].begin(dict)
    assert workers[1].lagging(FIRST) == [0, 1, 2]
    workers[0].acknowledge(Note(FIRST, {}))
    workers[2].acknowledge(Note(FIRST + 1, {"thing": "it is broken"}))
    assert workers[1].lagging(FIRST) == [1]
    assert workers[1].lagging(FIRST + 1) == [0, 1]
    assert workers[0].notes() == [Note(FIRST, {}), None, Note(FIRST + 1, {"thing": "it is broken"})]


def test_alone_one_has_followed_once_it_says_so(agreement: Agreement) -> None:
    agreement.begin(dict)
    assert agreement.lagging(FIRST) == [0]
    agreement.acknowledge(Note(FIRST, {}))
    assert agreement.lagging(FIRST) == []


def test_no_change_is_lost_between_threads(agreement: Agreement) -> None:
    agreement.begin(lambda: {"count": 0})
    threads = [
        threading.Thread(target=lambda: [agreement.change(grown) for _ in range(25)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert agreement.read() == Agreed(FIRST + 100, {"count": 100})


CHANGING = """
import sys
from pathlib import Path
from service.agreement import Agreement
agreement = Agreement(Path(sys.argv[1]), int(sys.argv[2]), 3)
agreement.begin(lambda: {"count": 0})
for _ in range(200):
    agreement.change(lambda value: {"count": value["count"] + 1})
"""


def test_no_change_is_lost_between_processes_and_none_is_seen_half(tmp_path: Path) -> None:
    reader = Agreement(tmp_path)
    reader.begin(lambda: {"count": 0})
    processes = [
        subprocess.Popen([sys.executable, "-c", CHANGING, str(tmp_path), str(slot)], cwd=ROOT)
        for slot in range(3)
    ]
    seen = [reader.read()]
    while any(process.poll() is None for process in processes):
        seen.append(reader.read())
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert reader.read() == Agreed(FIRST + 600, {"count": 600})
    assert all(agreed.generation == FIRST + agreed.value["count"] for agreed in seen)
    assert seen == sorted(seen, key=lambda agreed: agreed.generation)


HOLDING = """
import sys, time
from pathlib import Path
from service.agreement import Agreement
Agreement(Path(sys.argv[1]), 1, 2).change(lambda value: (print("held", flush=True), time.sleep(60)))
"""


def test_who_dies_with_the_lock_in_hand_keeps_nobody_waiting(tmp_path: Path) -> None:
    agreement = Agreement(tmp_path, 0, 2)
    agreement.begin(lambda: {"count": 0})
    command = [sys.executable, "-c", HOLDING, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        os.kill(process.pid, signal.SIGKILL)
    assert agreement.change(grown) == Agreed(FIRST + 1, {"count": 1})


def test_nothing_half_written_is_left_behind(tmp_path: Path) -> None:
    agreement = Agreement(tmp_path, 0)
    agreement.begin(lambda: {"count": 0})
    agreement.change(grown)
    agreement.acknowledge(Note(FIRST, {}))
    assert {path.name for path in tmp_path.iterdir()} == {"agreed", "agreed.lock", "worker-0.agreed"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(value=st.dictionaries(st.text(), JSON))
def test_any_json_object_may_be_agreed_upon(value: dict[str, object]) -> None:
    agreement = Agreement()
    agreement.begin(lambda: value)
    assert agreement.read().value == value
