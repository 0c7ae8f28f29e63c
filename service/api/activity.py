"""What the service has done over the last minutes: one route, and the sampling behind it."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import orjson

from service.activity import INTERVAL_S, Activity, Judged
from service.api.exchange import Answer, Exchange
from service.api.transport import Route
from service.errors import Invalid
from service.metrics import Values
from service.wire.media import JSON

PATH = "/activity"
# gRPC's methods are no routes of HTTP; this is the one that scores.
GRPC_INFER = "grpc:ModelInfer"

_OVER_TIME = {"type": "array", "items": {"type": ["number", "null"]}}
_OF_EACH = {"type": "object", "additionalProperties": _OVER_TIME}
_COUNTS = {"type": "array", "items": {"type": "number"}}
_OF_MODELS = {"type": "array", "items": {"type": "object"}}

SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "All arrays are in the order of times_s, and null where nothing happened.",
    "properties": {
        "workers_wanted": {"type": "integer"},
        "threads": {"type": "integer"},
        "interval_s": {"type": "number"},
        "kept_s": {"type": "number"},
        "providers": {"type": "array", "items": {"type": "string"}},
        "times_s": {
            "type": "array",
            "items": {"type": "integer"},
            "description": "When each interval ended, in seconds of Unix time",
        },
        "requests_per_s": _OVER_TIME,
        "rows_per_s": _OVER_TIME,
        "statuses_per_s": _OF_EACH,
        "errors_per_s": _OF_EACH,
        "duration_s": _OF_EACH,
        "stages_s": {"type": "object", "additionalProperties": _OF_EACH},
        "batch_rows": _OVER_TIME,
        "queue_rows": _OVER_TIME,
        "inflight_requests": _OVER_TIME,
        "workers": _OVER_TIME,
        "memory_bytes": _OVER_TIME,
        "models": _OF_MODELS,
        "quality": {
            "type": "object",
            "properties": {"step_s": {"type": "number"}, "times_s": _COUNTS, "models": _OF_MODELS},
        },
        "last_minute": {"type": ["object", "null"]},
        "batches": {"type": "object", "properties": {"up_to": _COUNTS, "count": _COUNTS}},
    },
}


class ActivityRoute:
    """Samples the counts of all workers while `run` does, and answers what came in between.

    Parameters
    ----------
    count : function
        The counts of all workers, as each had published them last.
    judge : function
        What all workers have counted of labelled rows.
    about : dict
        What does not change: how many workers and threads there are to be.
    lag_s : float
        How long after its time a sample is taken, so that all workers have published what they had then.
    """

    def __init__(
        self,
        count: Callable[[], Awaitable[Values]],
        judge: Callable[[], Awaitable[Judged]],
        about: dict[str, Any],
        lag_s: float,
    ) -> None:
        self._count = count
        self._judge = judge
        self._about = about
        self._lag_s = lag_s
        self._activity = Activity((), ())

    def routes(self) -> list[Route]:
        since = {
            "name": "since",
            "in": "query",
            "required": False,
            "description": "Only intervals that end after this time, in seconds of Unix time",
            "schema": {"type": "number", "default": 0},
        }
        about = {
            "summary": "What the service has done over the last minutes",
            "tags": ["operations"],
            "parameters": [since],
            "responses": {"200": {"description": "Arrays over time", "content": {JSON: {"schema": SCHEMA}}}},
        }
        return [Route("GET", PATH, "activity", self.activity, about, scope="metrics")]

    def watch(self, routes: Iterable[Route]) -> None:
        """Say what is served: requests that score are its work, those that only ask how it does are not."""
        every = list(routes)
        scoring = {route.path for route in every if route.begin is not None} | {GRPC_INFER}
        self._activity = Activity(scoring, {route.path for route in every if route.method in {"GET", "HEAD"}})

    async def activity(self, exchange: Exchange) -> Answer:
        since_s = _since(dict(exchange.query).get("since", "0"))
        told = await asyncio.to_thread(self._activity.describe, since_s)
        return Answer(orjson.dumps({**self._about, **told}, option=orjson.OPT_SERIALIZE_NUMPY), JSON)

    async def run(self) -> None:
        """Take a sample at each whole multiple of the interval, until cancelled."""
        while True:
            time_s = (math.floor((time.time() - self._lag_s) / INTERVAL_S) + 1) * INTERVAL_S
            await asyncio.sleep(time_s + self._lag_s - time.time())
            values, judged = await self._count(), await self._judge()
            await asyncio.to_thread(self._activity.add, time_s, values, judged)


def _since(said: str) -> float:
    try:
        since_s = float(said)
    except ValueError:
        since_s = math.nan
    if not math.isfinite(since_s):
        message = f"expected a time in seconds, such as 1767225600, got {said[:40]!r}"
        raise Invalid("option_type", message, path="since")
    return since_s
