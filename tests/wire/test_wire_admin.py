"""The body that names a version for an alias."""

from typing import Any

import orjson
import pytest

from service.errors import RequestError
from service.wire.admin import ALIAS_BODY, ALIAS_EXAMPLE, read_alias
from service.wire.limits import Limits

LIMITS = Limits(body_bytes=1 << 20, rows=1000, elements=10_000, json_depth=16)


@pytest.mark.parametrize("version", ["1", "10", None, ""])
def test_a_version_or_nothing_is_read(version: str | None) -> None:
    assert read_alias(orjson.dumps({"version": version}), LIMITS) == version


def test_the_example_is_read() -> None:
    assert read_alias(orjson.dumps(ALIAS_EXAMPLE), LIMITS) == ALIAS_EXAMPLE["version"]
    (content,) = ALIAS_BODY["content"].values()
    assert set(content["schema"]["properties"]) == set(ALIAS_EXAMPLE)


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        (b"", "malformed_json", ""),
        (b"{", "malformed_json", ""),
        (b'{"version": "1", "version": "2"}', "malformed_json", ""),
        (b"[" * 100, "malformed_json", ""),
        (b"[]", "body_type", ""),
        (b"{}", "missing_field", "version"),
        (b'{"version": "1", "alias": "x"}', "unknown_field", "alias"),
    ],
)
def test_any_other_body_is_refused_with_its_place(body: bytes, code: str, path: str) -> None:
    with pytest.raises(RequestError) as raised:
        read_alias(body, LIMITS)
    assert raised.value.code == code
    assert [offence.path for offence in raised.value.offences] == ([path] if path else [])


@pytest.mark.parametrize("version", [1, 1.0, True, [], {}, ["1"]])
def test_a_version_is_a_string(version: Any) -> None:
    with pytest.raises(RequestError, match="version: expected a string or null, got") as raised:
        read_alias(orjson.dumps({"version": version}), LIMITS)
    assert raised.value.code == "option_type"


def test_an_unknown_field_is_not_repeated_at_length() -> None:
    with pytest.raises(RequestError) as raised:
        read_alias(orjson.dumps({"x" * 5000: 1}), LIMITS)
    assert len(raised.value.detail) < 120
