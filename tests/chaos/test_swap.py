"""Versions are swapped every second under full load, some of them broken: nobody notices.

`make test` runs it for a moment, `make swap-proof` with SWAP_REQUESTS=10000 for as long as that takes; it prints what
it saw.
"""

import asyncio
import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from conftest import Running, running_service

from service.heads.description import digest_of
from service.heads.graphs import Linear, build_linear

pytestmark = pytest.mark.anyio

REQUESTS = int(os.environ.get("SWAP_REQUESTS", "1500"))
LONG = REQUESTS >= 10_000
SWAP_INTERVAL_S = 1.0 if LONG else 0.1
LEAST_SWAPS = 12 if LONG else 6
CONNECTIONS = 64
WORKERS = 2
KEY = {"authorization": "Bearer secret"}

WEIGHTS = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
# What an allocator may keep of what it got, and numbers of other digits in a table; a leaked session or its weights
# would be more after a dozen swaps, since a version's weights take 3 MB.
MEMORY_MARGIN_BYTES = 16 * 1024**2
# An allocator keeps what the first swaps made it take: after fewer of them it has not all it needs.
FIRST_REQUESTS, FIRST_SWAPS = 1500, 6
PADDING = np.zeros((1, 750_000), np.float32)


class Files(NamedTuple):
    model: bytes
    description: dict[str, Any]


