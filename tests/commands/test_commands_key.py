"""`logitserve key`: the key on stderr, the line for the file on stdout, and the service lets it in."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from conftest import MODELS, ROOT, connected

from service import keys
from service.app import create_app
from service.cli import main
from service.settings import Settings


def test_the_line_has_the_hash_of_the_key_and_not_the_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "mobile-app"]) == 0
    said = capsys.readouterr()
    key = said.err.removesuffix("\n")
    assert re.fullmatch("logitserve_[A-Za-z0-9_-]{43}", key), "nothing else, for who reads it from a pipe"
    assert key not in said.out
    digest = keys.digest_of(key.encode()).hex()
    assert said.out == f'mobile-app = {{ sha256 = "{digest}", scopes = ["infer"] }}\n'


@pytest.mark.parametrize(
    ("flags", "written"),
    [
        (["--scopes", "metrics"], 'scopes = ["metrics"] }'),
        (["--scopes", "metrics, infer"], 'scopes = ["infer", "metrics"] }'),
        (["--expires", "2030-01-01"], "expires = 2030-01-01T00:00:00Z }"),
        (["--expires", "2030-01-01T02:30:00+02:00"], "expires = 2030-01-01T00:30:00Z }"),
    ],
)
def test_what_is_asked_for_stands_in_the_line(
    capsys: pytest.CaptureFixture[str], flags: list[str], written: str
) -> None:
    assert main(["key", "a", *flags]) == 0
    line = capsys.readouterr().out
    assert line.rstrip().endswith(written)
    assert [key.name for key in keys.read(line, "here")] == ["a"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a b"], "expected at most 40 letters, digits, _ and -"),
        (["a" * 41], "expected at most 40 letters"),
        (["a", "--scopes", "all"], "expected a list of some of infer, metrics, admin, got 'all'"),
        (["a", "--scopes", ""], "expected a list of some of infer, metrics, admin"),
        (["a", "--expires", "tomorrow"], "expected a date, or a time with Z"),
        (["a", "--expires", "2030-01-01T00:00:00"], "expected a date, or a time with Z"),
    ],
)
def test_what_cannot_be_is_refused_before_a_key_is_made(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["key", *arguments])
    told = capsys.readouterr()
    assert left.value.code == 2
    assert said in told.err
    assert "logitserve_" not in told.err + told.out


def test_on_a_terminal_it_says_which_is_which(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["key", "a"]) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert "this once" in first
    assert second.startswith("logitserve_")


@pytest.mark.anyio
async def test_the_service_lets_in_whoever_has_it(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    command = [sys.executable, "-m", "service", "key", "app"]
    with path.open("ab") as file:  # as by >>
        done = subprocess.run(  # noqa: ASYNC221 - nothing else is to be done meanwhile
            command, stdout=file, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=60, check=True
        )
    app = create_app(Settings(models=MODELS, keys_file=str(path), feedback="off"))
    async with connected(app) as client:

        async def ask(**headers: str) -> httpx.Response:
            return await client.post("/softmax", json={"logits": [1, 2]}, headers=headers)

        assert (await ask()).status_code == 401
        assert (await ask(authorization=f"Bearer {done.stderr.strip()}")).status_code == 200
