"""What is counted: latencies in a histogram, outcomes by status and code, answers over time.

Tallies are sums: those of moments and of processes add up to that of the whole run.
"""

import itertools
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Self

# A bucket is 1 % wider than the one below it: a percentile read off its middle is off by 0.5 % at most.
GROWTH = 1.01
RESOLUTION = (GROWTH - 1) / 2
# From below what any network answers in to above what anybody waits for.
LOWEST_S, HIGHEST_S = 1e-6, 1e3
_PER_LOG = 1 / math.log(GROWTH)
BUCKETS = math.ceil(math.log(HIGHEST_S / LOWEST_S) * _PER_LOG)
# Width of a step of the timeline.
STEP_S = 0.25


class Histogram:
    """Latencies in logarithmic buckets; the largest is kept as it is."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.largest_s = 0.0

    def add(self, latency_s: float) -> None:
        bucket = int(math.log(max(latency_s, LOWEST_S) / LOWEST_S) * _PER_LOG)
        self.counts[min(bucket, BUCKETS - 1)] += 1
        self.largest_s = max(self.largest_s, latency_s)

    def __iadd__(self, other: "Histogram") -> Self:
        self.counts.update(other.counts)
        self.largest_s = max(self.largest_s, other.largest_s)
        return self

    def __len__(self) -> int:
        return self.counts.total()

    def percentile_s(self, percent: float) -> float:
        """Return what `percent` of the latencies did not exceed (nearest rank); of nothing, NaN."""
        rank = max(1, math.ceil(percent / 100 * len(self)))
        if rank >= len(self):
            return self.largest_s if self.counts else math.nan
        buckets = sorted(self.counts)
        seen = itertools.accumulate(self.counts[bucket] for bucket in buckets)
        bucket = next(bucket for bucket, so_far in zip(buckets, seen, strict=True) if so_far >= rank)
        return min(LOWEST_S * math.exp((bucket + 0.5) / _PER_LOG), self.largest_s)


@dataclass
class Tally:
    """What one process, or all of them, saw in the measured window.

    `outcomes` counts by status, by status and code, or by the name of the exception. `answered` and `failed`
    count by step of the timeline. `unsent` were due in the window, but no connection was free before its
    end. `late` are those that a free connection sent late, because the process had no time. `busy_s` is
    time in which there was work and `watched_s` the time watched for it, summed over the processes;
    `measured_s` is the length of the window so far.
    """

    latencies: Histogram = field(default_factory=Histogram)
    outcomes: Counter[str] = field(default_factory=Counter)
    answered: Counter[int] = field(default_factory=Counter)
    failed: Counter[int] = field(default_factory=Counter)
    unsent: int = 0
    late: int = 0
    busy_s: float = 0.0
    watched_s: float = 0.0
    measured_s: float = 0.0

    def __iadd__(self, other: "Tally") -> Self:
        self.latencies += other.latencies
        self.outcomes.update(other.outcomes)
        self.answered.update(other.answered)
        self.failed.update(other.failed)
        self.unsent += other.unsent
        self.late += other.late
        self.busy_s += other.busy_s
        self.watched_s += other.watched_s
        self.measured_s = max(self.measured_s, other.measured_s)
        return self

    def errors(self) -> dict[str, int]:
        """Return the outcomes other than 2xx, the most frequent first."""
        return {name: count for name, count in self.outcomes.most_common() if not is_success(name)}


def is_success(outcome: str) -> bool:
    return outcome.startswith("2")
