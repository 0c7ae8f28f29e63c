"""Values as Prometheus text: the one home of prometheus_client, which only writes."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from service.instruments import BUCKETS, INSTRUMENTS, SUM, Instrument, Labels
from service.metrics import Values


class Exposition:
    """Writes values as Prometheus text, by a registry that a test may give."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry or CollectorRegistry()
        self._values: Values = {}
        self._registry.register(self)

    CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

    def text(self, values: Values) -> bytes:
        self._values = values
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        return []  # nothing is collected at registration

    def collect(self) -> Iterator[Metric]:
        for instrument in INSTRUMENTS:
            series = self._values.get(instrument.name, {})
            if instrument.kind == "histogram":
                yield _histogram(instrument, series)
                continue
            family = CounterMetricFamily if instrument.kind == "counter" else GaugeMetricFamily
            metric = family(instrument.name, instrument.help, labels=instrument.labels)
            for labels, value in sorted(series.items()):
                metric.add_metric(labels, value)
            yield metric


def _histogram(instrument: Instrument, series: dict[Labels, float]) -> HistogramMetricFamily:
    metric = HistogramMetricFamily(instrument.name, instrument.help, labels=instrument.labels)
    for labels in sorted({key[:-1] for key in series}):
        cumulative, buckets = 0.0, []
        for place, bound in enumerate((*map(str, BUCKETS[instrument.name]), "+Inf")):
            cumulative += series.get((*labels, str(place)), 0)
            buckets.append((bound, cumulative))
        metric.add_metric(labels, buckets, sum_value=series.get((*labels, SUM), 0))
    return metric
