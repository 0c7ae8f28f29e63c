"""What every dialect does alike: the order of the work, where it is done, and what the answer carries."""

import gzip
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from service.api.exchange import Answer, Exchange
from service.api.scoring import COMPRESSED_BYTES, Decode, Decoded, Encoded, Scoring
from service.errors import Invalid, QueueFull, TooLarge, UnsupportedMedia
from service.metrics import Metrics
from service.outcomes import Deliver, Gone, awaited
from service.scorer import INLINE_COST, Scorer
from service.types import HeadInfo, ScoreRequest, ScoreResult
from service.wire import encodings
from service.wire.limits import Limits

pytestmark = pytest.mark.anyio

LIMITS = Limits(body_bytes=1000, rows=1000, elements=10_000, json_depth=16)
HEAD = HeadInfo("digits", "3", 4, 3, np.dtype(np.float32), None, "d" * 64, "cpu")
REQUEST = ScoreRequest("softmax", np.zeros((2, 3)), 1, np.dtype(np.float64), ("classes",))


class Recording:
    """A scorer that notes what leaves the event loop, what it is asked to score, and until when."""

    def __init__(self, result: ScoreResult | Exception) -> None:
        self._result = result
        self.offloaded: list[tuple[float, object]] = []
        self.scored: list[tuple[ScoreRequest, float]] = []

    def run(
        self,
        _cost: float,
        deadline_s: float,
        deliver: Deliver[Any],
        work: Callable[..., Any],
        *arguments: Any,
    ) -> None:
        self.offload(deadline_s, deliver, work, *arguments)

    def offload(
        self, deadline_s: float, deliver: Deliver[Any], work: Callable[..., Any], *arguments: Any
    ) -> None:
        self.offloaded.append((deadline_s, work))
        try:
            outcome = work(*arguments)
        except Exception as error:  # noqa: BLE001 - as the real one
            outcome = error
        deliver(outcome)

    def begin(
        self, request: ScoreRequest, deadline_s: float, deliver: Deliver[ScoreResult], _gone: Gone
    ) -> None:
        self.scored.append((request, deadline_s))
        deliver(self._result)

    def begin_each(
        self,
        requests: tuple[ScoreRequest, ...],
        deadline_s: float,
        deliver: Deliver[Any],
        _gone: Gone,
    ) -> None:
        self.scored.extend((request, deadline_s) for request in requests)
        deliver((self._result,) * len(requests))


class Bench:
    """A `Scoring` over a recording scorer, and one exchange."""

    def __init__(
        self, body: bytes, head: HeadInfo | None = None, outputs: dict[str, Any] | None = None, **headers: str
    ) -> None:
        result = ScoreResult(outputs or {}, 2, batch_rows=7, head=head, seconds_queued=0.25)
        self.scorer = Recording(result)
        self.metrics = Metrics()
        self.scoring = Scoring(cast("Scorer", self.scorer), self.metrics, LIMITS)
        self.body = body
        self.head = head
        named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        self.exchange = Exchange(named, "POST", "id", 60.0, LIMITS.body_bytes)
        self.decoded: list[bytes] = []

    def decode(self, exchange: Exchange, body: bytes) -> Decoded:
        assert exchange is self.exchange
        self.decoded.append(body)
        return Decoded(REQUEST._replace(head=self.head), self.encode)

    def encode(self, result: ScoreResult) -> Encoded:
        return Encoded(b"whole", "text/plain", f"x-own: {result.rows}\r\n")

    async def answer(self, decode: Decode | None = None, **options: Any) -> Answer:
        def begin(deliver: Deliver[Answer], _gone: Gone) -> None:
            self.scoring.begin(self.exchange, self.body, deliver, decode or self.decode, **options)

        return await awaited(begin)


def headers_of(answer: Answer) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in answer.headers.splitlines())


async def test_a_request_is_decoded_scored_and_encoded() -> None:
    bench = Bench(b"body")
    answer = await bench.answer()
    assert (answer.body, answer.media_type, answer.status) == (b"whole", "text/plain", 200)
    assert bench.decoded == [b"body"]
    assert bench.scorer.scored == [(REQUEST, bench.exchange.deadline_s)]
    assert bench.scorer.offloaded == [], "what is cheap stays on the event loop"


@pytest.mark.parametrize(("said", "judged"), [("1", False), ("true", False), ("0", True)])
async def test_a_trial_is_scored_like_any_other_and_said_to_be_one(said: str, *, judged: bool) -> None:
    bench = Bench(b"body", x_trial=said)
    answer = await bench.answer()
    assert answer.body == b"whole"
    ((request, _),) = bench.scorer.scored
    assert request == REQUEST._replace(judged=judged)


async def test_several_requests_at_once_are_all_the_same_trial() -> None:
    def decode(_exchange: Exchange, _body: bytes) -> Decoded:
        return Decoded((REQUEST, REQUEST._replace(top_k=1)), lambda _results: Encoded(b"both", "text/plain"))

    bench = Bench(b"", x_trial="1")
    assert (await bench.answer(decode)).body == b"both"
    assert [(request.judged, request.top_k) for request, _ in bench.scorer.scored] == [
        (False, None),
        (False, 1),
    ]


async def test_the_headers_of_the_dialect_come_with_those_of_all() -> None:
    headers = headers_of(await Bench(b"").answer())
    assert headers["x-own"] == "2"
    assert headers["x-batch-rows"] == "7"
    assert list(headers) == ["x-own", "server-timing", "x-batch-rows"]
    parts = dict(part.strip().split(";dur=") for part in headers["server-timing"].split(","))
    assert list(parts) == ["decode", "queue", "infer", "encode"]
    assert parts["queue"] == "250.000"


