"""Triton's model repository extension of the Open Inference Protocol V2: index, load and unload."""

from collections.abc import Callable
from typing import Any

from service.api.exchange import Answer, Exchange
from service.api.transport import Endpoint, Route
from service.rollout import Rollout
from service.wire import v2_repository as wire
from service.wire.limits import Limits
from service.wire.media import JSON
from service.wire.v2 import error_body


class V2Repository:
    """All versions of a model are loaded or unloaded together; `describe` tells of the models."""

    def __init__(
        self, rollout: Rollout, describe: Callable[[], list[dict[str, Any]]], limits: Limits
    ) -> None:
        self._rollout = rollout
        self._describe = describe
        self._limits = limits

    def routes(self) -> list[Route]:
        index = wire.operation("The models with their states", wire.INDEX_REQUEST, wire.INDEX)
        load = wire.operation("Load a model", wire.CHANGE_REQUEST, None, "model")
        unload = wire.operation("Unload a model", wire.CHANGE_REQUEST, None, "model")
        return [
            _route("/v2/repository/index", self.index, index),
            _route("/v2/repository/models/{model}/load", self.load, load),
            _route("/v2/repository/models/{model}/unload", self.unload, unload),
        ]

    async def index(self, exchange: Exchange) -> Answer:
        ready = wire.read_index(await exchange.body(), self._limits)
        return Answer(wire.write_index(self._describe(), ready=ready), JSON)

    async def load(self, exchange: Exchange) -> Answer:
        wire.check_change(await exchange.body(), self._limits)
        await self._rollout.load(exchange.path_params["model"], None, exchange.deadline_s)
        return Answer(b"", JSON)

    async def unload(self, exchange: Exchange) -> Answer:
        wire.check_change(await exchange.body(), self._limits)
        await self._rollout.unload(exchange.path_params["model"], None, exchange.deadline_s)
        return Answer(b"", JSON)


def _route(path: str, endpoint: Endpoint, described: dict[str, Any]) -> Route:
    return Route(
        "POST",
        path,
        f"v2_repository_{endpoint.__name__}",
        endpoint,
        described,
        error_body=error_body,
        scope="admin",
    )
