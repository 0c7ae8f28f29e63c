"""Several processes that answer: forked, heard over a pipe each, replaced when they die, ended in order.

The children also hold the read end of one more pipe, the lifeline, whose only write end is here: it closes when
the service ends, by whatever cause, SIGKILL included, and each child then drains.
"""

import collections
import contextlib
import json
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from service.errors import LogitserveError, StartError
from service.settings import Settings
from service.workers.meeting import url_of
from service.workers.shares import Shares

# Gets the address and what the application serves when every worker is ready.
Announce: TypeAlias = Callable[[str, dict[str, Any]], None]

SIGNALS = (signal.SIGTERM, signal.SIGINT)

# The exit code where workers keep dying or requests were left unanswered.
EXIT_FAILED = 3

# A worker that dies again is replaced after 0.1, 0.2, 0.4, 0.8 s; one that has died five times within half a
# minute will not get better by itself, and whoever runs the service has to know (systemd stops at five, too).
FIRST_BACK_OFF_S = 0.1
MAX_DEATHS = 5
DEATHS_WINDOW_S = 30.0

# What a worker gets beyond its drain timeout to close its models before it is killed.
END_MARGIN_S = 5.0

_log = logging.getLogger(__name__)


def one_line(error: BaseException) -> str:
    """Return the text of an error that was raised on purpose; of any other, its type as well."""
    text = " ".join(str(error).split())
    return (
        text if isinstance(error, LogitserveError) else f"{type(error).__name__}: {text}".removesuffix(": ")
    )