async def test_a_heads_answer_names_it_and_its_rows_are_counted() -> None:
    bench = Bench(b"", HEAD)
    headers = headers_of(await bench.answer())
    named = {"x-model": "digits", "x-model-version": "3", "x-model-digest": "d" * 64}
    assert named.items() <= headers.items()
    counts = bench.metrics.values
    assert counts["logitserve_rows"] == {("digits", "3"): 2}
    sums = {key[2]: n for key, n in counts["logitserve_stage_duration_seconds"].items() if key[3] == "sum"}
    assert sums["queue"] == 0.25
    assert sums.keys() == {"decode", "queue", "infer", "encode"}


async def test_a_name_that_no_header_can_hold_is_percent_encoded() -> None:
    bench = Bench(b"", replace(HEAD, model="caf\u00e9 \n"))
    assert headers_of(await bench.answer())["x-model"] == "caf%C3%A9 %0A"


async def test_rows_of_no_head_are_counted_under_their_operation() -> None:
    bench = Bench(b"")
    await bench.answer()
    assert bench.metrics.values["logitserve_rows"] == {("softmax", ""): 2}


async def test_a_body_that_is_dear_to_decode_leaves_the_event_loop() -> None:
    for size, offloaded in ((4 * INLINE_COST, 0), (4 * INLINE_COST + 4, 1)):
        plain = Bench(bytes(size))
        await plain.answer()
        assert len(plain.scorer.offloaded) == offloaded, "without a word it counts as JSON"
    for cost, offloaded in ((INLINE_COST, 0), (INLINE_COST + 1, 1)):
        told = Bench(bytes(4 * INLINE_COST + 4))
        await told.answer(cost_of=lambda _exchange, _body, cost=cost: cost)
        assert told.scorer.offloaded == [(told.exchange.deadline_s, told.decode)] * offloaded


async def test_an_answer_that_is_dear_to_encode_leaves_the_event_loop_and_has_no_deadline() -> None:
    numbers = {"losses": np.zeros(INLINE_COST // 4), "count": 3}
    cheap = Bench(b"", outputs=numbers)
    await cheap.answer()
    assert cheap.scorer.offloaded == []
    dear = Bench(b"", outputs={**numbers, "classes": np.zeros(1)})
    await dear.answer()
    assert dear.scorer.offloaded == [(float("inf"), dear.encode)]


async def test_a_compressed_body_is_inflated_within_its_limit() -> None:
    bench = Bench(gzip.compress(b"x" * 900), content_encoding="gzip")
    await bench.answer()
    assert bench.decoded == [b"x" * 900]
    with pytest.raises(TooLarge):
        await Bench(gzip.compress(b"x" * 1001), content_encoding="gzip").answer()
    with pytest.raises(UnsupportedMedia):
        await Bench(b"", content_encoding="br").answer()


async def test_an_error_of_the_decoder_goes_on_to_the_edge() -> None:
    def refuse(_exchange: Exchange, _body: bytes) -> Decoded:
        raise Invalid("rank", "expected an axis")

    bench = Bench(b"")
    with pytest.raises(Invalid):
        await bench.answer(refuse)
    assert bench.scorer.scored == []


def failures(bench: Bench) -> float:
    found = bench.metrics.values["logitserve_failure_duration_seconds"]
    return sum(count for key, count in found.items() if key[:2] == ("softmax", "") and key[2] != "sum")


async def test_an_error_of_the_scorer_goes_on_to_the_edge() -> None:
    bench = Bench(b"")
    bench.scorer = Recording(QueueFull("queue_full", "too many rows wait"))
    bench.scoring.scorer = cast("Scorer", bench.scorer)
    with pytest.raises(QueueFull):
        await bench.answer()
    assert failures(bench) == 1


async def test_a_fault_of_the_encoder_goes_on_to_the_edge() -> None:
    def fail(_result: ScoreResult) -> Encoded:
        raise ZeroDivisionError

    bench = Bench(b"")
    with pytest.raises(ZeroDivisionError):
        await bench.answer(lambda _exchange, _body: Decoded(REQUEST, fail))
    assert failures(bench) == 1
    assert bench.metrics.values["logitserve_rows"] == {}


@pytest.mark.parametrize(
    ("accepted", "size", "encoding"),
    [
        ("gzip", COMPRESSED_BYTES, "gzip"),
        ("deflate, gzip;q=0.5", 10_000, "deflate"),
        ("gzip", COMPRESSED_BYTES - 1, None),
        ("br", 10_000, None),
    ],
)
async def test_answers_are_compressed_where_that_is_switched_on_and_asked_for(
    accepted: str, size: int, encoding: str | None
) -> None:
    def decode(_exchange: Exchange, _body: bytes) -> Decoded:
        return Decoded(REQUEST, lambda _result: Encoded(b"x" * size, "text/plain"))

    bench = Bench(b"", accept_encoding=accepted)
    off = await bench.answer(decode)
    assert off.body == b"x" * size
    assert "vary" not in headers_of(off)
    bench.scoring.compress = True
    on = await bench.answer(decode)
    headers = headers_of(on)
    assert headers["vary"] == "accept-encoding"
    assert headers.get("content-encoding") == encoding
    assert encodings.decompress(on.body, encoding or "identity", size) == b"x" * size


async def test_who_asks_for_nothing_gets_nothing_compressed() -> None:
    bench = Bench(b"")
    bench.scoring.compress = True
    assert "content-encoding" not in headers_of(await bench.answer())
