"""Everything assembled on one page."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi import FastAPI, Security
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service import __version__
from service.agreement import Agreement
from service.api import invocations, v1
from service.api.access import AccessLog
from service.api.admin import Admin
from service.api.decision_log import DecisionLog
from service.api.invocations import InvocationsDialect
from service.api.native import NativeDialect
from service.api.observers import Lasting, Observers, tracing
from service.api.ops import Documentation, ModelList, Operations
from service.api.scoring import Scoring
from service.api.security import Keys
from service.api.transport import Edge, Route, Shortcut
from service.api.v1 import PREDICT_PATH, V1Dialect
from service.api.v2 import INFER_PATH, V2Dialect
from service.api.v2_models import V2Models
from service.api.v2_repository import V2Repository
from service.api.vertex import VertexDialect
from service.errors import StartError
from service.heads.policy import read_policy
from service.heads.remote import storage_at
from service.heads.repository import Repository
from service.metrics import Board, Metrics, Values
from service.rollout import Rollout
from service.scorer import BatchLimits, Scorer
from service.settings import Settings
from service.shadow import Shadow, summary
from service.wire import v2
from service.wire.inference import OPERATIONS
from service.wire.limits import Limits
from service.wire.v2_models import Catalogue

if TYPE_CHECKING:
    from service.api.v2_grpc import Server

DESCRIPTION = """Probabilities, classes and exact cross-entropy from logits or features.

Send tensors as JSON or as npz (`Content-Type: application/x-npz`). Errors are `application/problem+json`
with a stable `code` and the path of the first offender.
"""
ADMIN_KEY = HTTPBearer(
    scheme_name="admin key", description="Set by LOGITSERVE_ADMIN_KEY or LOGITSERVE_ADMIN_KEY_FILE."
)
# Whose form errors have where no route matches, by the beginning of a path.
ERROR_BODIES = {
    "/v2": v2.error_body,
    "/v1/": v1.error_body,
    invocations.PATH: invocations.error_body,
}
# How stale another worker's counts may be on /metrics; publishing a snapshot takes some 10 µs.
PUBLISH_INTERVAL_S = 0.25


def create_app(
    settings: Settings, *, run_folder: Path | None = None, slot: int = 0, threads: int = 1
) -> "Application":
    """Assemble one worker's application; its lifespan loads the models.

    `run_folder` is where workers agree, and `slot` is this worker's number in it; without a folder there is
    one worker, and it keeps its counts to itself. `threads` is what one head may compute with.
    """
    limits = Limits(
        body_bytes=settings.body_limit_bytes,
        rows=settings.rows_limit,
        elements=settings.elements_limit,
        json_depth=settings.json_depth_limit,
    )
    metrics = Metrics()
    board = Board(run_folder, slot) if run_folder else None
    edge = Edge(
        metrics,
        body_limit_bytes=settings.body_limit_bytes,
        request_timeout_s=settings.request_timeout_s,
        keys=Keys(settings.admin_key.get_secret_value()),
    )
    repository = repository_of(settings, threads)
    batches = BatchLimits(
        batch_rows=settings.batch_rows_limit,
        queue_rows=max(1, settings.queue_rows_limit // settings.worker_count),
        delay_s=settings.batch_delay_s,
        elements=settings.elements_limit,
    )
    scorer = Scorer(repository, batches, metrics.batch)
    app = Application(
        edge=edge,
        metrics=metrics,
        board=board,
        repository=repository,
        agreement=Agreement(run_folder, slot, settings.worker_count),
        scorer=scorer,
        threads=threads,
        # One looks for all: what it finds is agreed upon, and whoever takes its place looks on.
        watch_interval_s=settings.watch_interval_s if slot == 0 else 0,
        observers=observers_of(settings, slot, repository, metrics),
    )
    for routes in dialects(app, settings, limits):
        app.register(routes)
    edge.error_bodies = ERROR_BODIES
    return app


def observers_of(settings: Settings, slot: int, repository: Repository, metrics: Metrics) -> Observers:
    lasting: list[Lasting] = []
    if settings.trace_endpoint:
        lasting.append(tracing(settings.trace_endpoint, settings.trace_ratio))
    if settings.decision_log:
        decisions = DecisionLog(
            Path(settings.decision_log),
            slot,
            ratio=settings.decision_log_ratio,
            limit_bytes=settings.decision_log_limit_bytes,
            with_hashes=settings.decision_log_hash == "on",
            head_of=repository.head,
            count_dropped=metrics.decision_dropped,
        )
        lasting.append(decisions)
    return Observers([AccessLog(settings.access_log)] if settings.access_log else [], lasting)


def repository_of(settings: Settings, threads: int) -> Repository:
    return Repository(
        storage_at(settings.models, settings.cache_dir, settings.cache_limit_bytes),
        policy=read_policy(settings.version_policy),
        provider=settings.provider,
        threads=threads,
    )


def dialects(app: "Application", settings: Settings, limits: Limits) -> list[list[Route]]:
    """Make every dialect: gRPC's server, and the routes of HTTP's, where a path that two would have is the former's."""
    scorer, repository = app.scorer, app.repository
    scoring = Scoring(scorer, app.metrics, limits, compress=settings.compress == "on")
    app.observers.attach(app.edge, scoring)
    operations = Operations(app.edge, app.count, app.board, app.starting)
    catalogue = Catalogue(
        __version__,
        scorer.head_info,
        repository.describe,
        operations.counts,
        rows_limit=settings.rows_limit,
        batch_delay_s=settings.batch_delay_s,
    )
    if settings.grpc_port != "off":
        app.grpc = grpc_server(settings, scoring, app, catalogue)
    vertex = VertexDialect(
        scoring,
        operations.ready,
        health_route=settings.vertex_health_route,
        predict_route=settings.vertex_predict_route,
    )
    return [
        vertex.routes(),  # first, since it is told its paths: even /predict is Vertex AI's then
        NativeDialect(scoring).routes(),
        V2Dialect(scoring).routes(),
        V2Models(catalogue, operations.ready).routes(),
        V2Repository(app.rollout, repository.describe, limits).routes(),
        InvocationsDialect(
            scoring,
            operations.ready,
            accept=settings.invocations_accept,
            concurrent=settings.worker_count,
        ).routes(),
        V1Dialect(scoring, repository.describe, kserve=settings.v1 == "kserve").routes(),
        Admin(app.rollout, repository.describe, limits).routes(),
        operations.routes(),
        ModelList(repository.describe, lambda model: summary(operations.counts(), model)).routes(),
        Documentation(app.openapi).routes(),
    ]


