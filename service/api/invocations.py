"""The routes of MLflow's scoring server and of SageMaker's containers: decode, score, encode."""

from functools import partial
from typing import Any

import orjson

from service import __version__
from service.api.exchange import Answer, Exchange
from service.api.raw import RawTensors
from service.api.scoring import Decoded, Encoded, Scoring
from service.api.security import Scope
from service.api.transport import Endpoint, Route, conversed
from service.errors import RequestError
from service.outcomes import Deliver
from service.types import ScoreResult
from service.wire import invocations, invocations_schemas, media
from service.wire.invocations import RAW_LENGTH, Form, Invocation
from service.wire.media import JSON, RAW

PATH = "/invocations"
TEXT = "text/plain; charset=utf-8"
TARGET_MODEL = b"x-amzn-sagemaker-target-model"

MIB = 1024**2
# What SageMaker allows for all requests of a batch transform that are under way, in its MB.
CONCURRENT_PAYLOAD_MB = 100

# MLflow's own names, by its own table of statuses; what is not in it is a bad request to its clients.
_ERROR_CODES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class InvocationsDialect:
    """`ready` answers whether the service can score; `accept` is the media type for whoever takes any.

    `concurrent` is how many large requests are scored at once, in all workers.
    """

    def __init__(
        self,
        scoring: Scoring,
        ready: Endpoint,
        *,
        accept: str,
        concurrent: int,
    ) -> None:
        self._scoring = scoring
        self._ready = ready
        self._writable = invocations.writable(accept)
        self._concurrent = concurrent
        head_of = invocations.naming(scoring.scorer.head_info)
        self._raw = RawTensors(scoring, head_of, f"{RAW};{RAW_LENGTH}=")

    def routes(self) -> list[Route]:
        described = invocations_schemas
        return [
            Route(
                "POST",
                PATH,
                "invocations",
                conversed(self.begin),
                described.invocations(),
                hot=True,
                error_body=error_body,
                begin=self.begin,
            ),
            _get("/ping", "ping", self.ping, described.ping("ping"), "open"),
            _get("/health", "health", self.ping, described.ping("health"), "open"),
            Route("HEAD", "/ping", "ping", self.ping, error_body=error_body, scope="open"),
            Route("HEAD", "/health", "health", self.ping, error_body=error_body, scope="open"),
            _get("/version", "mlflow_version", self.version, described.version(), "open"),
            _get(
                "/execution-parameters",
                "execution_parameters",
                self.execution_parameters,
                described.execution_parameters(),
            ),
        ]

    def begin(self, exchange: Exchange, body: bytes, deliver: Deliver[Answer]) -> None:
        try:
            form = invocations.form_of(exchange.header(b"content-type") or "")
        except RequestError as error:
            deliver(error)
            return
        if form.json_length is None:
            self._scoring.begin(exchange, body, deliver, partial(self._decode, form))
        else:
            self._raw.begin(exchange, body, deliver, form.json_length, _target(exchange))

    def _decode(self, form: Form, exchange: Exchange, body: bytes) -> Decoded:
        target = _target(exchange)
        if form.media_type == JSON and invocations.is_v2(body, self._scoring.limits):
            return self._raw.decode(body, None, target)
        accepted = media.accepted(exchange.header(b"accept"), self._writable)
        asked = invocations.decode(
            body,
            form,
            query=exchange.query if exchange.query_string else (),
            target=target,
            limits=self._scoring.limits,
            head_of=self._scoring.scorer.head_info,
        )
        return Decoded(asked.request, partial(_encode, asked, accepted))

    async def ping(self, exchange: Exchange) -> Answer:
        await self._ready(exchange)
        return Answer(b"\n", TEXT)

    async def version(self, _exchange: Exchange) -> Answer:
        return Answer(__version__.encode(), TEXT)

    async def execution_parameters(self, _exchange: Exchange) -> Answer:
        payload_mb = min(self._scoring.limits.body_bytes // MIB, CONCURRENT_PAYLOAD_MB // self._concurrent)
        told = {
            "MaxConcurrentTransforms": self._concurrent,
            "BatchStrategy": "MULTI_RECORD",
            "MaxPayloadInMB": max(1, payload_mb),  # 0 would say that there is no limit
        }
        return Answer(orjson.dumps(told), JSON)


def error_body(error: RequestError) -> tuple[int, bytes, str]:
    """Write an error as MLflow does, without its stack; what is wrong with a request that can be read is a 400 too."""
    status = 400 if error.status == 422 else error.status
    code = _ERROR_CODES.get(status, "BAD_REQUEST")
    if error.code == "unknown_route":
        code = "ENDPOINT_NOT_FOUND"
    return status, orjson.dumps({"error_code": code, "message": error.detail}), JSON


def _target(exchange: Exchange) -> str | None:
    """Give the head that SageMaker's header names, by the archive that it came in."""
    target = exchange.header(TARGET_MODEL)
    return target.strip("/").removesuffix(".tar.gz") if target else None


def _get(path: str, name: str, endpoint: Endpoint, openapi: dict[str, Any], scope: Scope = "infer") -> Route:
    return Route("GET", path, name, endpoint, openapi, error_body=error_body, scope=scope)


def _encode(asked: Invocation, accepted: str, result: ScoreResult) -> Encoded:
    return Encoded(invocations.encode(asked, result, accepted), accepted)
