"""Every setting of the service, with its reason, as one frozen value.

Where values come from is known to `sources`, and what they are used for to nobody here: no HTTP, no models, no numpy.
"""

import re
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from service.quota import cpu_quota

PREFIX = "LOGITSERVE_"

# Settings whose values are shown nowhere.
SECRETS = frozenset({"admin_key", "keys"})

Auto: TypeAlias = Literal["auto"]
Off: TypeAlias = Literal["off"]
Count: TypeAlias = Annotated[int, Field(ge=1, le=512)]  # of processes or threads; more is a slip of the hand
Port: TypeAlias = Annotated[int, Field(ge=0, le=65535)]
Limit: TypeAlias = Annotated[int, Field(gt=0)]
Depth: TypeAlias = Annotated[int, Field(ge=3, le=1000)]  # a request needs 3, the JSON reader stops at 1024
Seconds: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Ratio: TypeAlias = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Route: TypeAlias = Annotated[str, Field(pattern=r"^(/[^{}?#\s]*)?$")]


# One rule of a version policy, for one model or all others; numbers of up to 18 digits fit everywhere.
_NUMBER = "[1-9][0-9]{0,17}"
_RULES = rf"([^=;\s]+=)?(all|latest:{_NUMBER}|specific:{_NUMBER}(,{_NUMBER})*)"


def _no_url(path: Path) -> Path:
    if re.match("[a-z][a-z0-9+.-]+:/", str(path)):
        raise ValueError
    return path


# What would carry credentials is refused, since URLs are shown: a password before an @, a signature after a ?.
Url: TypeAlias = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]+://[^:/?#\s]*(:[0-9]+)?(/[^?#\s]*)?$")]
Location: TypeAlias = Annotated[
    Url | Annotated[Path, AfterValidator(_no_url)], Field(union_mode="left_to_right")
]


StoreUrl: TypeAlias = Annotated[str, Field(pattern=r"^rediss?://[^:/?#@\s]+(:[0-9]+)?(/[0-9]*)?$")]


Store: TypeAlias = Annotated[
    Auto | Off | StoreUrl | Annotated[Path, AfterValidator(_no_url)], Field(union_mode="left_to_right")
]
# No user, password or query: it is shown, too.
TraceUrl: TypeAlias = Annotated[str, Field(pattern=r"^(https?://[^@/?#\s]+(/[^?#\s]*)?)?$")]


def _sendable(key: SecretStr) -> SecretStr:
    if not re.fullmatch("[!-~]*", key.get_secret_value()):
        raise ValueError
    return key


def _setting(default: object, expected: str, description: str) -> Any:
    """Return a pydantic field whose errors say what was `expected`."""
    return Field(default, description=description, json_schema_extra={"expected": expected})


