"""What a call returns, and what it raises.

    ClientError                   the root, a `LogitserveError`
    ├── ConnectionFailed          no whole answer came: refused, closed or timed out
    └── ServiceError              the service answered with an error; carries status, code and offences
        ├── InvalidRequest        4xx: the request is at fault, sending it again will not help
        └── Unavailable           429, 503, 504: the service is at fault, later may help

Both are made of whole responses; how they were fetched, and how often, is not known here.
"""

import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Self, TypeVar, overload

import httpx
import numpy as np
from numpy.typing import NDArray

from service.errors import LogitserveError, Offence
from service.types import FloatArray, IndexArray
from service.wire.feedback import OTHERWISE

T = TypeVar("T")

# An answer that is not the service's own (a proxy's page) is quoted up to here.
QUOTED_CHARACTERS = 120
# Proxies put entries of their own, also without durations, into the same header.
SERVER_TIMING = re.compile(r"([\w-]+);dur=(\d+(?:\.\d+)?)")


class _Output(Generic[T]):
    """An attribute of `Answer` that reads the output of the same name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, answer: None, owner: type) -> Self: ...
    @overload
    def __get__(self, answer: "Answer", owner: type) -> T: ...
    def __get__(self, answer: "Answer | None", owner: type) -> T | Self:
        if answer is None:
            return self
        if self._name not in answer.outputs:
            message = f"the answer has {', '.join(answer)}; ask for more with outputs=[{self._name!r}, …]"
            raise AttributeError(message, name=self._name, obj=answer)
        output: T = answer.outputs[self._name]
        return output


@dataclass(frozen=True)
class Left:
    """Labels that were not joined: how many, and by which ids they came."""

    count: int
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Joined:
    """What became of labels that were sent later.

    Attributes
    ----------
    joined : int
        Rows that have their label now.
    unknown, expired, repeated : Left
        Ids that no row was kept by, whose label came too late, or that have their label already.
    """

    joined: int
    unknown: Left
    expired: Left
    repeated: Left


@dataclass(frozen=True, eq=False, repr=False)
class Answer(Mapping[str, Any]):
    """The outputs of one call, as attributes (`answer.classes`) and as a mapping (`answer["classes"]`).

    Attributes
    ----------
    probabilities, log_probabilities, one_hot, gradient : float array, in the shape of the logits
        For features `[..., num_features]` that is `[..., num_classes]`.
    logits : float array [..., num_classes]
        A head's raw output.
    classes : int64 array, in the shape of the logits without the class axis
    entropy, losses, brier : float array, one per example
    loss, accuracy : float or None
        None is the mean of nothing.
    count : int
        How many examples counted.
    top_classes, top_probabilities : int64 array and float array, with top_k in place of the class axis
    predicted_names, top_names : str array, in the shapes of classes and top_classes
    decisions, decided_names : int64 array and str array, in the shape of classes
        -1 and an empty name where none was decided on.
    expected_costs : float array, one per example
    adjusted_probabilities : float array, in the shape of the probabilities
    row_ids : str array, in the shape of classes
        By which the labels of the rows are sent later, with `feedback`.
    contributions : dict of `features` (int64 array) and `values` (float array), [..., top_contributions]
    outputs : mapping
        All of the above that came, by name, and whatever else did.
    request_id : str
        The id under which the service logs the request.
    server_timing_ms : mapping of str to float
        Where the time went: decode, queue, infer, encode.
    model, version, digest : str or None
        The head that answered a `predict`.
    """

    outputs: Mapping[str, Any]
    request_id: str = ""
    server_timing_ms: Mapping[str, float] = field(default_factory=dict)
    model: str | None = None
    version: str | None = None
    digest: str | None = None

    probabilities = _Output[FloatArray]()
    log_probabilities = _Output[FloatArray]()
    one_hot = _Output[FloatArray]()
    gradient = _Output[FloatArray]()
    logits = _Output[FloatArray]()
    classes = _Output[IndexArray]()
    entropy = _Output[FloatArray]()
    losses = _Output[FloatArray]()
    brier = _Output[FloatArray]()
    loss = _Output[float | None]()
    accuracy = _Output[float | None]()
    count = _Output[int]()
    top_classes = _Output[IndexArray]()
    top_probabilities = _Output[FloatArray]()
    predicted_names = _Output[NDArray[np.str_]]()
    top_names = _Output[NDArray[np.str_]]()
    decisions = _Output[IndexArray]()
    decided_names = _Output[NDArray[np.str_]]()
    expected_costs = _Output[FloatArray]()
    adjusted_probabilities = _Output[FloatArray]()
    row_ids = _Output[NDArray[np.str_]]()
    contributions = _Output[dict[str, NDArray[Any]]]()

    def __getitem__(self, name: str) -> Any:
        return self.outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.outputs)

    def __len__(self) -> int:
        return len(self.outputs)

    # A mapping's equality would compare arrays, and fail; an answer equals itself.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"Answer({', '.join(f'{name}={_brief(value)}' for name, value in self.items())})"


class ClientError(LogitserveError):
    """A call that did not return; the root of what the client raises."""


class ConnectionFailed(ClientError):
    """No whole answer came: refused, closed or timed out; `__cause__` is the exception of httpx."""


class ServiceError(ClientError):
    """The service answered with an error.

    Attributes
    ----------
    status : int
        The HTTP status.
    code : str
        The stable code, such as `labels_shape`; empty where the answer is not the service's own.
    detail : str
        What was expected and what came.
    offences : tuple of Offence
        Places in the request, each with its `path` (`logits[2][0]`) and `message`.
    request_id : str
        The id under which the service logs the request.
    retry_after_s : float or None
        How long the service asks to be left alone.
    """

    def __init__(
        self,
        status: int,
        problem: Mapping[str, Any],
        request_id: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(status, problem, request_id, retry_after_s)  # what pickle makes it of again
        self.status = status
        self.code: str = problem.get("code", "")
        self.detail: str = problem.get("detail", "")
        self.offences = tuple(Offence(e["path"], e["message"]) for e in problem.get("errors", ()))
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.detail}" if self.code else f"{self.status}: {self.detail}"


class InvalidRequest(ServiceError):
    """The request is at fault (4xx): `code` says how, `offences` where."""


class Unavailable(ServiceError):
    """The service cannot answer now (429, 503, 504): starting, draining, full, or out of time."""


def error_of(response: httpx.Response) -> ServiceError:
    """Make the exception that an answer other than 2xx stands for."""
    status = response.status_code
    kind = ServiceError
    if status in {429, 503, 504}:
        kind = Unavailable
    elif 400 <= status < 500:
        kind = InvalidRequest
    request_id = response.headers.get("x-request-id", "")
    return kind(status, _problem(response), request_id, retry_after_s(response))


def retry_after_s(response: httpx.Response) -> float | None:
    """Read `Retry-After` in seconds; its other form, a date, is not the service's."""
    value = response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdecimal() else None


