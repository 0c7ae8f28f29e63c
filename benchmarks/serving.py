"""Server processes: started on a core of their own, waited for, asked once, weighed, stopped.

It knows processes and sockets, and no head, case or table.
"""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from cases import Answer, Request

ROOT = Path(__file__).parent.parent
READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
# Time between two questions whether a server is ready: the resolution of start to ready.
POLL_S = 0.005
KIB_PER_MB = 1000 / 1.024
OUTPUT_LINES = 12  # of a server that did not start


class Cores(NamedTuple):
    """One core for the server, another for whoever asks."""

    server: int
    generator: int


class NoServer(Exception):
    """A server did not become ready; the text says why."""


class Memory(NamedTuple):
    """Of processes, in MB: pages each of them maps, and their share of those that several map."""

    rss_mb: float
    pss_mb: float


class Asked(Protocol):
    def __call__(self, port: int) -> bool: ...


class Server(NamedTuple):
    """A process that is ready, with all its children."""

    process: subprocess.Popen[bytes]
    port: int
    start_to_ready_s: float

    def ask(self, request: Request) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("POST", request.path, request.body, request.headers)
            return _read(connection)

    def get(self, path: str) -> Answer:
        return get(self.port, path)

    def family(self) -> list[int]:
        """The process ids of the server, itself first, and of whoever it started."""
        return family(self.process.pid)

    def workers(self) -> list[int]:
        """The process ids of whoever the server itself started: with several workers, these and no supervisor."""
        return [child for child, parent in _parents().items() if parent == self.process.pid]

    def memory(self) -> Memory:
        return memory(self.family())

    def cpu_s(self) -> float:
        return sum(_cpu_s(pid) for pid in self.family())


def pick_cores() -> Cores:
    """The first two CPUs of this process; raise `NoServer` where it has only one."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise NoServer("the server and the load generator need a CPU each, and this process has only one")
    return Cores(cpus[0], cpus[1])


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def get(port: int, path: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return _read(connection)


def _read(connection: http.client.HTTPConnection) -> Answer:
    response = connection.getresponse()
    return Answer(
        response.status, response.read(), {name.lower(): value for name, value in response.getheaders()}
    )


def answers_ok(path: str, text: str = "") -> Asked:
    """A server is ready once it answers 200 at `path`, with `text` somewhere in the body."""

    def asked(port: int) -> bool:
        answer = get(port, path)
        return answer.status == 200 and text.encode() in answer.body

    return asked


@contextlib.contextmanager
def running(
    command: Sequence[str],
    port: int,
    *,
    core: int,
    is_ready: Asked,
    environment: Mapping[str, str] | None = None,
    folder: Path = ROOT,
) -> Iterator[Server]:
    """Run a server on one core until the block ends; its output is shown only if it does not start."""
    with tempfile.TemporaryFile() as output:
        begun_s = time.monotonic()
        # In a session of its own, so that at the end everything that it started can be told to end too.
        process = subprocess.Popen(  # noqa: S603 - our own command
            ["taskset", "--cpu-list", str(core), *command],  # noqa: S607 - of util-linux, found on the PATH
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        try:
            if not _wait(process, port, is_ready):
                output.seek(0)
                lines = output.read().decode(errors="replace").splitlines()[-OUTPUT_LINES:]
                raise NoServer("\n".join(["it did not become ready", *lines]))
            yield Server(process, port, time.monotonic() - begun_s)
        finally:
            _stop(process)


def _wait(process: subprocess.Popen[bytes], port: int, is_ready: Asked) -> bool:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if is_ready(port):
                return True
        time.sleep(POLL_S)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and whatever it started, also what has left its process group and outlives it."""
    begun = {pid: _begun(pid) for pid in family(process.pid)}
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for pid in [pid for pid, ticks in begun.items() if ticks and _begun(pid) == ticks]:
        for one in family(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
    process.wait()


def _begun(pid: int) -> int:
    """When a process began, in ticks of the kernel's clock, by which it is told from a later one of its number."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return 0


@contextlib.contextmanager
def service(repository: Path, core: int, *flags: str) -> Iterator[Server]:
    """Our service as its users start it: all defaults but the folder and the port."""
    port = free_port()
    command = [sys.executable, "-m", "service", "serve", f"--models={repository}", f"--port={port}", *flags]
    with running(command, port, core=core, is_ready=answers_ok("/health/ready")) as server:
        yield server


@contextlib.contextmanager
def bound(answer: Answer, core: int) -> Iterator[Server]:
    """The bound, answering as many bytes of the same type as `answer` has."""
    port = free_port()
    with tempfile.NamedTemporaryFile() as file:
        file.write(answer.body)
        file.flush()
        script = str(Path(__file__).parent / "bound.py")
        command = [sys.executable, script, f"--port={port}", f"--answer={file.name}"]
        command.append(f"--media-type={answer.headers['content-type']}")
        with running(command, port, core=core, is_ready=answers_ok("/")) as server:
            yield server


def family(pid: int) -> list[int]:
    parents = _parents()
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def _parents() -> dict[int, int]:
    """The parent of each process that there is."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):  # it has just ended
                # The name of the program stands in parentheses and may hold anything.
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    return parents


def memory(pids: Sequence[int]) -> Memory:
    rss_kib, pss_kib = 0, 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                rss_kib += int(rest.split()[0]) if name == "Rss" else 0
                pss_kib += int(rest.split()[0]) if name == "Pss" else 0
    return Memory(rss_kib / KIB_PER_MB, pss_kib / KIB_PER_MB)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user_ticks, system_ticks = int(fields[11]), int(fields[12])
    return (user_ticks + system_ticks) / os.sysconf("SC_CLK_TCK")


def connections_of(pid: int, port: int) -> int:
    """How many established connections to `port` a process holds."""
    established = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "01" and int(fields[1].rpartition(":")[2], 16) == port:
            established.add(f"socket:[{fields[9]}]")
    held = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed in between
            held += str(descriptor.readlink()) in established
    return held
