"""The native routes: decode, score, encode."""

import time
from typing import Any

from service.api.transport import Answer, Exchange, Route
from service.metrics import Metrics
from service.scorer import Scorer
from service.types import HeadInfo, Operation, ScoreRequest
from service.wire import encodings, native, schemas
from service.wire.limits import Limits


class NativeDialect:
    def __init__(self, scorer: Scorer, metrics: Metrics, limits: Limits) -> None:
        self._scorer = scorer
        self._metrics = metrics
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
        body = await exchange.body()
        run, deadline_s = self._scorer.run, exchange.deadline_s
        begun_s = time.monotonic()
        if encoding := exchange.headers.get("content-encoding"):
            limit_bytes = self._limits.body_bytes
            body = await run(len(body), deadline_s, encodings.decompress, body, encoding, limit_bytes)
        request = await run(len(body), deadline_s, self._decode, exchange, operation, body)
        decoded_s = time.monotonic()
        result = await self._scorer.score(request, deadline_s)
        scored_s = time.monotonic()
        encoded = await run(request.values.size, None, native.encode, result, accepted)
        times = {
            "decode": decoded_s - begun_s,
            "queue": result.seconds_queued,
            "infer": scored_s - decoded_s - result.seconds_queued,
            "encode": time.monotonic() - scored_s,
        }
        if result.head:
            self._metrics.rows(result.head.model, result.head.version, result.rows)
        return Answer(encoded, accepted, headers=_headers(times, result.rows, result.head))

    def _decode(self, exchange: Exchange, operation: Operation, body: bytes) -> ScoreRequest:
        params = exchange.path_params
        return native.decode(
            operation,
            body,
            media_type=exchange.headers.get("content-type", ""),
            query=exchange.query,
            limits=self._limits,
            head_of=self._scorer.head_info,
            named=(params["model"], params.get("version")) if params else None,
        )


def _described(operation: Operation, *in_path: str) -> dict[str, Any]:
    return {"tags": ["scoring"], **schemas.operation(operation, *in_path)}


def _headers(times: dict[str, float], rows: int, head: HeadInfo | None) -> tuple[tuple[str, str], ...]:
    timing = ", ".join(f"{name};dur={seconds * 1000:.3f}" for name, seconds in times.items())
    headers = (("server-timing", timing), ("x-batch-rows", str(rows)))
    if head is None:
        return headers
    named = (("x-model", head.model), ("x-model-version", head.version), ("x-model-digest", head.digest))
    return (*headers, *named)