def answer_of(
    response: httpx.Response, outputs: Mapping[str, Any], head: Mapping[str, Any] | None = None
) -> Answer:
    """Put the decoded outputs together with what the headers say, or of the head the answer itself."""
    headers = response.headers
    head = head or {"model": headers.get("x-model"), "version": headers.get("x-model-version")}
    return Answer(
        outputs,
        request_id=headers.get("x-request-id", ""),
        server_timing_ms=_server_timing_ms(headers.get("server-timing", "")),
        model=head["model"],
        version=head["version"],
        digest=headers.get("x-model-digest"),
    )


def joined_of(found: Mapping[str, Any]) -> Joined:
    left = {name: Left(found[name]["count"], tuple(found[name]["ids"])) for name in OTHERWISE}
    return Joined(found["joined"], **left)


def _problem(response: httpx.Response) -> dict[str, Any]:
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        problem: dict[str, Any] = response.json()
        return problem
    text = " ".join(response.text.split())[:QUOTED_CHARACTERS]
    return {"detail": f"expected an answer of logitserve, got {text!r} from {response.url.host}"}


def _server_timing_ms(header: str) -> dict[str, float]:
    return {name: float(duration) for name, duration in SERVER_TIMING.findall(header)}


def _brief(value: object) -> str:
    if isinstance(value, np.ndarray) and value.ndim:
        return f"{value.dtype}{list(value.shape)}"
    return reprlib.repr(value)
