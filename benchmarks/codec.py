"""The wire alone, without sockets: bytes to a checked request, and a result to bytes, in each form.

Beside each figure stands the floor's: the fastest checked reading, the fastest writing. Answers are compared with
numpy before anything is timed. Nothing here prints.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, TypeAlias, cast
from urllib.parse import parse_qsl

import cases
import floor
import numpy as np
from cases import Array, Case, Form, Request

from service.finishing import finish
from service.settings import Settings
from service.types import HeadInfo, ScoreRequest, ScoreResult
from service.wire import native, v2
from service.wire.inference import Inference
from service.wire.limits import Limits
from service.wire.media import JSON, NPZ

Work: TypeAlias = Callable[[], object]

# One burst: long enough for the clock, short enough to fall between two turns of another process.
BURST_S = 1e-3


class Coded(NamedTuple):
    """One case in one form, in one direction; the floor's time beside ours."""

    case: str
    form: Form
    direction: Literal["decode", "encode"]
    num_bytes: int
    numbers: int
    seconds: float
    floor_s: float


def least_s(work: Work, seconds: float) -> float:
    """Return the least time of one call over bursts that last so many seconds together."""
    work()  # the first one makes what is made once, and is slow
    begun_s = time.perf_counter()
    work()
    calls = max(1, int(BURST_S / max(time.perf_counter() - begun_s, 1e-9)))
    best_s = float("inf")
    while True:
        burst_s = time.perf_counter()
        for _ in range(calls):
            work()
        ended_s = time.perf_counter()
        best_s = min(best_s, (ended_s - burst_s) / calls)
        if ended_s - begun_s >= seconds:
            return best_s


def measure(case: Case, form: Form, seconds: float) -> tuple[Coded, Coded]:
    """Time both directions; each figure takes so many seconds, the floor's among them."""
    request = cases.WIRES[form].write(case)
    decode, encode = codec(case, form, request)
    scored = decode()
    result = result_of(case, scored)
    body, headers = encode(scored, result)
    cases.check(case, cases.WIRES[form].read(cases.Answer(cases.OK, body, headers)))
    # The floor leaves out what is one number for all rows, such as the mean loss.
    arrays: dict[str, Array] = {
        name: value for name, value in result.outputs.items() if isinstance(value, np.ndarray) and value.ndim
    }
    readers = floor.READERS[form]
    return (
        Coded(
            case.name,
            form,
            "decode",
            len(request.body),
            sum(array.size for array in case.arrays.values()),
            least_s(decode, seconds),
            min(least_s(partial(read, case, request.body), seconds / len(readers)) for read in readers),
        ),
        Coded(
            case.name,
            form,
            "encode",
            len(body),
            sum(array.size for array in arrays.values()),
            least_s(partial(encode, scored, result), seconds),
            least_s(partial(floor.WRITERS[form], arrays), seconds),
        ),
    )


Decode: TypeAlias = Callable[[], ScoreRequest]
# Gives the body, and what a reader needs of its headers.
Encode: TypeAlias = Callable[[ScoreRequest, ScoreResult], tuple[bytes, dict[str, str]]]


def codec(case: Case, form: Form, request: Request) -> tuple[Decode, Encode]:
    """What the routes call to read this request and to write its answer."""
    head = head_of(case)
    if form == "v2":
        length = request.headers["Inference-Header-Content-Length"]
        read = partial(
            v2.decode,
            request.body,
            length,
            model=case.model,
            version=None,
            limits=limits(),
            head_of=lambda _model, _version: head,
        )
        return lambda: read().request, partial(_encode_v2, read())
    media_type = request.headers["Content-Type"]
    decode = partial(
        native.decode,
        case.operation,
        request.body,
        media_type=media_type,
        query=parse_qsl(request.path.partition("?")[2]),
        limits=limits(),
        head_of=lambda _model, _version: head,
    )
    return cast("Decode", decode), partial(_encode_native, NPZ if form == "npz" else JSON)


def _encode_v2(asked: Inference, _request: ScoreRequest, result: ScoreResult) -> tuple[bytes, dict[str, str]]:
    body = v2.encode(asked, result)
    return body.content, {} if body.json_bytes is None else {cases.V2_HEADER_BYTES: str(body.json_bytes)}


def _encode_native(
    media_type: str, _request: ScoreRequest, result: ScoreResult
) -> tuple[bytes, dict[str, str]]:
    return native.encode(result, media_type), {}


def head_of(case: Case) -> HeadInfo:
    num_features = next(iter(case.arrays.values())).shape[-1]
    num_classes = case.logits.shape[-1]
    dtype = np.dtype(np.float32)
    return HeadInfo(case.model, "1", num_features, num_classes, dtype, None, "0" * 64, "CPUExecutionProvider")


def result_of(case: Case, request: ScoreRequest) -> ScoreResult:
    """What the scorer would answer."""
    outputs = finish(request, case.logits.astype(np.float32))
    return ScoreResult(outputs, case.rows, request.head)


def limits() -> Limits:
    """Those that users get."""
    settings = Settings()
    return Limits(
        body_bytes=settings.body_limit_bytes,
        rows=settings.rows_limit,
        elements=settings.elements_limit,
        json_depth=settings.json_depth_limit,
    )
