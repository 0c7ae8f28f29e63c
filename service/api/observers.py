"""Those who hear of every request once it is answered: traces, the access log, the decision log."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from service.api.exchange import Exchange
from service.api.scoring import Scoring
from service.api.transport import Edge
from service.errors import StartError

if TYPE_CHECKING:
    from service.api.tracing import Tracing

_log = logging.getLogger("logitserve")


class Observer(Protocol):
    """Hears of a request and when it had been answered, on the clock of `time.monotonic`."""

    def observe(self, exchange: Exchange, ended_s: float) -> None: ...


class Lasting(Observer, Protocol):
    """One that is started in the process that answers, and ended with it."""

    def start(self) -> None: ...

    def close(self) -> None: ...


class Observers:
    def __init__(self, plain: Sequence[Observer], lasting: Sequence[Lasting]) -> None:
        self._lasting = lasting
        self._all: list[Observer] = [*plain, *lasting]

    def attach(self, edge: Edge, scoring: Scoring) -> None:
        """Let them hear; where there are none, nothing is noted for them."""
        if self._all:
            edge.observe, scoring.observed = self._observe, True

    def start(self) -> None:
        for observer in self._lasting:
            observer.start()

    def close(self) -> None:
        for observer in self._lasting:
            observer.close()

    def _observe(self, exchange: Exchange, ended_s: float) -> None:
        for observer in self._all:
            try:
                observer.observe(exchange, ended_s)
            except Exception:  # noqa: BLE001 - it has been answered: this is no reason to fail it
                request_id = exchange.request_id
                message = "request %s was answered, but not all has been noted of it"
                _log.exception(message, request_id, extra={"request_id": request_id})


def tracing(endpoint: str, ratio: float) -> "Tracing":
    """Make what traces, of which nothing is imported unless it is asked for."""
    try:
        from service.api.tracing import Tracing  # noqa: PLC0415
    except ModuleNotFoundError as error:
        message = (
            f"trace_endpoint needs {error.name}, which is not there; "
            "install it by `pip install logitserve[cpu,otel]`, or leave the endpoint empty"
        )
        raise StartError(message) from error
    return Tracing(endpoint, ratio)
