"""`logitserve loadtest` as it is called: against the real application, and where it cannot work."""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from listening import listening

from service.app import create_app
from service.cli import main
from service.commands.loadtest import _live_rate, _seconds
from service.loadtest.tally import Tally
from service.settings import Settings

MODELS = Path(__file__).parents[2] / "models"
# Without a warm-up the first request of each connection is measured, however late a busy machine answers it.
SHORT = ["--warm-up", "0s", "--duration", "0.5s", "--connections", "2", "--processes", "1"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with listening(create_app(Settings(models=MODELS))) as url:
        yield url


def test_digits_are_predicted_and_everything_is_told(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"--plot": tmp_path / "load.svg", "--json": tmp_path / "load.json"}
    written = [word for flag, path in files.items() for word in (flag, str(path))]
    assert main(["loadtest", url, *SHORT, "--rows", "3", *written]) == 0
    said = capsys.readouterr()
    assert "/predict: 3 rows of 64 features as JSON, 2 connections, closed loop" in said.out
    for word in ("requests/s", "rows/s", "p99.9", "errors", "load generator busy"):
        assert word in said.out
    assert "measuring" in said.err
    assert "latency (ms)" in files["--plot"].read_text(encoding="utf-8")
    document = json.loads(files["--json"].read_text(encoding="utf-8"))
    assert document["requests"] == document["outcomes"]["200"] > 0
    assert document["rows_per_s"] == pytest.approx(3 * document["requests_per_s"])


@pytest.mark.parametrize(
    ("arguments", "title"),
    [
        (["--route", "softmax"], "/softmax: 1 row of 10 logits as JSON, 2 connections, closed loop"),
        (
            # Each request that is due has a connection, so that none is left unsent behind a slow one.
            [
                "--route",
                "loss",
                "--media",
                "npz",
                "--classes",
                "3",
                "--rows",
                "2",
                "--rate",
                "8",
                "--connections",
                "8",
            ],
            "/loss: 2 rows of 3 logits as npz, 8 connections, open loop at 8 requests/s",
        ),
    ],
)
def test_each_route_can_be_measured(
    url: str, arguments: list[str], title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["loadtest", url, *SHORT, *arguments]) == 0
    assert title in capsys.readouterr().out


def test_refused_requests_fail_the_test_in_words(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loadtest", url, *SHORT, "--features", "3"]) == 1
    said = capsys.readouterr().out
    assert "422 features_shape" in said
    assert "requests were not answered 2xx" in said


def test_a_service_that_does_not_get_ready_fails_the_test(capsys: pytest.CaptureFixture[str]) -> None:
    # Without its lifespan the application answers, but has no model.
    with listening(create_app(Settings(models=MODELS)), lifespan="off") as starting:
        assert main(["loadtest", starting, *SHORT, "--features", "64"]) == 1
    assert "503 not_ready" in capsys.readouterr().out


def test_an_address_where_nobody_listens_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    assert main(["loadtest", address, *SHORT]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith(f"logitserve loadtest: http://{address}: ")


def test_an_unknown_model_is_one_line_with_the_known_ones(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["loadtest", url, *SHORT, "--model", "letters"]) == 2
    expected = "logitserve loadtest: expected --model to be one of digits, got letters\n"
    assert capsys.readouterr().err == expected


def test_without_matplotlib_a_plot_is_refused_before_any_load(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["loadtest", url, "--plot", str(tmp_path / "load.png")]) == 2
    assert capsys.readouterr().err == (
        "logitserve loadtest: --plot needs matplotlib: pip install logitserve[plot]\n"
    )


def test_random_arrivals_need_a_rate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loadtest", "--poisson"]) == 2
    assert capsys.readouterr().err == "logitserve loadtest: --poisson needs --rate\n"


@pytest.mark.parametrize("flag", ["--plot", "--json"])
def test_a_folder_that_is_missing_is_found_before_any_load(
    url: str, flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["loadtest", url, flag, str(tmp_path / "missing" / "load.png")]) == 2
    assert "expected a folder that exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--route", "guess"], "invalid choice"),
        (["--rows", "0"], "expected a whole number above 0, got '0'"),
        (["--connections", "many"], "expected a whole number above 0, got 'many'"),
        (["--rate", "0"], "expected requests a second above 0, got '0'"),
        (["--rate", "-1"], "expected requests a second above 0, got '-1'"),
        (["--rate", "inf"], "expected requests a second above 0, got 'inf'"),
        (["--duration", "ten"], "expected a time such as 10s, 500ms or 2m, got 'ten'"),
        (["--duration", "0s"], "expected a time above 0"),
        (["--plot", "load.pdf"], "expected FILE.png or FILE.svg, got 'load.pdf'"),
        (["ftp://host"], "expected http://HOST:PORT, got 'ftp://host'"),
        (["http://"], "expected http://HOST:PORT, got 'http://'"),
        (["http://host:port"], "expected http://HOST:PORT, got 'http://host:port'"),
    ],
)
def test_a_wrong_call_says_what_was_expected(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["loadtest", *arguments])
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"), [("10s", 10.0), ("500ms", 0.5), ("2m", 120.0), ("1.5", 1.5), ("0.25s", 0.25)]
)
def test_times_have_units(text: str, seconds: float) -> None:
    assert _seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "10h", "10sm", "nan", "-1s", "1e999s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a time such as 10s"):
        _seconds(text)


def test_the_live_rate_is_that_of_the_last_whole_step() -> None:
    tally = Tally()
    assert _live_rate(tally) == ""
    tally.answered.update({0: 100, 1: 200, 2: 3})
    assert _live_rate(tally) == "800 requests/s"
    tally.outcomes.update({"200": 303, "503 not_ready": 1200})
    assert _live_rate(tally) == "800 requests/s, 1,200 errors"


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["loadtest", "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "logitserve loadtest --rate 500 --poisson" in said
    assert "exit codes" in said


def test_ctrl_c_prints_what_was_measured_so_far(url: str, tmp_path: Path) -> None:
    code = "import sys; from service.cli import main; sys.exit(main())"
    command = [
        sys.executable,
        "-c",
        code,
        "loadtest",
        url,
        "--duration",
        "60s",
        "--warm-up",
        "0s",
        *SHORT[4:],
    ]
    # A session of its own, and the signal to all of it, as a terminal sends it.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        asked = requests_asked(url)
        until_s = time.monotonic() + 20
        while requests_asked(url) < asked + 50:
            assert time.monotonic() < until_s
            time.sleep(0.05)
        time.sleep(0.4)  # for a report or two
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "interrupted after" in out
    assert "requests/s" in out
    assert "Traceback" not in err


def requests_asked(url: str) -> int:
    from service.client import Client

    with Client(url) as client:
        lines = client.metrics_text().splitlines()
    found = [line for line in lines if line.startswith("logitserve_requests_total{") and "/predict" in line]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in found)
