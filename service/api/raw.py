"""The V2 protocol's tensors in bodies of other routes, whose Content-Type says how long the JSON part is.

That is Triton's way through the front doors of clouds, which let no header of the protocol's own through.
"""

from functools import partial

from service.api.exchange import Answer, Exchange
from service.api.scoring import COST_OF_JSON_BYTE, Decoded, Encoded, Scoring
from service.outcomes import Deliver
from service.types import ScoreResult
from service.wire import v2
from service.wire.fields import HeadOf
from service.wire.inference import Inference
from service.wire.media import JSON


class RawTensors:
    """`media_type` ends where the length is written."""

    def __init__(self, scoring: Scoring, head_of: HeadOf, media_type: str) -> None:
        self._scoring = scoring
        self._head_of = head_of
        self._media_type = media_type

    def begin(
        self,
        exchange: Exchange,
        body: bytes,
        deliver: Deliver[Answer],
        json_length: str,
        model: str | None = None,
    ) -> None:
        """Score a body for a model, by default the only one."""

        def decode(_exchange: Exchange, body: bytes) -> Decoded:
            return self.decode(body, json_length, model)

        def cost_of(_exchange: Exchange, body: bytes) -> float:
            return COST_OF_JSON_BYTE * v2.json_bytes_worth(body, json_length)

        self._scoring.begin(exchange, body, deliver, decode, cost_of)

    def decode(self, body: bytes, json_length: str | None, model: str | None) -> Decoded:
        asked = v2.decode(
            body,
            json_length,
            model=model or self._head_of(None, None).model,
            version=None,
            limits=self._scoring.limits,
            head_of=self._head_of,
        )
        return Decoded(asked.request, partial(self._encode, asked))

    def _encode(self, asked: Inference, result: ScoreResult) -> Encoded:
        body = v2.encode(asked, result)
        media_type = JSON if body.json_bytes is None else f"{self._media_type}{body.json_bytes}"
        return Encoded(body.content, media_type)
