"""One process that answers: an event loop, uvicorn on a socket that is already bound, and how both end well.

This module must not know how many such processes there are, nor what the application answers.
"""

import asyncio
import contextlib
import gc
import importlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol, TypeAlias

import uvicorn
import uvloop

from service.settings import Settings
from service.workers.protocol import Connection

Served: TypeAlias = dict[str, Any]

_log = logging.getLogger(__name__)


class Application(Protocol):
    """What is served: an ASGI application that can say what it has loaded and that it is about to leave."""

    @property
    def router(self) -> Any: ...

    def drain(self) -> None: ...

    def served(self) -> Served: ...

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals alone: uvicorn would raise them again at the end, and the exit code be 143."""
        yield


class _Ending:
    """The order in which a server ends: unready, still accepting, accepting no more, finishing, cut short."""

    def __init__(self, app: Application, server: uvicorn.Server, settings: Settings) -> None:
        self.app = app
        self.server = server
        self.settings = settings
        self.signals = 0
        self.begun = False

    def on_signal(self) -> None:
        self.signals += 1
        if self.signals == 1:
            self.begin()
        else:
            self.cut_short("a second signal came")

    def begin(self) -> None:
        if self.begun:
            return
        self.begun = True
        self.app.drain()
        loop = asyncio.get_running_loop()
        delay_s, timeout_s = self.settings.drain_delay_s, self.settings.drain_timeout_s
        loop.call_later(delay_s, self.accept_no_more)
        loop.call_later(delay_s + timeout_s, self.cut_short, f"the drain timeout of {timeout_s:g} s passed")

    def accept_no_more(self) -> None:
        self.server.should_exit = True

    def cut_short(self, reason: str) -> None:
        _log.error("%s with %d connections open", reason, len(self.server.server_state.connections))
        # The requests that are given up would each be logged with a stack.
        logging.getLogger("uvicorn.error").disabled = True
        self.server.should_exit = self.server.force_exit = True


def run(
    create_app: str,
    settings: Settings,
    listener: socket.socket,
    *,
    run_folder: Path,
    slot: int,
    on_ready: Callable[[Served], None],
    lifeline: int | None = None,
) -> bool:
    """Serve until told to stop, and return whether every request was answered.

    Parameters
    ----------
    create_app : str
        `module:function` that makes the application; imported here and not before.
    on_ready : callable
        Gets what the application serves once its lifespan has started.
    lifeline : int or None
        Read end of a pipe; that it closes means the same as SIGTERM.

    Raises
    ------
    Exception
        Whatever importing, making or starting the application raises.
    """
    for number in _signals():
        signal.signal(number, _leave)
    module, _, function = create_app.partition(":")
    make = getattr(importlib.import_module(module), function)
    app: Application = make(settings, run_folder=run_folder, slot=slot, threads=settings.thread_count)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(_serve(app, settings, listener, on_ready, lifeline))
        except asyncio.CancelledError:  # told to stop before it was ready
            return True


async def _serve(
    app: Application,
    settings: Settings,
    listener: socket.socket,
    on_ready: Callable[[Served], None],
    lifeline: int | None,
) -> bool:
    loop = asyncio.get_running_loop()
    starting = asyncio.current_task()
    server = _Uvicorn(_config(app, settings))
    ending = _Ending(app, server, settings)
    if starting is not None:
        for number in _signals():
            loop.add_signal_handler(number, starting.cancel)
    async with app.router.lifespan_context(app):
        for number in _signals():
            loop.add_signal_handler(number, ending.on_signal)
        if lifeline is not None:
            loop.add_reader(lifeline, _on_lifeline, loop, lifeline, ending)
        # What is there now stays: without this the collector walks through all of it again and again.
        gc.collect()
        gc.freeze()
        on_ready(app.served())
        await server.serve(sockets=[listener])
    return not server.force_exit


def _on_lifeline(loop: asyncio.AbstractEventLoop, lifeline: int, ending: _Ending) -> None:
    loop.remove_reader(lifeline)
    ending.begin()


def _config(app: Application, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        interface="asgi3",
        lifespan="off",  # ours: uvicorn turns what a lifespan raises into a stack
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.keep_alive_s,
    )


def _signals() -> list[signal.Signals]:
    """Return the signals to end on; one that whoever started us has set to be ignored stays so."""
    asked = (signal.SIGTERM, signal.SIGINT)
    return [number for number in asked if signal.getsignal(number) is not signal.SIG_IGN]


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)