def bias_of(version: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """No two versions give the same numbers for anything."""
    return np.array([version, -version, version / 2], np.float32)


def head(version: int) -> Files:
    bias = bias_of(version)
    model = build_linear(Linear(WEIGHTS, bias))
    # A constant that nothing reads makes what is held of a version large enough to see.
    model += _initializer("padding", PADDING + version)
    features = [[1, 0], [0, 1]]
    golden = {"features": features, "logits": (features @ WEIGHTS + bias).tolist()}
    return described(model, {"golden": golden})


def _initializer(name: str, array: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    """Write a model of this constant alone: two protocol buffers after each other are one of both."""
    from onnx import GraphProto, ModelProto, numpy_helper

    model = ModelProto(graph=GraphProto(initializer=[numpy_helper.from_array(array, name)]))
    content: bytes = model.SerializeToString()
    return content


def described(model: bytes, description: dict[str, Any]) -> Files:
    digest = digest_of(model, json.dumps(description).encode())
    return Files(model, {**description, "digest": digest})


def truncated(files: Files) -> Files:
    return described(files.model[: len(files.model) // 2], {})


def flipped(files: Files) -> Files:
    """Flip one bit of a weight, under a digest that does not know."""
    at = files.model.index(WEIGHTS.tobytes())
    return files._replace(model=files.model[:at] + bytes([files.model[at] ^ 1]) + files.model[at + 1 :])


def untrue(files: Files) -> Files:
    """Promise other logits than the model has, under the right digest."""
    golden = files.description["golden"]
    other = {**golden, "logits": [[logit + 1 for logit in row] for row in golden["logits"]]}
    return described(files.model, {"golden": other})


# How each is broken, and what is said of it.
BROKEN: list[tuple[Callable[[Files], Files], str]] = [
    (truncated, "onnxruntime cannot open the model"),
    (flipped, "do not belong together"),
    (untrue, "self-test failed: golden row 0"),
]


class Swapper:
    """Who deploys: new versions appear and are loaded, old ones are unloaded and removed."""

    def __init__(self, models: Path) -> None:
        self.url = ""
        self._folder = models / "pets"
        self._version = 1
        self._serving = 1
        self.digests: dict[str, str] = {}
        self.swaps = 0
        self.refused: Counter[str] = Counter()

    def put(self, version: int, files: Files) -> None:
        """Make a version appear whole."""
        written = self._folder.parent / ".new"
        written.mkdir(parents=True)
        (written / "model.onnx").write_bytes(files.model)
        (written / "head.json").write_text(json.dumps(files.description), encoding="utf-8")
        self._folder.mkdir(exist_ok=True)
        written.rename(self._folder / str(version))
        self.digests[str(version)] = files.description["digest"]

    async def admin(self, verb: str, path: str, status: int = 200, **body: Any) -> str:
        # No connection stays: it would count among the descriptors.
        async with httpx.AsyncClient(base_url=self.url, timeout=60, verify=False) as client:  # noqa: S501 - plain HTTP
            answer = await client.request(verb, f"/admin/{path}", headers=KEY, json=body or None)
        assert answer.status_code == status, answer.text
        return answer.text

    async def swap(self) -> None:
        """Put the next version into service, or every third time a broken one, which changes nothing."""
        self._version += 1
        if self._version % 3 == 0:
            break_, said = BROKEN[self._version // 3 % len(BROKEN)]
            self.put(self._version, break_(head(self._version)))
            assert said in await self.admin("POST", "reload", 422)
            self.refused[break_.__name__] += 1
            shutil.rmtree(self._folder / str(self._version))
            return
        self.put(self._version, head(self._version))
        await self.admin("POST", "reload")
        await self.admin("PUT", "models/pets/aliases/stable", version=str(self._version))
        await self.admin("POST", f"models/pets/versions/{self._serving}/unload")
        shutil.rmtree(self._folder / str(self._serving))  # the next reload forgets it
        self._serving = self._version
        self.swaps += 1


class Tally:
    """What came of the requests."""

    def __init__(self, digests: dict[str, str]) -> None:
        self._digests = digests
        self.versions: Counter[str] = Counter()
        self.failed: list[str] = []
        self.mixed: list[str] = []

    async def ask(self, client: httpx.AsyncClient, turn: int) -> None:
        features = [random.randrange(1000), random.randrange(1000)]
        if turn % 4 == 3:
            tensor = {"name": "features", "datatype": "FP32", "shape": [1, 2], "data": features}
            body: dict[str, Any] = {"inputs": [tensor], "outputs": [{"name": "logits"}]}
            path = "/v2/models/pets/infer"
        else:
            body = {"features": features, "outputs": ["logits"]}
            body |= {"version": "stable"} if turn % 4 == 2 else {}
            path = "/predict"
        try:
            answer = await client.post(path, json=body)
        except httpx.HTTPError as error:
            self.failed.append(repr(error))
            return
        if answer.status_code != 200:
            self.failed.append(answer.text)
            return
        told = answer.json()
        version = told["version"] if path == "/predict" else told["model_version"]
        logits = told["logits"] if path == "/predict" else told["outputs"][0]["data"]
        expected = (np.array(features, np.float32) @ WEIGHTS + bias_of(int(version))).tolist()
        headers = answer.headers["x-model-version"], answer.headers["x-model-digest"]
        if logits != expected or headers != (version, self._digests[version]):
            self.mixed.append(f"{version}: {logits}, expected {expected}; {headers}")
        self.versions[version] += 1


async def load(tally: Tally, swapper: Swapper, url: str, requests: int, least_swaps: int) -> float:
    """Ask over all connections, without a pause, while versions are swapped; return the seconds that it took."""
    begun_s = time.monotonic()
    asked = 0
    end_swaps = swapper.swaps + least_swaps
    over = asyncio.Event()

    async def ask_on(client: httpx.AsyncClient) -> None:
        nonlocal asked
        while asked < requests or swapper.swaps < end_swaps:
            asked += 1
            await tally.ask(client, asked)

    async def swap_on() -> None:
        while not over.is_set():
            await asyncio.gather(swapper.swap(), asyncio.sleep(SWAP_INTERVAL_S))

    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
    clients = [
        httpx.AsyncClient(base_url=url, timeout=30, limits=limits, verify=False)  # noqa: S501 - plain HTTP
        for _ in range(CONNECTIONS)
    ]
    swapping = asyncio.create_task(swap_on())
    asking = [asyncio.create_task(ask_on(client)) for client in clients]
    await asyncio.wait([swapping, *asking], return_when=asyncio.FIRST_COMPLETED)
    if swapping.done():
        for task in asking:
            task.cancel()
        swapping.result()  # raises what it failed with
    await asyncio.gather(*asking)
    over.set()
    await swapping
    took_s = time.monotonic() - begun_s
    for client in clients:
        await client.aclose()
    return took_s


class Held(NamedTuple):
    """What a process holds."""

    resident_bytes: int
    descriptors: int


def held(pid: int) -> Held:
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return Held(pages * os.sysconf("SC_PAGESIZE"), len(list(Path(f"/proc/{pid}/fd").iterdir())))


def workers_of(service: Running) -> list[int]:
    pid = service.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]


async def settled(pids: list[int], before: list[Held] | None = None) -> list[Held]:
    """What they hold once handles have been let go and connections closed."""
    await asyncio.sleep(6)  # handles linger for 5 s
    end_s = time.monotonic() + 10
    while True:
        now = list(map(held, pids))
        if before is None or all(n.descriptors <= b.descriptors for n, b in zip(now, before, strict=True)):
            return now
        if time.monotonic() > end_s:
            return now
        await asyncio.sleep(0.1)


async def test_nobody_notices_that_versions_are_swapped(tmp_path: Path) -> None:
    models = tmp_path / "models"
    swapper = Swapper(models)
    swapper.put(1, head(1))
    flags = [f"--models={models}", f"--workers={WORKERS}", "--threads=1", "--admin-key=secret"]
    with running_service(*flags, f"--run-dir={tmp_path}", "--drain-delay-s=0.1") as service:
        swapper.url = service.url
        await swapper.admin("PUT", "models/pets/aliases/stable", version="1")
        tally = Tally(swapper.digests)
        # What it holds after it has been through everything once is what it needs.
        took_s = await load(tally, swapper, service.url, FIRST_REQUESTS, FIRST_SWAPS)
        pids = workers_of(service)
        before = await settled(pids)
        took_s += await load(tally, swapper, service.url, REQUESTS, LEAST_SWAPS)
        after = await settled(pids, before)
        assert workers_of(service) == pids, "the same processes all along"
        report(tally, swapper, took_s, before, after)
    assert tally.failed == []
    assert tally.mixed == []
    assert tally.versions.total() >= REQUESTS + FIRST_REQUESTS
    assert len(tally.versions) > swapper.swaps / 2, "those that were put into service have answered"
    assert set(swapper.refused) == {"truncated", "flipped", "untrue"}
    for then, now in zip(before, after, strict=True):
        assert now.resident_bytes <= then.resident_bytes + MEMORY_MARGIN_BYTES
        assert now.descriptors <= then.descriptors


def report(tally: Tally, swapper: Swapper, took_s: float, before: list[Held], after: list[Held]) -> None:
    def mib(all_held: list[Held]) -> str:
        return " and ".join(f"{one.resident_bytes / 1024**2:.1f}" for one in all_held)

    def descriptors(all_held: list[Held]) -> str:
        return " and ".join(str(one.descriptors) for one in all_held)

    refused = ", ".join(f"{count} {name}" for name, count in swapper.refused.items())
    sys.stdout.write(
        f"\n{tally.versions.total()} requests over {CONNECTIONS} connections to {WORKERS} workers in {took_s:.0f} s\n"
        f"{swapper.swaps} swaps, {len(tally.versions)} versions have answered; refused: {refused}\n"
        f"failed {len(tally.failed)}, mixed {len(tally.mixed)}\n"
        f"memory {mib(before)} MiB before, {mib(after)} MiB after\n"
        f"descriptors {descriptors(before)} before, {descriptors(after)} after\n"
    )
