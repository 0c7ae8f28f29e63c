"""Who may do what: the scope that a route asks for, against the key that a request brings.

Keys are known by their hashes only. Nothing is known here of routes or of how an error is answered.
"""

import hashlib
import hmac
from typing import Literal, TypeAlias

from service.api.exchange import Exchange
from service.errors import Forbidden, Unauthenticated

# What a route asks for: anybody may use an open one.
Scope: TypeAlias = Literal["open", "admin"]

CHALLENGE = 'Bearer realm="logitserve"'


class Keys:
    """The keys that are in force; an empty `admin_key` is none."""

    def __init__(self, admin_key: str = "") -> None:
        self._admin = _hash(admin_key.encode()) if admin_key else None

    def check(self, exchange: Exchange, scope: Scope) -> None:
        """Let a request pass that may do what needs `scope`; raise `Unauthenticated` or `Forbidden` for any other."""
        if scope == "open":
            return
        if self._admin is None:
            raise Forbidden(
                "forbidden",
                "no admin key is set, so nobody may do this: start the service with LOGITSERVE_ADMIN_KEY_FILE "
                "or LOGITSERVE_ADMIN_KEY and send the key as Authorization: Bearer",
            )
        scheme, _, key = exchange.headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not key.strip():
            raise _unauthenticated("expected the header Authorization: Bearer with the admin key", CHALLENGE)
        if not hmac.compare_digest(_hash(key.strip()), self._admin):
            raise _unauthenticated("the key is not known", f'{CHALLENGE}, error="invalid_token"')


def _hash(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _unauthenticated(message: str, challenge: str) -> Unauthenticated:
    return Unauthenticated("unauthenticated", message, headers={"WWW-Authenticate": challenge})


# Nobody has one: only what is open may be done.
NO_KEYS = Keys()
