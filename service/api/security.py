"""Who may do what: the scope that a route asks for, against the key that a request brings.

Keys are known by their hashes only. Nothing is known here of routes or of how an error is answered.
"""

import hmac
import time
from collections.abc import Collection, Iterable
from typing import Literal, TypeAlias

from service.api.exchange import Exchange
from service.errors import Forbidden, Unauthenticated
from service.keys import Grant, Key, digest_of

# What a route asks for: anybody may use an open one.
Scope: TypeAlias = Literal["open"] | Grant

CHALLENGE = 'Bearer realm="logitserve"'

# Whom an unknown key is compared with: no digest is all zeros that anybody knows a key for.
_NOBODY = Key("", bytes(32), frozenset())


class Keys:
    """The keys in force, and the scopes that they guard; it does not change, but is replaced.

    Admin is guarded always. Any other scope is once a key names it, be it expired, or where it is among `closed`.

    A key is looked up by its digest. What that takes says nothing of the digests that are known: a dictionary looks at
    Python's own hash of them, which is seeded by chance, and at the bytes only where that hash agrees. And nobody could
    approach a digest step by step, since none can choose what a key hashes to. The last word has a comparison in
    constant time, which is made for unknown keys as well.
    """

    def __init__(self, keys: Collection[Key] = (), closed: Iterable[Scope] = ()) -> None:
        self._by_digest = {key.digest: key for key in keys}
        named = {scope for key in keys for scope in key.scopes}
        self.guarded: frozenset[Scope] = frozenset({"admin", *named, *closed})
        self._has_admin = "admin" in named

    def check(self, exchange: Exchange, scope: Scope) -> None:
        """Let a request pass that may do what needs `scope`, and note whose key it brings.

        Raises
        ------
        Unauthenticated, Forbidden
        """
        if scope not in self.guarded:
            return
        if scope == "admin" and not self._has_admin:
            raise Forbidden(
                "forbidden",
                "no admin key is set, so nobody may do this: start the service with LOGITSERVE_ADMIN_KEY_FILE "
                "or LOGITSERVE_ADMIN_KEY, or a key with the scope admin, and send it as Authorization: Bearer",
            )
        scheme, _, sent = exchange.headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not sent.strip():
            message = f"expected the header Authorization: Bearer with a key that has the scope {scope}"
            raise _unauthenticated(message, CHALLENGE)
        key = self._known(sent.strip())
        if scope not in key.scopes and "admin" not in key.scopes:
            challenge = f'{CHALLENGE}, error="insufficient_scope", scope="{scope}"'
            message = f"the key {key.name} lacks the scope {scope}"
            raise Forbidden("forbidden", message, headers={"WWW-Authenticate": challenge})
        exchange.key_name = key.name

    def _known(self, sent: bytes) -> Key:
        digest = digest_of(sent)
        key = self._by_digest.get(digest, _NOBODY)
        if not hmac.compare_digest(digest, key.digest):
            raise _unauthenticated("the key is not known", f'{CHALLENGE}, error="invalid_token"')
        if time.time() >= key.expires_s:
            message = f"the key {key.name} has expired"
            raise _unauthenticated(message, f'{CHALLENGE}, error="invalid_token"')
        return key


def _unauthenticated(message: str, challenge: str) -> Unauthenticated:
    return Unauthenticated("unauthenticated", message, headers={"WWW-Authenticate": challenge})


# Nobody has one: only what nobody guards may be done.
NO_KEYS = Keys()
