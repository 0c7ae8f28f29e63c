"""API keys: what one is, how it is made, and how keys are written down.

Only a key's SHA-256 is written down. That would be too little for a password, which can be guessed and needs a slow hash
with a salt. A key of 256 random bits is beyond guessing, so that a fast hash hides it as well as a slow one, and can be
taken for every request.

Which keys are in force, and what for, is not known here.
"""

import hashlib
import math
import re
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any, Literal, NamedTuple, TypeAlias, cast, get_args

from service.errors import StartError

# What a key may be for; admin is for everything.
Grant: TypeAlias = Literal["infer", "metrics", "admin"]
GRANTS: tuple[Grant, ...] = get_args(Grant)

# By which a key that has leaked into a repository or a log is found, by grep and by those who scan for secrets.
PREFIX = "logitserve_"
KEY_BYTES = 32
# A name stands in logs and, as it is, in TOML; a whole key that was pasted in its place is too long for one.
NAME = re.compile("[A-Za-z0-9_-]{1,40}")
SHOWN_CHARACTERS = 40

_FIELDS = frozenset({"sha256", "scopes", "expires"})


class Key(NamedTuple):
    """A key without itself; it expires at a moment of the clock of `time.time`."""

    name: str
    digest: bytes
    scopes: frozenset[Grant]
    expires_s: float = math.inf


def new() -> str:
    """Make a key."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def digest_of(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def line_of(key: Key) -> str:
    """Write a key as `read` reads it, as one line of TOML."""
    scopes = ", ".join(f'"{scope}"' for scope in GRANTS if scope in key.scopes)
    expires = "" if key.expires_s == math.inf else f", expires = {_moment(key.expires_s)}"
    return f'{key.name} = {{ sha256 = "{key.digest.hex()}", scopes = [{scopes}]{expires} }}'


def read(text: str, source: str) -> list[Key]:
    """Read keys from TOML, a table each by its name.

    Nothing that could be a key is repeated in an error: people paste keys where their hashes belong.

    Raises
    ------
    StartError
        The text begins with `source`, and says which key is wrong.
    """
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise StartError(f"{source}: not valid TOML: {error}") from error
    if not tables:
        # Most likely it is being written, or was emptied by mistake; nobody is let in or locked out by that.
        raise StartError(f"{source}: expected at least one key, a line each as `logitserve key` prints them")
    keys = []
    for number, (name, table) in enumerate(tables.items(), 1):
        if not NAME.fullmatch(name):
            message = "expected a name of at most 40 letters, digits, _ and -"
            raise StartError(f"{source}: key {number}: {message}")
        try:
            keys.append(_key(name, table))
        except ValueError as error:
            raise StartError(f"{source}: {name}: {error}") from error
    check_distinct(keys, source)
    return keys


def check_distinct(keys: Iterable[Key], source: str) -> None:
    """Refuse what would leave open who somebody is, or what for.

    Raises
    ------
    StartError
    """
    names: set[str] = set()
    digests: dict[bytes, str] = {}
    for key in keys:
        if key.name in names:
            raise StartError(f"{source}: two keys are named {key.name}")
        if key.digest in digests:
            raise StartError(f"{source}: {digests[key.digest]} and {key.name} are the same key")
        names.add(key.name)
        digests[key.digest] = key.name


def read_moment(value: object) -> float:
    """Read when a key expires: a moment with its offset from UTC, or a date, which stands for its beginning in UTC."""
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            return value.timestamp()
    elif isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()
    raise ValueError("expires: expected a date, or a time with Z or its offset, such as 2027-01-01T12:00:00Z")


def _key(name: str, table: object) -> Key:
    if not isinstance(table, Mapping):
        raise ValueError("expected { sha256 = …, scopes = … }")  # noqa: TRY004 - one kind for all that can be wrong
    if unknown := sorted(table.keys() - _FIELDS):
        expected = "sha256, scopes and perhaps expires"
        raise ValueError(f"unknown field {unknown[0][:SHOWN_CHARACTERS]!r}; expected {expected}")
    digest = table.get("sha256")
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-fA-F]{64}", digest):
        raise ValueError("sha256: expected 64 hexadecimal digits, as `logitserve key` prints them")
    expires_s = read_moment(table["expires"]) if "expires" in table else math.inf
    return Key(name, bytes.fromhex(digest), read_scopes(table.get("scopes")), expires_s)


def read_scopes(value: Any) -> frozenset[Grant]:
    expected = f"scopes: expected a list of some of {', '.join(GRANTS)}"
    if not isinstance(value, list) or not value:
        raise ValueError(expected)
    for scope in value:
        if scope not in GRANTS:
            raise ValueError(f"{expected}, got {str(scope)[:SHOWN_CHARACTERS]!r}")
    return cast("frozenset[Grant]", frozenset(value))


def _moment(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat().replace("+00:00", "Z")