class _Worker:
    """One slot: the process that fills it now, what it has said, and when its predecessors died."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.pid = 0
        self.reports = -1
        self.said = b""
        self.ready = False
        self.deaths: collections.deque[float] = collections.deque(maxlen=MAX_DEATHS)
        self.restart_at: float | None = None

    def report(self) -> dict[str, Any]:
        """Return what the process has said in whole lines, each of them a JSON object."""
        report: dict[str, Any] = {}
        for line in self.said.split(b"\n")[:-1]:
            report |= json.loads(line)
        return report

    def epitaph(self, status: int) -> str:
        said = self.report().get("error")
        if said:
            return str(said)
        code = os.waitstatus_to_exitcode(status)
        how = (
            f"was killed by signal {-code} ({signal.Signals(-code).name})"
            if code < 0
            else f"left with code {code}"
        )
        return f"worker {self.slot + 1} {how}"


class Supervisor:
    """The process that starts the others and answers nothing itself."""

    def __init__(
        self, settings: Settings, listener: socket.socket, folder: Path, announce: Announce, create_app: str
    ) -> None:
        self.settings = settings
        self.listener = listener
        self.folder = folder
        self.announce = announce
        self.create_app = create_app
        self.workers = [_Worker(slot) for slot in range(settings.worker_count)]
        self.shares = Shares(settings.worker_count)
        self.selector = selectors.DefaultSelector()
        self.lifeline_read, self.lifeline = os.pipe()
        self.starting = True
        self.kill_at: float | None = None  # set while draining
        self.exit_code = 0

    @property
    def draining(self) -> bool:
        return self.kill_at is not None

    def run(self) -> int:
        wakeups, wake = socket.socketpair()
        wakeups.settimeout(0)
        wake.settimeout(0)  # signal.set_wakeup_fd asks for it
        previous = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
        signal.set_wakeup_fd(wake.fileno())
        self.selector.register(wakeups, selectors.EVENT_READ, lambda: self._on_signals(wakeups.recv(16)))
        try:
            for worker in self.workers:
                self._start(worker)
            while self._lives():
                self._turn()
        finally:
            self._bury()
            signal.set_wakeup_fd(-1)
            for number, handler in previous.items():
                signal.signal(number, handler)
            wakeups.close()
            wake.close()
        return self.exit_code

    def _lives(self) -> bool:
        return not self.draining or any(worker.pid for worker in self.workers)

    def _turn(self) -> None:
        """Wait for the next thing that a worker or a signal says or that is due, and do it."""
        due = [worker.restart_at for worker in self.workers if worker.restart_at is not None]
        due += [self.kill_at] if self.kill_at is not None else []
        timeout_s = max(0.0, min(due) - time.monotonic()) if due else None
        for key, _ in self.selector.select(timeout_s):
            key.data()
        now = time.monotonic()
        if self.kill_at is not None and now >= self.kill_at:
            self._cut_short("the drain timeout passed")
        for worker in self.workers:
            if worker.restart_at is not None and now >= worker.restart_at:
                self._start(worker)

    def _start(self, worker: _Worker) -> None:
        worker.said, worker.ready, worker.restart_at = b"", False, None
        worker.reports, reports = os.pipe()
        # A signal that came to the child before it has let go of our wakeup socket would be heard here, as ours.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        worker.pid = os.fork()
        if worker.pid == 0:
            self._become(worker, reports)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.close(reports)
        self.selector.register(worker.reports, selectors.EVENT_READ, lambda: self._on_report(worker))

    def _become(self, worker: _Worker, reports: int) -> NoReturn:
        """Be the worker in the forked process; nothing of the supervisor may run there afterwards."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            # Ctrl-C reaches the whole group, and the supervisor decides what it means.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the server has its own way to end
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            os.close(self.lifeline)
            code = self._work(worker.slot, reports)
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        except BaseException as error:  # noqa: BLE001 # whatever it is, the supervisor is told in one line
            _log.debug("worker %d stopped", worker.slot + 1, exc_info=True)
            _say(reports, {"error": one_line(error)})
        finally:
            logging.shutdown()
            os._exit(code)

    def _work(self, slot: int, reports: int) -> int:
        from service.workers.server import run  # noqa: PLC0415 # only workers carry uvicorn

        clean = run(
            self.create_app,
            self.settings,
            self.listener,
            run_folder=self.folder,
            slot=slot,
            on_ready=lambda served: _say(reports, {"served": served}),
            lifeline=self.lifeline_read,
            shares=self.shares,
        )
        return 0 if clean else EXIT_FAILED

    def _on_signals(self, numbers: bytes) -> None:
        for _ in numbers:
            if self.draining:
                self._cut_short("a second signal came")
            else:
                self._drain()

    def _on_report(self, worker: _Worker) -> None:
        said = os.read(worker.reports, 65536)
        worker.said += said
        if not said:
            self._on_death(worker)
        elif "served" in worker.report():
            worker.ready = True
            if self.starting and not self.draining and all(each.ready for each in self.workers):
                self.starting = False
                self.announce(url_of(self.listener), worker.report()["served"])

    def _on_death(self, worker: _Worker) -> None:
        self.selector.unregister(worker.reports)
        os.close(worker.reports)
        _, status = os.waitpid(worker.pid, 0)
        worker.pid = 0
        self.shares.clear(worker.slot)
        if self.draining:
            self.exit_code = self.exit_code or (EXIT_FAILED if status else 0)
        elif self.starting:
            raise StartError(worker.epitaph(status))
        else:
            self._replace(worker, worker.epitaph(status))

    def _replace(self, worker: _Worker, epitaph: str) -> None:
        now = time.monotonic()
        worker.deaths.append(now)
        recent = sum(now - death < DEATHS_WINDOW_S for death in worker.deaths)
        if recent == MAX_DEATHS:
            _log.error("%s; it died %d times within %g s, giving up", epitaph, recent, DEATHS_WINDOW_S)
            self.exit_code = EXIT_FAILED
            self._drain()
        else:
            _log.warning("%s; another takes its place", epitaph)
            worker.restart_at = now + FIRST_BACK_OFF_S * 2 ** (recent - 1)

    def _drain(self) -> None:
        """Let go of the lifeline and the socket; whoever is not ready yet hears a signal instead."""
        self.kill_at = (
            time.monotonic() + self.settings.drain_delay_s + self.settings.drain_timeout_s + END_MARGIN_S
        )
        os.close(self.lifeline)
        self.listener.close()
        for worker in self.workers:
            worker.restart_at = None
            if worker.pid and not worker.ready:
                os.kill(worker.pid, signal.SIGTERM)

    def _cut_short(self, reason: str) -> None:
        _log.error("%s; the workers are killed", reason)
        self.exit_code = EXIT_FAILED
        self._kill()

    def _kill(self) -> None:
        for worker in self.workers:
            if worker.pid:
                os.kill(worker.pid, signal.SIGKILL)

    def _bury(self) -> None:
        """End what is still there; nothing is, unless the start failed."""
        self._kill()
        for worker in self.workers:
            if worker.pid:
                os.waitpid(worker.pid, 0)
                os.close(worker.reports)
        os.close(self.lifeline_read)
        if not self.draining:
            os.close(self.lifeline)
        self.selector.close()
        self.shares.close()


def _say(reports: int, report: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError), open(reports, "wb", closefd=False) as pipe:
        pipe.write(json.dumps(report).encode() + b"\n")
