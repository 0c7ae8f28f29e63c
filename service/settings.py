"""Every setting of the service, with its reason, and the only reader of the environment.

`Settings` is one frozen value; `read` makes it from flags, the environment and a TOML file, and remembers where
each value came from. This module must not know what the settings are used for: no HTTP, no models, no numpy.
"""

import difflib
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from service.errors import StartError
from service.quota import cpu_quota

PREFIX = "LOGITSERVE_"

# Kubernetes puts a Service's address into the environment of every pod beside it. For a Service named
# `logitserve` these names begin as ours do, and LOGITSERVE_PORT itself becomes "tcp://10.0.0.7:8000".
_SERVICE_LINK = re.compile(PREFIX + r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")

_SHOWN_CHARACTERS = 40  # an error names what came, it does not repeat it at length

# Settings whose values are shown nowhere.
SECRETS = frozenset({"admin_key"})

Auto: TypeAlias = Literal["auto"]
Count: TypeAlias = Annotated[int, Field(ge=1, le=512)]  # of processes or threads; more is a slip of the hand
Port: TypeAlias = Annotated[int, Field(ge=0, le=65535)]
Limit: TypeAlias = Annotated[int, Field(gt=0)]
Depth: TypeAlias = Annotated[int, Field(ge=3, le=1000)]  # a request needs 3, the JSON reader stops at 1024
Seconds: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Route: TypeAlias = Annotated[str, Field(pattern=r"^(/[^{}?#\s]*)?$")]

# What platforms set for the containers that they run, each with the setting that it stands for; a later one wins.
_PLATFORM_VARIABLES = {
    "SAGEMAKER_BIND_TO_PORT": "port",
    "AIP_HTTP_PORT": "port",
    "AIP_HEALTH_ROUTE": "vertex_health_route",
    "AIP_PREDICT_ROUTE": "vertex_predict_route",
}


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

    models: Path = _setting(
        Path("models"), "a folder", "folder of the models: <model>/<version>/model.onnx, or bare .onnx files"
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
    workers: Count | Auto = _setting(
        1,
        "a whole number from 1 to 512, or auto",
        "processes that answer; auto is one for each CPU of the quota; one is enough until it uses a whole CPU",
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
        " the memory; 64 MiB as in Triton",
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
        " after 60 s, and nobody reads a later answer",
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
    run_dir: Path = Field(
        default_factory=lambda: Path(tempfile.gettempdir()),
        description="where the folder that the workers share is made, and removed at the end; memory-backed is best"
        " (tmpfs)",
        json_schema_extra={"expected": "a folder"},
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info",
        "debug, info, warning or error",
        "least severe message to log; debug shows tracebacks at start",
    )

    @property
    def worker_count(self) -> int:
        return cpu_quota() if self.workers == "auto" else self.workers

    @property
    def thread_count(self) -> int:
        """Threads of each worker."""
        return max(1, cpu_quota() // self.worker_count) if self.threads == "auto" else self.threads


class Sourced(NamedTuple):
    """Settings, and for each name where its value came from."""

    settings: Settings
    sources: dict[str, str]


class _Given(NamedTuple):
    value: object
    source: str


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


def read(
    flags: Mapping[str, str | None],
    *,
    config: str | None = None,
    environ: Mapping[str, str] | None = None,
    root: Path = Path("/"),
) -> Sourced:
    """Read the settings; the first source that gives a value has it.

    Parameters
    ----------
    flags : mapping of str to str or None
        Values of the command line by setting; None where a flag was not given.
    config : str or None
        Path of a TOML file; `LOGITSERVE_CONFIG` names it otherwise.
    environ : mapping of str to str
        The process's environment unless given.
    root : Path
        Where the file system begins, for what a platform mounts.

    Raises
    ------
    StartError
        For an unknown name or a bad value; the text names the source.
    """
    environ = os.environ if environ is None else environ
    variables = _from_environment(environ)
    file = config or environ.get(PREFIX + "CONFIG")
    layers = [
        {name: _Given(value, flag_of(name)) for name, value in flags.items() if value is not None},
        variables,
        _from_file(Path(file)) if file else {},
        {"port": _Given(8080, "/opt/ml/model is there")} if (root / "opt/ml/model").exists() else {},
    ]
    given: dict[str, _Given] = {}
    for layer in reversed(layers):
        given.update(layer)
    _read_key(given)
    sources = {name: given[name].source if name in given else "default" for name in Settings.model_fields}
    return Sourced(_validated(given), sources)


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    """Take our variables; an empty one counts as absent, as Compose passes those that are not set."""
    given: dict[str, _Given] = {}
    endpoint, deployed = environ.get("AIP_ENDPOINT_ID"), environ.get("AIP_DEPLOYED_MODEL_ID")
    if endpoint and deployed:
        path = f"/v1/endpoints/{endpoint}/deployedModels/{deployed}:predict"
        given["vertex_predict_route"] = _Given(path, "AIP_ENDPOINT_ID and AIP_DEPLOYED_MODEL_ID")
    for variable, name in _PLATFORM_VARIABLES.items():
        if environ.get(variable):
            given[name] = _Given(environ[variable], variable)
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or not value or variable == PREFIX + "CONFIG":
            continue
        if _SERVICE_LINK.fullmatch(variable) or (variable == PREFIX + "PORT" and "://" in value):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if variable != variable_of(name) or name not in Settings.model_fields:
            raise StartError(_unknown(variable, "variable"))
        given[name] = _Given(value, variable)
    return given


def _from_file(path: Path) -> dict[str, _Given]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StartError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # both bad TOML and bad UTF-8
        raise StartError(f"{path}: not valid TOML: {error}") from error
    for name in values:
        if name not in Settings.model_fields:
            raise StartError(f"{path}: {_unknown(name, 'setting')}")
    return {name: _Given(value, f"{path}: {name}") for name, value in values.items()}


def _read_key(given: dict[str, _Given]) -> None:
    """Take the admin key from the file that is named for it."""
    file = given.get("admin_key_file", _Given("", ""))
    if not file.value or not isinstance(file.value, str):
        return
    if "admin_key" in given and given["admin_key"].value:
        raise StartError(
            f"{given['admin_key'].source} and {file.source} both give an admin key; leave one out"
        )
    try:
        key = Path(file.value).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"{file.source}: the admin key cannot be read: {_said(error)}") from error
    if not key:
        raise StartError(f"{file.source}: the file of the admin key is empty")
    given["admin_key"] = _Given(key, f"the file of {file.source}")


def _said(error: OSError | UnicodeDecodeError) -> str:
    return str(error.strerror) if isinstance(error, OSError) else "it is no text"


def _unknown(name: str, kind: str) -> str:
    close = difflib.get_close_matches(name.removeprefix(PREFIX).lower(), Settings.model_fields, n=1)
    spelled = variable_of if kind == "variable" else str
    hint = (
        f"did you mean {spelled(close[0])}?"
        if close
        else "`logitserve serve --help` lists those that there are"
    )
    return f"unknown {kind} {name[:_SHOWN_CHARACTERS]}; {hint}"


def _validated(given: Mapping[str, _Given]) -> Settings:
    for name, (value, source) in given.items():
        # TOML's true would pass for the number 1.
        if isinstance(value, bool):
            raise StartError(_bad_value(name, value, source))
    try:
        return Settings(**{name: value for name, (value, _) in given.items()})  # type: ignore[arg-type] # it checks
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise StartError(_bad_value(name, *given[name])) from error


def _bad_value(name: str, value: object, source: str) -> str:
    if name in SECRETS:
        return f"{source}: expected {expected_of(name)}"
    shown = repr(value)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = shown[: _SHOWN_CHARACTERS - 1] + "…"
    return f"{source}: expected {expected_of(name)}, got {shown}"
