"""Heads that lie elsewhere: a real S3-speaking server in a process of its own, and fsspec's memory."""

import contextlib
import json
import multiprocessing
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import NO_TLS, running_service, untraced
from fetching import fetch_all
from folders import BIAS, DESCRIPTION, LINEAR, WEIGHTS

from service import cli
from service.errors import ModelError, StartError
from service.heads import remote
from service.heads.description import digest_of
from service.heads.graphs import Linear, build_linear
from service.heads.policy import read_policy
from service.heads.remote import RemoteFolder, storage_at
from service.heads.repository import Repository
from service.heads.storage import Folder, StoredVersion

OTHER = build_linear(Linear(WEIGHTS * 2, BIAS))
TEXT = json.dumps({**DESCRIPTION, "digest": digest_of(LINEAR, json.dumps(DESCRIPTION).encode())}).encode()
GIB = 1024**3
SECRET = "not-to-be-shown"  # noqa: S105 - moto takes any
# It looks at who signs, not at the signature.
_SCOPE = "Credential=key/20260101/us-east-1/s3/aws4_request"
SIGNED = {"authorization": f"AWS4-HMAC-SHA256 {_SCOPE}, SignedHeaders=host, Signature=0"}


class Bucket:
    """What others do to a bucket, and how the server is taken away."""

    def __init__(self, endpoint: str, name: str) -> None:
        self.endpoint = endpoint
        self.url = f"s3://{name}"
        self._at = f"{endpoint}/{name}"
        httpx.put(self._at, headers=SIGNED, verify=NO_TLS).raise_for_status()

    def put(self, path: str, content: bytes = LINEAR) -> None:
        httpx.put(f"{self._at}/{path}", content=content, headers=SIGNED, verify=NO_TLS).raise_for_status()

    def delete(self, path: str) -> None:
        httpx.delete(f"{self._at}/{path}", headers=SIGNED, verify=NO_TLS).raise_for_status()


