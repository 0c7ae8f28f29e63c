"""What every dialect does alike between its decoder and its encoder: offloading, times, counts, headers.

What the bytes mean is not known here.
"""

import math
import time
from collections.abc import Callable
from typing import TypeAlias

from service.api.transport import Answer, Exchange
from service.metrics import Metrics
from service.scorer import Scorer
from service.types import HeadInfo, ScoreRequest, ScoreResult
from service.wire import encodings
from service.wire.limits import Limits

Encode: TypeAlias = Callable[[ScoreResult], Answer]


class Scoring:
    def __init__(self, scorer: Scorer, metrics: Metrics, limits: Limits) -> None:
        self._scorer = scorer
        self._metrics = metrics
        self._limits = limits

    async def answer(
        self,
        exchange: Exchange,
        decode: Callable[[bytes], tuple[ScoreRequest, Encode]],
        cost_of: Callable[[bytes], int] = len,
    ) -> Answer:
        """Read the body, decode, score and encode it; what is dear leaves the event loop.

        `decode` gives what to score, and how to answer it; `cost_of` says what decoding a body costs, in
        bytes of text.
        """
        body = await exchange.body()
        run, deadline_s = self._scorer.run, exchange.deadline_s
        begun_s = time.monotonic()
        if encoding := exchange.headers.get("content-encoding"):
            limit_bytes = self._limits.body_bytes
            body = await run(len(body), deadline_s, encodings.decompress, body, encoding, limit_bytes)
        request, encode = await run(cost_of(body), deadline_s, decode, body)
        decoded_s = time.monotonic()
        result = await self._scorer.score(request, deadline_s)
        scored_s = time.monotonic()
        answer = await run(request.values.size, math.inf, encode, result)
        times = {
            "decode": decoded_s - begun_s,
            "queue": result.seconds_queued,
            "infer": scored_s - decoded_s - result.seconds_queued,
            "encode": time.monotonic() - scored_s,
        }
        if result.head:
            self._metrics.rows(result.head.model, result.head.version, result.rows)
        return answer._replace(headers=(*answer.headers, *_headers(times, result.batch_rows, result.head)))


def _headers(times: dict[str, float], batch_rows: int, head: HeadInfo | None) -> tuple[tuple[str, str], ...]:
    timing = ", ".join(f"{name};dur={seconds * 1000:.3f}" for name, seconds in times.items())
    headers = (("server-timing", timing), ("x-batch-rows", str(batch_rows)))
    if head is None:
        return headers
    named = (("x-model", head.model), ("x-model-version", head.version), ("x-model-digest", head.digest))
    return (*headers, *named)
