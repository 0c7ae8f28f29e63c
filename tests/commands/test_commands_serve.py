"""`logitserve serve` as a user runs it: a real process, the shipped models, the real application."""

import contextlib
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import cli
from service.commands.serve import _print_config
from service.settings import Settings, flag_of
from service.sources import Sourced, read

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "models" / "digits", tmp_path / "models" / "digits")).parent


@pytest.fixture
def clean() -> dict[str, str]:
    """The environment without settings of whoever runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LOGITSERVE_")}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "service", "serve", "--port", "0", *map(str, arguments)]


@pytest.fixture
def ended(clean: dict[str, str], tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that must not outlive the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("workers", [1, 2])
def test_it_says_in_one_block_what_it_serves_and_answers(
    ended: list[subprocess.Popen[str]], clean: dict[str, str], models: Path, tmp_path: Path, workers: int
) -> None:
    arguments = command("--models", models, "--workers", workers, "--threads", 1, "--run-dir", tmp_path)
    process = subprocess.Popen(
        arguments, cwd=ROOT, env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    ended.append(process)
    assert process.stdout is not None
    block = [process.stdout.readline().rstrip() for _ in range(7)]
    (url,) = re.findall(r"http://127\.0\.0\.1:\d+", block[0])
    assert re.fullmatch(r"  models    digits 1 \(sha256 [0-9a-f]{12}\)", block[1])
    assert block[2:6] == [
        "  provider  cpu",
        f"  workers   {workers}",
        "  threads   1 in each worker",
        f"  docs      {url}/docs",
    ]
    assert "SIGTERM" in block[6]
    answer = httpx.post(f"{url}/softmax", json={"logits": [0, 0]}, timeout=5)
    assert answer.json()["probabilities"] == [0.5, 0.5]
    process.send_signal(signal.SIGTERM)
    rest, stderr = process.communicate(timeout=10)
    assert (process.returncode, rest, stderr) == (0, "", "")


def _spoil(models: Path) -> str:
    (models / "digits" / "1" / "model.onnx").write_bytes(b"no graph")
    return "digits version 1: "


def _remove(models: Path) -> str:
    shutil.rmtree(models)
    return "cannot read the models at "


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("break_", [_spoil, _remove])
def test_a_broken_model_or_a_missing_folder_is_one_line(
    clean: dict[str, str], models: Path, workers: int, break_: object
) -> None:
    assert callable(break_)
    beginning = break_(models)
    arguments = command("--models", models, "--workers", workers)
    told = subprocess.run(
        arguments, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=20, check=False
    )
    assert told.returncode == 1
    assert told.stdout == ""
    (line,) = told.stderr.splitlines()
    assert line.startswith(f"logitserve: {beginning}")


def test_a_taken_port_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--port", str(port)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"logitserve: port {port} of 127.0.0.1 is in use")


def test_a_bad_setting_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--workers", "none"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "logitserve: --workers: expected a whole number from 1 to 512, or auto, got 'none'"


def test_every_setting_is_a_flag_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["serve", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    for name, field in Settings.model_fields.items():
        assert f"{flag_of(name)} VALUE" in told
        # argparse may break a line at a hyphen or a slash
        words = re.sub(r"\W", "", field.description or "")
        assert words in re.sub(r"\W", "", told)


def test_what_print_config_writes_can_be_read_back(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOGITSERVE_HOST", "0.0.0.0")
    odd = tmp_path / 'a "quoted" \\ folder ü'
    assert cli.main(["serve", "--print-config", "--models", str(odd), "--drain-delay-s", "0.25"]) == 0
    written = capsys.readouterr().out
    config = tmp_path / "logitserve.toml"
    config.write_text(written, encoding="utf-8")
    back = read({}, config=str(config), environ={})
    assert (back.settings.host, back.settings.models, back.settings.drain_delay_s) == ("0.0.0.0", odd, 0.25)
    assert set(back.sources) == set(Settings.model_fields)
    assert all(source.startswith(str(config)) for source in back.sources.values())
    assert 'host = "0.0.0.0"  # LOGITSERVE_HOST\n' in written
    assert "drain_delay_s = 0.25  # --drain-delay-s\n" in written
    assert re.search(r'threads = "auto"  # default; here \d+\n', written)


@pytest.mark.parametrize("terminal", [False, True])
def test_print_config_never_shows_the_admin_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, terminal: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert cli.main(["serve", "--print-config", "--admin-key", "correct-horse"]) == 0
    told = capsys.readouterr().out
    assert "correct-horse" not in told
    assert re.search(r"admin_key\W+\*+\W+--admin-key", told), "that it is set, and where"
    assert terminal or "admin_key" not in tomllib.loads(told), "the mask must not become a key"


@pytest.mark.parametrize("terminal", [False, True])
def test_print_config_never_shows_keys(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, terminal: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("LOGITSERVE_KEYS", 'app = { sha256 = "5eb63bbb" }')
    monkeypatch.setenv("LOGITSERVE_CLIENT_KEY", "correct-horse")
    assert cli.main(["serve", "--print-config"]) == 0
    told = capsys.readouterr().out
    assert "5eb63bbb" not in told
    assert "correct-horse" not in told
    assert terminal or "keys" not in tomllib.loads(told), "the mask must not become a key"


def test_print_config_is_a_table_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert cli.main(["serve", "--print-config", "--port", "81"]) == 0
    told = capsys.readouterr().out
    assert "settings in force" in told
    assert re.search(r"port\W+81\W+--port", told)


@pytest.mark.parametrize(("level", "tracebacks"), [("info", 0), ("debug", 1)])
def test_a_traceback_is_shown_at_debug_only(
    clean: dict[str, str], tmp_path: Path, level: str, tracebacks: int
) -> None:
    arguments = command("--models", tmp_path / "absent", "--log-level", level)
    told = subprocess.run(
        arguments, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=20, check=False
    )
    assert told.returncode == 1
    assert min(told.stderr.count("Traceback (most recent"), 1) == tracebacks
    assert told.stderr.splitlines()[-1].startswith("logitserve: cannot read the models at")


@given(
    chosen=st.builds(
        Settings,
        models=st.text("aä\"'\\#= /\t", min_size=1).map(Path),
        host=st.text(st.characters(exclude_categories=["C"]), min_size=1),
        workers=st.integers(1, 512) | st.just("auto"),
        request_timeout_s=st.floats(1e-6, 1e6),
        body_limit_bytes=st.integers(1, 2**60),
    )
)
def test_any_settings_survive_being_written_and_read(chosen: Settings) -> None:
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        _print_config(Sourced(chosen, dict.fromkeys(Settings.model_fields, "default")))
    assert Settings(**tomllib.loads(written.getvalue())) == chosen
