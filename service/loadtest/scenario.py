"""What is sent, over how many connections and when; pure, and the same for every run with the same numbers."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from service.client.calls import MEDIA_TYPES
from service.types import Operation
from service.wire import native

MEDIA_NAMES = {"json": "JSON", "npz": "npz"}
# Few enough to make at once, enough that no cache between here and the service answers in its place.
DISTINCT_BODIES = 16
SEED = 20260101
# The digits that the shipped head knows have 17 grey levels.
GREY_LEVELS = 17


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load test; `columns` is the number of features of /predict and of classes elsewhere.

    `rate_per_s` is the arrival rate of an open loop, over all processes; without it the loop is closed:
    each connection sends as soon as it is answered.
    """

    url: str
    route: Operation = "predict"
    rows: int = 1
    columns: int = 64
    model: str | None = None
    media: Literal["json", "npz"] = "json"
    connections: int = 16
    rate_per_s: float | None = None
    poisson: bool = False
    warm_up_s: float = 2.0
    duration_s: float = 10.0
    processes: int = 1
    key: str | None = field(default=None, repr=False)

    def document(self) -> dict[str, Any]:
        """Give all of it that may be written down."""
        return {name: value for name, value in asdict(self).items() if name != "key"}

    def title(self) -> str:
        what = "features" if self.route == "predict" else "logits"
        loop = "closed loop" if self.rate_per_s is None else f"open loop at {self.rate_per_s:g} requests/s"
        rows = f"{self.rows} row" + "s" * (self.rows != 1)
        connections = f"{self.connections} connection" + "s" * (self.connections != 1)
        return f"/{self.route}: {rows} of {self.columns} {what} as {MEDIA_NAMES[self.media]}, {connections}, {loop}"


class Body(NamedTuple):
    """One encoded request; scalar options of npz travel in the query."""

    content: bytes
    query: dict[str, str]


def bodies(scenario: Scenario) -> list[Body]:
    """Encode the requests that the connections send in turn."""
    random = np.random.default_rng(SEED)
    return [_body(scenario, random) for _ in range(DISTINCT_BODIES)]


def _body(scenario: Scenario, random: np.random.Generator) -> Body:
    shape = (scenario.rows, scenario.columns)
    fields: dict[str, object] = {}
    if scenario.route == "predict":
        fields["features"] = random.integers(0, GREY_LEVELS, shape).astype(np.float32)
        if scenario.model:
            fields["model"] = scenario.model
    else:
        fields["logits"] = random.normal(0, 3, shape).astype(np.float32)
    if scenario.route == "loss":
        fields["labels"] = random.integers(0, scenario.columns, scenario.rows)
    return Body(*native.encode_request(scenario.route, fields, MEDIA_TYPES[scenario.media]))


def arrivals_s(rate_per_s: float, until_s: float, *, poisson: bool, seed: int) -> Iterator[float]:
    """Yield when requests are due, in seconds from the start: evenly spaced, or as a Poisson process.

    Evenly spaced processes begin at different moments, so that several of them do not send in step.
    """
    random = np.random.default_rng([SEED, seed])
    due_s = float(random.uniform(0, 1 / rate_per_s))
    while due_s < until_s:
        yield due_s
        due_s += float(random.exponential(1 / rate_per_s)) if poisson else 1 / rate_per_s
