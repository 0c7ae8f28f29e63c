"""What every dialect does alike between its decoder and its encoder: offloading, times, counts, headers.

What the bytes mean is not known here.
"""

import math
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple, TypeAlias, cast

import numpy as np

from service.api.course import Course
from service.api.exchange import Answer, Exchange, header_lines
from service.feedback.keeping import Feedback, feedback_off
from service.metrics import Metrics
from service.outcomes import Deliver
from service.scorer import INLINE_COST, Scorer
from service.types import FloatArray, Output, RowIds, ScoreRequest, ScoreResult
from service.wire import encodings
from service.wire.limits import Limits

# Of the scorer's costs (10 ns each): reading a byte of JSON, and writing a number as JSON.
COST_OF_JSON_BYTE = 0.25
COST_OF_JSON_NUMBER = 4.0
# Of the same: a raw number is copied once.
COST_OF_RAW_NUMBER = 0.1
# Of the same: compressing the bytes of a number.
COST_OF_COMPRESSION = 10.0
# Says that its labels are a trial's, which no head is to be judged by; 0 says that they are not.
TRIAL_HEADER = b"x-trial"
# A body of less fits one packet as it is.
COMPRESSED_BYTES = 1024
# Heads whose header lines are remembered; they are made again for whoever is forgotten.
REMEMBERED_HEADS = 1024
# Most steps take less than two milliseconds, and writing a float takes four times as long as finding it written.
REMEMBERED_TIMES = 2048


class Encoded(NamedTuple):
    """An answer as its dialect writes it; `headers` are lines."""

    body: bytes
    media_type: str
    headers: str = ""


class Decoded(NamedTuple):
    """What to score, how to answer it, and what writing a number of the answer costs.

    Several requests are answered together: `encode` gets all their results.
    """

    request: ScoreRequest | tuple[ScoreRequest, ...]
    encode: Callable[..., Encoded]
    number_cost: float = COST_OF_JSON_NUMBER


Decode: TypeAlias = Callable[[Exchange, bytes], Decoded]
# Says what decoding a body costs; JSON of its length costs no less.
DecodeCost: TypeAlias = Callable[[Exchange, bytes], float]


class Scoring:
    """`compress` says whether answers are compressed for whoever asks, which many clients do unthinkingly.

    `feedback` is where rows wait for their labels, None where nowhere.
    """

    def __init__(
        self,
        scorer: Scorer,
        metrics: Metrics,
        limits: Limits,
        *,
        compress: bool = False,
        feedback: Feedback | None = None,
    ) -> None:
        self.scorer = scorer
        self.metrics = metrics
        self.limits = limits
        self.compress = compress
        self.feedback = feedback
        # Whether anybody hears of how requests were scored, so that it is noted.
        self.observed = False

    def begin(
        self,
        exchange: Exchange,
        body: bytes,
        deliver: Deliver[Answer],
        decode: Decode,
        cost_of: DecodeCost | None = None,
    ) -> None:
        """Decode, score and encode a body, which is JSON unless `cost_of` says otherwise.

        What is dear leaves the event loop.
        """
        passage = _Passage(self, exchange, deliver, decode, cost_of)
        if b"content-encoding" not in exchange.headers:
            passage.decode_body(body)
            return
        encoding = exchange.headers[b"content-encoding"].decode("latin-1")
        arguments = body, encoding, self.limits.body_bytes
        self.scorer.run(len(body), exchange.deadline_s, passage.inflated, encodings.decompress, *arguments)


