"""What operators and browsers ask for: health, metrics, the models, the documentation."""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any

import orjson

from service.api.exchange import Answer, Exchange, header_lines
from service.api.transport import Edge, Route
from service.errors import NotFound, NotReady
from service.exposition import Exposition
from service.metrics import Board, Values, summed

JSON = "application/json"

EXAMPLES_PATH = "/models/{model}/versions/{version}/examples"

# Swagger UI draws its icons from data URLs.
DOCS_POLICY = "default-src 'self'; img-src 'self' data:"
# The files of the documentation: our own, which name and colour what Swagger UI draws, and Swagger UI's.
DOCS_START = "index.html"
DOCS_OWN = {"start.js": "text/javascript; charset=utf-8", "docs.css": "text/css; charset=utf-8"}
DOCS_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
}


class Operations:
    """Health and metrics.

    `count` gives this worker's counts as they are now; `starting` says why the service is not ready yet, or
    None when it is; `judge` gives what is counted of the quality of all workers' answers.
    """

    def __init__(
        self,
        edge: Edge,
        count: Callable[[], Values],
        board: Board | None,
        starting: Callable[[], str | None],
        judge: Callable[[], Awaitable[Values]],
    ) -> None:
        self._edge = edge
        self._count = count
        self._board = board
        self._starting = starting
        self._judge = judge
        self._exposition = Exposition()

    def routes(self) -> list[Route]:
        live = _described("Whether the process runs", "operations")
        ready = _described("Whether it can score now", "operations", {"503": "Not yet, or no more"})
        metrics = _described("Prometheus metrics, summed over the workers", "operations")
        return [
            Route("GET", "/health/live", "live", self.live, live, scope="open"),
            Route("GET", "/health/ready", "ready", self.ready, ready, scope="open"),
            Route("HEAD", "/health/live", "live", self.live, scope="open"),
            Route("HEAD", "/health/ready", "ready", self.ready, scope="open"),
            Route("GET", "/metrics", "metrics", self.metrics, metrics, scope="metrics"),
        ]

    async def live(self, _exchange: Exchange) -> Answer:
        return Answer(b'{"status":"live"}', JSON)

    async def ready(self, _exchange: Exchange) -> Answer:
        draining = "draining: it finishes what it has and stops"
        if reason := draining if self._edge.draining else self._starting():
            # A second is about what a restart takes.
            raise NotReady("not_ready", reason, headers={"Retry-After": "1"})
        return Answer(b'{"status":"ready"}', JSON)

    async def metrics(self, _exchange: Exchange) -> Answer:
        values = {**self.counts(), **await self._judge()}
        return Answer(self._exposition.text(values), self._exposition.CONTENT_TYPE)

    def counts(self) -> Values:
        """Sum up the counts of all workers."""
        snapshots = [self._count()]
        if self._board is not None:
            self._board.publish(snapshots[0])
            snapshots.extend(self._board.others())
        return summed(snapshots)

    async def published(self) -> Values:
        """Sum up what all workers have published, without publishing: at one moment each of them finds the same."""
        return self._count() if self._board is None else await asyncio.to_thread(self._board.published)


