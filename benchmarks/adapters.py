"""How each peer is installed, started and asked.

A peer is a list of packages, a command, the way it wants its request and how it answers. The applications are
in `peer_apps`; all of them run the same file with the same options. Nothing here runs anything.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cases
import orjson
from cases import Answer, Array, Case, Request

APPS = Path(__file__).parent / "peer_apps"
SESSION = ("onnxruntime", "numpy")


class Place(NamedTuple):
    """Where a peer runs: its environment's programs, a folder for its files, the port it must listen on."""

    programs: Path
    folder: Path
    port: int

    def program(self, name: str) -> str:
        return str(self.programs / name)


class Dialect(NamedTuple):
    """One way to ask."""

    name: str
    write: Callable[[Case], Request]
    read: Callable[[Answer], dict[str, Any]]


class Need(NamedTuple):
    """What a peer asks of its interpreter: an expression with `os`, `sys` and `sysconfig`, true where it is met."""

    what: str
    expression: str


class Peer(NamedTuple):
    """One server; `prepare` is a command to run first, `write_files` writes what its start needs.

    It is ready once `ready_path` answers 200 with `ready_text`; `programs` must be on the PATH, beside an
    interpreter that meets its needs.
    """

    name: str
    packages: tuple[str, ...]
    command: Callable[[Place], list[str]]
    ready_path: str
    dialects: tuple[Dialect, ...]
    variables: tuple[tuple[str, str], ...] = ()
    write_files: Callable[[Place], None] = lambda _: None
    prepare: Callable[[Place], list[str]] | None = None
    needs: tuple[Need, ...] = ()
    programs: tuple[str, ...] = ()
    ready_text: str = ""


def script(name: str) -> Callable[[Place], list[str]]:
    return lambda place: [place.program("python"), str(APPS / name)]


