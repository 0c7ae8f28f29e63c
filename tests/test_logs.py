"""The form of the log: text for people, one JSON object a line for machines, and no payload in either's errors."""

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from service.errors import StartError
from service.logs import ACCESS, JsonFormatter, configure, rfc3339


@pytest.fixture
def logger(capsys: pytest.CaptureFixture[str]) -> Iterator[logging.Logger]:
    """A logger whose configuration is undone."""
    root, access, uvicorn = map(logging.getLogger, ("", ACCESS, "uvicorn"))
    handlers, levels = root.handlers[:], [one.level for one in (root, access, uvicorn)]
    root.handlers = []
    yield logging.getLogger("logitserve.test")
    logging.captureWarnings(capture=False)
    root.handlers = handlers
    for one, level in zip((root, access, uvicorn), levels, strict=True):
        one.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except type(error) as caught:
        return caught


def test_text_is_as_people_read_it(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "text")
    logger.warning("a %s of two lines", "story", extra={"request_id": "7", "fields": {"rows": 1}})
    logger.debug("unheard")
    text = capsys.readouterr().err
    assert text.endswith(" WARNING logitserve.test: a story of two lines\n")
    assert text.count("\n") == 1


def test_json_is_one_object_a_line(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    before = datetime.now(UTC)
    logger.warning('a "story"\nof two lines: %s', "ä")
    (line,) = lines(capsys)
    assert {**line, "time": None} == {
        "time": None,
        "level": "warning",
        "logger": "logitserve.test",
        "message": 'a "story"\nof two lines: ä',
    }
    assert line["time"].endswith("Z")
    assert abs((datetime.fromisoformat(line["time"]) - before).total_seconds()) < 10


def test_time_is_rfc_3339_in_utc() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_700_000_000.25) == "2023-11-14T22:13:20.250Z"


def test_json_has_the_request_id_and_the_fields_that_a_record_brings(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("info", "json")
    logger.info("answered", extra={"request_id": "r-1", "fields": {"status": 200, "path": logging}})
    (line,) = lines(capsys)
    assert line["request_id"] == "r-1"
    assert line["status"] == 200
    assert "logging" in line["path"]  # whatever has no JSON is written as a string


def test_an_error_of_the_service_is_told_with_its_words_and_its_stack(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("info", "json")
    logger.error("failed", exc_info=raised(StartError("the port is taken")))
    (line,) = lines(capsys)
    assert line["error_type"] == "service.errors.StartError"
    assert "the port is taken" in line["stack"]
    assert "in raised" in line["stack"]


def test_an_error_of_a_request_is_told_without_its_words(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """They may repeat what the caller sent; those of what caused it, too."""
    configure("info", "json")
    error = raised(ValueError("cannot read 'secret'"), raised(KeyError("secret")))
    logger.error("request r-1 failed", exc_info=error, extra={"request_id": "r-1"})
    (line,) = lines(capsys)
    assert line["error_type"] == "ValueError"
    assert "KeyError" in line["stack"]
    assert line["stack"].count("in raised") == 2
    assert "'secret'" not in json.dumps(line)


def test_a_ring_of_causes_ends() -> None:
    one, other = raised(ValueError()), raised(KeyError())
    one.__cause__, other.__cause__ = other, one
    record = logging.LogRecord("x", logging.ERROR, "", 1, "m", (), (type(one), one, one.__traceback__))
    record.request_id = "r-1"
    assert json.loads(JsonFormatter().format(record))["stack"].count("ValueError\n") == 1


def test_an_error_that_hides_what_it_came_from_goes_on_hiding_it(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("info", "json")
    hidden, shown = raised(ValueError()), raised(ValueError())
    hidden.__context__ = shown.__context__ = raised(KeyError())
    shown.__suppress_context__ = False
    hidden.__suppress_context__ = True
    for error in (hidden, shown):
        logger.error("failed", exc_info=error, extra={"request_id": "r"})
    without, within = lines(capsys)
    assert "KeyError" not in without["stack"]
    assert "KeyError" in within["stack"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_access_lines_come_whatever_the_level(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str], form: Any
) -> None:
    configure("error", form)
    logging.getLogger(ACCESS).info("a request")
    logger.info("unheard")
    assert capsys.readouterr().err.count("\n") == 1


def test_at_info_uvicorn_tells_no_story_of_its_own(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("info", "text")
    logging.getLogger("uvicorn.error").info("Started server process")
    assert capsys.readouterr().err == ""


def test_a_warning_of_python_is_an_object_like_the_others() -> None:
    code = (
        "import warnings; from service.logs import configure; configure('info', 'json'); warnings.warn('old')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["logger"] == "py.warnings"
    assert warnings.filters  # untouched here
