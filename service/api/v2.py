"""The routes of the Open Inference Protocol V2: decode, score, encode."""

from functools import partial

import orjson

from service.api.scoring import Encode, Scoring
from service.api.transport import Answer, Exchange, Route
from service.errors import RequestError
from service.metrics import Metrics
from service.scorer import Scorer
from service.types import ScoreRequest, ScoreResult
from service.wire import v2, v2_schemas
from service.wire.limits import Limits

# Exactly so, without a charset: clients of the protocol read errors only then.
JSON = "application/json"
BINARY = "application/octet-stream"
JSON_LENGTH = v2.JSON_LENGTH.lower()


INFER_PATH = "/v2/models/{model}/infer"


class V2Dialect:
    def __init__(self, scorer: Scorer, metrics: Metrics, limits: Limits) -> None:
        self._scoring = Scoring(scorer, metrics, limits)
        self._scorer = scorer
        self._limits = limits

    def routes(self) -> list[Route]:
        paths = {
            INFER_PATH: ("model",),
            "/v2/models/{model}/versions/{version}/infer": ("model", "version"),
        }
        return [
            Route("POST", path, self.infer, v2_schemas.operation(*in_path), error_body=error_body)
            for path, in_path in paths.items()
        ]

    async def infer(self, exchange: Exchange) -> Answer:
        json_length = exchange.headers.get(JSON_LENGTH)
        decode = partial(self._decode, exchange.path_params, json_length)
        return await self._scoring.answer(exchange, decode, partial(v2.decode_cost, json_length=json_length))

    def _decode(
        self, path: dict[str, str], json_length: str | None, body: bytes
    ) -> tuple[ScoreRequest, Encode]:
        asked = v2.decode(
            body,
            json_length,
            model=path["model"],
            version=path.get("version"),
            limits=self._limits,
            head_of=self._scorer.head_info,
        )
        return asked.request, partial(_encode, asked)


def error_body(error: RequestError) -> tuple[int, bytes, str]:
    """Write an error as the protocol does: its status, one sentence, and the media type.

    The protocol has no 422: every mistake in a request that can be read is a 400 too.
    """
    status = 400 if error.status == 422 else error.status
    return status, orjson.dumps({"error": error.detail}), JSON


def _encode(asked: v2.Inference, result: ScoreResult) -> Answer:
    body = v2.encode(asked, result)
    if body.json_bytes is None:
        return Answer(body.content, JSON)
    return Answer(body.content, BINARY, headers=((JSON_LENGTH, str(body.json_bytes)),))
