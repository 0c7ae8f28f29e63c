"""What every dialect does alike: the order of the work, where it is done, and what the answer carries."""

import gzip
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from service.api.scoring import Encode, Scoring
from service.api.transport import Answer, Exchange
from service.errors import Invalid, TooLarge, UnsupportedMedia
from service.metrics import Metrics
from service.scorer import Scorer
from service.types import HeadInfo, ScoreRequest, ScoreResult
from service.wire.limits import Limits

pytestmark = pytest.mark.anyio

LIMITS = Limits(body_bytes=1000, rows=1000, elements=10_000, json_depth=16)
HEAD = HeadInfo("digits", "3", 4, 3, np.dtype(np.float32), None, "d" * 64, "cpu")
REQUEST = ScoreRequest("softmax", np.zeros((2, 3)), 1, np.dtype(np.float64), ("classes",))


class Recording:
    """A scorer that notes what it is asked to do, what it was said to cost, and until when."""

    def __init__(self, result: ScoreResult) -> None:
        self._result = result
        self.runs: list[tuple[int, float]] = []
        self.scored: list[tuple[ScoreRequest, float]] = []

    async def run(self, cost: int, deadline_s: float, work: Callable[..., Any], *arguments: object) -> Any:
        self.runs.append((cost, deadline_s))
        return work(*arguments)

    async def score(self, request: ScoreRequest, deadline_s: float) -> ScoreResult:
        self.scored.append((request, deadline_s))
        return self._result


class Bench:
    """A `Scoring` over a recording scorer, and one exchange."""

    def __init__(self, body: bytes, head: HeadInfo | None = None, **headers: str) -> None:
        self.scorer = Recording(ScoreResult({}, 2, batch_rows=7, head=head, seconds_queued=0.25))
        self.metrics = Metrics()
        self.scoring = Scoring(cast("Scorer", self.scorer), self.metrics, LIMITS)
        named = {name.replace("_", "-"): value for name, value in headers.items()}

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        self.exchange = Exchange({}, receive, "id", 0.0, 1e12, LIMITS.body_bytes, named)
        self.decoded: list[bytes] = []

    def decode(self, body: bytes) -> tuple[ScoreRequest, Encode]:
        self.decoded.append(body)
        return REQUEST, lambda result: Answer(b"whole", "text/plain", headers=(("x-own", str(result.rows)),))

    async def answer(self, **options: Any) -> Answer:
        return await self.scoring.answer(self.exchange, self.decode, **options)


async def test_a_request_is_decoded_scored_and_encoded() -> None:
    bench = Bench(b"body")
    answer = await bench.answer()
    assert (answer.body, answer.media_type, answer.status) == (b"whole", "text/plain", 200)
    assert bench.decoded == [b"body"]
    assert bench.scorer.scored == [(REQUEST, 1e12)]


async def test_the_headers_of_the_dialect_come_with_those_of_all() -> None:
    headers = dict((await Bench(b"").answer()).headers)
    assert headers["x-own"] == "2"
    assert headers["x-batch-rows"] == "7"
    assert list(headers) == ["x-own", "server-timing", "x-batch-rows"]
    parts = dict(part.strip().split(";dur=") for part in headers["server-timing"].split(","))
    assert list(parts) == ["decode", "queue", "infer", "encode"]
    assert parts["queue"] == "250.000"


async def test_a_heads_answer_names_it_and_its_rows_are_counted() -> None:
    bench = Bench(b"", HEAD)
    headers = dict((await bench.answer()).headers)
    named = {"x-model": "digits", "x-model-version": "3", "x-model-digest": "d" * 64}
    assert named.items() <= headers.items()
    plain = Metrics()
    plain.rows("digits", "3", 2)
    assert bench.metrics.values == plain.values


async def test_rows_of_no_head_are_not_counted() -> None:
    bench = Bench(b"")
    await bench.answer()
    assert bench.metrics.values == Metrics().values


async def test_decoding_costs_its_bytes_unless_the_dialect_knows_better_and_encoding_has_no_deadline() -> (
    None
):
    plain = Bench(b"body")
    await plain.answer()
    assert plain.scorer.runs == [(4, 1e12), (REQUEST.values.size, float("inf"))]
    cheap = Bench(b"body")
    await cheap.answer(cost_of=lambda body: len(body) // 4)
    assert cheap.scorer.runs[0] == (1, 1e12)


async def test_a_compressed_body_is_inflated_within_its_limit() -> None:
    bench = Bench(gzip.compress(b"x" * 900), content_encoding="gzip")
    await bench.answer()
    assert bench.decoded == [b"x" * 900]
    with pytest.raises(TooLarge):
        await Bench(gzip.compress(b"x" * 1001), content_encoding="gzip").answer()
    with pytest.raises(UnsupportedMedia):
        await Bench(b"", content_encoding="br").answer()


async def test_an_error_of_the_decoder_goes_on_to_the_edge() -> None:
    def refuse(_body: bytes) -> tuple[ScoreRequest, Encode]:
        raise Invalid("rank", "expected an axis")

    bench = Bench(b"")
    with pytest.raises(Invalid):
        await bench.scoring.answer(bench.exchange, refuse)
    assert bench.scorer.scored == []
