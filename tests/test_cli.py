"""The command line: its help, its one-line errors, its exit codes."""

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from service import __version__, cli
from service.errors import ModelError, StartError

ROOT = Path(__file__).parent.parent


def test_the_help_names_every_command_and_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--help"])
    told = capsys.readouterr().out
    assert left.value.code == 0
    assert "examples:\n  logitserve serve" in told
    for name, summary in cli.COMMANDS.items():
        assert f"    {name}" in told
        assert summary in told


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_help_with_examples(capsys: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([name, "--help"])
    assert left.value.code == 0
    assert f"examples:\n  logitserve {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_is_summed_up_in_the_same_words_everywhere(name: str) -> None:
    subparsers = argparse.ArgumentParser().add_subparsers()
    importlib.import_module(f"service.commands.{name}").add_parser(subparsers)
    (listed,) = subparsers._choices_actions
    assert (listed.dest, listed.help) == (name, cli.COMMANDS[name])


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"logitserve {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [[], ["serv"], ["serve", "--prot", "1"], ["serve", "--por", "1"], ["serve", "x"]]
)
def test_a_wrong_call_ends_with_2_and_the_usage(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("usage: logitserve")


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (StartError("port 1 is in use"), 1, "logitserve: port 1 is in use\n"),
        (ModelError("digits 1: no logits"), 1, "logitserve: digits 1: no logits\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_stops_a_command_is_one_line_and_a_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    code: int,
    line: str,
) -> None:
    def run(arguments: argparse.Namespace) -> int:
        raise raised

    monkeypatch.setattr("service.commands.serve.run", run)
    assert cli.main(["serve"]) == code
    assert capsys.readouterr().err == line


def test_the_code_of_a_command_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.commands.serve.run", lambda _: 3)
    assert cli.main(["serve"]) == 3


def test_an_error_that_nobody_foresaw_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(arguments: argparse.Namespace) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr("service.commands.serve.run", run)
    with pytest.raises(ZeroDivisionError):
        cli.main(["serve"])


def test_the_package_runs_as_a_module_and_help_imports_no_library() -> None:
    told = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "service", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rsplit("|", 1)[1].strip() for line in told.stderr.splitlines() if "|" in line}
    assert told.stdout.startswith("usage: logitserve")
    assert "service.cli" in imported
    assert not imported & {"pydantic", "numpy", "rich", "uvicorn", "httpx", "service.settings"}
