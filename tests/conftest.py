"""What several test files share: the shipped heads, and the real application in memory."""

import contextlib
import importlib.util
import logging
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest
from hypothesis import settings

import service  # noqa: F401 - turns onnxruntime's telemetry off before any test imports it

if TYPE_CHECKING:
    from service.application import Application

ROOT = Path(__file__).parent.parent
MODELS = ROOT / "models"

# Foreign clients bring some 300 MB along: `make conformance` installs them and runs what needs them.
collect_ignore_glob = [] if find_spec("kserve") else ["conformance/*"]
# And who has not the development's own packages has not the extras grpc and otel, either.
OF_EXTRAS = ["*/*_grpc*.py", "*/*_tracing.py", "*/*_decision_log.py"]
collect_ignore_glob += [] if find_spec("tritonclient") else OF_EXTRAS
collect_ignore_glob += [] if find_spec("moto") else ["*/*_remote*.py"]
# Whole frameworks, and heads that others trained with them, take gigabytes: `make real-heads` has them.
FRAMEWORKS = ("torch", "keras", "flax", "skl2onnx", "py3langid", "magika", "torchcrepe", "deepcut")
collect_ignore_glob += [] if all(map(find_spec, FRAMEWORKS)) else ["real_heads/*"]

# A real Prometheus takes a minute to see alerts come and go: `make alerts` lets it.
collect_ignore_glob += [] if "WITH_PROMETHEUS" in os.environ else ["deploy/test_deploy_prometheus.py"]
# A real browser, and axe from npm, are no newcomer's first need: `make page` has both.
collect_ignore_glob += [] if "WITH_BROWSER" in os.environ else ["browser/*"]

# A shell ignores SIGINT in what it runs in the background, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: on a shared machine any example may take long once. The same examples on every run: a failure
# that nobody can repeat helps nobody.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")

# What is over in a moment comes last, so that no core idles while a long module ends on the other.
QUICK = {"numeric", "wire"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.parent.name in QUICK)


# For clients of plain HTTP that are made for one request: by default each reads all certificates, which takes longer.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


def untraced() -> dict[str, str]:
    """The environment without coverage, for processes that nothing of the service is measured in."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


class Running(NamedTuple):
    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def running_service(*flags: str) -> Iterator[Running]:
    """The real command with the shipped heads on a free port; it must end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "service", "serve", f"--models={MODELS}", f"--port={port}", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        first = process.stdout.readline()  # printed once it is ready
        assert b"answers on" in first, "the service ended"
        try:
            yield Running(process, port)
        except BaseException:
            process.kill()  # a test that failed does not wait for it
            raise
        if process.poll() is None:
            process.terminate()
            assert process.wait(20) == 0


def load_script(path: Path) -> ModuleType:
    """A script that is in no package, as a module."""
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its classes look for it there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """A command that a test runs in this process sets up the log, on a stream that is gone with the test."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    for handler in set(root.handlers).difference(handlers):
        if type(handler) is logging.StreamHandler:
            root.removeHandler(handler)
            root.setLevel(level)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# httpx's transport looks for sniffio at each request, along the whole path where it is not installed: a third of
# what a request in memory takes. This says at once that there is none.
if not find_spec("sniffio"):
    sys.modules["sniffio"] = None  # type: ignore[assignment] # as the import system's reference has it


@contextlib.asynccontextmanager
async def connected(app: "Application") -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application whose lifespan runs elsewhere."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        yield client


@pytest.fixture
def serve() -> Serve:
    """The application with the shipped heads, inside its lifespan: `async with serve(rows_limit=2) as client`."""
    from service.app import create_app  # here, so that tests of one room need no other
    from service.settings import Settings

    @contextlib.asynccontextmanager
    async def serve(**settings: Any) -> AsyncIterator[httpx.AsyncClient]:
        app = create_app(Settings(**{"models": MODELS, **settings}))
        async with app.router.lifespan_context(app), connected(app) as client:
            yield client

    return serve
