"""The native routes: decode, score, encode."""

from functools import partial
from typing import Any

from service.api.scoring import Encode, Scoring
from service.api.transport import Answer, Exchange, Route
from service.metrics import Metrics
from service.scorer import Scorer
from service.types import Operation, ScoreRequest, ScoreResult
from service.wire import native, schemas
from service.wire.limits import Limits


class NativeDialect:
    def __init__(self, scorer: Scorer, metrics: Metrics, limits: Limits) -> None:
        self._scoring = Scoring(scorer, metrics, limits)
        self._scorer = scorer
        self._limits = limits

    def routes(self) -> list[Route]:
        named, versioned = "/models/{model}/predict", "/models/{model}/versions/{version}/predict"
        return [
            Route("POST", "/softmax", self.softmax, _described("softmax"), hot=True),
            Route("POST", "/loss", self.loss, _described("loss"), hot=True),
            Route("POST", "/predict", self.predict, _described("predict"), hot=True),
            Route("POST", named, self.predict, _described("predict", "model")),
            Route("POST", versioned, self.predict, _described("predict", "model", "version")),
        ]

    async def softmax(self, exchange: Exchange) -> Answer:
        return await self._answer(exchange, "softmax")

    async def loss(self, exchange: Exchange) -> Answer:
        return await self._answer(exchange, "loss")

    async def predict(self, exchange: Exchange) -> Answer:
        return await self._answer(exchange, "predict")

    async def _answer(self, exchange: Exchange, operation: Operation) -> Answer:
        accepted = native.accepted(exchange.headers.get("accept"))
        return await self._scoring.answer(exchange, partial(self._decode, exchange, operation, accepted))

    def _decode(
        self, exchange: Exchange, operation: Operation, accepted: str, body: bytes
    ) -> tuple[ScoreRequest, Encode]:
        params = exchange.path_params
        request = native.decode(
            operation,
            body,
            media_type=exchange.headers.get("content-type", ""),
            query=exchange.query,
            limits=self._limits,
            head_of=self._scorer.head_info,
            named=(params["model"], params.get("version")) if params else None,
        )
        return request, partial(_encode, accepted)


def _encode(accepted: str, result: ScoreResult) -> Answer:
    return Answer(native.encode(result, accepted), accepted)


def _described(operation: Operation, *in_path: str) -> dict[str, Any]:
    return {"tags": ["scoring"], **schemas.operation(operation, *in_path)}