@contextlib.contextmanager
def s3_server(port: int = 0) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    with socket.create_server(("127.0.0.1", port)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": untraced()}
    with subprocess.Popen(command, **quiet) as process:  # type: ignore[call-overload] # as its keywords
        endpoint = f"http://127.0.0.1:{port}"
        end_s = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{endpoint}/moto-api/")
                break
            assert time.monotonic() < end_s
            assert process.poll() is None
            time.sleep(0.1)
        yield process, endpoint
        process.kill()


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server() as (_, endpoint):
        yield endpoint


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """As the users of these libraries give them; nothing of whoever runs the tests."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


@pytest.fixture
def bucket(s3: str, credentials: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Bucket:
    credentials.setenv("AWS_ENDPOINT_URL", s3)
    return Bucket(s3, f"b-{abs(hash(request.node.name))}")


def opened(bucket: Bucket, cache: Path, **options: Any) -> Repository:
    repository = Repository(RemoteFolder(bucket.url, cache, GIB), provider="cpu", **options)
    repository.load()
    return repository


def reload(repository: Repository) -> dict[tuple[str, str], str]:
    return repository.follow(repository.plan.reload(repository.stored(), repository.policy))


def folders(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir() if path.is_dir()}


# Listing


def test_versions_are_listed_as_in_a_folder(bucket: Bucket, tmp_path: Path) -> None:
    for version in (2, 10):
        bucket.put(f"heads/pets/{version}/model.onnx")
    bucket.put("heads/pets/10/head.json", TEXT)
    bucket.put("heads/cars.onnx")
    others = (
        "pets/model.onnx",
        "pets/01/model.onnx",
        ".x/1/model.onnx",
        "pets/3/sub/model.onnx",
        "a.md",
        "pets/4/a",
    )
    for name in others:
        bucket.put(f"heads/{name}")
    bucket.put("other/pets/5/model.onnx")
    storage = RemoteFolder(f"{bucket.url}/heads/", tmp_path, GIB)
    found = storage.versions()
    assert [stored[:2] for stored in found] == [("cars", 1), ("pets", 2), ("pets", 10)]
    assert [stored.description_path is not None for stored in found] == [False, False, True]
    assert found == storage.versions()
    assert found == RemoteFolder(f"{bucket.url}/heads", tmp_path, GIB).versions()
    assert not folders(tmp_path), "nothing is fetched for it"


def test_a_bare_model_of_the_usual_name_has_its_description_beside_it(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("model.onnx")
    bucket.put("head.json", TEXT)
    bucket.put("pets.onnx")
    repository = opened(bucket, tmp_path)
    assert repository.info("model", None).class_names == ("cat", "dog")
    assert repository.info("pets", None).class_names is None


def test_the_location_may_be_one_object(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("heads/pets.onnx")
    bucket.put("heads/cars.onnx")
    storage = RemoteFolder(f"{bucket.url}/heads/pets.onnx", tmp_path, GIB)
    assert [stored[:2] for stored in storage.versions()] == [("pets", 1)]


def test_a_place_without_heads_says_what_is_expected_there(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(
        StartError, match=rf"^no heads in {bucket.url}: expected {bucket.url}/<model>/<version>"
    ):
        RemoteFolder(bucket.url, tmp_path, GIB).versions()


def test_a_bucket_that_is_not_there_is_told_in_one_line(bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(
        StartError, match=r"^(no heads in|cannot list the models at) s3://nobody-has-this"
    ) as raised:
        RemoteFolder("s3://nobody-has-this", tmp_path, GIB).versions()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("gs://bucket", "models at gs:// need gcsfs, which cannot be imported"),
        ("az://container", "models at az:// need adlfs, which cannot be imported"),
        ("nothing://x", "cannot use the models at nothing://x: Protocol not known: nothing"),
    ],
)
def test_a_store_whose_library_is_missing_says_which(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(StartError, match=re.escape(said)):
        RemoteFolder(url, tmp_path, GIB)


def test_without_fsspec_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(StartError, match=r"s3:// need fsspec: pip install logitserve\[cpu,remote\]"):
        RemoteFolder("s3://bucket", tmp_path, GIB)


def test_a_path_is_a_folder_and_all_else_a_url(tmp_path: Path) -> None:
    assert isinstance(storage_at(tmp_path, tmp_path, GIB), Folder)
    assert isinstance(storage_at("memory://heads", tmp_path, GIB), RemoteFolder)


# Fetching


def test_versions_are_fetched_opened_and_self_tested(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("pets/1/model.onnx")
    bucket.put("pets/1/head.json", TEXT)
    repository = opened(bucket, tmp_path)
    info = repository.info("pets", None)
    assert info.class_names == ("cat", "dog")
    logits = repository.head(info).run(np.ones((1, 3), np.float32))
    np.testing.assert_array_equal(logits, np.ones((1, 3)) @ WEIGHTS + BIAS)


def test_only_what_the_policy_wants_is_fetched(bucket: Bucket, tmp_path: Path) -> None:
    for version in range(1, 6):
        bucket.put(f"pets/{version}/model.onnx")
    opened(bucket, tmp_path, policy=read_policy("latest:2"))
    assert len(folders(tmp_path)) == 2


def test_a_reload_fetches_what_is_new_and_what_was_replaced(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("pets/1/model.onnx")
    bucket.put("pets/2/model.onnx")
    repository = opened(bucket, tmp_path)
    untouched, before = repository.info("pets", "1"), repository.info("pets", "2").digest
    kept = folders(tmp_path)
    bucket.put("pets/2/model.onnx", OTHER)  # of the same size
    bucket.put("pets/3/model.onnx")
    assert reload(repository) == {}
    assert repository.info("pets", "2").digest != before
    assert repository.info("pets", "1") is untouched
    assert repository.info("pets", None).version == "3"
    assert len(folders(tmp_path) - kept) == 2
    bucket.delete("pets/3/model.onnx")
    assert reload(repository) == {}
    assert repository.info("pets", None).version == "2"


def test_a_version_is_noticed_by_its_tag(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("pets/1/model.onnx")
    repository = opened(bucket, tmp_path)
    assert repository.plan.notice(repository.stored()) is repository.plan
    bucket.put("pets/1/model.onnx", OTHER)
    assert repository.plan.notice(repository.stored()).asked_last() == {("pets", "1")}


@pytest.mark.parametrize("name", ["model.onnx", "head.json"])
def test_files_that_do_not_belong_together_fail_and_the_old_ones_serve(
    bucket: Bucket, tmp_path: Path, name: str
) -> None:
    bucket.put("pets/1/model.onnx")
    bucket.put("pets/1/head.json", TEXT)
    repository = opened(bucket, tmp_path)
    info = repository.info("pets", None)
    bucket.put(f"pets/1/{name}", OTHER if name == "model.onnx" else TEXT.replace(b"cat", b"cow"))
    assert "do not belong together" in reload(repository)["pets", "1"]
    assert repository.info("pets", None) is info


def test_a_version_without_a_model_fails_in_words(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("pets/1/model.onnx")
    repository = opened(bucket, tmp_path)
    bucket.put("pets/2/head.json", TEXT)
    assert reload(repository) == {("pets", "2"): f"there is no model.onnx of it at {bucket.url}"}


def test_what_is_too_large_or_badly_named_is_refused_before_it_is_fetched(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("pets/1/model.onnx")
    repository = opened(bucket, tmp_path)
    kept = folders(tmp_path)
    monkeypatch.setitem(remote.LIMITS_BYTES, "model.onnx", len(LINEAR))
    bucket.put("pets/2/model.onnx", LINEAR + b"x")
    bucket.put("pets%3Fx/3/model.onnx")
    failures = reload(repository)
    assert failures["pets", "2"].startswith("model.onnx is too large: expected at most")
    assert failures["pets?x", "3"].startswith("the model's name cannot stand in a URL")
    assert folders(tmp_path) == kept


def test_what_changes_between_listing_and_fetching_is_noticed(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("pets/1/model.onnx")
    storage = RemoteFolder(bucket.url, tmp_path, GIB)
    (stored,) = storage.versions()
    bucket.put("pets/1/model.onnx", OTHER)
    with pytest.raises(ModelError, match=f"model.onnx at {bucket.url} changed while it was fetched"):
        storage.fetch(stored)
    with pytest.raises(ModelError, match="have gone, or are others by now"):
        RemoteFolder(bucket.url, tmp_path, GIB).fetch(stored)
    bucket.delete("pets/1/model.onnx")
    with pytest.raises(ModelError, match=r"cannot fetch model.onnx from|no heads in"):
        storage.fetch(stored)
    assert not stored.model_path.exists()


# What is kept


def test_another_start_fetches_nothing_again(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("pets/1/model.onnx")
    opened(bucket, tmp_path)
    (folder,) = folders(tmp_path)
    written = (tmp_path / folder / "model.onnx").stat()
    opened(bucket, tmp_path)
    assert (tmp_path / folder / "model.onnx").stat().st_ino == written.st_ino


@pytest.mark.parametrize("spoiled", ["model.onnx", "sha256.json", "flipped"])
def test_what_was_spoiled_since_is_fetched_again(bucket: Bucket, tmp_path: Path, spoiled: str) -> None:
    bucket.put("pets/1/model.onnx")
    opened(bucket, tmp_path)
    (folder,) = folders(tmp_path)
    if spoiled == "flipped":
        content = bytearray(LINEAR)
        content[-1] ^= 1
        (tmp_path / folder / "model.onnx").write_bytes(content)
    else:
        (tmp_path / folder / spoiled).unlink()
    opened(bucket, tmp_path)
    assert (tmp_path / folder / "model.onnx").read_bytes() == LINEAR


def test_what_was_left_unfinished_is_cleared_away(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("pets/1/model.onnx")
    (tmp_path / ".unfinished-abc").mkdir()
    opened(bucket, tmp_path)
    assert len(folders(tmp_path)) == 1


def test_what_was_used_longest_ago_goes_first(bucket: Bucket, tmp_path: Path) -> None:
    for version in range(1, 5):
        bucket.put(f"pets/{version}/model.onnx")
    room = 2 * (len(LINEAR) + 120)
    storage = RemoteFolder(bucket.url, tmp_path / "a" / "cache", room)
    stored = storage.versions()
    for number in (0, 1, 0, 2):
        storage.fetch(stored[number])
        assert stored[number].model_path.read_bytes() == LINEAR
    assert [found.model_path.exists() for found in stored] == [True, False, True, False]
    small = RemoteFolder(bucket.url, tmp_path / "a" / "cache", 1)
    small.fetch(small.versions()[3])
    assert [found.model_path.exists() for found in stored] == [False, False, False, True], (
        "the last one stays"
    )


def test_nobody_else_may_read_or_write_what_is_kept(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("pets/1/model.onnx")
    opened(bucket, tmp_path / "cache")
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


def test_a_place_that_cannot_be_written_to_is_told(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("pets/1/model.onnx")
    (tmp_path / "file").touch()
    with pytest.raises(
        ModelError, match=f"cannot keep what was fetched in {tmp_path}/file/cache: Not a directory"
    ):
        opened(bucket, tmp_path / "file" / "cache")


def test_a_home_is_found(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("pets/1/model.onnx")
    opened(bucket, Path("~/.cache/logitserve"))  # HOME is tmp_path
    assert folders(tmp_path / ".cache" / "logitserve")


def test_processes_that_fetch_at_once_do_not_disturb_each_other(bucket: Bucket, tmp_path: Path) -> None:
    for version in range(1, 5):
        bucket.put(f"pets/{version}/model.onnx")
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=fetch_all, args=(bucket.url, tmp_path)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(folders(tmp_path)) == 4


# Where the store does not answer


@pytest.fixture
def fragile(credentials: pytest.MonkeyPatch) -> Iterator[tuple[Bucket, subprocess.Popen[bytes]]]:
    """A server of its own, which may be taken away."""
    with s3_server() as (process, endpoint):
        credentials.setenv("AWS_ENDPOINT_URL", endpoint)
        credentials.setenv("AWS_MAX_ATTEMPTS", "1")
        bucket = Bucket(endpoint, "fragile")
        bucket.put("pets/1/model.onnx")
        yield bucket, process


def test_a_store_that_goes_away_leaves_what_serves_and_what_is_kept(
    fragile: tuple[Bucket, subprocess.Popen[bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket, process = fragile
    repository = opened(bucket, tmp_path)
    info, plan = repository.info("pets", None), repository.plan
    process.kill()
    process.wait()
    with pytest.raises(StartError, match=f"^cannot list the models at {bucket.url}: ") as raised:
        repository.stored()
    assert "\n" not in str(raised.value)
    assert SECRET not in str(raised.value)
    assert repository.info("pets", None) is info
    # Whoever takes a dead worker's place has the plan, and needs the store for nothing that is kept.
    replacement = Repository(RemoteFolder(bucket.url, tmp_path, GIB), provider="cpu")
    assert replacement.follow(plan) == {}
    assert replacement.info("pets", None) == info
    shutil.rmtree(tmp_path / next(iter(folders(tmp_path))))
    empty = Repository(RemoteFolder(bucket.url, tmp_path, GIB), provider="cpu")
    assert empty.follow(plan)["pets", "1"].startswith(f"cannot list the models at {bucket.url}: ")
    assert cli.main(["models", "--models", bucket.url, "--cache-dir", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"logitserve: cannot list the models at {bucket.url}: ")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("GET https://a.net/x?sv=1&sig=hidden failed", "GET https://a.net/x?… failed"),
        ("'https://a.net/x?X-Amz-Signature=hidden'", "'https://a.net/x?…'"),
        ("http://user:hidden@proxy/ refused", "http://proxy/ refused"),
        ("what now? nothing", "what now? nothing"),
        ("two\nlines", "two lines"),
        ("", "OSError"),
        ("x" * 1000, "x" * 300),
    ],
)
def test_what_libraries_say_is_shown_in_one_line_without_secrets(said: str, shown: str) -> None:
    assert remote._reason(OSError(said)) == shown


# Other stores


def test_a_store_without_tags_is_told_apart_by_dates(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/heads/pets/1/model.onnx", LINEAR)
    repository = Repository(RemoteFolder("memory://heads", tmp_path, GIB), provider="cpu")
    repository.load()
    before = repository.info("pets", None).digest
    assert repository.plan.notice(repository.stored()) is repository.plan
    memory.pipe("/heads/pets/1/model.onnx", OTHER)
    repository.follow(repository.plan.notice(repository.stored()))
    assert repository.info("pets", None).digest != before
    memory.rm("/heads", recursive=True)


def test_a_folder_named_as_a_url_is_fetched_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "heads" / "pets" / "1").mkdir(parents=True)
    (tmp_path / "heads" / "pets" / "1" / "model.onnx").write_bytes(LINEAR)
    storage = RemoteFolder(f"file://{tmp_path}/heads", tmp_path / "cache", GIB)
    (stored,) = storage.versions()
    storage.fetch(stored)
    assert stored.model_path.is_relative_to(tmp_path / "cache")
    assert stored.model_path.read_bytes() == LINEAR


def test_a_plan_tells_another_worker_all_that_it_needs(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("pets/1/model.onnx")
    repository = opened(bucket, tmp_path)
    shutil.rmtree(tmp_path / next(iter(folders(tmp_path))))
    plan = type(repository.plan).from_json(json.loads(json.dumps(repository.plan.to_json())))
    assert all(isinstance(found, StoredVersion) for found in plan.stored.values())
    other = Repository(RemoteFolder(bucket.url, tmp_path, GIB), provider="cpu")
    assert other.follow(plan) == {}, "it lists by itself what is not kept"


# The whole service


def test_the_command_lists_what_lies_at_a_url(
    bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in (1, 2):
        bucket.put(f"pets/{version}/model.onnx")
    flags = ["--models", bucket.url, "--cache-dir", str(tmp_path), "--version-policy", "latest:1"]
    assert cli.main(["models", *flags]) == 0
    rows = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines() if "pets" in line]
    assert rows[0] == ["pets", "1", "unloaded", "latest:1"]
    assert rows[1][:3] == ["pets", "2", "ready"]


def test_a_service_follows_a_bucket_that_it_watches(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("pets/1/model.onnx")
    flags = [f"--models={bucket.url}", f"--cache-dir={tmp_path}", "--workers=2", "--watch-interval-s=0.2"]
    with running_service(
        *flags, f"--run-dir={tmp_path}", "--version-policy=latest:1", "--drain-delay-s=0.1"
    ) as running:
        bucket.put("pets/2/model.onnx", OTHER)
        end_s, new = time.monotonic() + 20, 0
        while new < 8:  # on connections of their own, of which each worker takes its share
            body = {"features": [1, 1, 1], "outputs": ["logits"]}
            logits = httpx.post(f"{running.url}/predict", json=body, verify=NO_TLS).json()["logits"]
            assert logits in ([9.5, 11.0], [18.5, 23.0])
            new = new + 1 if logits == [18.5, 23.0] else 0
            assert time.monotonic() < end_s
            time.sleep(0.02)