def grpc_server(settings: Settings, scoring: Scoring, app: "Application", catalogue: Catalogue) -> "Server":
    """Make the server of gRPC, of which nothing is imported unless it is asked for."""
    try:
        from service.api.v2_grpc import GrpcDialect, Server  # noqa: PLC0415
    except ModuleNotFoundError as error:
        message = f"grpc_port needs {error.name}, which is not there; install it by `pip install logitserve[cpu,grpc]`"
        raise StartError(message) from error
    dialect = GrpcDialect(scoring, app.edge, catalogue, app.rollout, app.repository.describe)
    return Server(
        dialect,
        app.edge,
        settings.host,
        int(settings.grpc_port),
        body_limit_bytes=settings.body_limit_bytes,
        leave_within_s=settings.drain_delay_s + settings.drain_timeout_s,
    )


class Application(FastAPI):
    """One FastAPI application; its hot routes are called past the router, by the same functions.

    The router alone costs more than the scoring of one row does.
    """

    def __init__(
        self,
        *,
        edge: Edge,
        metrics: Metrics,
        board: Board | None,
        repository: Repository,
        agreement: Agreement,
        scorer: Scorer,
        threads: int,
        watch_interval_s: float,
        observers: Observers,
    ) -> None:
        super().__init__(
            title="logitserve",
            version=__version__,
            description=DESCRIPTION,
            license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
            openapi_url=None,  # the documentation's routes are our own
            redirect_slashes=False,
            lifespan=lifespan,
        )
        self.edge, self.metrics, self.board = edge, metrics, board
        self.repository, self.scorer, self.threads = repository, scorer, threads
        self.rollout = Rollout(repository, agreement, self.models_changed)
        self.shadow = Shadow(repository, metrics.shadowed, metrics.shadow_dropped)
        self.watch_interval_s = watch_interval_s
        self.observers = observers
        self.grpc: Server | None = None
        self.loaded = False
        self.hot: dict[tuple[str, str], ASGIApp] = {}
        self.hot_models: set[str] = set()
        self.shortcuts: dict[bytes, Shortcut] = {}
        self.templates: dict[tuple[str, str], Route] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        hot = self.hot.get((scope["method"], scope["path"]))
        await self.edge(scope, receive, send, hot or super().__call__)

    def build_middleware_stack(self) -> ASGIApp:
        """Let errors rise to the edge as they are: there is one place where they become answers."""
        return AsyncExitStackMiddleware(self.router)

    def register(self, routes: list[Route]) -> None:
        """Register routes for documentation, mounting and `url_path_for`; their raw functions answer.

        A path stays with whoever registered it first.
        """
        for route in routes:
            if (route.method, route.path) in self.templates:
                continue

            async def documented() -> None:
                """Stand for the route in the documentation; the raw function answers in its place."""

            self.add_api_route(
                route.path,
                documented,
                methods=[route.method],
                name=route.name,
                response_class=Response,
                openapi_extra=dict(route.openapi or {}),
                include_in_schema=route.openapi is not None,
                dependencies=None if route.scope == "open" else [Security(ADMIN_KEY)],
            )
            registered = self.router.routes[-1]
            assert isinstance(registered, APIRoute)  # noqa: S101 - for the type checker: just made
            registered.app = self.edge.asgi(route)
            self.templates[route.method, route.path] = route
            if route.hot:
                self.hot[route.method, route.path] = registered.app
                self._shorten(route, route.path, {})

    def heat(self, template: str, **params: str) -> None:
        """Let one path of a template be called past the router, too."""
        path = template.format(**params)
        if ("POST", path) in self.hot:
            return
        (registered,) = (r for r in self.router.routes if isinstance(r, APIRoute) and r.path == template)

        async def function(scope: Scope, receive: Receive, send: Send) -> None:
            scope["path_params"] = params
            await registered.app(scope, receive, send)

        self.hot["POST", path] = function
        self._shorten(self.templates["POST", template], path, params)

    def _shorten(self, route: Route, path: str, params: dict[str, str]) -> None:
        """Let the server call a route with whole requests for this path, which stands so in a request line."""
        if route.begin is not None:
            self.shortcuts[_as_sent(path)] = self.edge.shortcut(route, route.begin, params)

    def cool(self, template: str, **params: str) -> None:
        path = template.format(**params)
        self.hot.pop(("POST", path), None)
        self.shortcuts.pop(_as_sent(path), None)

    def models_changed(self) -> None:
        """Follow what the repository serves now: the hot table, the metrics, what waits for heads."""
        known = {*OPERATIONS, *(model["name"] for model in self.repository.describe())}
        for template in (INFER_PATH, PREDICT_PATH):
            for name in known - self.hot_models:
                self.heat(template, model=name)
            for name in self.hot_models - known:
                self.cool(template, model=name)
        self.hot_models = known
        self.metrics.models(
            (model["model"], model["version"], model["digest"], model["provider"])
            for model in self.served()["models"]
        )
        self.scorer.observe_request = self.shadow.offer if self.repository.shadows else None
        self.scorer.release()

    def count(self) -> Values:
        self.metrics.queue_rows(self.scorer.queue_rows)
        return self.metrics.values

    def starting(self) -> str | None:
        return None if self.loaded else "starting: the models are being loaded"

    def drain(self) -> None:
        """Tell /health/ready that no more requests should come, and close connections answer by answer."""
        self.edge.draining = True
        if self.grpc:
            self.grpc.drain()

    def served(self) -> dict[str, Any]:
        """Say what is served, once ready."""
        models = [
            {"model": model["name"], **{key: version[key] for key in ("version", "digest", "provider")}}
            for model in self.repository.describe()
            for version in model["versions"]
            if version["state"] == "ready"
        ]
        grpc = {"grpc": self.grpc.address} if self.grpc else {}
        return {"models": models, "threads": self.threads, **grpc}


def _as_sent(path: str) -> bytes:
    """Write a path as it stands in a request line."""
    return quote(path, safe="/:").encode("ascii")


@contextlib.asynccontextmanager
async def lifespan(app: Application) -> AsyncIterator[None]:
    await app.rollout.start()
    app.observers.start()
    tasks = [asyncio.create_task(app.rollout.run())]
    if app.watch_interval_s:
        tasks.append(asyncio.create_task(app.rollout.watch(app.watch_interval_s)))
    if app.board:
        tasks.append(asyncio.create_task(publish(app, app.board)))
    app.loaded = True
    if app.grpc:
        await app.grpc.start()
    yield
    if app.grpc:
        await app.grpc.stop()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    app.scorer.close()
    app.shadow.close()
    app.observers.close()
    app.repository.close()


async def publish(app: Application, board: Board) -> None:
    """Take over the counts of the slot's last worker, then publish ours until cancelled."""
    app.metrics.continue_from(board.own())
    try:
        while True:
            board.publish(app.count())
            await asyncio.sleep(PUBLISH_INTERVAL_S)
    finally:
        board.publish(app.count())
        board.close()
