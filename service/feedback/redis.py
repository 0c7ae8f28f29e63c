"""Rows in Redis, which several replicas share.

For each id there are two keys, and Redis itself lets both expire: one with the row, gone after the time-to-live, and
one that says that there was such a row, gone after twice that, or that it was joined. A third knows their age.
"""

import json
import secrets
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.feedback.store import PATIENCE_S, Found, Scored, ScoredBy, StoreFailed, Waiting, pieces

# One key for all of a cluster's rows to lie at one node: scripts see one only.
PREFIX = "{logitserve}:feedback:"
AGES = f"{PREFIX}ages"
STAMP_BYTES = 16
# A script keeps everybody else waiting: 1000 rows take some 10 ms.
ROWS_AT_ONCE = 1000

# ARGV: ttl in ms, limit of rows, then id and row in turns.
_ADD = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local prefix, ages, ttl, limit = KEYS[1], KEYS[2], tonumber(ARGV[1]), tonumber(ARGV[2])
local function forget(ids)
    for _, id in ipairs(ids) do
        redis.call('DEL', prefix .. 'row:' .. id, prefix .. 'id:' .. id)
        redis.call('ZREM', ages, id)
    end
end
for place = 3, #ARGV, 2 do
    local id = ARGV[place]
    redis.call('SET', prefix .. 'row:' .. id, ARGV[place + 1], 'PX', ttl)
    redis.call('SET', prefix .. 'id:' .. id, 'expired', 'PX', 2 * ttl)
    redis.call('ZADD', ages, now, id)
end
redis.call('ZREMRANGEBYSCORE', ages, '-inf', now - 2 * ttl)
local excess = redis.call('ZCARD', ages) - limit
if excess > 0 then forget(redis.call('ZRANGE', ages, 0, excess - 1)) end
redis.call('PEXPIRE', ages, 2 * ttl)
"""
# ARGV: id and stamp in turns.
_TAKE = """
local prefix, taken = KEYS[1], {}
for place = 1, #ARGV, 2 do
    local id, stamp = ARGV[place], ARGV[place + 1]
    local key = prefix .. 'row:' .. id
    if redis.call('GETRANGE', key, 0, #stamp - 1) == stamp then
        local left = redis.call('PTTL', key)
        redis.call('DEL', key)
        if left > 0 then redis.call('SET', prefix .. 'id:' .. id, 'joined', 'PX', left) end
        taken[#taken + 1] = id
    end
end
return taken
"""


class RedisStore:
    """See `Store`; the clock is that of Redis."""

    def __init__(self, url: str, ttl_s: float, rows_limit: int) -> None:
        self._ttl_ms = max(1, round(1000 * ttl_s))
        self._rows_limit = rows_limit
        with _told():
            self._redis = redis.Redis.from_url(
                url,
                socket_timeout=PATIENCE_S,
                socket_connect_timeout=PATIENCE_S,
                retry=Retry(NoBackoff(), 1),  # for a connection that was closed while nobody used it
            )
            self._add = self._redis.register_script(_ADD)
            self._take = self._redis.register_script(_TAKE)

    def add(self, scored: Sequence[Scored]) -> None:
        rows: list[tuple[str, bytes]] = []
        heads: dict[str, str] = {}
        for by, ids, logits in scored:
            heads[_head_key(by)] = json.dumps(by)
            name = _head_key(by).encode()
            row_ids = zip(ids, logits, strict=True)
            rows += [(i, _written(name, row.tobytes())) for i, row in row_ids]
        with _told(), self._redis.pipeline(transaction=True) as pipeline:
            for key, head in heads.items():
                pipeline.set(key, head, px=2 * self._ttl_ms)
            for start in range(0, len(rows), ROWS_AT_ONCE):
                arguments = [part for row in rows[start : start + ROWS_AT_ONCE] for part in row]
                self._add([PREFIX, AGES], [self._ttl_ms, self._rows_limit, *arguments], client=pipeline)
            pipeline.execute()

    def find(self, ids: Collection[str]) -> Mapping[str, Found]:
        found: dict[str, Found] = {}
        heads: dict[bytes, ScoredBy] = {}
        with _told():
            for some in pieces(ids, ROWS_AT_ONCE):
                # What is joined in between is then taken by nobody else, and repeated.
                rows: Any = self._redis.mget([f"{PREFIX}row:{i}" for i in some])
                marks: Any = self._redis.mget([f"{PREFIX}id:{i}" for i in some])
                for row_id, row, mark in zip(some, rows, marks, strict=True):
                    if row is not None:
                        found[row_id] = self._waiting(row, heads)
                    elif mark is not None:
                        found[row_id] = "joined" if mark == b"joined" else "expired"
        return found

    def take(self, waiting: Mapping[str, Waiting]) -> set[str]:
        taken: set[str] = set()
        with _told():
            for some in pieces(waiting, ROWS_AT_ONCE):
                arguments = [part for i in some for part in (i, bytes.fromhex(waiting[i].stamp))]
                got: Any = self._take([PREFIX], arguments)
                taken.update(row_id.decode() for row_id in got)
        return taken

    def close(self) -> None:
        self._redis.close()

    def _waiting(self, row: bytes, heads: dict[bytes, ScoredBy]) -> Waiting:
        (length,) = struct.unpack_from("<I", row, STAMP_BYTES)
        start = STAMP_BYTES + 4
        key = row[start : start + length]
        by = heads.get(key)
        if by is None:
            head: Any = self._redis.get(key)
            if head is None:
                raise StoreFailed("Redis has forgotten a head before its rows; give it more memory")
            known = ScoredBy(*json.loads(head))
            names = known.class_names
            by = heads[key] = known._replace(class_names=None if names is None else tuple(names))
        return Waiting(row[:STAMP_BYTES].hex(), by, row[start + length :])


def _head_key(by: ScoredBy) -> str:
    return f"{PREFIX}head:{by.digest}:{by.version}:{by.model}"


def _written(head: bytes, logits: bytes) -> bytes:
    return secrets.token_bytes(STAMP_BYTES) + struct.pack("<I", len(head)) + head + logits


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, OSError, ValueError) as error:
        raise StoreFailed(str(error)) from error
