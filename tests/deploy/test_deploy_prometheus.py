"""A real Prometheus with the shipped files, thirty times as fast, and two real replicas that get into trouble."""

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from conftest import running_service
from hastened import DURATION, FASTER, hastened
from watching import EXPRESSIONS, PANELS, PROMETHEUS, chosen, needs_prometheus, promtool, rules

KEY = {"Authorization": "Bearer change-me"}
ROWS = {"model": "digits", "features": [[0] * 64] * 2}


class Replica:
    """The real service at one port, which it keeps when it is started again."""

    def __init__(self) -> None:
        self._running = contextlib.ExitStack()
        self.port = self._running.enter_context(running_service("--admin-key=change-me")).port

    @property
    def instance(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.instance}"

    def stop(self) -> None:
        self._running.close()

    def start(self) -> None:
        self._running.enter_context(running_service("--admin-key=change-me", f"--port={self.port}"))

    def change(self, version: str, what: str) -> None:
        answer = httpx.post(f"{self.url}/admin/models/digits/versions/{version}/{what}", headers=KEY)
        assert answer.status_code == 200, answer.text


class Prometheus:
    """Prometheus's own HTTP API."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=f"{url}/api/v1", timeout=10)

    def ask(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("/query", query=expr)["result"]
        return found

    def firing(self) -> dict[str, dict[str, Any]]:
        alerts = self.ask("/alerts")["alerts"]
        return {alert["labels"]["alertname"]: alert for alert in alerts if alert["state"] == "firing"}

    def close(self) -> None:
        self._client.close()


def until(condition: Callable[[], bool], what: str, limit_s: float = 90) -> None:
    """Wait for what takes seconds on an idle machine, and may take a minute on a busy one."""
    ends_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < ends_s, f"{what}: not within {limit_s} s"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def replicas() -> Iterator[tuple[Replica, Replica]]:
    with contextlib.ExitStack() as stack:
        both = Replica(), Replica()
        for replica in both:
            stack.callback(replica.stop)
        yield both


@pytest.fixture(scope="module")
def traffic(replicas: tuple[Replica, Replica]) -> Iterator[None]:
    """Some 50 requests a second to the replicas by turns, whatever becomes of them."""
    stopped = threading.Event()

    def send() -> None:
        with httpx.Client(timeout=5) as client:
            for replica in cycle(replicas):
                with contextlib.suppress(httpx.TransportError):
                    client.post(f"{replica.url}/predict", json=ROWS)
                if stopped.wait(0.02):
                    return

    thread = threading.Thread(target=send)
    thread.start()
    yield
    stopped.set()
    thread.join()


@pytest.fixture(scope="module")
def prometheus(
    replicas: tuple[Replica, Replica], traffic: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    for name in ("prometheus.yml", "rules.yml"):
        (folder / name).write_text(
            hastened((PROMETHEUS / name).read_text(encoding="utf-8")), encoding="utf-8"
        )
    targets = [{"targets": [replica.instance for replica in replicas]}]
    (folder / "replicas.yml").write_text(yaml.safe_dump(targets), encoding="utf-8")
    with running_prometheus(folder) as url:
        asked = Prometheus(url)
        until(lambda: len(asked.query('up{job="logitserve"} == 1')) == 2, "both replicas are scraped")
        yield asked
        asked.close()


@contextlib.contextmanager
def running_prometheus(folder: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        f"--query.lookback-delta={300 // FASTER}s",  # five minutes unless told otherwise
        "--log.level=warn",
    ]
    log = folder / "log"
    with log.open("wb") as written, subprocess.Popen(command, stdout=written, stderr=written) as process:
        try:
            until(lambda: process.poll() is not None or ready(address), "Prometheus is ready")
            assert process.poll() is None, log.read_text(encoding="utf-8")
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait(30)


def ready(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_faster_files_differ_in_durations_only() -> None:
    assert hastened("for: 1m # 15s\n  interval: 1m") == "for: 2000ms # 15s\n  interval: 2000ms"
    assert hastened("rate(a[5m]) - b[1d] offset 1h") == "rate(a[10000ms]) - b[2880000ms] offset 120000ms"
    assert hastened("scrape_interval: 15s") == "scrape_interval: 500ms"
    assert hastened("job:logitserve_requests:rate5m > 0.25") == "job:logitserve_requests:rate5m > 0.25"
    for name in ("prometheus.yml", "rules.yml"):
        text = (PROMETHEUS / name).read_text(encoding="utf-8")
        kept = DURATION.sub(lambda found: found["before"], text)
        assert DURATION.sub(lambda found: found["before"], hastened(text)) == kept


def test_no_alert_is_left_as_slow_as_it_was() -> None:
    fast = yaml.safe_load(hastened((PROMETHEUS / "rules.yml").read_text(encoding="utf-8")))
    read = [rule for group in fast["groups"] for rule in group["rules"]]
    assert all(rule["for"].endswith("ms") for rule in read if "alert" in rule)
    assert len(read) == len(rules("alert")) + len(rules("record"))


@needs_prometheus
def test_faster_rules_are_rules(tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(hastened((PROMETHEUS / "rules.yml").read_text(encoding="utf-8")), encoding="utf-8")
    assert "SUCCESS" in promtool("check", "rules", file)


@needs_prometheus
def test_healthy_replicas_raise_no_alert_and_every_rule_is_evaluated(prometheus: Prometheus) -> None:
    def every() -> list[dict[str, Any]]:
        return [rule for group in prometheus.ask("/rules")["groups"] for rule in group["rules"]]

    until(lambda: all(rule["health"] != "unknown" for rule in every()), "every rule was evaluated")
    assert {rule["name"]: rule.get("lastError") for rule in every() if rule["health"] != "ok"} == {}
    answered = 'job_status:logitserve_requests:rate5m{status="200"} > 1'
    until(lambda: bool(prometheus.query(answered)), "what is recorded has values")
    assert prometheus.firing() == {}


@needs_prometheus
def test_the_dashboard_has_lines_for_what_both_replicas_do(prometheus: Prometheus) -> None:
    def lines(expr: str) -> list[dict[str, Any]]:
        return prometheus.query(hastened(chosen(expr)))

    until(lambda: bool(lines('sum(rate(logitserve_rows_total{model="digits"}[5m])) > 0')), "rows are seen")
    for expr in EXPRESSIONS:
        lines(expr)  # each is answered: vectors match also where there is something in them
    shown = {panel["title"]: lines(panel["targets"][0]["expr"]) for panel in PANELS}
    for title in (
        "Requests by route",
        "Rows by head",
        "Requests: p99 by route",
        "All durations",
        "Mean by stage",
        "How long a new row waits",
        "Rows of a batch",
        "Requests that fail",
        "Since a request was scored",
    ):
        assert shown[title], title
    (served,) = shown["Replicas that serve each version"]
    assert served["value"][1] == "2"
    assert len(shown["Replicas that answer"]) == len(shown["Rows that wait"]) == 2
    (of_digits,) = (line for line in shown["Rows by head"] if line["metric"]["model"] == "digits")
    assert set(of_digits["metric"]) == {"model", "version"}, "one line for both replicas"


@needs_prometheus
def test_a_replica_that_stops_is_told_of_until_it_is_back(
    prometheus: Prometheus, replicas: tuple[Replica, Replica]
) -> None:
    gone = replicas[1]
    gone.stop()
    until(lambda: "LogitserveReplicaDown" in prometheus.firing(), "the alert fires")
    alert = prometheus.firing()["LogitserveReplicaDown"]
    assert alert["labels"]["instance"] == gone.instance
    assert alert["annotations"]["summary"] == f"{gone.instance} does not answer Prometheus"
    assert "LogitserveReplicasGone" not in prometheus.firing(), "the other one answers"
    gone.start()
    until(lambda: "LogitserveReplicaDown" not in prometheus.firing(), "the alert is resolved")


@needs_prometheus
def test_a_model_that_is_unloaded_fails_requests_and_is_told_of_until_it_is_back(
    prometheus: Prometheus, replicas: tuple[Replica, Replica]
) -> None:
    one, other = replicas
    one.change("1", "unload")
    both = {"LogitserveErrorRatioHigh", "LogitserveReplicasDisagree"}
    until(lambda: both <= set(prometheus.firing()), "one replica fails its requests")
    firing = prometheus.firing()
    assert firing["LogitserveErrorRatioHigh"]["annotations"]["summary"].endswith(
        "of the requests to logitserve fail"
    )
    assert (
        firing["LogitserveReplicasDisagree"]["annotations"]["summary"]
        == "Only 1 of the replicas serve digits/1"
    )
    assert "LogitserveModelGone" not in firing, "the other one serves it"

    other.change("1", "unload")
    until(lambda: "LogitserveModelGone" in prometheus.firing(), "no replica serves it")
    for replica in replicas:
        replica.change("1", "load")
    until(lambda: prometheus.firing() == {}, "all alerts are resolved")
