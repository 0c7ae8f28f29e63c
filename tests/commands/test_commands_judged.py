"""What calibrate and evaluate share: their flags, and what is found out before any work is done."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pytest

from service.commands import judged
from service.errors import StartError


def parsed(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    judged.add_flags(parser)
    return parser.parse_args(["--data=rows.npz", *flags])


def test_flags_have_defaults() -> None:
    arguments = parsed()
    assert (arguments.bins, arguments.logits, arguments.version, arguments.model) == (15, False, None, None)


@pytest.mark.parametrize(
    "flag",
    [
        "--bins=0",
        "--bins=1001",
        "--bins=x",
        "--version=0",
        "--version=stable",
        "--version=-1",
        "--plot=a.gif",
        "--plot=png",
    ],
)
def test_a_flag_of_another_value_is_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(flag)
    assert "expected" in capsys.readouterr().err


def test_data_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    judged.add_flags(parser)
    with pytest.raises(SystemExit):
        parser.parse_args([])
    assert "--data" in capsys.readouterr().err


def test_a_plot_without_matplotlib_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(StartError, match=r"pip install logitserve\[plot\]"):
        judged.check_files(parsed("--plot=r.png"))
    judged.check_files(parsed())


@pytest.mark.parametrize("flag", ["--plot=absent/r.png", "--json=absent/r.json"])
def test_a_folder_that_is_not_there_is_found_out_first(flag: str) -> None:
    with pytest.raises(StartError, match="expected a folder that exists, got absent"):
        judged.check_files(parsed(flag))


def test_logits_are_read_without_a_head(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", logits=np.eye(3), labels=[0, 1, 2])
    logits, labels = judged.read_rows(None, tmp_path / "rows.npz", logits=True)
    np.testing.assert_array_equal(logits, np.eye(3))
    assert labels.tolist() == [0, 1, 2]


def test_progress_is_silent_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with judged.progress("fitting") as watch:
        watch(1)
    with judged.progress("scoring", 10) as watch:
        watch(10)
    assert capsys.readouterr() == ("", "")
