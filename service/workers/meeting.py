"""Where the workers meet: the one socket they accept from and the folder they share.

This module must not know what they are.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Generator
from pathlib import Path

from service.errors import StartError

# Connections that wait in the kernel while the workers are busy; Linux lowers it to net.core.somaxconn (4096).
BACKLOG = 2048  # uvicorn listens again with the same number

_FOLDER_PREFIX = "logitserve-"


def listen(host: str, port: int, *, flag: str = "--port") -> socket.socket:
    """Bind the one socket that all workers accept from.

    SO_REUSEPORT would give each its own queue, and the connections in that of a worker that dies would be lost.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=host == "::")
    except OSError as error:
        raise StartError(_cannot_listen(host, port, error, flag)) from error


@contextlib.contextmanager
def kept_port(host: str, port: int, *, flag: str) -> Generator[int, None, None]:
    """Find out that nobody else has a port, and keep it for the workers, each of whom listens there by itself.

    What they bring for it can take over no socket, so they share the port by SO_REUSEPORT, with which a second service
    would get it, too, and half of the calls. What is kept here does not listen: no call comes to it.
    """
    with listen(host, port, flag=flag) as free:
        family, (host, port) = free.family, free.getsockname()[:2]
    with socket.socket(family) as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            kept.bind((host, port))
        except OSError as error:  # somebody was faster
            raise StartError(_cannot_listen(host, port, error, flag)) from error
        yield port


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def run_folder(run_dir: Path) -> Generator[Path, None, None]:
    """Make the folder that the workers share, and remove it at the end with those that dead processes left.

    A lock on the folder says that it is in use, for as long as any process that inherited it lives. It is taken
    under another name, so that nobody who clears up sees the folder without its lock.
    """
    try:
        _remove_left(run_dir)
        unlocked = Path(tempfile.mkdtemp(prefix=f".{_FOLDER_PREFIX}", dir=run_dir))
        lock = os.open(unlocked, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = unlocked.rename(run_dir / unlocked.name.removeprefix("."))
    except OSError as error:
        raise StartError(
            f"no folder can be made in {run_dir} ({error.strerror}); choose another by --run-dir"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_left(run_dir: Path) -> None:
    for folder in run_dir.glob(f"{_FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else's, in use, or gone meanwhile
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)


def _cannot_listen(host: str, port: int, error: OSError, flag: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use; stop what listens there, or choose another port by {flag}"
    if error.errno == errno.EACCES:
        return f"port {port} needs privileges; choose one from 1024 on by {flag}"
    return f"cannot listen on {host}, port {port}: {error.strerror or error}; choose an address of this machine by --host"
