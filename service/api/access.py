"""The access log: a line for some requests, and for every one that fails by a fault of the service."""

import logging
import random

from service.api.exchange import Exchange
from service.logs import ACCESS

_log = logging.getLogger(ACCESS)


class AccessLog:
    """`ratio` is the share of requests that get a line; those answered with 500 and above all do."""

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio

    def observe(self, exchange: Exchange, ended_s: float) -> None:
        failure = exchange.failure
        failed = exchange.status >= 500 or (failure is not None and failure.status >= 500)
        if not failed and random.random() >= self._ratio:
            return
        fields: dict[str, object] = {
            "method": exchange.method,
            "route": exchange.target.path,
            "status": exchange.status,
            "duration_ms": round(1000 * (ended_s - exchange.started_s), 3),
            "bytes": exchange.answer_bytes,
        }
        if failure is not None:
            fields["code"] = failure.code
        if exchange.key_name is not None:
            fields["key"] = exchange.key_name
        if (course := exchange.course) is not None:
            fields |= {"model": course.model, "version": course.version, "rows": course.rows}
        told = " ".join(f"{name}={value}" for name, value in fields.items())
        extra = {"request_id": exchange.request_id, "fields": fields}
        _log.info("%s request_id=%s", told, exchange.request_id, extra=extra)
