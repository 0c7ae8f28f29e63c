"""One process that answers: an event loop, uvicorn on a socket that is already bound, and how both end well.

Where others accept from the same socket it takes its share. This module must not know how such processes are
started, nor what the application answers.
"""

import asyncio
import contextlib
import ctypes
import functools
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
from service.workers.shares import Shares

Served: TypeAlias = dict[str, Any]

# In one turn of the loop, before the requests of those that are there already are looked at.
ACCEPTED_AT_ONCE = 64

_log = logging.getLogger(__name__)


class Application(Protocol):
    """What is served: an ASGI application that can say what it has loaded and that it is about to leave."""

    @property
    def router(self) -> Any: ...

    def drain(self) -> None: ...

    def served(self) -> Served: ...

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class _Counted(set[Any]):
    """uvicorn's set of open connections, which says when one has closed."""

    def __init__(self, on_closed: Callable[[], None]) -> None:
        super().__init__()
        self.on_closed = on_closed

    def discard(self, connection: Any) -> None:
        super().discard(connection)
        self.on_closed()


class _Server(uvicorn.Server):
    """uvicorn that takes its share of the connections to a socket from which other workers may accept as well.

    libuv accepts one connection in a turn of the loop: of 64 that come to a busy worker the last would wait for
    64 turns, half a second where each of them asks for much.
    """

    def __init__(self, config: uvicorn.Config, listener: socket.socket, shares: Shares, slot: int) -> None:
        super().__init__(config)
        listener.settimeout(0)
        self.listener = listener
        self.shares = shares
        self.slot = slot
        self.server_state.connections = _Counted(self.on_closed)
        self.arriving: set[asyncio.Task[None]] = set()
        self.listening = self.leaving = self.without_files = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        self.factory = functools.partial(
            Connection,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        self.loop.add_reader(self.shares.waker(self.slot), self.on_waker)
        self.go_on()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals alone: uvicorn would raise them again at the end, and the exit code be 143."""
        yield

    def join(self) -> None:
        """Be counted among those who accept, before anybody is told that this one is ready."""
        self.shares.listen(self.slot)

    def may_take(self) -> bool:
        if self.leaving:
            return not self.shares.has_others(self.slot)
        return self.shares.may_take(self.slot)

    def go_on(self) -> None:
        """Listen, if others hold as many."""
        if not self.listening and not self.without_files and self.may_take():
            self.listening = True
            self.loop.add_reader(self.listener, self.accept)
            if not self.leaving:
                self.shares.listen(self.slot)

    def rest(self) -> None:
        self.listening = False
        self.loop.remove_reader(self.listener)
        if not self.leaving:
            self.shares.rest(self.slot)
            self.go_on()  # where another has caught up before it could see that this one rests

    async def on_tick(self, counter: int) -> bool:
        """Show life, and see whether to listen again; it is called ten times a second."""
        self.shares.show_life(self.slot)
        if not self.listening:
            if not self.leaving:
                # Whoever holds the fewest may be busy with one long request: it keeps no other waiting.
                self.accept_one()
            self.go_on()
        return await super().on_tick(counter)

    def accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            if not self.may_take():
                self.rest()
                break
            if not self.accept_one():
                break

    def accept_one(self) -> bool:
        """Accept a connection, and return whether one was there."""
        try:
            connection, _ = self.listener.accept()
        except (BlockingIOError, ConnectionError):  # another worker was faster, or the client has left
            self.without_files = False
            return False
        except OSError as error:
            self.on_no_file(error)
            return False
        self.without_files = False
        self.shares.take(self.slot)
        arrival = self.loop.create_task(self.attach(connection))
        self.arriving.add(arrival)
        arrival.add_done_callback(self.arriving.discard)
        return True

    def on_no_file(self, error: OSError) -> None:
        """Let others accept until the next tick: the connection still waits in the kernel."""
        if not self.without_files:
            _log.error("this worker can accept no connection: %s", error.strerror)
        self.without_files = True
        self.listening = False
        self.loop.remove_reader(self.listener)
        self.shares.leave(self.slot)

    async def attach(self, connection: socket.socket) -> None:
        try:
            await self.loop.connect_accepted_socket(self.factory, connection)
        except OSError:  # the client has left
            connection.close()
            self.on_closed()

    def on_closed(self) -> None:
        self.shares.drop(self.slot)
        if not self.should_exit:
            self.go_on()

    def on_waker(self) -> None:
        self.shares.heard(self.slot)
        self.go_on()

    def leave(self) -> None:
        """Leave new connections to the others, if there are any."""
        self.leaving = True
        self.shares.leave(self.slot)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take what waits for nobody else, and end."""
        self.loop.remove_reader(self.shares.waker(self.slot))
        self.loop.remove_reader(self.listener)
        for _ in range(self.config.backlog):
            if not (self.may_take() and self.accept_one()):
                break
        if self.arriving:
            await asyncio.wait(self.arriving)
        await super().shutdown([*(sockets or []), self.listener])


class _Ending:
    """The order in which a server ends: unready, still accepting, accepting no more, finishing, cut short."""

    def __init__(self, app: Application, server: _Server, settings: Settings) -> None:
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
        self.server.leave()
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
    shares: Shares,
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
    shares : Shares
        What each of those who accept from the listener holds.

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
    config = _config(app, settings)
    server = _Server(config, listener, shares, slot)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(_serve(server, _Ending(app, server, settings), on_ready, lifeline))
        except asyncio.CancelledError:  # told to stop before it was ready
            return True


async def _serve(
    server: _Server,
    ending: _Ending,
    on_ready: Callable[[Served], None],
    lifeline: int | None,
) -> bool:
    loop = asyncio.get_running_loop()
    starting = asyncio.current_task()
    app = ending.app
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
        _return_memory()
        server.join()
        on_ready(app.served())
        await server.serve(sockets=[])
    return not server.force_exit


def _return_memory() -> None:
    """Give back what starting needed and freed, some 9 MB, where the C library is one that keeps it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


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
