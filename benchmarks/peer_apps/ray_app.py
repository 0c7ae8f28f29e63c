"""Ray Serve: one replica, asked through its HTTP proxy."""
# The library is installed in the peer's own environment only.
# mypy: disable-error-code="import-not-found,misc,untyped-decorator,attr-defined"

import signal
from typing import Any

from head_session import PORT, Session
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=100)
class Head:
    def __init__(self) -> None:
        self.session = Session()

    async def __call__(self, request: Request) -> dict[str, Any]:
        if request.method == "GET":
            return {"ready": True}
        return self.session.run_to_lists((await request.json())["features"])


if __name__ == "__main__":
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Head.bind(), route_prefix="/")
    signal.sigwait({signal.SIGTERM})
    serve.shutdown()
