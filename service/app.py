"""Everything assembled on one page."""

from pathlib import Path
from typing import TYPE_CHECKING

from service import __version__
from service.agreement import Agreement
from service.api import invocations, v1
from service.api.access import AccessLog
from service.api.activity import ActivityRoute
from service.api.admin import Admin
from service.api.decision_log import DecisionLog
from service.api.feedback import FeedbackRoute
from service.api.invocations import InvocationsDialect
from service.api.native import NativeDialect
from service.api.observers import Lasting, Observers, tracing
from service.api.ops import Documentation, ModelList, Operations
from service.api.page import Page
from service.api.quality import Judgement
from service.api.rotation import Rotation
from service.api.scoring import Scoring
from service.api.transport import Edge, Route
from service.api.v1 import V1Dialect
from service.api.v2 import V2Dialect
from service.api.v2_models import V2Models
from service.api.v2_repository import V2Repository
from service.api.vertex import VertexDialect
from service.application import PUBLISH_INTERVAL_S, Application
from service.errors import StartError
from service.feedback.keeping import Feedback, store_at
from service.heads.policy import read_policy
from service.heads.remote import storage_at
from service.heads.repository import Repository
from service.keys import Key, check_distinct, digest_of, read
from service.metrics import Board, Metrics
from service.quality.online import Quality
from service.scorer import BatchLimits, Scorer
from service.settings import Settings, variable_of
from service.shadow import summary
from service.types import FloatArray, IndexArray
from service.wire import v2
from service.wire.limits import Limits
from service.wire.v2_models import Catalogue

if TYPE_CHECKING:
    from service.api.v2_grpc import Server

# Whose form errors have where no route matches, by the beginning of a path.
ERROR_BODIES = {
    "/v2": v2.error_body,
    "/v1/": v1.error_body,
    invocations.PATH: invocations.error_body,
}


def create_app(
    settings: Settings, *, run_folder: Path | None = None, slot: int = 0, threads: int = 1
) -> Application:
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
    )
    repository = repository_of(settings, threads)
    quality = None
    if settings.quality == "on":
        quality = Quality(run_folder, slot, window_s=settings.quality_window_s)
    app = Application(
        edge=edge,
        metrics=metrics,
        board=board,
        repository=repository,
        agreement=Agreement(run_folder, slot, settings.worker_count),
        scorer=scorer_of(settings, repository, metrics, quality),
        quality=quality,
        feedback=feedback_of(settings, metrics, run_folder, repository, quality),
        threads=threads,
        # One looks for all: what it finds is agreed upon, and whoever takes its place looks on.
        watch_interval_s=settings.watch_interval_s if slot == 0 else 0,
        observers=observers_of(settings, slot, repository, metrics),
        rotation=rotation_of(settings, edge, run_folder, slot),
    )
    for routes in dialects(app, settings, limits):
        app.register(routes)
    if app.activity:
        app.activity.watch(app.templates.values())
    edge.error_bodies = ERROR_BODIES
    return app


def rotation_of(settings: Settings, edge: Edge, run_folder: Path | None, slot: int) -> Rotation:
    """Find the keys in force, and give them to the edge."""
    keys: list[Key] = []
    if admin_key := settings.admin_key.get_secret_value():
        keys.append(Key("admin_key", digest_of(admin_key.encode()), frozenset({"admin"})))
    if text := settings.keys.get_secret_value():
        keys += read(text, variable_of("keys"))
        check_distinct(keys, variable_of("keys"))
    path = Path(settings.keys_file) if settings.keys_file else None
    return Rotation(edge, keys, path, run_folder, slot)


def scorer_of(
    settings: Settings, repository: Repository, metrics: Metrics, quality: Quality | None
) -> Scorer:
    batches = BatchLimits(
        batch_rows=settings.batch_rows_limit,
        queue_rows=max(1, settings.queue_rows_limit // settings.worker_count),
        delay_s=settings.batch_delay_s,
        elements=settings.elements_limit,
    )
    if quality is None:
        return Scorer(repository, batches, metrics.batch)
    return Scorer(repository, batches, metrics.batch, saw=quality.saw, answered=quality.answered)


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


def feedback_of(
    settings: Settings,
    metrics: Metrics,
    run_folder: Path | None,
    repository: Repository,
    quality: Quality | None,
) -> Feedback | None:
    place = settings.feedback_place
    if place is None:
        return None
    if settings.feedback == "auto" and settings.port == 0 and run_folder:
        place = run_folder / "feedback.sqlite"  # no restart has the same port

    def judge(model: str, version: str, logits: FloatArray, labels: IndexArray) -> None:
        head = repository.known(model, version)
        if head is not None and quality is not None:
            quality.label(head, logits, labels)

    opening = store_at(place, settings.feedback_ttl_s, settings.feedback_rows_limit)
    return Feedback(opening, judged=judge, count=metrics.feedback)


def scoring_of(app: Application, settings: Settings, limits: Limits) -> Scoring:
    compress = settings.compress == "on"
    scoring = Scoring(app.scorer, app.metrics, limits, compress=compress, feedback=app.feedback)
    app.observers.attach(app.edge, scoring)
    return scoring


def dialects(app: Application, settings: Settings, limits: Limits) -> list[list[Route]]:
    """Make every dialect: gRPC's server, and the routes of HTTP's, where a path that two would have is the former's."""
    scorer, repository = app.scorer, app.repository
    scoring = scoring_of(app, settings, limits)
    judgement = Judgement(app.quality, repository.infos, settings.quality_window_s)
    operations = Operations(app.edge, app.count, app.board, app.starting, judgement.values)
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
        FeedbackRoute(app.feedback, limits).routes(),
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
        *watching(app, settings, operations, judgement),
    ]


def watching(
    app: Application, settings: Settings, operations: Operations, judgement: Judgement
) -> list[list[Route]]:
    """Make what people and their tools look at."""
    repository = app.repository
    models = ModelList(
        repository.describe, lambda model: summary(operations.counts(), model), repository.examples
    )
    about = {"workers_wanted": settings.worker_count, "threads": app.threads}
    # A sample is taken halfway between the moments at which workers publish.
    app.activity = ActivityRoute(operations.published, judgement.sums, about, PUBLISH_INTERVAL_S / 2)
    return [
        operations.routes(),
        models.routes(),
        judgement.routes(),
        app.activity.routes(),
        Documentation(app.openapi).routes(),
        Page().routes(),
    ]


def grpc_server(settings: Settings, scoring: Scoring, app: Application, catalogue: Catalogue) -> "Server":
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