class ModelList:
    """What is served.

    `describe` tells it as plain dictionaries, `compare` how a model's shadow does, and `examples` what a version can
    be tried with.
    """

    def __init__(
        self,
        describe: Callable[[], list[dict[str, Any]]],
        compare: Callable[[str], list[dict[str, Any]]],
        examples: Callable[[str, str], dict[str, Any]],
    ) -> None:
        self._describe = describe
        self._compare = compare
        self._examples = examples

    def routes(self) -> list[Route]:
        every = _described("All models and their versions", "models")
        one = _described("One model", "models", {"404": "No such model"}, "model")
        named = ("model", "version")
        version = _described("One version", "models", {"404": "No such version"}, *named)
        errors = {"404": "No such version", "503": "It is not loaded"}
        examples = _described(
            "Rows to try a version with, by its number or an alias", "models", errors, *named
        )
        shadow = _described("How its shadow version compares", "models", {"404": "No such model"}, "model")
        return [
            Route("GET", "/models", "every", self.every, every),
            Route("GET", "/models/{model}", "one", self.one, one),
            Route("GET", "/models/{model}/versions/{version}", "version", self.version, version),
            Route("GET", EXAMPLES_PATH, "examples", self.examples, examples),
            Route("GET", "/models/{model}/shadow", "shadow", self.shadow, shadow, scope="metrics"),
        ]

    async def every(self, _exchange: Exchange) -> Answer:
        return Answer(orjson.dumps({"models": self._describe()}), JSON)

    async def one(self, exchange: Exchange) -> Answer:
        return Answer(orjson.dumps(self._model(exchange.path_params["model"])), JSON)

    async def shadow(self, exchange: Exchange) -> Answer:
        model = self._model(exchange.path_params["model"])
        told = {
            "model": model["name"],
            "shadow": model["aliases"].get("shadow"),
            "comparisons": self._compare(model["name"]),
        }
        return Answer(orjson.dumps(told), JSON)

    async def examples(self, exchange: Exchange) -> Answer:
        named = exchange.path_params
        return Answer(orjson.dumps(self._examples(named["model"], named["version"])), JSON)

    async def version(self, exchange: Exchange) -> Answer:
        model = self._model(exchange.path_params["model"])
        asked = exchange.path_params["version"]
        for version in model["versions"]:
            if version["version"] == asked:
                return Answer(orjson.dumps({"model": model["name"], **version}), JSON)
        known = ", ".join(version["version"] for version in model["versions"][:10])
        raise NotFound("unknown_version", f"expected one of {known}, got {asked[:40]!r}", path="version")

    def _model(self, name: str) -> dict[str, Any]:
        described = self._describe()
        for model in described:
            if model["name"] == name:
                return model
        known = ", ".join(model["name"] for model in described[:10])
        raise NotFound("unknown_model", f"expected one of {known}, got {name[:40]!r}", path="model")


class Documentation:
    """The OpenAPI document and Swagger UI, which loads nothing from another host and no inline script."""

    def __init__(self, openapi: Callable[[], dict[str, Any]]) -> None:
        self._openapi = openapi

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/openapi.json", "openapi", self.openapi, scope="open"),
            Route("GET", "/docs", "page", self.page, scope="open"),
            Route("GET", "/docs/{asset}", "asset", self.asset, scope="open"),
        ]

    async def openapi(self, _exchange: Exchange) -> Answer:
        return Answer(orjson.dumps(self._openapi()), JSON)

    async def page(self, _exchange: Exchange) -> Answer:
        policy = header_lines({"content-security-policy": DOCS_POLICY})
        return Answer(_own(DOCS_START), "text/html; charset=utf-8", headers=policy)

    async def asset(self, exchange: Exchange) -> Answer:
        name = exchange.path_params["asset"]
        if name in DOCS_OWN:
            return Answer(_own(name), DOCS_OWN[name])
        if name not in DOCS_ASSETS:
            raise NotFound("unknown_route", "the documentation has no such file")
        return Answer(_asset(name), DOCS_ASSETS[name])


@functools.cache
def _own(name: str) -> bytes:
    return resources.files("service").joinpath("page", "docs", name).read_bytes()


@functools.cache
def _asset(name: str) -> bytes:
    return resources.files("fastapi_swagger").joinpath("resources", name).read_bytes()


def _described(
    summary: str, tag: str, errors: dict[str, str] | None = None, *parameters: str
) -> dict[str, Any]:
    return {
        "summary": summary,
        "tags": [tag],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in parameters
        ],
        "responses": {
            status: {"description": description, "content": {"application/problem+json": {}}}
            for status, description in (errors or {}).items()
        },
    }
