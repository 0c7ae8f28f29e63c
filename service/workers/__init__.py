"""Processes: one socket, one run folder, and N workers that are started, replaced and ended in order.

    meeting      the socket they all accept from, and the folder they share
    shares       how many connections each of them holds, so that each takes its share
    protocol     one connection
    server       one process that answers, and how it ends well
    supervisor   several of those

With one worker everything runs in this process. With more, this one only supervises and stays small: it forks
before anything heavy is imported. Nothing here knows what the application answers.
"""

import contextlib
import logging
import socket
from pathlib import Path

from service.errors import StartError
from service.settings import Settings
from service.workers.meeting import kept_port, listen, run_folder, url_of
from service.workers.shares import Shares
from service.workers.supervisor import EXIT_FAILED, Announce, Supervisor, one_line

DEFAULT_APP = "service.app:create_app"

_log = logging.getLogger(__name__)


def serve(settings: Settings, *, announce: Announce, create_app: str = DEFAULT_APP) -> int:
    """Listen, run the workers until told to stop, and return the exit code.

    Raises
    ------
    LogitserveError
        Where the service cannot start; the text is one line.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(settings.host, settings.port))
        if settings.grpc_port != "off":
            port = stack.enter_context(kept_port(settings.host, settings.grpc_port, flag="--grpc-port"))
            settings = settings.model_copy(update={"grpc_port": port})
        folder = stack.enter_context(run_folder(settings.run_dir))
        if settings.worker_count == 1:
            return _run_alone(settings, listener, folder, announce, create_app)
        return Supervisor(settings, listener, folder, announce, create_app).run()


def _run_alone(
    settings: Settings, listener: socket.socket, folder: Path, announce: Announce, create_app: str
) -> int:
    from service.workers.server import run  # noqa: PLC0415 # with several workers this process stays without uvicorn

    url = url_of(listener)
    try:
        with contextlib.closing(Shares(1)) as shares:
            clean = run(
                create_app,
                settings,
                listener,
                run_folder=folder,
                slot=0,
                on_ready=lambda served: announce(url, served),
                shares=shares,
            )
    except Exception as error:
        _log.debug("the service stopped", exc_info=True)
        raise StartError(one_line(error)) from error
    return 0 if clean else EXIT_FAILED
