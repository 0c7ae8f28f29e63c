"""How a call becomes a request and a response an answer; what both clients share.

Arrays become bytes and bytes arrays in `wire`. The client knows no checks and no defaults of the service:
what is not said is not sent, and the service decides.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, Protocol, TypeAlias, TypedDict, TypeVar

import httpx
import numpy as np
from numpy.typing import ArrayLike

from service.client.answers import Answer, Joined, Unavailable, answer_of, error_of, joined_of
from service.client.attempts import Steps, attempts
from service.types import LabelFormat, Operation, Reduction
from service.wire import feedback, media, native

HttpT = TypeVar("HttpT", httpx.Client, httpx.AsyncClient)
TransportT = TypeVar("TransportT")
Media: TypeAlias = Literal["auto", "json", "npz"]
# Of rows of several heads, some may be indices and some names.
DelayedLabels: TypeAlias = ArrayLike | Sequence[int | str]
MEDIA_TYPES = {"json": media.JSON, "npz": media.NPZ}

# Where, with both sides added up, the digits of JSON begin to cost more than the fixed price of a zip archive.
NPZ_FROM_ELEMENTS = 2048
TENSORS = ("logits", "features", "labels", "class_weight", "sample_weight")
# Attributes of the answer, not outputs.
HEAD = frozenset({"model", "version"})
NULLABLE = frozenset({"loss", "accuracy"})
PER_EXAMPLE = frozenset({"classes", "predicted_names", "entropy", "losses", "brier", "row_ids"})


class SoftmaxOptions(TypedDict, total=False):
    """What `softmax` takes by keyword; what is left out is the service's default."""

    axis: int
    dtype: Literal["float32", "float64"]
    temperature: float
    top_k: int
    class_names: Sequence[str]
    outputs: Sequence[str]


class LossOptions(SoftmaxOptions, total=False):
    """What `loss` takes by keyword."""

    label_format: Literal["auto"] | LabelFormat
    reduction: Reduction
    label_smoothing: float
    class_weight: ArrayLike
    sample_weight: ArrayLike
    ignore_index: int
    broadcast_labels: bool
    validate_labels: bool
    non_finite: Literal["error", "string"]


class PredictOptions(LossOptions, total=False):
    """What `predict` takes by keyword."""

    labels: ArrayLike
    model: str
    version: str
    calibration: Literal["model", "none"]
    top_contributions: int
    decision: Mapping[str, Any]
    row_ids: Literal[True] | Sequence[str]


class Sparse(Protocol):
    """Any of scipy's sparse formats."""

    def tocsr(self) -> Any: ...


