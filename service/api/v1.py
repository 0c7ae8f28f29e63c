"""The routes of TensorFlow Serving's REST API and of KServe's V1 protocol: decode, score, encode."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import orjson

from service.api.exchange import Answer, Exchange
from service.api.scoring import Decode, Decoded, Encoded, Scoring
from service.api.transport import Begin, Route, conversed
from service.errors import Invalid, NotFound, RequestError
from service.outcomes import Deliver
from service.types import HeadInfo, ScoreRequest, ScoreResult
from service.wire import v1, v1_schemas
from service.wire.inference import OPERATION_VERSION, OPERATIONS

JSON = "application/json"

MODELS_PATH = "/v1/models"
PREDICT_PATH = "/v1/models/{model}:predict"
# Where a model may stand, and what its path says.
_PLACES = {
    "/v1/models/{model}": ("model",),
    "/v1/models/{model}/versions/{version}": ("model", "version"),
    "/v1/models/{model}/labels/{label}": ("model", "label"),
}

# How TensorFlow Serving begins to say it.
_OPENINGS = {
    "unknown_route": "Malformed request: ",
    "method_not_allowed": "Malformed request: ",
    "unknown_model": "Servable not found for request: ",
    "unknown_version": "Servable not found for request: ",
}
_REFUSED = {
    "regress": "every model here is a classifier, which has no number to regress: ask it to :predict or :classify",
    "explain": "no explainer is served here; with contributions in parameters.outputs :predict says what a linear"
    " head went by",
}


class V1Dialect:
    """`describe` tells what is served as plain dictionaries; `kserve` whose answers are given to `inputs`."""

    def __init__(
        self,
        scoring: Scoring,
        describe: Callable[[], list[dict[str, Any]]],
        *,
        kserve: bool,
    ) -> None:
        self._scoring = scoring
        self._describe = describe
        self._kserve = kserve

    def routes(self) -> list[Route]:
        routes = [_get(MODELS_PATH, "models", self.models, v1_schemas.models())]
        for place, in_path in _PLACES.items():
            routes += [
                self._scored(f"{place}:predict", self._decode, v1_schemas.predict(*in_path)),
                self._scored(f"{place}:classify", self._decode_examples, v1_schemas.classify(*in_path)),
                *(_post(f"{place}:{verb}", partial(self._refuse, verb)) for verb in _REFUSED),
                _get(f"{place}/metadata", "metadata", self.metadata, v1_schemas.metadata(*in_path)),
                _get(place, "status", self.status, v1_schemas.status(*in_path)),
            ]
        return routes

    def _scored(self, path: str, decode: Decode, openapi: Mapping[str, Any]) -> Route:
        def begin(exchange: Exchange, body: bytes, deliver: Deliver[Answer]) -> None:
            self._scoring.begin(exchange, body, deliver, decode)

        return _post(path, begin, openapi)

    def _decode(self, exchange: Exchange, body: bytes) -> Decoded:
        params = exchange.path_params
        asked = v1.decode(
            body,
            model=params["model"],
            version=_version_of(params),
            kserve=self._kserve,
            limits=self._scoring.limits,
            head_of=self._scoring.scorer.head_info,
        )
        return Decoded(asked.request, partial(_encode, asked))

    def _decode_examples(self, exchange: Exchange, body: bytes) -> Decoded:
        params = exchange.path_params
        request = v1.decode_examples(
            body,
            model=params["model"],
            version=_version_of(params),
            limits=self._scoring.limits,
            head_of=self._scoring.scorer.head_info,
        )
        return Decoded(request, partial(_encode_examples, request))

    def _refuse(self, verb: str, exchange: Exchange, _body: bytes, deliver: Deliver[Answer]) -> None:
        try:
            self._head_of(exchange.path_params)
        except RequestError as error:
            deliver(error)
        else:
            deliver(Invalid("unknown_output", f"{verb}: {_REFUSED[verb]}"))

    async def models(self, _exchange: Exchange) -> Answer:
        names = [*(model["name"] for model in self._describe()), *OPERATIONS]
        return Answer(orjson.dumps({"models": list(dict.fromkeys(names))}), JSON)

    async def metadata(self, exchange: Exchange) -> Answer:
        params = exchange.path_params
        return Answer(v1.write_metadata(params["model"], self._head_of(params)), JSON)

    async def status(self, exchange: Exchange) -> Answer:
        params = exchange.path_params
        model = params["model"]
        head = self._head_of(params)
        versions = [{"version": OPERATION_VERSION, "state": "ready", "reason": None}]
        if head is not None:
            (versions,) = [told["versions"] for told in self._describe() if told["name"] == model]
            if len(params) > 1:
                versions = [version for version in versions if version["version"] == head.version]
        return Answer(v1.write_status(model, versions), JSON)

    def _head_of(self, params: Mapping[str, str]) -> HeadInfo | None:
        """Find the head that a path names; an operation has none."""
        return v1.find_head(params["model"], _version_of(params), self._scoring.scorer.head_info)


def _version_of(params: Mapping[str, str]) -> str | None:
    """Give the version that a path names, by its number or by a label."""
    version = params.get("version")
    if ":" in params["model"] or not (version is None or (version.isascii() and version.isdecimal())):
        message = "expected /v1/models/MODEL, then perhaps /versions/NUMBER or /labels/LABEL, and what to do"
        raise NotFound("unknown_route", message)
    return version or params.get("label")


def _post(path: str, begin: Begin, openapi: Mapping[str, Any] | None = None) -> Route:
    name = path.rpartition(":")[2]
    return Route("POST", path, name, conversed(begin), openapi, error_body=error_body, begin=begin)


def _get(path: str, name: str, endpoint: Any, openapi: Mapping[str, Any]) -> Route:
    return Route("GET", path, name, endpoint, openapi, error_body=error_body)


def error_body(error: RequestError) -> tuple[int, bytes, str]:
    """Write an error as TensorFlow Serving does: its status, one sentence, and the media type.

    It has no 422, and to it a path that it does not know is a malformed request, whatever the method: 400 as well.
    """
    status = 400 if error.status in {405, 422} or error.code == "unknown_route" else error.status
    return status, orjson.dumps({"error": _OPENINGS.get(error.code, "") + error.detail}), JSON


def _encode(asked: v1.Prediction, result: ScoreResult) -> Encoded:
    return Encoded(v1.encode(asked, result), JSON)


def _encode_examples(request: ScoreRequest, result: ScoreResult) -> Encoded:
    return Encoded(v1.encode_examples(request, result), JSON)
