"""The key that commands send: where it comes from, and that it is shown nowhere."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MODELS
from listening import listening

from service import keys
from service.app import create_app
from service.cli import main
from service.commands import client_keys
from service.errors import StartError
from service.keys import Key
from service.settings import Settings
from service.sources import CLIENT_KEY

KEY = keys.new()
LINE = keys.line_of(Key("tester", keys.digest_of(KEY.encode()), frozenset({"infer"})))
SHORT = ["--warm-up", "50ms", "--duration", "1s", "--connections", "1", "--processes", "1"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with listening(create_app(Settings(models=MODELS, keys=LINE, feedback="off"))) as url:  # type: ignore[arg-type] # pydantic makes it one
        yield url


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text(KEY + "\n", encoding="utf-8")
    return file


def read(*flags: str) -> str | None:
    parser = argparse.ArgumentParser()
    client_keys.add_flag(parser)
    return client_keys.read(parser.parse_args(flags))


def test_a_key_comes_from_a_file_else_from_the_environment(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read() is None
    monkeypatch.setenv(CLIENT_KEY, "from-the-environment")
    assert read() == "from-the-environment"
    assert read("--key-file", str(file)) == KEY


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"caf\xc3\xa9", b"a\nb", b"a\0b"])
def test_a_file_without_a_key_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(StartError) as caught:
        read("--key-file", str(file))
    assert str(caught.value) == f"{file}: expected a key, printable ASCII without spaces"


def test_a_variable_that_is_no_key_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CLIENT_KEY, "two words")
    with pytest.raises(StartError, match=r"^LOGITSERVE_CLIENT_KEY: expected a key, printable ASCII"):
        read()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="the key cannot be read: No such file"):
        read("--key-file", str(tmp_path / "nothing"))


def test_a_service_with_keys_can_be_measured(
    url: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "load.json"
    assert main(["loadtest", url, *SHORT, "--key-file", str(file), "--json", str(written)]) == 0
    said = capsys.readouterr()
    outcomes = json.loads(written.read_text(encoding="utf-8"))["outcomes"]
    assert set(outcomes) == {"200"}
    assert KEY not in written.read_text(encoding="utf-8") + said.out + said.err


def test_without_the_key_it_is_said_what_is_missing(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loadtest", url, *SHORT]) == 2
    assert "Authorization: Bearer" in capsys.readouterr().err
    assert main(["loadtest", url, *SHORT, "--features", "64"]) == 1
    assert "401 unauthenticated" in capsys.readouterr().out


def test_a_service_with_keys_can_be_held_against_the_contract(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CLIENT_KEY, KEY)
    assert main(["conformance", "--url", url]) == 0
    assert "245 of 245 checks hold" in capsys.readouterr().out
    assert main(["conformance", "--url", url, "--header", "Authorization: Bearer other"]) == 1, (
        "what is said wins"
    )