class _Passage:
    """One request on its way: each step is begun by the one before, here or from a thread."""

    def __init__(
        self,
        scoring: Scoring,
        exchange: Exchange,
        deliver: Deliver[Answer],
        decode: Decode,
        cost_of: DecodeCost | None,
    ) -> None:
        self.scoring = scoring
        self.exchange = exchange
        self.deliver = deliver
        self.decode = decode
        self.cost_of = cost_of
        self.begun_s = time.monotonic()

    def inflated(self, body: bytes | Exception) -> None:
        if isinstance(body, Exception):
            self.deliver(body)
        else:
            self.decode_body(body)

    def decode_body(self, body: bytes) -> None:
        exchange = self.exchange
        # Nothing is dearer than JSON, so most bodies need no closer look.
        if COST_OF_JSON_BYTE * len(body) > INLINE_COST and self.is_dear(body):
            self.scoring.scorer.offload(exchange.deadline_s, self.score, self.decode, exchange, body)
            return
        decoded: Decoded | Exception
        try:
            decoded = self.decode(exchange, body)
        except Exception as error:  # noqa: BLE001 - it is the outcome
            decoded = error
        self.score(decoded)

    def is_dear(self, body: bytes) -> bool:
        return self.cost_of is None or self.cost_of(self.exchange, body) > INLINE_COST

    def score(self, decoded: Decoded | Exception) -> None:
        if isinstance(decoded, Exception):
            self.deliver(decoded)
            return
        exchange = self.exchange
        if exchange.headers.get(TRIAL_HEADER, b"0") != b"0":
            decoded = decoded._replace(request=_unjudged(decoded.request))
        self.decoded = decoded
        self.decoded_s = time.monotonic()
        request = decoded.request
        if isinstance(request, ScoreRequest):
            if request.row_ids is None:
                self.scoring.scorer.begin(request, exchange.deadline_s, self.encode, exchange.gone)
            else:
                self.score_and_keep(request, request.row_ids)
        else:
            self.scoring.scorer.begin_each(request, exchange.deadline_s, self.encode, exchange.gone)

    def score_and_keep(self, request: ScoreRequest, row_ids: RowIds) -> None:
        """Score a request whose rows are to wait for their labels, by their logits, whatever else is answered."""
        feedback, deadline_s = self.scoring.feedback, self.exchange.deadline_s
        if feedback is None:
            self.deliver(feedback_off("row_ids"))
            return

        def keep(scored: ScoreResult | Exception) -> None:
            if isinstance(scored, Exception) or scored.head is None:
                self.encode(scored)
                return
            outputs = dict(scored.outputs)
            logits = cast("FloatArray", outputs["logits"] if answers_logits else outputs.pop("logits"))
            answer = partial(self.encode_kept, scored._replace(outputs=outputs))
            feedback.keep(scored.head, row_ids, logits, deadline_s, answer)

        answers_logits = "logits" in request.outputs
        outputs = request.outputs if answers_logits else (*request.outputs, "logits")
        self.scoring.scorer.begin(request._replace(outputs=outputs), deadline_s, keep, self.exchange.gone)

    def encode_kept(self, scored: ScoreResult, row_ids: Output | Exception) -> None:
        if isinstance(row_ids, Exception):
            self.fail(row_ids)
        else:
            scored.outputs["row_ids"] = row_ids
            self.encode(scored)

    def encode(self, scored: ScoreResult | tuple[ScoreResult, ...] | Exception) -> None:
        if isinstance(scored, Exception):
            self.fail(scored)
            return
        self.results = (scored,) if isinstance(scored, ScoreResult) else scored
        self.scored_s = time.monotonic()
        numbers = 0
        for result in self.results:
            for value in result.outputs.values():
                if type(value) is np.ndarray:
                    numbers += value.size
        encode, number_cost = self.decoded.encode, self.decoded.number_cost
        if self.scoring.compress and (accepted := self.exchange.header(b"accept-encoding")):
            encode, number_cost = partial(_compressed, encode, accepted), number_cost + COST_OF_COMPRESSION
        if numbers * number_cost > INLINE_COST:
            self.scoring.scorer.offload(math.inf, self.answer, encode, scored)
            return
        encoded: Encoded | Exception
        try:
            encoded = encode(scored)
        except Exception as error:  # noqa: BLE001 - it is the outcome
            encoded = error
        self.answer(encoded)

    def fail(self, error: Exception) -> None:
        if self.scoring.observed:
            self.exchange.course = Course(self.requests, (), (self.begun_s, self.decoded_s))
        for request in self.requests:
            key = (request.head.model, request.head.version) if request.head else (request.operation, "")
            self.scoring.metrics.failed(key, time.monotonic() - self.begun_s)
        self.deliver(error)

    def answer(self, encoded: Encoded | Exception) -> None:
        if isinstance(encoded, Exception):
            self.fail(encoded)
            return
        body, media_type, headers = encoded
        results = self.results
        # Those of several heads are as late as the last of them, and have no one name to say.
        result = results[0] if len(results) == 1 else max(results, key=lambda one: one.seconds_queued)
        decode_s, queue_s = self.decoded_s - self.begun_s, result.seconds_queued
        infer_s = self.scored_s - self.decoded_s - queue_s
        ended_s = time.monotonic()
        encode_s = ended_s - self.scored_s
        seconds = (decode_s, queue_s, infer_s, encode_s)
        for one in results:
            head = one.head
            key = (head.model, head.version) if head else (self.operation, "")  # which has no versions
            self.scoring.metrics.scored(key, one.rows, seconds, ended_s)
        if self.scoring.observed:
            times_s = (self.begun_s, self.decoded_s, self.decoded_s + queue_s, self.scored_s, ended_s)
            self.exchange.course = Course(self.requests, results, times_s)
        if len(results) == 1 and (head := result.head) is not None:
            headers += _lines_of(head.model, head.version, head.digest)
        decode, queue = _milliseconds(int(1e6 * decode_s)), _milliseconds(int(1e6 * queue_s))
        infer, encode = _milliseconds(int(1e6 * infer_s)), _milliseconds(int(1e6 * encode_s))
        headers += (
            f"server-timing: decode;dur={decode}, queue;dur={queue}, infer;dur={infer}, encode;dur={encode}\r\n"
            f"x-batch-rows: {result.batch_rows}\r\n"
        )
        self.deliver(Answer(body, media_type, 200, headers))

    @property
    def requests(self) -> tuple[ScoreRequest, ...]:
        asked = self.decoded.request
        return (asked,) if isinstance(asked, ScoreRequest) else asked

    @property
    def operation(self) -> str:
        return self.requests[0].operation


def _unjudged(asked: ScoreRequest | tuple[ScoreRequest, ...]) -> ScoreRequest | tuple[ScoreRequest, ...]:
    if isinstance(asked, ScoreRequest):
        return asked._replace(judged=False)
    return tuple(request._replace(judged=False) for request in asked)


def _compressed(encode: Callable[..., Encoded], accepted: str, scored: object) -> Encoded:
    body, media_type, headers = encode(scored)
    headers += "vary: accept-encoding\r\n"
    encoding = encodings.preferred(accepted)
    if encoding is None or len(body) < COMPRESSED_BYTES:
        return Encoded(body, media_type, headers)
    body = encodings.compress(body, encoding)
    return Encoded(body, media_type, f"{headers}content-encoding: {encoding}\r\n")


@lru_cache(REMEMBERED_TIMES)
def _milliseconds(microseconds: int) -> str:
    return f"{microseconds / 1000:.3f}"


@lru_cache(REMEMBERED_HEADS)
def _lines_of(model: str, version: str, digest: str) -> str:
    return header_lines({"x-model": model, "x-model-version": version, "x-model-digest": digest})
