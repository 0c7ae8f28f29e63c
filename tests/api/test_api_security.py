"""Scopes and keys: who may use what, and what anybody else is told."""

import hashlib
import hmac
from typing import Any

import pytest

from service.api import security
from service.api.exchange import Exchange
from service.api.security import NO_KEYS, Keys
from service.errors import Forbidden, Unauthenticated

KEYS = Keys("correct-horse")


def exchange(authorization: str | None = None) -> Exchange:
    headers = {} if authorization is None else {b"authorization": authorization.encode("latin-1")}
    return Exchange(headers, "POST", "id", 60.0, 1000)


@pytest.mark.parametrize("keys", [KEYS, NO_KEYS])
@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Basic Og=="])
def test_what_is_open_asks_for_no_key(keys: Keys, authorization: str | None) -> None:
    keys.check(exchange(authorization), "open")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_right_key_passes(scheme: str) -> None:
    KEYS.check(exchange(f"{scheme} correct-horse"), "admin")
    KEYS.check(exchange(f"{scheme}  correct-horse "), "admin")


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "correct-horse", "Basic correct-horse", "Bearercorrect-horse"],
)
def test_without_a_key_one_is_told_how_to_bring_it(authorization: str | None) -> None:
    with pytest.raises(Unauthenticated, match="Authorization: Bearer") as raised:
        KEYS.check(exchange(authorization), "admin")
    assert (raised.value.status, raised.value.code) == (401, "unauthenticated")
    assert raised.value.headers == {"WWW-Authenticate": 'Bearer realm="logitserve"'}


@pytest.mark.parametrize("key", ["correct-hors", "correct-horse2", "Correct-horse", "x" * 10_000, "\xff\xfe"])
def test_a_wrong_key_is_not_known_and_never_repeated(key: str) -> None:
    with pytest.raises(Unauthenticated) as raised:
        KEYS.check(exchange(f"Bearer {key}"), "admin")
    assert raised.value.headers == {"WWW-Authenticate": 'Bearer realm="logitserve", error="invalid_token"'}
    assert raised.value.detail == "the key is not known"


@pytest.mark.parametrize("authorization", [None, "Bearer ", "Bearer anything"])
def test_where_no_key_is_set_nobody_passes_and_is_told_what_to_set(authorization: str | None) -> None:
    for keys in (NO_KEYS, Keys("")):
        with pytest.raises(Forbidden, match="LOGITSERVE_ADMIN_KEY_FILE") as raised:
            keys.check(exchange(authorization), "admin")
        assert (raised.value.status, raised.value.code) == (403, "forbidden")


def test_keys_are_compared_as_hashes_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    class Spied:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(security, "hmac", Spied)
    KEYS.check(exchange("Bearer correct-horse"), "admin")
    digest = hashlib.sha256(b"correct-horse").digest()
    assert compared == [(digest, digest)]


def test_no_key_is_kept_as_it_came() -> None:
    def held(thing: Any) -> str:
        return repr(vars(thing))

    assert "correct-horse" not in held(KEYS)
