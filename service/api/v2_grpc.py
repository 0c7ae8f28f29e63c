"""The Open Inference Protocol V2 over gRPC: its methods, and the server that answers them in the worker's event loop.

A call is what a whole request is on HTTP's short way: bytes in and bytes out, through the same edge and the same
scoring. Only its deadline, its status and its metadata are gRPC's own. What messages hold is known to `wire`.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

import grpc
import grpc.aio

from service.api.exchange import TIMEOUT_HEADER, UNMATCHED, Answer, Exchange
from service.api.scoring import (
    COST_OF_JSON_BYTE,
    COST_OF_JSON_NUMBER,
    COST_OF_RAW_NUMBER,
    Decoded,
    Encoded,
    Scoring,
)
from service.api.security import Scope
from service.api.transport import Begin, Edge, Route, Shortcut, conversed
from service.errors import NotFound, StartError
from service.outcomes import Deliver
from service.rollout import Rollout
from service.types import ScoreResult
from service.wire import v2_grpc
from service.wire.inference import Inference
from service.wire.v2_grpc import Code
from service.wire.v2_grpc_models import read_change, read_named, read_ready, write
from service.wire.v2_models import Catalogue
from service.wire.v2_repository import index_of

SERVICE = "/inference.GRPCInferenceService/"
STREAM = SERVICE + "ModelStreamInfer"
# What Kubernetes and load balancers ask of any gRPC port.
HEALTH = "/grpc.health.v1.Health/Check"
METHOD = "gRPC"
# What methods ask of a key, where it is not the scope infer.
SCOPES: dict[str, Scope] = {
    SERVICE + "ServerLive": "open",
    SERVICE + "ServerReady": "open",
    SERVICE + "ModelReady": "open",
    HEALTH: "open",
    UNMATCHED: "open",
    SERVICE + "ModelStatistics": "metrics",
    SERVICE + "RepositoryIndex": "admin",
    SERVICE + "RepositoryModelLoad": "admin",
    SERVICE + "RepositoryModelUnload": "admin",
}

# HTTP's words for how a body is written would say nothing of a message, and its words for an answer have others here.
_OF_BODIES = frozenset({"content-encoding", "accept-encoding"})
_OF_ANSWERS = frozenset({"content-type", "content-length", "connection"})

_STATUSES: dict[int, grpc.StatusCode] = {status.value[0]: status for status in grpc.StatusCode}

OPTIONS = (
    # Workers share the port; what that takes is known to `workers`.
    ("grpc.so_reuseport", 1),
    # A caller that vanished without a word is noticed within a minute and a half, not after gRPC's two hours, and the
    # way through balancers, which forget idle connections after 60 s at the least, is kept open.
    ("grpc.keepalive_time_ms", 50_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Callers may ask as often as every 10 s whether we are there; gRPC would hang up on who asks twice in 5 minutes.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)

# So much longer than the rest of the service: it says what was cut short, and has to see it.
LAST_MOMENT_S = 0.1

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"
# Loads or unloads a model, or a version of it, within a deadline.
Change: TypeAlias = Callable[[str, str | None, float], Awaitable[None]]
# Makes a message of one.
Tell: TypeAlias = Callable[[bytes], bytes]


class GrpcDialect:
    """The methods by their paths, each as the edge calls it; `describe` tells of all heads as `GET /models` does."""

    def __init__(
        self,
        scoring: Scoring,
        edge: Edge,
        catalogue: Catalogue,
        rollout: Rollout,
        describe: Callable[[], list[dict[str, Any]]],
    ) -> None:
        self._rollout = rollout
        self._changes: set[asyncio.Task[None]] = set()
        self._scoring = scoring
        self._edge = edge
        self._catalogue = catalogue
        self._describe = describe

    def methods(self) -> dict[str, Begin]:
        told: dict[str, Tell] = {
            SERVICE + "ServerLive": lambda _body: write("ServerLiveResponse", {"live": True}),
            SERVICE + "ServerReady": lambda _body: write("ServerReadyResponse", {"ready": self._is_ready}),
            SERVICE + "ModelReady": self._model_ready,
            SERVICE + "ServerMetadata": lambda _body: write(
                "ServerMetadataResponse", self._catalogue.server()
            ),
            SERVICE + "ModelMetadata": self._model,
            SERVICE + "ModelConfig": self._config,
            SERVICE + "ModelStatistics": self._statistics,
            SERVICE + "RepositoryIndex": self._index,
            HEALTH: self._health,
        }
        return {path: partial(_tell, tell) for path, tell in told.items()} | {
            SERVICE + "ModelInfer": self.infer,
            SERVICE + "RepositoryModelLoad": partial(self._change, self._rollout.load, "Load"),
            SERVICE + "RepositoryModelUnload": partial(self._change, self._rollout.unload, "Unload"),
        }

    def infer(self, exchange: Exchange, body: bytes, deliver: Deliver[Answer]) -> None:
        exchange.status = Code.CANCELLED  # unless it is answered
        self._scoring.begin(exchange, body, partial(_deliver_ok, deliver), self._decode, _decode_cost)

    def _decode(self, _exchange: Exchange, body: bytes) -> Decoded:
        scoring = self._scoring
        asked = v2_grpc.decode(body, limits=scoring.limits, head_of=scoring.scorer.head_info)
        cost = COST_OF_JSON_NUMBER if asked.classified else COST_OF_RAW_NUMBER
        return Decoded(asked.request, partial(_encode, asked), cost)

    @property
    def _is_ready(self) -> bool:
        return not self._edge.draining

    def _model_ready(self, body: bytes) -> bytes:
        self._catalogue.find(*_model_of(body))
        return write("ModelReadyResponse", {"ready": self._is_ready})

    def _model(self, body: bytes) -> bytes:
        return write("ModelMetadataResponse", self._catalogue.model(*_model_of(body)))

    def _config(self, body: bytes) -> bytes:
        return write("ModelConfigResponse", {"config": self._catalogue.config(*_model_of(body))})

    def _statistics(self, body: bytes) -> bytes:
        return write("ModelStatisticsResponse", self._catalogue.statistics(*read_named(body)))

    def _index(self, body: bytes) -> bytes:
        models = index_of(self._describe(), ready=read_ready(body))
        return write("RepositoryIndexResponse", {"models": models})

    def _change(
        self, change: Change, name: str, exchange: Exchange, body: bytes, deliver: Deliver[Answer]
    ) -> None:
        async def changed() -> None:
            outcome: Answer | Exception
            try:
                await change(read_change(body), None, exchange.deadline_s)
                outcome = Answer(write(f"RepositoryModel{name}Response", {}), "", Code.OK)
            except Exception as error:  # noqa: BLE001 - it is the outcome
                outcome = error
            deliver(outcome)

        task = asyncio.ensure_future(changed())
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)

    def _health(self, body: bytes) -> bytes:
        asked = read_named(body).model
        if asked not in {None, SERVICE.strip("/")}:
            raise NotFound("unknown_model", "expected no service, or that of the protocol", path="service")
        return write("HealthCheckResponse", {"status": "SERVING" if self._is_ready else "NOT_SERVING"})


class Server:
    """Answers on a port of its own, 0 for any free one; `address` is the real one once it has started.

    Told to drain, it is to have left after `leave_within_s`.
    """

    def __init__(
        self,
        dialect: GrpcDialect,
        edge: Edge,
        host: str,
        port: int,
        *,
        body_limit_bytes: int,
        leave_within_s: float,
    ) -> None:
        self._handlers = _Handlers(dialect, edge)
        self._host = f"[{host}]" if ":" in host else host
        self._port = port
        self._body_limit_bytes = body_limit_bytes
        self._leave_within_s = leave_within_s
        self._leave_by_s = math.inf

    @property
    def address(self) -> str:
        return f"{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen.

        Raises
        ------
        StartError
        """
        options = [*OPTIONS, ("grpc.max_receive_message_length", self._body_limit_bytes)]
        self._server = grpc.aio.server(handlers=[self._handlers], options=options)
        try:
            self._port = self._server.add_insecure_port(self.address)
        except RuntimeError as error:
            message = f"gRPC cannot listen on {self.address}; choose another port by --grpc-port"
            raise StartError(message) from error
        await self._server.start()

    def drain(self) -> None:
        self._leave_by_s = time.monotonic() + self._leave_within_s

    async def stop(self) -> None:
        """Take no more calls, finish those that run, and give up what is not done in time."""
        self._handlers.leave()
        rest_s = min(self._leave_within_s, self._leave_by_s - time.monotonic())
        await self._server.stop(max(0.0, rest_s) + LAST_MOMENT_S)


