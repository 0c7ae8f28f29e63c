"""What operators may change while it serves: which versions are loaded, and what they are called."""

from collections.abc import Callable
from typing import Any

import orjson

from service.api.exchange import Answer, Exchange
from service.api.transport import Endpoint, Route
from service.errors import NotReady
from service.rollout import Rollout
from service.wire.admin import ALIAS_BODY, read_alias
from service.wire.limits import Limits
from service.wire.media import JSON

Described = dict[str, Any]

_FAULTS = {
    "401": "The key is missing or not known",
    "403": "No admin key is set",
    "404": "There is no such model or version",
    "422": "The version cannot be loaded; what served before still does",
    "504": "Some workers have not followed in time",
}


class Admin:
    """Answers once every worker has followed; `describe` tells of the models as plain dictionaries."""

    def __init__(self, rollout: Rollout, describe: Callable[[], list[Described]], limits: Limits) -> None:
        self._rollout = rollout
        self._describe = describe
        self._limits = limits

    def routes(self) -> list[Route]:
        version, alias = "/admin/models/{model}/versions/{version}", "/admin/models/{model}/aliases/{alias}"
        return [
            _route("POST", f"{version}/load", self.load, "Load a version", "model", "version"),
            _route("POST", f"{version}/unload", self.unload, "Unload a version", "model", "version"),
            _route("POST", "/admin/reload", self.reload, "Look at the folder of the models again"),
            _route(
                "PUT", alias, self.alias, "Let a name stand for a version", "model", "alias", body=ALIAS_BODY
            ),
        ]

    async def load(self, exchange: Exchange) -> Answer:
        model, version = exchange.path_params["model"], exchange.path_params["version"]
        await self._rollout.load(model, version, exchange.deadline_s)
        return self._answer_version(model, version)

    async def unload(self, exchange: Exchange) -> Answer:
        model, version = exchange.path_params["model"], exchange.path_params["version"]
        await self._rollout.unload(model, version, exchange.deadline_s)
        return self._answer_version(model, version)

    async def reload(self, exchange: Exchange) -> Answer:
        await self._rollout.reload(exchange.deadline_s)
        return Answer(orjson.dumps({"models": self._describe()}), JSON)

    async def alias(self, exchange: Exchange) -> Answer:
        model, alias = exchange.path_params["model"], exchange.path_params["alias"]
        version = read_alias(await exchange.body(), self._limits)
        await self._rollout.name(model, alias, version, exchange.deadline_s)
        return Answer(orjson.dumps({"model": model, "aliases": self._model(model)["aliases"]}), JSON)

    def _answer_version(self, model: str, name: str) -> Answer:
        for version in self._model(model)["versions"]:
            if version["version"] == name:
                return Answer(orjson.dumps({"model": model, **version}), JSON)
        raise _changed_again(f"{model} version {name}")

    def _model(self, name: str) -> Described:
        for model in self._describe():
            if model["name"] == name:
                return model
        raise _changed_again(name)


def _changed_again(name: str) -> NotReady:
    return NotReady(
        "not_ready", f"{name} has gone meanwhile, by another change", headers={"Retry-After": "1"}
    )


def _route(
    method: str, path: str, endpoint: Endpoint, summary: str, *in_path: str, body: Described | None = None
) -> Route:
    error: Described = {"content": {"application/problem+json": {}}}
    described = {
        "tags": ["admin"],
        "summary": summary,
        "description": "Answers once every worker has done it.",
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in in_path
        ],
        "responses": {
            "200": {"description": "Every worker has done it", "content": {JSON: {}}},
            **{status: {"description": fault} | error for status, fault in _FAULTS.items()},
        },
        **({"requestBody": body} if body else {}),
    }
    return Route(method, path, endpoint.__name__, endpoint, described, scope="admin")
