"""The store in Redis: what it leaves there, and what happens when Redis does not answer."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from stores import BY, DAY_S, needs_redis, running_redis, scored, take_all

from service.feedback.store import StoreFailed, Waiting

redis = pytest.importorskip("redis", reason="the extra redis is not there")
from service.feedback.redis import AGES, PREFIX, RedisStore  # noqa: E402 - it needs the extra

pytestmark = needs_redis


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with running_redis(tmp_path) as url:
        yield url


@pytest.fixture
def store(url: str) -> Iterator[RedisStore]:
    store = RedisStore(url, DAY_S, 1000)
    yield store
    store.close()


def keys(url: str) -> set[str]:
    with redis.Redis.from_url(url) as client:
        return {key.decode().removeprefix(PREFIX) for key in client.scan_iter()}


def test_every_key_is_ours_and_goes_by_itself(store: RedisStore, url: str) -> None:
    store.add([scored("a", "b")])
    take_all(store, "b")
    assert keys(url) == {"row:a", "id:a", "id:b", "ages", "head:sha:1:digits"}
    with redis.Redis.from_url(url) as client:
        left = {key.decode().removeprefix(PREFIX): client.pttl(key) / 1000 for key in client.scan_iter()}
        assert all(key.startswith(PREFIX.encode()) for key in client.scan_iter())
    assert DAY_S - 60 < left["row:a"] <= DAY_S
    assert DAY_S - 60 < left["id:b"] <= DAY_S
    assert all(2 * DAY_S - 60 < left[name] <= 2 * DAY_S for name in ("id:a", "ages", "head:sha:1:digits"))


def test_nothing_is_left_of_what_was_forgotten(url: str) -> None:
    store = RedisStore(url, DAY_S, 2)
    store.add([scored("a", "b", "c")])
    kept = {key.removeprefix("id:") for key in keys(url) if key.startswith("id:")}
    assert len(kept) == 2
    assert {key for key in keys(url) if key.startswith("row:")} == {f"row:{i}" for i in kept}
    with redis.Redis.from_url(url) as client:
        assert {member.decode() for member in client.zrange(AGES, 0, -1)} == kept
    store.close()


def test_a_server_that_is_gone_is_told_and_found_again(tmp_path: Path) -> None:
    with running_redis(tmp_path) as url:
        store = RedisStore(url, DAY_S, 1000)
        store.add([scored("a")])
    for call in (
        lambda: store.add([scored("b")]),
        lambda: store.find(["a"]),
        lambda: store.take({"a": Waiting("00" * 16, BY, b"")}),
    ):
        with pytest.raises(StoreFailed, match=r"[Cc]onnect"):
            call()
    port = int(url.rpartition(":")[2].partition("/")[0])
    with running_redis(tmp_path, port):
        store.add([scored("b")])
        assert store.find(["a", "b"]).keys() == {"b"}
        store.close()


def test_a_full_server_is_told_and_nothing_is_half_done(store: RedisStore, url: str) -> None:
    store.add([scored("a")])
    with redis.Redis.from_url(url) as client:
        client.config_set("maxmemory", "1")
        client.config_set("maxmemory-policy", "noeviction")
        with pytest.raises(StoreFailed, match=r"OOM|memory"):
            store.add([scored("b")])
        client.config_set("maxmemory", "0")
    assert store.find(["a", "b"]).keys() == {"a"}


def test_a_head_that_redis_has_dropped_is_a_failure_and_no_guess(store: RedisStore, url: str) -> None:
    store.add([scored("a")])
    with redis.Redis.from_url(url) as client:
        client.delete(f"{PREFIX}head:sha:1:digits")
    with pytest.raises(StoreFailed, match="more memory"):
        store.find(["a"])


def test_what_is_no_url_is_told() -> None:
    with pytest.raises(StoreFailed, match="scheme"):
        RedisStore("http://127.0.0.1", DAY_S, 1000)


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr("service.feedback.redis.PATIENCE_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = RedisStore(f"redis://127.0.0.1:{silent.getsockname()[1]}", DAY_S, 1000)
        with pytest.raises(StoreFailed, match=r"[Tt]imeout|timed out"):
            store.find(["a"])
        store.close()


TAKER = """
import sys
from service.feedback.redis import RedisStore

store = RedisStore(sys.argv[1], 86400.0, 1000)
found = store.find([str(number) for number in range(500)])
print("ready", flush=True)
sys.stdin.readline()
print(len(store.take(found)))
"""


def test_replicas_that_get_the_same_labels_at_once_join_each_row_once(store: RedisStore, url: str) -> None:
    store.add([scored(*map(str, range(500)))])
    command = [sys.executable, "-c", TAKER, url]
    pipe = subprocess.PIPE
    replicas = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for replica in replicas:
        assert replica.stdout is not None
        assert replica.stdout.readline() == "ready\n"
    got: list[int] = []
    threads = [
        threading.Thread(target=lambda r=replica: got.append(int(r.communicate("\n")[0])))
        for replica in replicas
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(got) == 500
    assert set(store.find([str(number) for number in range(500)]).values()) == {"joined"}
