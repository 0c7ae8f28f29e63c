"""How good heads are while they serve: one route, and the series of it that /metrics has."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import orjson

from service.api.exchange import Answer, Exchange
from service.api.transport import Route
from service.errors import NotFound
from service.numeric.kernel import Float64Array
from service.quality import told
from service.quality.online import Key, Quality, key_of
from service.quality.told import Values
from service.types import HeadInfo
from service.wire.media import JSON

PATH = "/models/{model}/quality"
# Bare logits with labels are judged, too: under the name of their operation, which has no versions.
BARE = "loss"


class Judgement:
    """What `quality` has counted; `infos` tells what is served now, which has names of classes and a reference."""

    def __init__(
        self, quality: Quality | None, infos: Callable[[], Iterable[HeadInfo]], window_s: float
    ) -> None:
        self._quality = quality
        self._infos = infos
        self._window_s = window_s

    def routes(self) -> list[Route]:
        parameter = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
        about = {
            "summary": "How good a model is while it serves, since start and within the window",
            "tags": ["models"],
            "parameters": [parameter],
            "responses": {
                "404": {
                    "description": "No such model, or quality is off",
                    "content": {"application/problem+json": {}},
                }
            },
        }
        return [Route("GET", PATH, "quality", self.quality, about, scope="metrics")]

    async def quality(self, exchange: Exchange) -> Answer:
        model = exchange.path_params["model"]
        heads = {key_of(info): info for info in self._infos()}
        known = sorted({key.model for key in heads})
        if model not in known and model != BARE:
            message = f"expected one of {', '.join([*known[:10], BARE])}, got {model[:40]!r}"
            raise NotFound("unknown_model", message, path="model")
        if self._quality is None:
            raise NotFound("unknown_route", "nothing is counted, since LOGITSERVE_QUALITY is off")
        counts = await asyncio.to_thread(self._quality.totals)
        answer: dict[str, Any] = told.describe(
            counts,
            model,
            window_s=self._window_s,
            class_names={key: info.class_names for key, info in heads.items()},
            reference=self._reference(heads),
        )
        return Answer(orjson.dumps(answer), JSON)

    async def values(self) -> Values:
        """The series of all models, of all workers."""
        if self._quality is None:
            return {}
        life, window = await asyncio.to_thread(self._quality.totals)
        heads = {key_of(info): info for info in self._infos()}
        return told.values(life, window, self._reference(heads))

    async def sums(self) -> dict[tuple[str, str], told.Sums]:
        """The sums over labelled rows of each model and version, of all workers."""
        if self._quality is None:
            return {}
        life, _ = await asyncio.to_thread(self._quality.totals)
        return told.sums(life)

    @staticmethod
    def _reference(heads: dict[Key, HeadInfo]) -> Callable[[Key], Float64Array | None]:
        return lambda key: heads[key].reference if key in heads else None
