"""Values as Prometheus text: what its own parser makes of it."""

from prometheus_client.parser import text_string_to_metric_families

from service.exposition import Exposition
from service.instruments import BUCKETS, DURATION, INFLIGHT, INSTRUMENTS, REQUESTS, SUM
from service.metrics import Values


def parsed(values: Values) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = Exposition().text(values).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counters_end_in_total_and_gauges_do_not() -> None:
    found = parsed({REQUESTS.name: {("/softmax", "POST", "200"): 3}, INFLIGHT.name: {(): 2}})
    labels = (("method", "POST"), ("route", "/softmax"), ("status", "200"))
    assert found["logitserve_requests_total", labels] == 3
    assert found["logitserve_inflight_requests", ()] == 2


def test_a_histogram_is_cumulative_to_infinity_with_its_sum_and_count() -> None:
    last = len(BUCKETS[DURATION.name])
    found = parsed(
        {DURATION.name: {("/loss", "0"): 2, ("/loss", "3"): 1, ("/loss", str(last)): 4, ("/loss", SUM): 99.5}}
    )
    buckets = [
        value
        for (name, labels), value in found.items()
        if name.endswith("_bucket") and dict(labels)["route"] == "/loss"
    ]
    assert buckets == [2, 2, 2, *[3] * (last - 3), 7]
    assert found["logitserve_request_duration_seconds_sum", (("route", "/loss"),)] == 99.5
    assert found["logitserve_request_duration_seconds_count", (("route", "/loss"),)] == 7


def test_labels_may_hold_anything() -> None:
    odd = 'a"b\\c\nd'
    found = parsed({REQUESTS.name: {(odd, "POST", "200"): 1}})
    ((_, labels),) = found
    assert dict(labels)["route"] == odd


def test_every_instrument_is_described_though_nothing_was_counted() -> None:
    text = Exposition().text({}).decode()
    for instrument in INSTRUMENTS:
        name = f"{instrument.name}_total" if instrument.kind == "counter" else instrument.name
        assert f"# TYPE {name} {instrument.kind}" in text
        assert f"# HELP {name} " in text
    assert parsed({}) == {}
