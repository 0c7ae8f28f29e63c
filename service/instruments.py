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
_VERSION = ("model", "version")
QUALITY_ROWS = Instrument(
    "logitserve_quality_rows", "counter", _VERSION, "Rows with labels that heads were judged by."
)
QUALITY_LOSS = Instrument(
    "logitserve_quality_loss_nats", "counter", _VERSION, "Their log loss, summed: its mean is by rows."
)
QUALITY_BRIER = Instrument("logitserve_quality_brier", "counter", _VERSION, "Their Brier scores, summed.")
QUALITY_CORRECT = Instrument(
    "logitserve_quality_correct",
    "counter",
    (*_VERSION, "k"),
    "Those whose label was among the k best classes.",
)
_BIN = (*_VERSION, "bin")
QUALITY_BIN_ROWS = Instrument(
    "logitserve_quality_confidence_rows",
    "counter",
    _BIN,
    "Those whose confidence lay in a bin, of 15 equally wide ones.",
)
QUALITY_BIN_CONFIDENCE = Instrument(
    "logitserve_quality_confidence", "counter", _BIN, "Their confidences, summed: what a bin promised."
)
QUALITY_BIN_CORRECT = Instrument(
    "logitserve_quality_confidence_correct", "counter", _BIN, "Those predicted right: what a bin kept."
)
_CLASS = (*_VERSION, "class")
QUALITY_CLASS_ROWS = Instrument(
    "logitserve_quality_class_rows",
    "counter",
    _CLASS,
    "Rows by their label, of heads with at most 100 classes.",
)
QUALITY_CLASS_PREDICTED = Instrument(
    "logitserve_quality_class_predicted", "counter", _CLASS, "Rows with labels by predicted class."
)
QUALITY_CLASS_CORRECT = Instrument(
    "logitserve_quality_class_correct", "counter", _CLASS, "Rows of a class that were predicted as it."
)
QUALITY_CONFUSIONS = Instrument(
    "logitserve_quality_confusions",
    "counter",
    (*_VERSION, "label", "predicted"),
    "Mistakes by label and predicted class, of heads with at most 32 classes.",
)
PREDICTIONS = Instrument(
    "logitserve_predictions",
    "counter",
    _CLASS,
    "Rows scored by predicted class, of heads with at most 100 classes; of batches of more than 16 rows a part stands for all.",
)
CONFIDENCE = Instrument(
    "logitserve_prediction_confidence", "histogram", _VERSION, "The largest probability of each row scored."
)
MARGIN = Instrument(
    "logitserve_prediction_margin", "histogram", _VERSION, "How much less the next best of them is."
)
ENTROPY = Instrument(
    "logitserve_prediction_entropy",
    "histogram",
    _VERSION,
    "The entropy of each row scored, as a share of the most there can be.",
)
ENERGY = Instrument(
    "logitserve_prediction_energy_nats",
    "histogram",
    _VERSION,
    "The energy of each row scored, -log(sum(exp(logits))): it rises on rows unlike those of the training.",
)
DRIFT_PSI = Instrument(
    "logitserve_drift_psi",
    "gauge",
    (*_VERSION, "of"),
    "Population stability index of the window's traffic against the head's reference.",
)
DRIFT_KS = Instrument(
    "logitserve_drift_ks",
    "gauge",
    (*_VERSION, "of"),
    "Kolmogorov-Smirnov distance of the window's traffic from the head's reference.",
)
QUALITY = (
    QUALITY_ROWS,
    QUALITY_LOSS,
    QUALITY_BRIER,
    QUALITY_CORRECT,
    QUALITY_BIN_ROWS,
    QUALITY_BIN_CONFIDENCE,
    QUALITY_BIN_CORRECT,
    QUALITY_CLASS_ROWS,
    QUALITY_CLASS_PREDICTED,
    QUALITY_CLASS_CORRECT,
    QUALITY_CONFUSIONS,
    PREDICTIONS,
    CONFIDENCE,
    MARGIN,
    ENTROPY,
    ENERGY,
    DRIFT_PSI,
    DRIFT_KS,
)
FAILED_VERSIONS = Instrument(
    "logitserve_failed_versions", "gauge", ("model",), "Versions that could not be loaded, by model."
)
MEMORY = Instrument(
    "logitserve_resident_memory_bytes",
    "gauge",
    (),
    "Resident memory of all workers, shared pages counted in each.",
)
FEEDBACK_ROWS = Instrument(
    "logitserve_feedback_rows", "counter", ("outcome",), "Labels that came later, by what became of them."
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
    *QUALITY,
    FEEDBACK_ROWS,
    DECISION_LOG_DROPPED,
    BATCH_ROWS,
    QUEUE_ROWS,
    INFLIGHT,
    WORKERS,
    MODEL_INFO,
    FAILED_VERSIONS,
    MEMORY,
)
# Gauges of which the greatest of the workers' values is the service's; their sum would say nothing.
GREATEST_OF_WORKERS = frozenset({MODEL_INFO.name, LAST_SCORED.name, FAILED_VERSIONS.name})

# Upper bounds in seconds. A small request takes 50 to 500 µs, so most of the bounds lie below 10 ms.
BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
# A stage of a small request takes 5 to 50 µs.
BUCKETS_STAGE_S = (0.00001, 0.000025, 0.00005, *BUCKETS_S)
BUCKETS_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
BUCKETS_SHARE = tuple(k / 20 for k in range(1, 21))
# Near 0, where those of most heads lie, a quarter apart, and 16 near ±256.
BUCKETS_NATS = tuple((k * k if k > 0 else -k * k) / 4 for k in range(-32, 33))
BUCKETS: dict[str, Sequence[float]] = {
    DURATION.name: BUCKETS_S,
    STAGES.name: BUCKETS_STAGE_S,
    FAILURES.name: BUCKETS_S,
    BATCH_ROWS.name: BUCKETS_ROWS,
    CONFIDENCE.name: BUCKETS_SHARE,
    MARGIN.name: BUCKETS_SHARE,
    ENTROPY.name: BUCKETS_SHARE,
    ENERGY.name: BUCKETS_NATS,
}
SUM = "sum"
STAGE_NAMES = ("decode", "queue", "infer", "encode")
