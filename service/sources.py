"""Where settings come from: flags, the environment, a TOML file, and what platforms set; the first that says one wins.

This is the only reader of the environment, and it remembers where each value came from.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from service.errors import StartError
from service.settings import PREFIX, SECRETS, Settings, expected_of, flag_of, variable_of

# Kubernetes puts a Service's address into the environment of every pod beside it. For a Service named
# `logitserve` these names begin as ours do, and LOGITSERVE_PORT itself becomes "tcp://10.0.0.7:8000".
_SERVICE_LINK = re.compile(PREFIX + r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")

_SHOWN_CHARACTERS = 40  # an error names what came, it does not repeat it at length

# What platforms set for the containers that they run, each with the setting that it stands for; a later one wins.
_PLATFORM_VARIABLES = {
    "SAGEMAKER_BIND_TO_PORT": "port",
    "SAGEMAKER_MODEL_SERVER_WORKERS": "workers",
    "SAGEMAKER_MODEL_SERVER_TIMEOUT": "request_timeout_s",
    "SAGEMAKER_MAX_PAYLOAD_IN_MB": "body_limit_bytes",
    "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "invocations_accept",
    "AIP_HTTP_PORT": "port",
    "AIP_HEALTH_ROUTE": "vertex_health_route",
    "AIP_PREDICT_ROUTE": "vertex_predict_route",
}
_MEGABYTES = {"SAGEMAKER_MAX_PAYLOAD_IN_MB"}

# The key that our commands send; the name is no near miss of a setting's, which would go unnoticed.
CLIENT_KEY = PREFIX + "CLIENT_KEY"
# Ours, but no settings.
_OTHERS = frozenset({PREFIX + "CONFIG", CLIENT_KEY})


class Sourced(NamedTuple):
    """Settings, and for each name where its value came from."""

    settings: Settings
    sources: dict[str, str]


class _Given(NamedTuple):
    value: object
    source: str


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
        _from_sagemaker(root / "opt/ml/model"),
    ]
    given: dict[str, _Given] = {}
    for layer in reversed(layers):
        given.update(layer)
    _read_key(given)
    sources = {name: given[name].source if name in given else "default" for name in Settings.model_fields}
    return Sourced(_validated(given), sources)


def client_key(environ: Mapping[str, str] | None = None) -> str | None:
    """Return the key that commands send to a service, where the environment has one."""
    return (os.environ if environ is None else environ).get(CLIENT_KEY) or None


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    """Take our variables; an empty one counts as absent, as Compose passes those that are not set."""
    given: dict[str, _Given] = {}
    endpoint, deployed = environ.get("AIP_ENDPOINT_ID"), environ.get("AIP_DEPLOYED_MODEL_ID")
    if endpoint and deployed:
        path = f"/v1/endpoints/{endpoint}/deployedModels/{deployed}:predict"
        given["vertex_predict_route"] = _Given(path, "AIP_ENDPOINT_ID and AIP_DEPLOYED_MODEL_ID")
    if cache := environ.get("XDG_CACHE_HOME"):
        given["cache_dir"] = _Given(f"{cache}/logitserve", "XDG_CACHE_HOME")
    given |= _from_opentelemetry(environ)
    for variable, name in _PLATFORM_VARIABLES.items():
        if value := environ.get(variable):
            given[name] = _Given(_bytes_of(value) if variable in _MEGABYTES else value, variable)
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or not value or variable in _OTHERS:
            continue
        if _SERVICE_LINK.fullmatch(variable) or (variable == PREFIX + "PORT" and "://" in value):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if variable != variable_of(name) or name not in Settings.model_fields:
            raise StartError(_unknown(variable, "variable"))
        given[name] = _Given(value, variable)
    return given


def _from_opentelemetry(environ: Mapping[str, str]) -> dict[str, _Given]:
    """Follow OpenTelemetry's own variables, where they ask for traces over HTTP."""
    off = (
        environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or environ.get("OTEL_TRACES_EXPORTER") == "none"
    )
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if off or (protocol or "http/protobuf") != "http/protobuf":
        return {}
    given: dict[str, _Given] = {}
    if base := environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        # The base of all signals, to which each adds its path.
        given["trace_endpoint"] = _Given(base.rstrip("/") + "/v1/traces", "OTEL_EXPORTER_OTLP_ENDPOINT")
    if endpoint := environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        given["trace_endpoint"] = _Given(endpoint, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").removeprefix("parentbased_")
    if sampler in {"always_on", "always_off"}:
        given["trace_ratio"] = _Given(float(sampler == "always_on"), "OTEL_TRACES_SAMPLER")
    elif sampler == "traceidratio":
        ratio = environ.get("OTEL_TRACES_SAMPLER_ARG") or "1"
        given["trace_ratio"] = _Given(ratio, "OTEL_TRACES_SAMPLER_ARG")
    return given


def _bytes_of(megabytes: str) -> object:
    """Give the bytes of a number of MB, and anything else as it is, for the error that it makes."""
    return int(megabytes) * 1024**2 if re.fullmatch("[0-9]{1,9}", megabytes) else megabytes


def _from_sagemaker(folder: Path) -> dict[str, _Given]:
    """Serve what SageMaker has unpacked, where it will ask."""
    source = f"{folder} is there"
    return {"port": _Given(8080, source), "models": _Given(folder, source)} if folder.exists() else {}


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
    # A URL is refused for what it must not show.
    if name in SECRETS or (name in {"models", "trace_endpoint"} and "://" in str(value)):
        return f"{source}: expected {expected_of(name)}"
    shown = repr(value)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = shown[: _SHOWN_CHARACTERS - 1] + "…"
    return f"{source}: expected {expected_of(name)}, got {shown}"
