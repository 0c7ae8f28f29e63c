"""Real processes on real sockets: the stand-in applications, started and ended."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STANDIN = Path(__file__).parent / "standin.py"
ROOT = STANDIN.parent.parent.parent


@dataclass
class Service:
    """A running stand-in: its first process, and the port it answers on."""

    process: subprocess.Popen[str]
    port: int = 0

    def wait_ready(self) -> "Service":
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.port = int(line.rsplit(":", 1)[1])
        return self

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def ended(self, timeout_s: float = 10) -> tuple[int, str]:
        """Return the exit code and what stands on stderr."""
        _, stderr = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, stderr

    def children(self) -> list[int]:
        pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text(encoding="ascii")
        return [int(pid) for pid in pids.split()]

    def pin(self, cpu: int) -> None:
        for pid in (self.process.pid, *self.children()):
            os.sched_setaffinity(pid, {cpu})

    def connected(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 5)

    async def get(self, path: str) -> tuple[bytes, dict[str, Any]]:
        """Answer's head and its JSON, over a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request(path))
            return await answer(reader)
        finally:
            writer.close()


Start = Callable[..., Service]


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: service\r\n\r\n".encode()


def received(connection: socket.socket) -> bytes:
    """Return the answer, which ends with its JSON object, or what came of it."""
    whole = b""
    while not whole.endswith(b"}") and (part := connection.recv(4096)):
        whole += part
    return whole


async def answer(reader: asyncio.StreamReader) -> tuple[bytes, dict[str, Any]]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head, json.loads(await reader.readexactly(length))


def until(holds: Callable[[], bool], timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, "it did not come to hold in time"
        time.sleep(0.02)


def open_sockets(pid: int) -> int:
    count = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed in between
            count += str(descriptor.readlink()).startswith("socket:")
    return count


def alive(pid: int) -> bool:
    """Whether the process runs; one that is dead and only not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def started(tmp_path: Path) -> Iterator[Start]:
    """A fixture: `start("answering", workers=2)` runs a stand-in on a free port, and what is left is killed."""
    services = []

    def start(name: str = "answering", **flags: object) -> Service:
        given = {"port": 0, "run_dir": tmp_path, "drain_delay_s": 0.1, **flags}
        command = [sys.executable, str(STANDIN), name if ":" in name else f"standin:{name}"]
        command += [f"{flag}={value}" for flag, value in given.items()]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        services.append(Service(process))
        return services[-1]

    yield start
    for service in services:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(service.process.pid, signal.SIGKILL)
        service.process.communicate()
