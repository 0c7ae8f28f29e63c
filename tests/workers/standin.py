"""Small applications in the place of the real one, and a way to serve them: `python standin.py NAME SETTING=VALUE…`."""

import asyncio
import contextlib
import gc
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from service import workers
from service.errors import StartError
from service.settings import Settings
from service.sources import read


class Answering:
    """Answers /slow after a while, /busy after a while in which the event loop hardly turns."""

    def __init__(self, slot: int, run_folder: Path, threads: int) -> None:
        self.slot, self.run_folder, self.threads = slot, run_folder, threads
        self.draining = False

    @property
    def router(self) -> "Answering":
        return self

    @contextlib.asynccontextmanager
    async def lifespan_context(self, _: Any) -> AsyncIterator[None]:
        yield

    def drain(self) -> None:
        self.draining = True

    def served(self) -> dict[str, Any]:
        return {"models": [], "threads": self.threads}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        seconds = float(parse_qs(scope["query_string"].decode()).get("s", ["0"])[0])
        match scope["path"]:
            case "/slow":
                await asyncio.sleep(seconds)
            case "/busy":
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    time.sleep(0.15)  # noqa: ASYNC251 - the loop comes round rarely, longer than a connection lingers
                    await asyncio.sleep(0)
            case "/crash":
                os._exit(9)
        told = {"pid": os.getpid(), "slot": self.slot, "folder": str(self.run_folder)}
        if scope["path"] == "/frozen":
            told["frozen"] = gc.get_freeze_count()
        body = json.dumps(told).encode()
        status = 503 if self.draining and scope["path"] == "/health/ready" else 200
        headers = [(b"content-length", str(len(body)).encode())]
        if self.draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Refusing(Answering):
    @contextlib.asynccontextmanager
    async def lifespan_context(self, _: Any) -> AsyncIterator[None]:
        if self.slot == 0:
            raise StartError("no model is in ./models; name a folder by --models")
        yield


class Failing(Answering):
    @contextlib.asynccontextmanager
    async def lifespan_context(self, _: Any) -> AsyncIterator[None]:
        if self.slot == 0:
            raise ValueError("a text\nof two lines")
        yield


class Starting(Answering):
    """Never becomes ready."""

    @contextlib.asynccontextmanager
    async def lifespan_context(self, _: Any) -> AsyncIterator[None]:
        (self.run_folder / f"starting-{self.slot}").touch()
        await asyncio.sleep(60)
        yield


class Dying(Answering):
    """Dies as soon as it is ready, but for the first process of each slot, which dies when asked to."""

    @contextlib.asynccontextmanager
    async def lifespan_context(self, _: Any) -> AsyncIterator[None]:
        first = self.run_folder / f"first-{self.slot}"
        if first.exists():
            asyncio.get_running_loop().call_later(0.01, os._exit, 9)
        first.touch()
        yield


def _maker(kind: type[Answering]) -> Any:
    def create_app(settings: Settings, *, run_folder: Path, slot: int, threads: int) -> Answering:
        return kind(slot, run_folder, threads)

    return create_app


answering, refusing, failing, starting, dying = map(_maker, (Answering, Refusing, Failing, Starting, Dying))


def killed(settings: Settings, *, run_folder: Path, slot: int, threads: int) -> Answering:
    os.kill(os.getpid(), 9)
    raise AssertionError("unreachable")


def main() -> int:
    """Print the address when ready, or the error; the exit code is that of `workers.serve`."""
    name, *flags = sys.argv[1:]
    given = dict(flag.split("=", 1) for flag in flags)
    try:
        return workers.serve(
            read(given, environ={}).settings,
            announce=lambda url, _: print(url, flush=True),  # noqa: T201 - the test reads it
            create_app=name,
        )
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
