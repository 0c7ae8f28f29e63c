"""The bodies of Triton's model repository extension."""

from typing import Any

import orjson
import pytest

from service.errors import RequestError
from service.wire import v2_repository as wire
from service.wire.limits import Limits

LIMITS = Limits(body_bytes=1 << 20, rows=1000, elements=10_000, json_depth=16)

DESCRIBED: list[dict[str, Any]] = [
    {
        "name": "pets",
        "versions": [
            {"version": "1", "state": "ready", "reason": None},
            {"version": "2", "state": "failed", "reason": "the file is no model"},
            {"version": "3", "state": "loading", "reason": None},
        ],
    },
    {"name": "cars", "versions": [{"version": "1", "state": "unloaded", "reason": "unloaded"}]},
]


@pytest.mark.parametrize(
    ("body", "ready"),
    [(b"", False), (b"{}", False), (b'{"ready": true}', True), (b'{"ready": false, "x": 1}', False)],
)
def test_the_index_is_asked_for_whole_or_of_what_is_ready(body: bytes, ready: bool) -> None:  # noqa: FBT001 - a case
    assert wire.read_index(body, LIMITS) is ready


@pytest.mark.parametrize("ready", ["true", 1, None, []])
def test_ready_is_a_boolean(ready: Any) -> None:
    with pytest.raises(RequestError, match="ready: expected true or false, got") as raised:
        wire.read_index(orjson.dumps({"ready": ready}), LIMITS)
    assert raised.value.code == "option_type"


def test_the_index_has_one_entry_a_version_with_its_state_and_reason() -> None:
    assert orjson.loads(wire.write_index(DESCRIBED, ready=False)) == [
        {"name": "pets", "version": "1", "state": "READY", "reason": ""},
        {"name": "pets", "version": "2", "state": "UNAVAILABLE", "reason": "the file is no model"},
        {"name": "pets", "version": "3", "state": "LOADING", "reason": ""},
        {"name": "cars", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"},
    ]


def test_only_what_is_ready_is_told_if_asked_so() -> None:
    index = orjson.loads(wire.write_index(DESCRIBED, ready=True))
    assert [(entry["name"], entry["version"]) for entry in index] == [("pets", "1")]
    assert orjson.loads(wire.write_index([], ready=True)) == []


def test_the_schema_knows_what_the_index_says() -> None:
    properties = wire.INDEX["items"]["properties"]
    for entry in orjson.loads(wire.write_index(DESCRIBED, ready=False)):
        assert set(entry) == set(properties)
        assert entry["state"] in properties["state"]["enum"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b'{"parameters": {}}', b'{"parameters": {"unload_dependents": true}}', b'{"id": "1"}'],
)
def test_a_request_that_brings_nothing_may_come(body: bytes) -> None:
    wire.check_change(body, LIMITS)


@pytest.mark.parametrize("name", ["config", "file:1/model.onnx", "x" * 5000])
def test_files_and_configurations_cannot_be_sent(name: str) -> None:
    body = orjson.dumps({"parameters": {"unload_dependents": False, name: "{}"}})
    with pytest.raises(RequestError, match="as it lies in the repository") as raised:
        wire.check_change(body, LIMITS)
    assert raised.value.code == "unknown_field"
    assert len(raised.value.detail) < 250


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "malformed_json"),
        (b"[]", "body_type"),
        (b"[" * 100, "malformed_json"),
        (b'{"parameters": []}', "option_type"),
        (b'{"parameters": null}', "option_type"),
    ],
)
def test_what_is_no_request_is_refused(body: bytes, code: str) -> None:
    with pytest.raises(RequestError) as raised:
        wire.check_change(body, LIMITS)
    assert raised.value.code == code
