"""One worker's application: what it holds, what it does when models change, how it starts and ends."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
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
from service.api.activity import ActivityRoute
from service.api.observers import Observers
from service.api.rotation import Rotation
from service.api.transport import Edge, Route, Shortcut
from service.api.v1 import PREDICT_PATH
from service.api.v2 import INFER_PATH
from service.feedback.keeping import Feedback
from service.heads.repository import Repository
from service.keys import GRANTS
from service.metrics import Board, Metrics, Values
from service.quality.online import Quality
from service.rollout import Rollout
from service.scorer import Scorer
from service.shadow import Shadow
from service.wire.inference import OPERATIONS

if TYPE_CHECKING:
    from service.api.v2_grpc import Server

DESCRIPTION = """Probabilities, classes and exact cross-entropy from logits or features.

Send tensors as JSON or as npz (`Content-Type: application/x-npz`). Errors are `application/problem+json`
with a stable `code` and the path of the first offender.
"""
KEYS = {
    scope: HTTPBearer(
        scheme_name=f"{scope} key",
        description=f"A key with the scope {scope}, or admin; set by LOGITSERVE_KEYS_FILE or LOGITSERVE_KEYS.",
    )
    for scope in GRANTS
}
# How stale another worker's counts may be on /metrics; publishing a snapshot takes some 10 µs.
PUBLISH_INTERVAL_S = 0.25


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
        quality: Quality | None,
        feedback: Feedback | None,
        threads: int,
        watch_interval_s: float,
        observers: Observers,
        rotation: Rotation,
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
        self.quality, self.feedback = quality, feedback
        self.rollout = Rollout(repository, agreement, self.models_changed)
        self.shadow = Shadow(repository, metrics.shadowed, metrics.shadow_dropped)
        self.watch_interval_s = watch_interval_s
        self.observers = observers
        self.rotation = rotation
        self.grpc: Server | None = None
        self.activity: ActivityRoute | None = None
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
                openapi_extra={**(route.openapi or {}), "security": _without_key(route)},
                include_in_schema=route.openapi is not None,
                dependencies=None if route.scope == "open" else [Security(KEYS[route.scope])],
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
        self.metrics.failed_versions(
            (model["name"], sum(version["state"] == "failed" for version in model["versions"]))
            for model in self.repository.describe()
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


def _without_key(route: Route) -> list[dict[str, list[str]]]:
    """Say in OpenAPI's words that no key will do as well: any is, where nobody has been given one for this."""
    return [{}] if route.scope in {"infer", "metrics"} else []


def _as_sent(path: str) -> bytes:
    """Write a path as it stands in a request line."""
    return quote(path, safe="/:").encode("ascii")


@contextlib.asynccontextmanager
async def lifespan(app: Application) -> AsyncIterator[None]:
    await app.rollout.start()
    app.observers.start()
    tasks = [asyncio.create_task(work) for work in beside(app)]
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
    if app.feedback:
        app.feedback.close()
    app.shadow.close()
    if app.quality:
        app.quality.close()
    app.observers.close()
    app.repository.close()


def beside(app: Application) -> Iterator[Coroutine[Any, Any, None]]:
    """What goes on beside the requests until the end."""
    yield app.rollout.run()
    if app.watch_interval_s:
        yield app.rollout.watch(app.watch_interval_s)
    if app.rotation.follows:
        yield app.rotation.run()
    if app.board:
        yield publish(app, app.board)
    if app.quality:
        yield count_quality(app.quality)
    if app.activity:
        yield app.activity.run()


async def publish(app: Application, board: Board) -> None:
    """Take over the counts of the slot's last worker, then publish ours until cancelled."""
    app.metrics.continue_from(board.own())
    try:
        while True:
            board.publish(app.count())
            # All workers at once: what they add up to was so at one moment.
            await asyncio.sleep(PUBLISH_INTERVAL_S - time.time() % PUBLISH_INTERVAL_S)
    finally:
        board.publish(app.count())
        board.close()


async def count_quality(quality: Quality) -> None:
    """Count what was noted of answers, beside the event loop, until cancelled."""
    while True:
        await asyncio.to_thread(quality.count)
        await asyncio.sleep(PUBLISH_INTERVAL_S)
