"""Triton's load tester, as it comes: it asks for everything that a Triton server tells of itself, then for load."""

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import Running

PERF_ANALYZER = Path(
    os.environ.get("PERF_ANALYZER", Path(__file__).parents[2] / ".perf-analyzer" / "perf_analyzer")
)


pytestmark = pytest.mark.skipif(
    not PERF_ANALYZER.exists(),
    reason="Triton's load tester comes by .ci/get-perf-analyzer, on Debian as root",
)


@pytest.fixture(params=["http", "grpc"])
def spoken(request: pytest.FixtureRequest, running: Running, grpc_address: str) -> tuple[str, ...]:
    """A transport, and where it is answered."""
    address = grpc_address if request.param == "grpc" else f"127.0.0.1:{running.port}"
    return ("-i", request.param, "-u", address)


def profile(spoken: tuple[str, ...], model: str, *arguments: str) -> str:
    command = [str(PERF_ANALYZER), "-m", model, *spoken, "-b", "4"]
    command += ["--measurement-interval", "500", "--stability-percentage", "50", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def counts(told: str, name: str) -> list[int]:
    return [int(count) for count in re.findall(rf"{name}: (\d+)", told)]


@pytest.mark.parametrize(("model", "arguments"), [("digits", ()), ("softmax", ("--shape", "logits:10"))])
def test_a_full_profile(spoken: tuple[str, ...], model: str, arguments: tuple[str, ...]) -> None:
    told = profile(spoken, model, "--concurrency-range", "1:3:2", *arguments)
    sent, answered = counts(told, "Request count"), counts(told, "Successful request count")
    assert len(sent) == 2, told
    assert min(sent) > 50, told
    # A measurement may begin and end in the middle of requests.
    np.testing.assert_allclose(answered, sent, rtol=0.02, atol=8)
    assert counts(told, "Inference count") == [4 * count for count in answered]
    assert "compute infer" in told


def test_a_rate_instead_of_a_concurrency(spoken: tuple[str, ...]) -> None:
    told = profile(spoken, "digits", "--request-rate-range", "200")
    (throughput,) = re.findall(r"Throughput: ([\d.]+) infer/sec", told)
    np.testing.assert_allclose(float(throughput), 4 * 200, rtol=0.1)
