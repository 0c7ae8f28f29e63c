"""The routes of the Open Inference Protocol V2: decode, score, encode."""

from functools import partial

from service.api.exchange import Answer, Exchange
from service.api.scoring import (
    COST_OF_JSON_BYTE,
    COST_OF_JSON_NUMBER,
    COST_OF_RAW_NUMBER,
    Decoded,
    Encoded,
    Scoring,
)
from service.api.transport import Route, conversed
from service.outcomes import Deliver
from service.types import ScoreResult
from service.wire import v2, v2_schemas
from service.wire.inference import Inference
from service.wire.media import JSON

BINARY = "application/octet-stream"
JSON_LENGTH = v2.JSON_LENGTH.lower().encode()

INFER_PATH = "/v2/models/{model}/infer"


class V2Dialect:
    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring

    def routes(self) -> list[Route]:
        paths = {
            INFER_PATH: ("model",),
            "/v2/models/{model}/versions/{version}/infer": ("model", "version"),
        }
        return [
            Route(
                "POST",
                path,
                "infer",
                conversed(self.begin),
                v2_schemas.operation(*in_path),
                error_body=v2.error_body,
                begin=self.begin,
            )
            for path, in_path in paths.items()
        ]

    def begin(self, exchange: Exchange, body: bytes, deliver: Deliver[Answer]) -> None:
        self._scoring.begin(exchange, body, deliver, self._decode, _decode_cost)

    def _decode(self, exchange: Exchange, body: bytes) -> Decoded:
        asked = v2.decode(
            body,
            exchange.header(JSON_LENGTH),
            model=exchange.path_params["model"],
            version=exchange.path_params.get("version"),
            limits=self._scoring.limits,
            head_of=self._scoring.scorer.head_info,
        )
        cost = COST_OF_RAW_NUMBER if asked.binary else COST_OF_JSON_NUMBER
        return Decoded(asked.request, partial(_encode, asked), cost)


def _decode_cost(exchange: Exchange, body: bytes) -> float:
    return COST_OF_JSON_BYTE * v2.json_bytes_worth(body, exchange.header(JSON_LENGTH))


def _encode(asked: Inference, result: ScoreResult) -> Encoded:
    body = v2.encode(asked, result)
    if body.json_bytes is None:
        return Encoded(body.content, JSON)
    return Encoded(body.content, BINARY, headers=f"{v2.JSON_LENGTH.lower()}: {body.json_bytes}\r\n")