class Settings(BaseModel):
    """What the service runs with; each field says what it is and why its default is what it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: Location = _setting(
        Path("models"),
        "a folder, or a URL without credentials",
        "folder of the models: <model>/<version>/model.onnx, or bare .onnx files, and a head.json beside what is named"
        " model.onnx; or its URL (s3://, gs://, az://) with the extra remote; /opt/ml/model is the default where"
        " SageMaker has mounted it",
    )
    version_policy: Annotated[str, Field(pattern=rf"^{_RULES}(;{_RULES})*$")] = _setting(
        "all",
        "all, latest:N or specific:N,N; for one model with its name and = before it, and ; before the next",
        "which versions serve where nobody says otherwise: all, latest:2, specific:1,3, or by model as in"
        " latest:1;digits=all; all since a version that is not to serve need not lie there",
    )
    watch_interval_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = _setting(
        0.0,
        "a number of seconds, 0 or more",
        "how often to look whether models have changed, and to reload what has; 0 is never, since who deploys can ask for"
        " it, and is told how it went",
    )
    cache_dir: Path = _setting(
        Path("~/.cache/logitserve"),
        "a folder",
        "where models from a URL are kept, for the next start too; XDG_CACHE_HOME is followed",
    )
    cache_limit_bytes: Limit = _setting(
        10 * 1024**3,
        "a whole number above 0",
        "most that is kept there; what was used longest ago goes first; 10 GiB is some thousand heads",
    )
    host: Annotated[str, Field(min_length=1)] = _setting(
        "127.0.0.1",
        "an address or a host name",
        "address to listen on; this machine only unless told otherwise, 0.0.0.0 for every interface",
    )
    port: Port = _setting(
        8000,
        "a whole number from 0 to 65535",
        "port to listen on, 0 for any free one; AIP_HTTP_PORT (Vertex AI) and SAGEMAKER_BIND_TO_PORT are followed,"
        " and 8080 is the default where SageMaker has mounted /opt/ml/model",
    )
    grpc_port: Port | Off = _setting(
        "off",
        "a whole number from 0 to 65535, or off",
        "port for the Open Inference Protocol over gRPC, 0 for any free one; off since it needs the extra grpc and most"
        " callers speak HTTP; Triton's is 8001, KServe's 8081",
    )
    workers: Count | Auto = _setting(
        1,
        "a whole number from 1 to 512, or auto",
        "processes that answer; auto is one for each CPU of the quota; one is enough until it uses a whole CPU;"
        " SAGEMAKER_MODEL_SERVER_WORKERS is followed",
    )
    threads: Count | Auto = _setting(
        "auto",
        "a whole number from 1 to 512, or auto",
        "threads of the runtime in each worker; auto is the CPU quota divided by the workers, since more of them"
        " only wait for each other",
    )
    provider: Literal["auto", "cpu", "cuda"] = _setting(
        "auto",
        "auto, cpu or cuda",
        "what computes the heads; auto takes the GPU where there is one, an asked-for one that is missing is an error",
    )
    body_limit_bytes: Limit = _setting(
        64 * 1024**2,
        "a whole number above 0",
        "largest request body, as sent and again after decompression, so that a small compressed body cannot fill"
        " the memory; 64 MiB as in Triton; SAGEMAKER_MAX_PAYLOAD_IN_MB is followed",
    )
    rows_limit: Limit = _setting(
        1024**2,
        "a whole number above 0",
        "most rows of one request: larger jobs keep others waiting for seconds; TensorFlow Serving's batches end at"
        " 1000 by default, Triton's where the model says",
    )
    elements_limit: Limit = _setting(
        8 * 1024**2,
        "a whole number above 0",
        "most numbers of one tensor, checked before memory is taken: as many as 64 MiB of float64, the largest"
        " uncompressed body; short JSON numbers and compression could say far more",
    )
    batch_rows_limit: Limit = _setting(
        1024,
        "a whole number above 0",
        "most rows that run through a head at once; what is more runs in pieces, so that memory stays bounded: a head"
        " of 1000 classes needs 30 MB for so many",
    )
    batch_delay_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = _setting(
        0.0,
        "a number of seconds, 0 or more",
        "how long the first waiting row waits for others to run with; 0 since what arrives while a head is busy runs"
        " together anyway, and an idle one should answer at once",
    )
    queue_rows_limit: Limit = _setting(
        1024**2,
        "a whole number above 0",
        "most rows that may wait, over all workers; beyond that requests get 429 at once, since a queue that is longer"
        " than callers are patient only adds work for nobody: a head of 768 features and 1000 classes takes 15 s for so"
        " many",
    )
    json_depth_limit: Depth = _setting(
        32,
        "a whole number from 3 to 1000",
        "deepest nesting of a JSON body: NumPy had at most 32 dimensions until 2.0; Triton stops at 100, orjson at 1024",
    )
    compress: Literal["off", "on"] = _setting(
        "off",
        "off or on",
        "whether answers of 1 KiB and more are compressed for callers whose Accept-Encoding says so: common clients say it"
        " unthinkingly, and on a fast network it costs more than it saves",
    )
    v1: Literal["tensorflow", "kserve"] = _setting(
        "tensorflow",
        "tensorflow or kserve",
        "whose answers /v1/models/{model}:predict gives where the request has inputs: TensorFlow Serving's have outputs,"
        " KServe's have predictions; TensorFlow Serving was there first",
    )
    invocations_accept: Literal[
        "application/json",
        "text/csv",
        "application/jsonlines",
        "application/x-jsonlines",
        "application/x-npy",
        "application/x-npz",
    ] = _setting(
        "application/json",
        "application/json, text/csv, application/jsonlines, application/x-npy or application/x-npz",
        "media type of what /invocations answers to whoever takes any; SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT is followed",
    )
    vertex_health_route: Route = _setting(
        "",
        "a path that begins with /",
        "path at which Vertex AI asks whether the service is ready; AIP_HEALTH_ROUTE is followed, and there is none"
        " elsewhere",
    )
    vertex_predict_route: Route = _setting(
        "",
        "a path that begins with /",
        "path to which Vertex AI sends predictions, whatever else would answer there; AIP_PREDICT_ROUTE is followed, else"
        " AIP_ENDPOINT_ID and AIP_DEPLOYED_MODEL_ID make the path that Vertex AI takes then",
    )
    request_timeout_s: Seconds = _setting(
        60.0,
        "a number of seconds above 0",
        "time allowed for a request that brings no deadline of its own: nginx and AWS load balancers stop waiting"
        " after 60 s, and nobody reads a later answer; SAGEMAKER_MODEL_SERVER_TIMEOUT is followed",
    )
    keep_alive_s: Limit = _setting(
        75,
        "a whole number of seconds above 0",
        "how long an idle connection is kept: longer than load balancers keep theirs (60 s at AWS), or they send"
        " into a connection that has just closed; 75 s as in nginx",
    )
    drain_delay_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = _setting(
        0.5,
        "a number of seconds, 0 or more",
        "after SIGTERM still accept for so long while /health/ready says 503, until whoever sends traffic has noticed;"
        " about 5 s behind a Kubernetes Service",
    )
    drain_timeout_s: Seconds = _setting(
        25.0,
        "a number of seconds above 0",
        "after that finish what is in flight for so long, then give up: Kubernetes kills 30 s after SIGTERM",
    )
    admin_key: Annotated[SecretStr, AfterValidator(_sendable)] = _setting(
        SecretStr(""),
        "printable ASCII without spaces, as a header can carry it",
        "key that loading, unloading and naming versions asks for, which nobody may do without one; shown nowhere, but"
        " others on the machine can see a flag, so better a variable or a file",
    )
    admin_key_file: str = _setting(
        "",
        "the path of a file",
        "file that holds the admin key alone, read at start, as orchestrators mount secrets; in place of admin_key",
    )
    keys: SecretStr = _setting(
        SecretStr(""),
        "lines as `logitserve key` prints them",
        "keys of those who may use the service, as lines that logitserve key prints: each has a name, its SHA-256, its"
        " scopes (infer, metrics, admin) and perhaps when it expires; without a key for it, infer and metrics are open to"
        " everybody",
    )
    keys_file: str = _setting(
        "",
        "the path of a file",
        "file with such lines, which may be changed while the service runs: it is looked at twice a second, and what is"
        " wrong in it changes nothing",
    )
    run_dir: Path = Field(
        default_factory=lambda: Path(tempfile.gettempdir()),
        description="where the folder that the workers share is made, and removed at the end; memory-backed is best"
        " (tmpfs)",
        json_schema_extra={"expected": "a folder"},
    )
    quality: Literal["on", "off"] = _setting(
        "on",
        "on or off",
        "whether answers are counted by how good they are: labels that arrive, classes, confidence, drift; it costs a few"
        " per cent of the smallest requests",
    )
    quality_window_s: Seconds = _setting(
        3600.0,
        "a number of seconds above 0",
        "how far back /models/{model}/quality looks beside all since start: long enough for some hundred labels, short"
        " enough to see a change",
    )
    feedback: Store = _setting(
        "auto",
        "auto, off, the path of a file, or a redis:// URL without credentials",
        "where rows that were predicted with row_ids wait for their labels: the path of a SQLite file, which"
        " all workers share, a redis:// URL without credentials (extra redis), which replicas share, or off; auto is"
        " logitserve-feedback-<port>.sqlite in run_dir, so that a restart finds it, and two services have two",
    )
    feedback_ttl_s: Seconds = _setting(
        86400.0,
        "a number of seconds above 0",
        "how long rows wait for their labels: a day, within which most of those come that come at all; for as long"
        " again a late one is told from one that nobody knows",
    )
    feedback_rows_limit: Limit = _setting(
        1_000_000,
        "a whole number above 0",
        "most rows that are remembered; the oldest are forgotten first; a row takes 4 bytes a class (8 in float64)"
        " and some 150 more, so that these take 190 MB with 10 classes and 4 GB with 1000",
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info",
        "debug, info, warning or error",
        "least severe message to log; debug shows tracebacks at start",
    )
    log_format: Literal["text", "json"] = _setting(
        "text",
        "text or json",
        "how the log is written to stderr: as text for people, or as one JSON object a line for what collects logs",
    )
    access_log: Ratio = _setting(
        0.0,
        "a number from 0 to 1",
        "share of the requests that are logged, with route, status, duration, model, rows and bytes: 1 is every request,"
        " 0.01 one in a hundred, and those answered with 500 and above always; 0 is none, since /metrics counts all",
    )
    trace_endpoint: TraceUrl = _setting(
        "",
        "an http:// or https:// URL without credentials",
        "where traces are sent by OTLP over HTTP, such as http://collector:4318 (/v1/traces is added where there is no"
        " path); none unless given, and it needs the extra otel; OTEL_EXPORTER_OTLP_TRACES_ENDPOINT and"
        " OTEL_EXPORTER_OTLP_ENDPOINT are followed",
    )
    trace_ratio: Ratio = _setting(
        0.01,
        "a number from 0 to 1",
        "share of the requests that are traced where the caller does not say (by the sampled flag of traceparent): one in"
        " a hundred, since five spans cost more than scoring a row; OTEL_TRACES_SAMPLER is followed",
    )
    decision_log: str = _setting(
        "",
        "a folder",
        "where what was predicted is written down for those who must account for it, one NDJSON file a worker; none unless"
        " given, and no two services may share one",
    )
    decision_log_ratio: Ratio = _setting(
        1.0,
        "a number from 0 to 1",
        "share of the requests that are written there: all, since who audits asks for any",
    )
    decision_log_limit_bytes: Limit = _setting(
        100 * 1024**2,
        "a whole number above 0",
        "size at which a file of the decision log is put aside for a new one; four old ones are kept, so that a worker"
        " needs five times as much",
    )
    decision_log_hash: Literal["off", "on"] = _setting(
        "off",
        "off or on",
        "whether the decision log has the sha256 of each row of features, by which a row that is known can be found again;"
        " off since features of few values can be guessed from it",
    )

    @property
    def worker_count(self) -> int:
        return cpu_quota() if self.workers == "auto" else self.workers

    @property
    def feedback_place(self) -> Path | str | None:
        """Where rows wait for their labels; None where nowhere."""
        if self.feedback == "auto":
            return self.run_dir / f"logitserve-feedback-{self.port}.sqlite"
        return None if self.feedback == "off" else self.feedback

    @property
    def thread_count(self) -> int:
        """Threads of each worker."""
        return max(1, cpu_quota() // self.worker_count) if self.threads == "auto" else self.threads


def flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    return PREFIX + name.upper()


def help_of(name: str) -> str:
    """Return the help of a setting's flag, for argparse."""
    field = Settings.model_fields[name]
    default = field.get_default(call_default_factory=True)
    return f"{field.description} (default: {str(default) or 'none'})".replace("%", "%%")


def expected_of(name: str) -> str:
    """Return what a value of the setting must be, as a phrase."""
    extra = Settings.model_fields[name].json_schema_extra
    return str(extra["expected"]) if isinstance(extra, dict) else ""