def _json(path: str, field: str = "features") -> Callable[[Case], Request]:
    def write(case: Case) -> Request:
        body = orjson.dumps({field: case.arrays["features"]}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Request(path, body, {"Content-Type": "application/json"})

    return write


def _read(answer: Answer) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(answer.body)
    return fields


def _read_kserve_v1(answer: Answer) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(answer.body)["predictions"]
    return fields


def _write_v2_json(case: Case) -> Request:
    features: Array = case.arrays["features"]
    tensor = {"name": "features", "shape": features.shape, "datatype": "FP32", "data": features.reshape(-1)}
    body = orjson.dumps({"inputs": [tensor]}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Request("/v2/models/head/infer", body, {"Content-Type": "application/json"})


def _write_v2_binary(case: Case) -> Request:
    return cases.WIRES["v2"].write(case._replace(model="head"))


def _read_v2(answer: Answer) -> dict[str, Any]:
    found = cases.WIRES["v2"].read(answer)
    found["classes"] = found["classes"].reshape(-1)  # some answer [rows, 1]
    return found


JSON = Dialect("json", _json("/predict"), _read)
V2_JSON = Dialect("v2 json", _write_v2_json, _read_v2)
V2_BINARY = Dialect("v2", _write_v2_binary, _read_v2)


def _fastapi_command(place: Place) -> list[str]:
    command = [place.program("uvicorn"), "plain_fastapi:app", f"--app-dir={APPS}", f"--port={place.port}"]
    return [*command, "--no-access-log", "--log-level=warning"]


def _bentoml_command(place: Place) -> list[str]:
    command = [place.program("bentoml"), "serve", "bentoml_service:Head", f"--working-dir={APPS}"]
    return [*command, f"--port={place.port}", "--host=127.0.0.1"]


def _mlserver_files(place: Place) -> None:
    settings = {
        "host": "127.0.0.1",
        "http_port": place.port,
        "grpc_port": place.port + 1,
        "metrics_port": place.port + 2,
        "parallel_workers": 0,  # in the server's own process, where it is fastest
        "debug": False,
    }
    model = {"name": "head", "implementation": "mlserver_runtime.Head"}
    (place.folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (place.folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")


# As for every peer: no line for each request.
TORCHSERVE_LOG = """\
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
"""


def _torchserve_files(place: Place) -> None:
    model = {
        "defaultVersion": True,
        "marName": "head.mar",
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": 16,
        "maxBatchDelay": 1,  # ms
        "responseTimeout": 120,
    }
    settings = {
        # One address for requests and for questions about workers: its /ping is well before any of them is.
        "inference_address": f"http://127.0.0.1:{place.port}",
        "management_address": f"http://127.0.0.1:{place.port}",
        "metrics_address": f"http://127.0.0.1:{place.port + 2}",
        "load_models": "head.mar",
        "models": json.dumps({"head": {"1": model}}),
        "disable_token_authorization": "true",
        "disable_system_metrics": "true",
        "max_request_size": "100000000",
        "max_response_size": "100000000",
    }
    lines = [f"{name}={value}" for name, value in settings.items()]
    (place.folder / "config.properties").write_text("\n".join(lines), encoding="utf-8")
    (place.folder / "log4j2.properties").write_text(TORCHSERVE_LOG, encoding="utf-8")


def _torchserve_archive(place: Place) -> list[str]:
    command = [place.program("torch-model-archiver"), "--model-name=head", "--version=1", "--force"]
    command += [f"--handler={APPS / 'torchserve_handler.py'}", f"--extra-files={APPS / 'head_session.py'}"]
    return [*command, f"--export-path={place.folder}"]


def _torchserve_command(place: Place) -> list[str]:
    command = [place.program("torchserve"), "--foreground", f"--model-store={place.folder}"]
    command += [f"--ts-config={place.folder / 'config.properties'}"]
    command += [f"--log-config={place.folder / 'log4j2.properties'}"]
    return command


BELOW_3_13 = Need("Python below 3.13", "sys.version_info < (3, 13)")
BELOW_3_14 = Need("Python below 3.14", "sys.version_info < (3, 14)")
LIBPYTHON = Need(
    "a shared libpython (Debian's package libpython3.11)",
    "os.path.exists(f'{sysconfig.get_config_var(\"LIBDIR\")}/libpython3.{sys.version_info[1]}.so.1.0')",
)

PEERS = (
    Peer("plain FastAPI", ("fastapi", "uvicorn[standard]", *SESSION), _fastapi_command, "/health", (JSON,)),
    Peer("LitServe", ("litserve", *SESSION), script("litserve_app.py"), "/health", (JSON,)),
    Peer(
        "BentoML",
        ("bentoml", *SESSION),
        _bentoml_command,
        "/readyz",
        (JSON,),
        variables=(("BENTOML_DO_NOT_TRACK", "True"),),
    ),
    Peer(
        "MLServer",
        ("mlserver", *SESSION),
        lambda place: [place.program("mlserver"), "start", str(place.folder)],
        "/v2/models/head/ready",
        (V2_JSON,),
        write_files=_mlserver_files,
        needs=(BELOW_3_13,),
    ),
    Peer(
        "KServe",
        ("kserve", *SESSION),
        script("kserve_model.py"),
        "/v2/models/head/ready",
        (Dialect("json", _json("/v1/models/head:predict", "instances"), _read_kserve_v1), V2_BINARY),
        needs=(BELOW_3_14,),
    ),
    Peer(
        "Ray Serve",
        ("ray[serve]", *SESSION),
        script("ray_app.py"),
        "/",
        (Dialect("json", _json("/"), _read),),
        variables=(
            ("RAY_USAGE_STATS_ENABLED", "0"),
            ("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1"),
            ("RAY_SERVE_ENABLE_HA_PROXY", "1"),
            ("RAY_SERVE_HAPROXY_NBTHREAD", "1"),
        ),
    ),
    Peer(
        "PyTriton",
        ("nvidia-pytriton", *SESSION),
        script("pytriton_app.py"),
        "/v2/models/head/ready",
        (V2_JSON, V2_BINARY),
        needs=(BELOW_3_14, LIBPYTHON),
    ),
    Peer(
        "TorchServe",
        ("torchserve", "torch-model-archiver", "torch==2.13.0", "pyyaml", "setuptools<81", *SESSION),
        _torchserve_command,
        "/models/head",
        (Dialect("json", _json("/predictions/head"), _read),),
        write_files=_torchserve_files,
        prepare=_torchserve_archive,
        programs=("java",),
        ready_text='"READY"',
    ),
)


def named(name: str) -> Peer:
    """Find a peer by its name, in any case and with or without spaces."""
    wanted = name.replace(" ", "").lower()
    for peer in PEERS:
        if peer.name.replace(" ", "").lower() == wanted:
            return peer
    known = ", ".join(peer.name.replace(" ", "").lower() for peer in PEERS)
    raise ValueError(f"expected peers of {known}, got {name!r}")


def environment(peer: Peer, place: Place, model: Path) -> dict[str, str]:
    """What the applications and the peer's own programs need to find each other."""
    return {
        "HEAD_MODEL": str(model),
        "HEAD_PORT": str(place.port),
        "PYTHONPATH": str(APPS),
        "PATH": f"{place.programs}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(place.folder),
        "TMPDIR": str(place.folder),
        # Nobody's benchmark reports to anybody.
        "ORT_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        **dict(peer.variables),
    }
