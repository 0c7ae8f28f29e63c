"""Ray Serve: one replica, asked through its HTTP proxy, in its mode for throughput."""
# The library is installed in the peer's own environment only.
# mypy: disable-error-code="import-not-found,misc,untyped-decorator,attr-defined"

import signal

import ray
from head_session import PORT, Session
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request
from starlette.responses import JSONResponse

OBJECT_STORE_BYTES = 200_000_000


@serve.deployment(num_replicas=1, max_ongoing_requests=100)
class Head:
    def __init__(self) -> None:
        self.session = Session()

    async def __call__(self, request: Request) -> JSONResponse:
        if request.method == "GET":
            return JSONResponse({"ready": True})
        return JSONResponse(self.session.run_to_lists((await request.json())["features"]))


if __name__ == "__main__":
    ray.init(include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, log_to_driver=False)
    serve.start(
        http_options={"host": "127.0.0.1", "port": PORT},
        logging_config=LoggingConfig(enable_access_log=False),
    )
    serve.run(Head.bind(), route_prefix="/")
    signal.sigwait({signal.SIGTERM})
    ray.shutdown()
