"""The routes that Vertex AI chooses for a container: predictions of the default head, and whether it is ready."""

from functools import partial

import orjson

from service.api.exchange import Answer, Exchange
from service.api.raw import RawTensors
from service.api.scoring import Decoded, Encoded, Scoring
from service.api.transport import Endpoint, Route, conversed
from service.errors import RequestError
from service.outcomes import Deliver
from service.types import ScoreResult
from service.wire import v1, v1_schemas

JSON = "application/json"
# What rawPredict passes through for the V2 protocol's binary tensors, as Triton names it.
TRITON = "application/vnd.vertex-ai-triton.binary+json;json-header-size="

# Google's clients read an error by these, and fail over one that is mere text.
_STATUSES = {
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class VertexDialect:
    """`ready` answers whether the service can score; a route that is empty is none."""

    def __init__(
        self,
        scoring: Scoring,
        ready: Endpoint,
        *,
        health_route: str,
        predict_route: str,
    ) -> None:
        self._scoring = scoring
        self._ready = ready
        self._raw = RawTensors(scoring, scoring.scorer.head_info, TRITON)
        self._health_route, self._predict_route = health_route, predict_route

    def routes(self) -> list[Route]:
        routes = []
        if path := self._health_route:
            routes.append(
                Route("GET", path, "vertex_health", self._ready, error_body=error_body, scope="open")
            )
        if path := self._predict_route:
            endpoint, openapi = conversed(self.begin), v1_schemas.vertex()
            routes.append(
                Route(
                    "POST",
                    path,
                    "vertex_predict",
                    endpoint,
                    openapi,
                    hot=True,
                    error_body=error_body,
                    begin=self.begin,
                )
            )
        return routes

    def begin(self, exchange: Exchange, body: bytes, deliver: Deliver[Answer]) -> None:
        json_length = _json_length(exchange)
        if json_length is None:
            self._scoring.begin(exchange, body, deliver, self._decode)
        else:
            self._raw.begin(exchange, body, deliver, json_length)

    def _decode(self, _exchange: Exchange, body: bytes) -> Decoded:
        asked = v1.decode(
            body,
            model=None,
            version=None,
            kserve=True,
            limits=self._scoring.limits,
            head_of=self._scoring.scorer.head_info,
        )
        return Decoded(asked.request, partial(_encode, asked))


def error_body(error: RequestError) -> tuple[int, bytes, str]:
    """Write an error as Google's services do; what is wrong with a request that can be read is a 400 too."""
    status = 400 if error.status == 422 else error.status
    told = {"code": status, "message": error.detail, "status": _STATUSES.get(status, "INVALID_ARGUMENT")}
    return status, orjson.dumps({"error": told}), JSON


def _json_length(exchange: Exchange) -> str | None:
    media_type = (exchange.header(b"content-type") or "").replace(" ", "").lower()
    return media_type.removeprefix(TRITON) if media_type.startswith(TRITON) else None


def _encode(asked: v1.Prediction, result: ScoreResult) -> Encoded:
    return Encoded(v1.encode(asked, result), JSON)
