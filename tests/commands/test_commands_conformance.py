"""`logitserve conformance` as it is called: against the real service, a naive one, and nobody."""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import running_service
from listening import listening
from strangers import described, naive, naive_softmax, serving

from service.app import create_app
from service.cli import main
from service.commands import conformance
from service.commands.conformance import _header, _names, _options, _renamed
from service.conformance.discovery import ALL_OPTIONS
from service.settings import Settings

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with listening(create_app(Settings(models=MODELS))) as url:
        yield url


def test_the_command_holds_a_real_process_against_the_contract() -> None:
    with running_service() as service:
        done = subprocess.run(
            [sys.executable, "-m", "service", "conformance", "--url", service.url],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "245 of 245 checks hold through JSON; 5 more are not expressible" in done.stdout
    assert not done.stderr


def test_everything_is_written_as_json(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "conformance.json"
    assert main(["conformance", "--url", url, "--dialect", "v2", "--binary", "--json", str(file)]) == 0
    assert "250 of 250 checks hold through V2 binary" in capsys.readouterr().out
    said = json.loads(file.read_text(encoding="utf-8"))
    assert (said["url"], said["dialect"], said["held"]) == (url, "V2 binary", 250)
    assert len(said["checks"]) == 250


def test_a_naive_server_fails_with_each_fault_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with listening(naive()) as naive_url:
        assert main(["conformance", "--url", naive_url]) == 1
    said = capsys.readouterr().out
    for word in (
        "scipy_1000",
        "masked_class",
        "got null",
        "inexact",
        "broken",
        "not expressible",
        "no word for axis",
    ):
        assert word in said


def test_a_server_is_asked_by_its_own_names(capsys: pytest.CaptureFixture[str]) -> None:
    def scores(body: dict[str, object]) -> dict[str, object]:
        answered = naive_softmax({"logits": body["x"]})
        return {"y": answered["probabilities"]}

    schema = {"properties": {"x": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}}}
    own = serving({"/openapi.json": described("/api/scores", schema=schema)}, {"/api/scores": scores})
    names = ["--name", "logits=x", "--name", "probabilities=y", "--header", "x-key: 1"]
    with listening(own) as own_url:
        arguments = [
            "conformance",
            "--url",
            own_url,
            "--softmax",
            "api/scores",
            "--dtypes",
            "float64",
            *names,
        ]
        assert main(arguments) == 1
    said = capsys.readouterr().out
    assert "the server answers no classes" in said
    assert "the server does not compute in float32" in said
    assert "the server has no loss" in said


def test_nobody_at_the_address_is_said_in_one_line(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with listening(naive()) as gone:
        pass
    assert main(["conformance", "--url", gone]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"logitserve conformance: nobody answers at {gone}: ")
    assert said.err.count("\n") == 1
    assert not said.out


def test_a_server_that_speaks_nothing_known_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with listening(serving({})) as mute:
        assert main(["conformance", "--url", mute]) == 2
    assert "--dialect" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_found_before_anything_is_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["conformance", "--url", "http://127.0.0.1:9", "--json", "/no/folder/file.json"]) == 2
    assert "expected a folder that exists, got /no/folder for file.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--url", "ftp://server"],
        ["--dialect", "v3"],
        ["--name", "logits"],
        ["--name", "scores=x"],
        ["--softmax", "a,,b"],
        ["--options", "axis,smoothing"],
        ["--dtypes", "float16"],
        ["--header", "no colon"],
    ],
)
def test_a_slip_of_the_hand_is_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["conformance", *arguments])
    assert left.value.code == 2
    assert "usage: logitserve conformance" in capsys.readouterr().err


def test_flags_are_read_into_names_and_options() -> None:
    assert _names("a, b") == ("a", "b")
    assert _renamed("losses=output=0") == ("losses", "output=0")
    assert _options("all") == ALL_OPTIONS
    assert _options("none") == frozenset()
    assert _options("axis,temperature") == {"axis", "temperature"}
    assert _header("X-Key: a:b") == ("X-Key", "a:b")
    with pytest.raises(argparse.ArgumentTypeError, match="got 'smoothing'"):
        _options("smoothing")


def test_the_help_shows_examples_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["conformance", "--help"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert "exit codes: 0 all" in told
    assert all(line in told for line in conformance.EPILOG.splitlines() if line.startswith("  logitserve"))
