"""The stages without sockets, run for real for an instant: what they time is right. No timing is asserted."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

# The scripts import each other by their bare names, as when one of them is run.
sys.path.insert(0, str(ROOT / "benchmarks"))

cases: ModuleType = importlib.import_module("cases")
codec: ModuleType = importlib.import_module("codec")
heads: ModuleType = importlib.import_module("heads")
stages: ModuleType = importlib.import_module("stages")
turns: ModuleType = importlib.import_module("turns")

INSTANT_S = 1e-3


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    heads.write(folder)
    return folder


# The wire


@pytest.mark.parametrize("name", ["a_2", "b_1", "s_2", "l_2"])
@pytest.mark.parametrize("form", stages.FORMS)
def test_both_directions_of_every_form_are_timed_beside_the_floor(name: str, form: str) -> None:
    case = cases.make(name)
    decoded, encoded = codec.measure(case, form, INSTANT_S)
    assert (decoded.direction, encoded.direction) == ("decode", "encode")
    assert decoded.num_bytes == len(cases.WIRES[form].write(case).body)
    assert decoded.numbers == sum(array.size for array in case.arrays.values())
    for one in (decoded, encoded):
        assert min(one.num_bytes, one.numbers, one.seconds, one.floor_s) > 0


@pytest.mark.parametrize("form", stages.FORMS)
def test_what_is_timed_reads_the_numbers_that_were_sent(form: str) -> None:
    case = cases.make("a_3")
    decode, _ = codec.codec(case, form, cases.WIRES[form].write(case))
    np.testing.assert_array_equal(decode().values, case.arrays["features"])


def test_a_wrong_answer_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = codec.ScoreResult({"probabilities": np.ones((1, 10)), "classes": np.zeros(1, np.int64)}, 1)
    monkeypatch.setattr(codec, "result_of", lambda *_: wrong)
    monkeypatch.setattr(codec, "least_s", lambda *_: pytest.fail("timed"))
    with pytest.raises(cases.WrongAnswer):
        codec.measure(cases.make("a_1"), "json", INSTANT_S)


# One turn of the event loop


@pytest.mark.parametrize("requests", [1, 5, 2000])
def test_all_submissions_of_a_turn_are_waited_for(requests: int) -> None:
    found = turns.batcher(requests, INSTANT_S)
    assert found.requests == requests
    assert found.seconds > 0
    assert found.bare_s > 0


@pytest.mark.parametrize(("name", "requests"), [("a_1", 1), ("a_1", 3), ("b_1", 2)])
def test_the_scorer_is_timed_beside_a_run_for_all(name: str, requests: int, models: Path) -> None:
    found = turns.score(name, requests, models, INSTANT_S)
    assert (found.what, found.requests) == (name, requests)
    assert found.seconds > 0
    assert found.bare_s > 0


def test_an_error_in_place_of_an_answer_is_raised() -> None:
    def begin(deliver: Any) -> None:
        deliver(KeyError("nobody"))

    with pytest.raises(KeyError, match="nobody"):
        turns.on_loop(turns.least(begin, 3, INSTANT_S))


@pytest.mark.parametrize("form", stages.TURN_FORMS)
def test_the_parts_of_a_whole_request_add_up(form: str, models: Path) -> None:
    found = turns.whole(["a_1", "b_1"], [form], [1, 3], models, INSTANT_S)
    assert [(one.case, one.form, one.requests) for one in found] == [
        (name, form, count) for name in ("a_1", "b_1") for count in (1, 3)
    ]
    for one in found:
        assert one.seconds == pytest.approx(one.decode_s + one.run_s + one.encode_s + one.rest_s)
        assert min(one.seconds, one.run_s) > 0


def test_requests_of_a_turn_share_the_run_and_nothing_else() -> None:
    # Both decoded for 10 µs, waited together, ran for 40 µs; the second answer waited for the first one's encoding.
    first = "server-timing: decode;dur=0.010, queue;dur=0.015, infer;dur=0.040, encode;dur=0.007\r\n"
    second = "server-timing: decode;dur=0.010, queue;dur=0.002, infer;dur=0.050, encode;dur=0.008\r\n"
    assert turns.split([first, second]) == pytest.approx((20e-6, 42e-6, 15e-6))
    assert turns.split([first]) == pytest.approx((10e-6, 55e-6, 7e-6))


def test_a_refused_request_is_not_timed(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "headers_of", lambda _: [(b"content-type", b"text/plain")])
    with pytest.raises(cases.WrongAnswer, match="status 415"):
        turns.whole(["a_1"], ["json"], [1], models, INSTANT_S)


# The script


def test_every_stage_is_in_the_tables_and_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "stages.json"
    assert stages.main(["--seconds=0.001", "--cases=a_1,l_2", f"--json={file}"]) == 0
    printed = capsys.readouterr().out
    for title in ("decode", "the batcher", "score", "encode", "a whole request"):
        assert title in printed
    said = json.loads(file.read_text(encoding="utf-8"))
    assert len(said["coded"]) == 2 * 2 * len(stages.FORMS)
    assert [one["requests"] for one in said["batcher"]] == list(stages.SUBMISSIONS)
    assert [one["requests"] for one in said["score"]] == list(stages.SCORED)
    assert [(one["case"], one["form"]) for one in said["whole"]] == [
        ("a_1", form) for form in stages.TURN_FORMS for _ in stages.WHOLE
    ]
    assert said["machine"]["numpy"] == np.__version__


def test_an_unknown_case_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert stages.main(["--cases=z_1"]) == 1
    assert "expected a case such as" in capsys.readouterr().out
