"""What the Open Inference Protocol V2 tells of the server and its models: health, metadata, configuration, counts."""

from typing import Any

import orjson

from service.api.exchange import Answer, Exchange
from service.api.security import Scope
from service.api.transport import Endpoint, Route
from service.wire import v2_schemas
from service.wire.media import JSON
from service.wire.v2 import error_body
from service.wire.v2_models import Catalogue

# Where a model may stand, and what its path says.
_PLACES = {
    "/v2/models/{model}": ("model",),
    "/v2/models/{model}/versions/{version}": ("model", "version"),
}


class V2Models:
    """`ready` raises while the service cannot score."""

    def __init__(self, catalogue: Catalogue, ready: Endpoint) -> None:
        self._catalogue = catalogue
        self._ready = ready

    def routes(self) -> list[Route]:
        told = v2_schemas.told
        routes = [
            _route("/v2", self.server, told("The server and its extensions", v2_schemas.SERVER)),
            _route("/v2/", self.server),
            _route("/v2/health/live", self.live, told("Whether the process runs", v2_schemas.LIVE), "open"),
            _route(
                "/v2/health/ready", self.ready, told("Whether it can score now", v2_schemas.READY), "open"
            ),
            # Before the models: none can have this name here.
            _route(
                "/v2/models/stats",
                self.all_statistics,
                told("Counts of all models", v2_schemas.COUNTS),
                "metrics",
            ),
        ]
        for place, names in _PLACES.items():
            routes += [
                _route(place, self.model, told("A model's tensors", v2_schemas.MODEL, *names)),
                _route(
                    f"{place}/ready",
                    self.model_ready,
                    told("Whether it serves", v2_schemas.READY, *names),
                    "open",
                ),
                _route(f"{place}/config", self.config, told("Its configuration", v2_schemas.CONFIG, *names)),
                _route(
                    f"{place}/stats",
                    self.statistics,
                    told("Its counts", v2_schemas.COUNTS, *names),
                    "metrics",
                ),
            ]
        return routes

    async def server(self, _exchange: Exchange) -> Answer:
        return _answer(self._catalogue.server())

    async def live(self, _exchange: Exchange) -> Answer:
        return _answer({"live": True})

    async def ready(self, exchange: Exchange) -> Answer:
        await self._ready(exchange)
        return _answer({"ready": True})

    async def model(self, exchange: Exchange) -> Answer:
        return _answer(self._catalogue.model(*_named(exchange)))

    async def model_ready(self, exchange: Exchange) -> Answer:
        await self._ready(exchange)
        model, version = _named(exchange)
        self._catalogue.find(model, version)
        return _answer({"name": model, "ready": True})

    async def config(self, exchange: Exchange) -> Answer:
        return _answer(self._catalogue.config(*_named(exchange)))

    async def statistics(self, exchange: Exchange) -> Answer:
        return _answer(self._catalogue.statistics(*_named(exchange)))

    async def all_statistics(self, _exchange: Exchange) -> Answer:
        return _answer(self._catalogue.statistics(None, None))


def _named(exchange: Exchange) -> tuple[str, str | None]:
    return exchange.path_params["model"], exchange.path_params.get("version")


def _answer(told: dict[str, Any]) -> Answer:
    return Answer(orjson.dumps(told), JSON)


def _route(
    path: str, endpoint: Endpoint, described: dict[str, Any] | None = None, scope: Scope = "infer"
) -> Route:
    name = f"v2_{endpoint.__name__}"
    return Route("GET", path, name, endpoint, described, error_body=error_body, scope=scope)
