"""The load generator: wrk, on a core of its own, before everything else that wants to run there.

A client in Python would be slower than the server that it measures. It knows no head and no table.
"""

import contextlib
import functools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cases import Request
from serving import NoServer

SCRIPT = Path(__file__).parent / "post.lua"
GRACE_S = 60  # for the connections' end, above the duration
CONNECT_S = 0.5  # until all connections are there


class Load(NamedTuple):
    """What one run measured."""

    requests: int
    duration_s: float
    p50_ms: float
    p99_ms: float
    failed: int

    @property
    def rate(self) -> float:
        """Requests answered a second."""
        return self.requests / self.duration_s


def require() -> None:
    for program, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if shutil.which(program) is None:
            raise NoServer(f"{program} is not installed; on Debian and Ubuntu: apt-get install {package}")


@functools.cache
def real_time() -> tuple[str, ...]:
    """The beginning of a command that runs before all others on its core, or nothing where that is forbidden."""
    prefix = ("chrt", "--fifo", "1")
    if shutil.which(prefix[0]) is None:
        return ()
    allowed = subprocess.run([*prefix, "true"], capture_output=True, check=False)  # noqa: S603 - a constant
    return prefix if allowed.returncode == 0 else ()


def run(
    request: Request,
    port: int,
    *,
    core: int,
    connections: int,
    duration_s: int,
    pause_ms: float = 0.0,
) -> Load:
    """Send one request over and over.

    Parameters
    ----------
    core : int
        The CPU that the generator has to itself.
    duration_s : int
        wrk counts whole seconds.
    pause_ms : float
        Mean time that each connection waits after an answer; 0 asks for all that the server can do.
    """
    with _started(
        request, port, core=core, connections=connections, duration_s=duration_s, pause_ms=pause_ms
    ) as process:
        output, errors = process.communicate(timeout=duration_s + GRACE_S)
    if process.returncode:
        raise NoServer(f"wrk ended with {process.returncode}: {errors}")
    return parse(output)


@contextlib.contextmanager
def holding(request: Request, port: int, *, core: int, connections: int) -> Iterator[None]:
    """Keep the connections busy while the block runs."""
    with _started(request, port, core=core, connections=connections, duration_s=GRACE_S) as process:
        time.sleep(CONNECT_S)
        try:
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def _started(
    request: Request, port: int, *, core: int, connections: int, duration_s: int, pause_ms: float = 0.0
) -> Iterator[subprocess.Popen[str]]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(request.body)
        file.flush()
        command = ["taskset", "--cpu-list", str(core), *real_time(), "wrk", "--threads=1", "--timeout=30s"]
        command += [f"--connections={connections}", f"--duration={duration_s}s", f"--script={SCRIPT}"]
        command += [f"http://127.0.0.1:{port}{request.path}", "--", file.name, f"{pause_ms:.3f}"]
        command += [f"{name}={value}" for name, value in request.headers.items()]
        # S603: our own command
        with subprocess.Popen(  # noqa: S603
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            yield process


def parse(output: str) -> Load:
    """Read the line that post.lua prints last."""
    said = json.loads(output.strip().splitlines()[-1])
    return Load(
        said["requests"],
        said["duration_us"] / 1e6,
        said["p50_us"] / 1e3,
        said["p99_us"] / 1e3,
        said["failed"],
    )
