"""The native routes: decode, score, encode."""

from functools import partial

from service.api.exchange import Answer, Exchange
from service.api.scoring import Decoded, Encoded, Scoring
from service.api.transport import Route, conversed
from service.errors import Invalid
from service.outcomes import Deliver
from service.types import Operation, ScoreRequest, ScoreResult
from service.wire import native, schemas
from service.wire.media import JSON, NPY

NAMED, VERSIONED = "/models/{model}/predict", "/models/{model}/versions/{version}/predict"


class NativeDialect:
    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring

    def routes(self) -> list[Route]:
        return [
            self._route("/softmax", "softmax", hot=True),
            self._route("/loss", "loss", hot=True),
            self._route("/predict", "predict", hot=True),
            self._route(NAMED, "predict", "model"),
            self._route(VERSIONED, "predict", "model", "version"),
        ]

    def _route(self, path: str, operation: Operation, *in_path: str, hot: bool = False) -> Route:
        decode = partial(self._decode, operation)

        def begin(exchange: Exchange, body: bytes, deliver: Deliver[Answer]) -> None:
            self._scoring.begin(exchange, body, deliver, decode)

        described = {"tags": ["scoring"], **schemas.operation(operation, *in_path)}
        return Route("POST", path, operation, conversed(begin), described, hot=hot, begin=begin)

    def _decode(self, operation: Operation, exchange: Exchange, body: bytes) -> Decoded:
        accepted = native.accepted(exchange.header(b"accept"))
        params = exchange.target.path_params
        request = native.decode(
            operation,
            body,
            media_type=exchange.header(b"content-type") or "",
            query=exchange.query if exchange.query_string else (),
            limits=self._scoring.limits,
            head_of=self._scoring.scorer.head_info,
            named=(params["model"], params.get("version")) if params else None,
        )
        if not isinstance(request, ScoreRequest):
            return Decoded(request, partial(_encode_each, accepted))
        if accepted == JSON:
            return Decoded(request, _encode_json)
        if accepted == NPY and request.row_ids is True:
            message = f"the ids that are made need an answer with room for them, and {NPY} holds one array"
            raise Invalid("unknown_option_value", message, path="row_ids")
        return Decoded(request, partial(_encode, accepted))


def _encode_json(result: ScoreResult) -> Encoded:
    return Encoded(native.encode_json(result), JSON)


def _encode(accepted: str, result: ScoreResult) -> Encoded:
    return Encoded(native.encode(result, accepted), accepted)


def _encode_each(accepted: str, results: tuple[ScoreResult, ...]) -> Encoded:
    return Encoded(native.encode_each(results, accepted), accepted)