class Calls(ABC, Generic[HttpT, TransportT]):
    """What both clients share.

    Parameters
    ----------
    base_url : str
        Where the service listens.
    api_key : str, optional
        Sent as a bearer token.
    timeout_s : float
        The time allowed for a call with all its attempts. The service is told, and drops work that is late.
    at_most : int
        How many times a request is sent at most: again only where nothing of an answer came, or a 503 that
        says when to come back.
    media : "auto", "json" or "npz"
        How arrays travel; "auto" is JSON for small ones, npz for large ones and empty batches.
    connections : int
        The most connections at a time; they are kept alive.
    transport : httpx transport, optional
        In place of the network, such as `httpx.ASGITransport(app)` for the asynchronous client.
    trust_env : bool
        Whether the proxies and certificates that the environment names are used.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        at_most: int = 3,
        media: Media = "auto",
        connections: int = 100,
        transport: TransportT | None = None,
        trust_env: bool = True,
    ) -> None:
        self._timeout_s = timeout_s
        self._at_most = at_most
        self._media = media
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._http: HttpT = self._open(
            transport, base_url=base_url, headers=headers, limits=limits, trust_env=trust_env
        )

    @abstractmethod
    def _open(self, transport: TransportT | None, **settings: Any) -> HttpT: ...

    def score_steps(
        self, operation: Operation, fields: dict[str, Any], timeout_s: float | None
    ) -> Steps[Answer]:
        response, media_type = yield from self._score(operation, fields, timeout_s)
        outputs = native.decode_result(response.content, media_type)
        return answer_of(response, _completed(outputs, fields))

    def predict_each_steps(
        self, fields: dict[str, Any], models: Sequence[str], timeout_s: float | None
    ) -> Steps[dict[str, Answer]]:
        fields = {**fields, "models": list(models)}
        response, media_type = yield from self._score("predict", fields, timeout_s)
        results = native.decode_results(response.content, media_type, models)
        return {
            model: answer_of(response, _completed(found, fields), found) for model, found in results.items()
        }

    def _score(
        self, operation: Operation, fields: dict[str, Any], timeout_s: float | None
    ) -> Steps[tuple[httpx.Response, str]]:
        media_type = MEDIA_TYPES[_media(fields) if self._media == "auto" else self._media]
        body, query = native.encode_request(operation, fields, media_type)
        headers = {"content-type": media_type, "accept": media_type}
        request = self._http.build_request(
            "POST", f"/{operation}", content=body, params=query or None, headers=headers
        )
        response = yield from attempts(request, timeout_s=timeout_s or self._timeout_s, at_most=self._at_most)
        _check_media(response, media_type)
        return response, media_type

    def feedback_steps(self, ids: ArrayLike, labels: DelayedLabels, timeout_s: float | None) -> Steps[Joined]:
        body = feedback.encode_request(np.ravel(ids).tolist(), _labels(labels))
        headers = {"content-type": media.JSON, "accept": media.JSON}
        request = self._http.build_request("POST", "/feedback", content=body, headers=headers)
        response = yield from attempts(request, timeout_s=timeout_s or self._timeout_s, at_most=self._at_most)
        _check_media(response, media.JSON)
        return joined_of(feedback.decode_result(response.content))

    def _get(self, path: str, *, at_most: int | None = None) -> Steps[httpx.Response]:
        request = self._http.build_request("GET", path)
        return (yield from attempts(request, timeout_s=self._timeout_s, at_most=at_most or self._at_most))

    def models_steps(self) -> Steps[list[dict[str, Any]]]:
        response = yield from self._get("/models")
        _check_media(response, media.JSON)
        models: list[dict[str, Any]] = response.json()["models"]
        return models

    def healthy_steps(self, path: str) -> Steps[bool]:
        try:
            yield from self._get(path, at_most=1)
        except Unavailable:
            return False
        return True

    def metrics_text_steps(self) -> Steps[str]:
        response = yield from self._get("/metrics")
        return response.text


def logits_fields(logits: ArrayLike, options: SoftmaxOptions) -> dict[str, Any]:
    """Say the type: else the service would take it from the media type, and the size would decide it."""
    array = np.asarray(logits)
    dtype = "float32" if array.dtype in (np.float16, np.float32) else "float64"
    return {"logits": array, "dtype": dtype, **options}


def features_fields(features: ArrayLike | Sparse, options: PredictOptions) -> dict[str, Any]:
    """Lay sparse features out as they are sent; they are known by the method that all of scipy's formats have."""
    if not hasattr(features, "tocsr"):
        return {"features": features, **options}
    rows = features.tocsr()
    parts = {"indptr": rows.indptr, "indices": rows.indices, "data": rows.data}
    return {"features": {**parts, "num_features": int(rows.shape[-1])}, **options}


def _labels(labels: DelayedLabels) -> list[Any]:
    """List labels; numpy would make text of indices that stand among names."""
    if isinstance(labels, list) and {int, str}.issuperset(map(type, labels)):
        return labels
    return list(np.ravel(labels).tolist())


def _check_media(response: httpx.Response, media_type: str) -> None:
    """Refuse a page that somebody else answered with a good status."""
    if response.headers.get("content-type", "").partition(";")[0] != media_type:
        raise error_of(response)


def _media(fields: Mapping[str, Any]) -> Literal["json", "npz"]:
    elements = [_size(fields[name]) for name in TENSORS if name in fields]
    return "npz" if min(elements) == 0 or sum(elements) >= NPZ_FROM_ELEMENTS else "json"


def _size(value: Any) -> int:
    if not isinstance(value, dict):
        return np.asarray(value).size
    sizes = [np.asarray(part).size for part in value.values()]
    return sum(sizes) if len(value["indptr"]) > 1 else 0


def _completed(decoded: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Even out what the media types make of the same answer: npz has no null, JSON no float32."""
    outputs = {name: value for name, value in decoded.items() if name not in HEAD}
    default = ("loss",) if "labels" in fields and fields.get("reduction") != "none" else ()
    for name in NULLABLE.intersection(fields.get("outputs", default)):
        outputs.setdefault(name, None)
    for name in PER_EXAMPLE.intersection(outputs):  # of a single example it was read as a number
        outputs[name] = np.asarray(outputs[name])
    if fields.get("dtype") == "float32":
        for name, value in outputs.items():
            if isinstance(value, np.ndarray) and value.dtype == np.float64:
                outputs[name] = value.astype(np.float32)
    return outputs