class _Handlers(grpc.GenericRpcHandler):
    """Finds what handles a call; messages stay bytes."""

    def __init__(self, dialect: GrpcDialect, edge: Edge) -> None:
        self._leaving = asyncio.Event()
        self._known: dict[str, Handler] = {
            path: grpc.unary_unary_rpc_method_handler(partial(_answer, _shortcut(edge, path, begin)))
            for path, begin in dialect.methods().items()
        }
        stream = partial(_stream, _shortcut(edge, STREAM, dialect.infer), self._leaving)
        self._known[STREAM] = grpc.stream_stream_rpc_method_handler(stream)
        # A stream, since it is not known what kind of call it is.
        unknown = partial(_refuse, _shortcut(edge, UNMATCHED, _unknown))
        self._unknown: Handler = grpc.stream_stream_rpc_method_handler(unknown)

    def service(self, details: grpc.HandlerCallDetails) -> Handler:
        return self._known.get(details.method, self._unknown)

    def leave(self) -> None:
        self._leaving.set()


class _Call:
    """Where the answer to one message goes; a caller that cancels is gone."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[tuple[int, str, bytes]] = asyncio.get_running_loop().create_future()

    @property
    def disconnected(self) -> bool:
        return self.answered.done()

    def gone(self) -> bool:
        return self.answered.done()

    def send(self, status: int, headers: str, body: bytes, *, close: bool) -> None:  # noqa: ARG002 - gRPC closes
        self.answered.set_result((status, headers, body))


async def _answer(shortcut: Shortcut, body: bytes, context: Context) -> bytes:
    call = _Call()
    shortcut(_headers(context), body, call)
    status, headers, answer = await call.answered
    context.set_trailing_metadata(_metadata(headers))
    if status != Code.OK:
        await context.abort(_STATUSES[status], answer.decode())
    return answer


async def _stream(
    shortcut: Shortcut, leaving: asyncio.Event, _requests: AsyncIterator[bytes], context: Context
) -> None:
    """Answer one message after the other; what is wrong with one is said in its place, and the next is read."""
    left = asyncio.ensure_future(leaving.wait())
    try:
        while not leaving.is_set():
            read = asyncio.ensure_future(context.read())
            await asyncio.wait([read, left], return_when=asyncio.FIRST_COMPLETED)
            if not read.done():
                read.cancel()
                break
            body: object = read.result()
            if not isinstance(body, bytes):  # the end
                return
            call = _Call()
            shortcut(_headers(context), body, call)
            status, _, answer = await call.answered
            error = "" if status == Code.OK else answer.decode()
            await context.write(v2_grpc.streamed(answer, error))
    finally:
        left.cancel()
    await context.abort(_STATUSES[Code.UNAVAILABLE], "draining: it finishes what it has and stops")


async def _refuse(shortcut: Shortcut, _requests: AsyncIterator[bytes], context: Context) -> None:
    await _answer(shortcut, b"", context)


def _shortcut(edge: Edge, path: str, begin: Begin) -> Shortcut:
    label = path if path is UNMATCHED else f"grpc:{path.rpartition('/')[2]}"
    scope = SCOPES.get(path, "infer")
    route = Route(METHOD, label, label, conversed(begin), error_body=v2_grpc.error_body, scope=scope)
    return edge.shortcut(route, begin)


def _headers(context: Context) -> list[tuple[bytes, bytes]]:
    """Give the metadata of a call as the headers of a request; its deadline is one, too."""
    headers = [
        (name.encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in context.invocation_metadata() or ()
        if name not in _OF_BODIES
    ]
    remaining_s = context.time_remaining()
    if remaining_s is not None:
        headers.append((TIMEOUT_HEADER, b"%d" % max(1, 1000 * remaining_s)))
    return headers


def _metadata(headers: str) -> list[tuple[str, str]]:
    """Give header lines as the metadata of an answer."""
    pairs = (line.partition(": ") for line in headers.split("\r\n")[:-1])
    return [(name, value) for name, _, value in pairs if name not in _OF_ANSWERS]


def _model_of(body: bytes) -> tuple[str, str | None]:
    model, version = read_named(body)
    return model or "", version


def _tell(tell: Tell, _exchange: Exchange, body: bytes, deliver: Deliver[Answer]) -> None:
    outcome: Answer | Exception
    try:
        outcome = Answer(tell(body), "", Code.OK)
    except Exception as error:  # noqa: BLE001 - it is the outcome
        outcome = error
    deliver(outcome)


def _unknown(_exchange: Exchange, _body: bytes, deliver: Deliver[Answer]) -> None:
    deliver(
        NotFound("unknown_route", "this method is not served here; docs/protocols.md lists those that are")
    )


def _deliver_ok(deliver: Deliver[Answer], outcome: Answer | Exception) -> None:
    deliver(outcome if isinstance(outcome, Exception) else outcome._replace(status=Code.OK))


def _decode_cost(_exchange: Exchange, body: bytes) -> float:
    return COST_OF_JSON_BYTE * v2_grpc.bytes_worth(body)


def _encode(asked: Inference, result: ScoreResult) -> Encoded:
    return Encoded(v2_grpc.encode(asked, result), "")
