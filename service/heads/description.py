"""head.json: what a head says of itself, and the digest that ties it to its model.onnx.

The second home of pydantic, beside the settings: head.json is written by people and read once. Knows no
file, no session and no graph.
"""

import hashlib
import json
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)

from service.errors import ModelError
from service.numeric.quality import ENERGY_BINS, SHARE_BINS

# More of a message than this is no longer one line.
MAX_REASON = 300

Row = Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]
# Logits of float32 times this, and their differences, are far within float64.
LARGEST_FACTOR = 2.0**64
Factor = Annotated[FiniteFloat, Field(ge=-LARGEST_FACTOR, le=LARGEST_FACTOR)]
Name = Annotated[str, StringConstraints(min_length=1)]
Index = Annotated[int, Field(ge=0, le=2**31)]
# Examples are for people to pick from, and answered whole: 20 ms of the event loop and 5 MB where they are as many.
MOST_EXAMPLE_ROWS = 1000
MOST_EXAMPLE_NUMBERS = 1 << 18
# Which of two forms a value was read as: no key of head.json, and no part of a place in it.
ROWS, SPARSE = KINDS = ("<rows>", "<sparse>")


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"expected distinct names, got {name[:40]!r} twice")
        seen.add(name)
    return names


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class GoldenSparse(_Strict):
    """Rows that are mostly 0, as `features` of a request has them: each with its features in ascending order."""

    indptr: Annotated[tuple[Index, ...], Field(min_length=2)]
    indices: tuple[Index, ...]
    data: tuple[FiniteFloat, ...]
    num_features: Annotated[int, Field(ge=1, le=2**31)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        indptr, entries = self.indptr, len(self.indices)
        if indptr[0] != 0 or indptr[-1] != entries or list(indptr) != sorted(indptr):
            raise ValueError(f"expected indptr to rise from 0 to {entries}, as many as indices")
        if len(self.data) != entries:
            raise ValueError(f"expected {entries} numbers of data, as many as indices, got {len(self.data)}")
        for start, stop in pairwise(indptr):
            row = self.indices[start:stop]
            if any(index >= after for index, after in pairwise((*row, self.num_features))):
                raise ValueError(f"expected ascending indices below {self.num_features} in each row")
        return self


class Golden(_Strict):
    """Rows of features with the logits they must give before the head counts as ready."""

    features: Annotated[
        Annotated[Annotated[tuple[Row, ...], Field(min_length=1)], Tag(ROWS)]
        | Annotated[GoldenSparse, Tag(SPARSE)],
        Discriminator(lambda value: SPARSE if isinstance(value, dict | GoldenSparse) else ROWS),
        Field(description="Rows [rows, num_features], or such rows without their zeros."),
    ]
    logits: Annotated[tuple[Row, ...], Field(min_length=1, description="Their logits [rows, num_classes].")]


class Examples(_Strict):
    """Rows of features that the head was not fitted to, for whoever wants to try it; with labels, if they are known."""

    features: Annotated[
        tuple[Row, ...],
        Field(
            min_length=1,
            max_length=MOST_EXAMPLE_ROWS,
            description=f"Rows [rows, num_features], at most {MOST_EXAMPLE_NUMBERS} numbers together.",
        ),
    ]
    labels: Annotated[tuple[Index, ...] | None, Field(description="The true classes [rows].")] = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        rows, width = len(self.features), len(self.features[0])
        if self.labels is not None and len(self.labels) != rows:
            raise ValueError(f"expected {rows} labels, one a row, got {len(self.labels)}")
        for index, row in enumerate(self.features):
            if len(row) != width:
                raise ValueError(
                    f"expected rows of one length, got {width} and, at {index}, {len(row)} numbers"
                )
        if rows * width > MOST_EXAMPLE_NUMBERS:
            raise ValueError(f"expected at most {MOST_EXAMPLE_NUMBERS} numbers, got {rows * width}")
        return self


class Image(_Strict):
    """The features are an image, row by row: how much ink each pixel has, from 0, the empty ground, to `largest`."""

    height: Annotated[int, Field(ge=1, le=2**31)]
    width: Annotated[int, Field(ge=1, le=2**31)]
    largest: Annotated[FiniteFloat, Field(gt=0)]


class Fitted(_Strict):
    """The labelled rows that a calibration was fitted to, and their mean log loss in nats without and with it."""

    rows: Annotated[int, Field(ge=1)]
    loss_before: FiniteFloat
    loss_after: FiniteFloat
    held_out_rows: Annotated[int, Field(ge=0, description="Rows that had no part in the fit.")] = 0
    held_out_loss_before: FiniteFloat | None = None
    held_out_loss_after: FiniteFloat | None = None
    at_bound: Annotated[
        tuple[str, ...], Field(description="Numbers that the data sent to their bound: doubtful ones.")
    ] = ()


class TemperatureScaling(_Strict):
    """Probabilities are the softmax of logits / temperature."""

    method: Literal["temperature"]
    temperature: Annotated[FiniteFloat, Field(gt=0)]
    fitted: Fitted | None = None


class VectorScaling(_Strict):
    """Probabilities are the softmax of scale · logits + bias, class by class."""

    method: Literal["vector"]
    scale: Annotated[tuple[Factor, ...], Field(min_length=1, description="One number a class.")]
    bias: Annotated[tuple[Factor, ...], Field(min_length=1, description="One number a class.")]
    fitted: Fitted | None = None


Count = Annotated[FiniteFloat, Field(ge=0)]
Shares = Annotated[tuple[Count, ...], Field(min_length=SHARE_BINS, max_length=SHARE_BINS)]


class Reference(_Strict):
    """The traffic that the head was made for, which drift is measured from: how many rows lie in each bin."""

    rows: Annotated[int, Field(ge=1)]
    predicted: Annotated[
        tuple[Count, ...], Field(description="By predicted class; empty above 1024 classes.")
    ]
    confidence: Annotated[Shares, Field(description="By the largest probability, in 20 parts of [0, 1].")]
    margin: Annotated[Shares, Field(description="By its lead over the next.")]
    entropy: Annotated[Shares, Field(description="By entropy, as a share of log(num_classes).")]
    energy: Annotated[
        tuple[Count, ...],
        Field(
            min_length=ENERGY_BINS,
            max_length=ENERGY_BINS,
            description="By -log(sum(exp(logits))), up to -256, …, -1/4, 0, 1/4, 1, …, 256 and above.",
        ),
    ]


class HeadDescription(_Strict):
    """What a head says of itself; stands beside its model.onnx as head.json."""

    class_names: Annotated[
        Annotated[tuple[Name, ...], Field(min_length=1), AfterValidator(_distinct)] | None,
        Field(description="Names of all classes, in the order of the logits; distinct."),
    ] = None
    input: Annotated[
        Name | None,
        Field(description="The input tensor, features [rows, num_features]; default the only one."),
    ] = None
    output: Annotated[
        Name | None,
        Field(
            description="The output tensor, logits [rows, num_classes]; default `logits`, or the only one."
        ),
    ] = None
    dtype: Annotated[
        Literal["float32", "float64"] | None,
        Field(description="What the head computes in, as its graph must say too."),
    ] = None
    decision: Annotated[
        dict[str, Any] | None,
        Field(
            description="What decisions go by: mask, priors, costs or thresholds, abstain; as a request to predict has it."
        ),
    ] = None
    calibration: Annotated[
        Annotated[TemperatureScaling | VectorScaling, Field(discriminator="method")] | None,
        Field(description="What logits go through before the softmax; `logitserve calibrate` fits it."),
    ] = None
    reference: Annotated[
        Reference | None,
        Field(description="What traffic is compared with; `logitserve calibrate` counts it."),
    ] = None
    golden: Annotated[
        Golden | None,
        Field(
            description="The self-test: |Δlogit| ≤ 1e-5·max(1, |logit|) in float32, 1e-12 in float64, and the "
            "same class."
        ),
    ] = None
    examples: Annotated[
        Examples | None,
        Field(description="Rows that the head was not fitted to, for people to try it with."),
    ] = None
    image: Annotated[
        Image | None,
        Field(description="Says that the features are an image; height · width are num_features."),
    ] = None
    source: Annotated[
        dict[str, str], Field(description="Where the head comes from: data, licence, how it was fitted.")
    ] = {}
    metrics: Annotated[
        dict[str, FiniteFloat], Field(description="How good the head is on data it was not fitted to.")
    ] = {}
    digest: Annotated[
        Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] | None,
        Field(description="sha256, in hexadecimal, over model.onnx and this object without its digest."),
    ] = None

    @model_validator(mode="after")
    def _shows_images(self) -> Self:
        if self.image is None or self.examples is None:
            return self
        for index, row in enumerate(self.examples.features):
            for value in (min(row), max(row)):
                if not 0 <= value <= self.image.largest:
                    raise ValueError(
                        f"examples.features[{index}]: expected numbers from 0 to image.largest, "
                        f"{self.image.largest:.9g}, got {value:.9g}"
                    )
        return self


def parse(text: bytes) -> HeadDescription:
    """Read head.json; `ModelError` says in one line where it is wrong."""
    try:
        return HeadDescription.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        steps = [step for step in first["loc"] if step not in KINDS]
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
        parts = ("head.json", place.lstrip("."), first["msg"].removeprefix("Value error, "))
        raise ModelError(": ".join(filter(None, parts))[:MAX_REASON]) from error


def digest_of(model: bytes, text: bytes = b"{}") -> str:
    """Take the sha256, in hexadecimal, over model.onnx and the canonical head.json.

    Canonical is the JSON object as written, without its own digest: keys sorted, no white space, numbers
    as Python writes them, UTF-8. A model without a head.json has an empty one.
    """
    described: dict[str, Any] = json.loads(text)
    described.pop("digest", None)
    canonical = json.dumps(described, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(model + canonical.encode()).hexdigest()


def schema() -> str:
    """Write the JSON Schema of head.json, as it is kept in head.schema.json."""
    described = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **HeadDescription.model_json_schema(),
    }
    return json.dumps(described, indent=2, ensure_ascii=False) + "\n"
