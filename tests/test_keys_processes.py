"""Keys that change under two real workers while requests come, and a start with a file that is wrong."""

import contextlib
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from conftest import MODELS, ROOT, running_service

from service import keys
from service.keys import Key

SECRET = {name: keys.new() for name in ("old", "both", "new")}


def lines(*names: str) -> str:
    return "".join(
        keys.line_of(Key(name, keys.digest_of(SECRET[name].encode()), frozenset({"infer"}))) + "\n"
        for name in names
    )


def put(path: Path, text: str) -> None:
    written = path.with_suffix(".new")
    written.write_text(text, encoding="utf-8")
    written.replace(path)


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {SECRET[name]}"}


def worker_of(answer: httpx.Response) -> str:
    return answer.headers["x-request-id"].split("-")[0]


class Caller(threading.Thread):
    """Asks without a pause on a connection of its own, and counts what it is answered, by worker and status."""

    def __init__(self, url: str, name: str, *, whole: bool) -> None:
        super().__init__()
        self.url, self.key_name, self.whole = url, name, whole
        self.seen: Counter[tuple[str, int]] = Counter()
        self.latest = 0
        self.over = threading.Event()

    def run(self) -> None:
        # Chunks are a conversation, a body of known length is a whole request.
        with httpx.Client(base_url=self.url, headers=bearer(self.key_name), timeout=20) as client:
            while not self.over.is_set():
                body = b'{"logits":[1,2]}'
                content = body if self.whole else iter([body])
                answer = client.post(
                    "/softmax", content=content, headers={"content-type": "application/json"}
                )
                self.seen[worker_of(answer), answer.status_code] += 1
                self.latest = answer.status_code


def until(callers: list[Caller], status: int) -> None:
    end_s = time.monotonic() + 20
    while {caller.latest for caller in callers} != {status}:
        assert time.monotonic() < end_s, [dict(caller.seen) for caller in callers]
        time.sleep(0.02)


def test_a_file_that_is_replaced_under_load_locks_nobody_out_who_may_come_in(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    put(path, lines("old", "both"))
    flags = ["--workers=2", "--threads=1", f"--keys-file={path}", f"--run-dir={tmp_path}"]
    with running_service(*flags, "--drain-delay-s=0.1") as service, contextlib.ExitStack() as stack:
        callers = {
            name: [Caller(service.url, name, whole=whole) for whole in (True, True, False, False)]
            for name in SECRET
        }
        every = [caller for group in callers.values() for caller in group]
        for caller in every:
            caller.start()
            stack.callback(caller.join)
            stack.callback(caller.over.set)
        until([*callers["old"], *callers["both"]], 200)
        until(callers["new"], 401)
        put(path, lines("both", "new"))
        until([*callers["new"], *callers["both"]], 200)
        until(callers["old"], 401)
        path.write_text("half a li", encoding="utf-8")
        time.sleep(1.5)
        until([*callers["new"], *callers["both"]], 200)
        stack.close()
        both = sum((caller.seen for caller in callers["both"]), Counter())
        assert {status for _, status in both} == {200}, "no request of theirs was lost"
        assert len({worker for caller in every for worker, _ in caller.seen}) == 2, "each worker was asked"
        for name in ("old", "new"):
            assert {status for caller in callers[name] for _, status in caller.seen} == {200, 401}
        assert httpx.get(f"{service.url}/health/ready").status_code == 200, "probes ask for none"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--keys-file={path}", "{path}: app: sha256: expected"),
        ("--keys=app = {{}}", "LOGITSERVE_KEYS: app: sha256:"),
    ],
)
def test_a_start_with_wrong_keys_ends_in_one_line(tmp_path: Path, workers: int, flag: str, said: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text('app = { scopes = ["infer"] }\n', encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "service",
        "serve",
        f"--models={MODELS}",
        "--port=0",
        f"--workers={workers}",
    ]
    done = subprocess.run(
        [*command, f"--run-dir={tmp_path}", flag.format(path=path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"logitserve: {said.format(path=path)}")
    assert done.stderr.count("\n") == 1
