"""How the log is written: as text for people, or as one JSON object a line for machines.

A record may bring `request_id` and `fields`, which stand beside its message in JSON. What fails while a request is
answered may repeat the caller's data in its words, so JSON has the type and the stack of such an error alone.
"""

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

Format: TypeAlias = Literal["text", "json"]

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# Its lines are asked for by a setting of their own, whatever the level of the others.
ACCESS = "logitserve.access"


def configure(level: str, form: Format) -> None:
    """Log to stderr, from this process and those that it forks."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # A warning that Python writes by itself would be a line of another form.
    logging.captureWarnings(form == "json")
    logging.getLogger(ACCESS).setLevel(logging.INFO)
    if level == "info":
        # uvicorn's own story of starting and stopping would stand twice beside ours.
        logging.getLogger("uvicorn").setLevel(logging.WARNING)


class JsonFormatter(logging.Formatter):
    """One object a line: time (RFC 3339, UTC), level, logger, message, and what else the record brings."""

    def format(self, record: logging.LogRecord) -> str:
        written: dict[str, Any] = {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request_id = getattr(record, "request_id", None)
        if request_id is not None:
            written["request_id"] = request_id
        written |= getattr(record, "fields", {})
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            written["error_type"] = _type_of(error)
            written["stack"] = _stack_of(error, with_words=request_id is None)
        return json.dumps(written, ensure_ascii=False, default=str)


def rfc3339(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _type_of(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _stack_of(error: BaseException, *, with_words: bool) -> str:
    if with_words:
        return "".join(traceback.format_exception(error))
    parts: list[str] = []
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:  # a chain may be a ring
        seen.add(id(cause))
        parts += [*traceback.format_tb(cause.__traceback__), f"{_type_of(cause)}\n"]
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "".join(parts)
