"""Every instrument: what is measured, under which labels, in which buckets. Who counts is not known here."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

Labels: TypeAlias = tuple[str, ...]
# Of a request: decode, queue, infer, encode.
Seconds: TypeAlias = tuple[float, float, float, float]


class Instrument(NamedTuple):
    """What is measured; time series appear per label set on first use."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: Labels
    help: str


REQUESTS = Instrument(
    "logitserve_requests", "counter", ("route", "method", "status"), "Requests answered, by path template."
)
DURATION = Instrument(
    "logitserve_request_duration_seconds",
    "histogram",
    ("route",),
    "From the first byte of a request read to the last of its answer handed to the socket.",
)
ROWS = Instrument("logitserve_rows", "counter", ("model", "version"), "Examples scored, by model.")
STAGES = Instrument(
    "logitserve_stage_duration_seconds",
    "histogram",
    ("model", "version", "stage"),
    "What a scored request spent in decode, queue, infer and encode.",
)
FAILURES = Instrument(
    "logitserve_failure_duration_seconds",
    "histogram",
    ("model", "version"),
    "Requests that were decoded and then failed, and how long they had taken.",
)
LAST_SCORED = Instrument(
    "logitserve_last_scored_timestamp_seconds",
    "gauge",
    ("model", "version"),
    "When a model last scored a request.",
)
ERRORS = Instrument("logitserve_errors", "counter", ("route", "code"), "Errors answered, by code.")
_PAIR = ("model", "version", "shadow")
SHADOW_ROWS = Instrument(
    "logitserve_shadow_rows",
    "counter",
    _PAIR,
    "Rows that a shadow version has scored beside the one that answered.",
)
SHADOW_DROPPED = Instrument(
    "logitserve_shadow_dropped_rows", "counter", _PAIR, "Rows that it has not, since too many waited for it."
)
SHADOW_DISAGREEMENTS = Instrument(
    "logitserve_shadow_disagreements", "counter", _PAIR, "Rows in which it predicted another class."
)
SHADOW_DIVERGENCE = Instrument(
    "logitserve_shadow_divergence_nats",
    "counter",
    _PAIR,
    "Kullback-Leibler divergence of its probabilities from those answered, summed over rows.",
)
SHADOW_LABELLED = Instrument(
    "logitserve_shadow_labelled_rows", "counter", _PAIR, "Rows with labels among those that it has scored."
)
SHADOW_GAIN = Instrument(
    "logitserve_shadow_loss_gain_nats",
    "counter",
    _PAIR,
    "How much less its losses were, where they were less.",
)
SHADOW_HARM = Instrument(
    "logitserve_shadow_loss_harm_nats",
    "counter",
    _PAIR,
    "How much more its losses were, where they were more.",
)
SHADOW_SQUARES = Instrument(
    "logitserve_shadow_loss_difference_nats_squared",
    "counter",
    _PAIR,
    "Squares of the differences in loss, for the confidence interval of their mean.",
)
SHADOW_SUMS = (
    SHADOW_ROWS,
    SHADOW_DISAGREEMENTS,
    SHADOW_DIVERGENCE,
    SHADOW_LABELLED,
    SHADOW_GAIN,
    SHADOW_HARM,
    SHADOW_SQUARES,
)
DECISION_LOG_DROPPED = Instrument(
    "logitserve_decision_log_dropped",
    "counter",
    (),
    "Requests left out of the decision log, since too much waited for it or the disk took no more.",
)
BATCH_ROWS = Instrument(
    "logitserve_batch_rows", "histogram", ("model", "version"), "Rows that ran through a head together."
)
QUEUE_ROWS = Instrument("logitserve_queue_rows", "gauge", (), "Rows that wait for a head now.")
REJECTED = Instrument(
    "logitserve_rejected",
    "counter",
    ("reason",),
    "Requests turned away or dropped before they were computed.",
)
INFLIGHT = Instrument("logitserve_inflight_requests", "gauge", (), "Requests being answered now.")
WORKERS = Instrument("logitserve_workers", "gauge", (), "Worker processes that are serving.")
MODEL_INFO = Instrument(
    "logitserve_model_info",
    "gauge",
    ("model", "version", "digest", "provider"),
    "1 for each version of a head that is served.",
)
INSTRUMENTS = (
    REQUESTS,
    DURATION,
    ROWS,
    STAGES,
    FAILURES,
    LAST_SCORED,
    ERRORS,
    REJECTED,
    *SHADOW_SUMS,
    SHADOW_DROPPED,
    DECISION_LOG_DROPPED,
    BATCH_ROWS,
    QUEUE_ROWS,
    INFLIGHT,
    WORKERS,
    MODEL_INFO,
)
# Gauges of which the greatest of the workers' values is the service's; their sum would say nothing.
GREATEST_OF_WORKERS = frozenset({MODEL_INFO.name, LAST_SCORED.name})

# Upper bounds in seconds. A small request takes 50 to 500 µs, so most of the bounds lie below 10 ms.
BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
# A stage of a small request takes 5 to 50 µs.
BUCKETS_STAGE_S = (0.00001, 0.000025, 0.00005, *BUCKETS_S)
BUCKETS_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
BUCKETS: dict[str, Sequence[float]] = {
    DURATION.name: BUCKETS_S,
    STAGES.name: BUCKETS_STAGE_S,
    FAILURES.name: BUCKETS_S,
    BATCH_ROWS.name: BUCKETS_ROWS,
}
SUM = "sum"
STAGE_NAMES = ("decode", "queue", "infer", "encode")
