"""An ASGI application on a free port of this machine, for tests that need real sockets."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal

import uvicorn


@contextlib.contextmanager
def listening(app: Any, *, lifespan: Literal["on", "off"] = "on") -> Iterator[str]:
    """Serve `app` from a thread; yield its URL."""
    config = uvicorn.Config(app, port=0, lifespan=lifespan, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
