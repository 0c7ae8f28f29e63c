"""What is said about a measurement: figures, remarks in words, tables."""

import math
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from service.loadtest.fleet import Measurement
from service.loadtest.tally import RESOLUTION, STEP_S

PERCENTS = (50.0, 90.0, 95.0, 99.0, 99.9)
# Above this share of a core a process is its own bottleneck: what it measures is itself.
BUSY_LIMIT = 0.85
# The highest share of late sends that leaves the usual percentiles alone.
LATE_LIMIT = 0.01


class Report:
    """One measurement, as figures and as words."""

    def __init__(self, measurement: Measurement) -> None:
        self.scenario = measurement.scenario
        self.interrupted = measurement.interrupted
        self.tally = tally = measurement.tally
        self.errors = tally.errors()
        self.requests = tally.outcomes.total() + tally.unsent
        self.failed = sum(self.errors.values())
        answered = sum(tally.answered.values())
        self.requests_per_s = answered / tally.measured_s if tally.measured_s else 0.0
        self.busy_share = tally.busy_s / tally.watched_s if tally.watched_s else 0.0
        self.late_share = tally.late / self.requests if self.requests else 0.0
        self.latencies_ms = {
            **{f"p{percent:g}": tally.latencies.percentile_s(percent) * 1000 for percent in PERCENTS},
            "max": tally.latencies.percentile_s(100) * 1000,
        }

    @property
    def passed(self) -> bool:
        """Whether requests were due, and all of them were answered 2xx."""
        return 0 < self.requests == self.requests - self.failed - self.tally.unsent

    def remarks(self) -> list[str]:
        """Say in words what the figures mean for whoever relies on them."""
        said = []
        if self.interrupted:
            said.append(f"interrupted after {self.tally.measured_s:.1f} s of measurement")
        if not self.requests:
            said.append("no request was answered in the measured time")
        if self.failed:
            said.append(f"{self.failed:,} of {self.requests:,} requests were not answered 2xx")
        if self.tally.unsent:
            said.append(
                f"{self.tally.unsent:,} of {self.requests:,} requests were due but not sent, because all "
                f"{self.scenario.connections} connections were waiting: the service did not keep up with "
                "this rate; their waits until the end are counted as latencies"
            )
        return said + self._generator_remarks()

    def _generator_remarks(self) -> list[str]:
        said = []
        if self.busy_share > BUSY_LIMIT:
            said.append(
                f"the load generator was busy {self.busy_share:.0%} of the time: these figures are its "
                "limit, not the server's; use wrk or more --processes"
            )
        if self.late_share > LATE_LIMIT:
            said.append(
                f"the load generator sent {self.late_share:.0%} of the requests late: the latencies are "
                "partly its own; use a lower --rate or more --processes"
            )
        return said

    def document(self) -> dict[str, Any]:
        """Return all figures as JSON values."""
        tally = self.tally
        steps = range(max([*tally.answered, *tally.failed], default=-1) + 1)
        return {
            "scenario": self.scenario.document(),
            "interrupted": self.interrupted,
            "measured_s": tally.measured_s,
            "requests": self.requests,
            "requests_per_s": self.requests_per_s,
            "rows_per_s": self.requests_per_s * self.scenario.rows,
            "outcomes": dict(tally.outcomes),
            "unsent": tally.unsent,
            "latency_ms": {k: None if math.isnan(v) else v for k, v in self.latencies_ms.items()},
            "latency_resolution": RESOLUTION,
            "timeline": {
                "step_s": STEP_S,
                "answered": [tally.answered[step] for step in steps],
                "failed": [tally.failed[step] for step in steps],
            },
            "generator": {"busy_share": self.busy_share, "late_share": self.late_share},
            "remarks": self.remarks(),
        }

    def tables(self) -> RenderableType:
        """Lay the figures out for a terminal."""
        latencies = Table(caption=f"latency in ms, ± {RESOLUTION:.1%}", caption_justify="left")
        for name in self.latencies_ms:
            latencies.add_column(name, justify="right")
        latencies.add_row(*(_digits(value) for value in self.latencies_ms.values()))
        return Group(Text(self.scenario.title(), style="bold"), self._figures(), latencies)

    def _figures(self) -> Table:
        figures = Table(show_header=False)
        figures.add_column()
        figures.add_column(justify="right")
        figures.add_row("measured", f"{self.tally.measured_s:.1f} s")
        figures.add_row("requests", f"{self.requests:,}")
        figures.add_row("requests/s", f"{self.requests_per_s:,.1f}")
        figures.add_row("rows/s", f"{self.requests_per_s * self.scenario.rows:,.1f}")
        figures.add_row("load generator busy", f"{self.busy_share:.0%}")
        if self.tally.unsent:
            figures.add_row("not sent", f"{self.tally.unsent:,}")
        figures.add_row("errors", f"{self.failed:,}")
        for name, count in self.errors.items():
            figures.add_row(f"  {name}", f"{count:,}")
        return figures


def _digits(value_ms: float) -> str:
    """Write as many digits as the histogram resolves."""
    return "-" if math.isnan(value_ms) else f"{value_ms:.{2 if value_ms < 100 else 0}f}"
