"""Media types: which are read and written, and what an Accept header picks."""

import re
from functools import lru_cache

from service.errors import NotAcceptable, UnsupportedMedia
from service.types import Operation

JSON = "application/json"
NPZ = "application/x-npz"
NPY = "application/x-npy"
CSV = "text/csv"
# A JSON value in each line; there is no registered name.
LINES, X_LINES = "application/jsonlines", "application/x-jsonlines"
# The V2 protocol's binary tensors, as Triton has them at SageMaker, which lets no header through that it does not know.
RAW = "application/vnd.sagemaker-triton.binary+json"

# What answers are written in, the preferred first.
WRITABLE = (JSON, NPZ, NPY)
# An npy file holds one array, and a loss needs two.
READABLE: dict[Operation, tuple[str, ...]] = {
    "softmax": (JSON, NPZ, NPY),
    "loss": (JSON, NPZ),
    "predict": (JSON, NPZ, NPY),
}

# RFC 9110, section 12.4.2: 0 to 1, three digits at most.
_Q = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")

FORM = "application/x-www-form-urlencoded"

# Callers say the same few headers again and again; whoever varies them gains no more memory than this.
CACHED_HEADERS = 64


@lru_cache(CACHED_HEADERS)
def readable(operation: Operation, content_type: str) -> str:
    """Return the media type that a Content-Type header says; none counts as JSON.

    Raises
    ------
    UnsupportedMedia
        `unsupported_media_type`, with what to send in its place.
    """
    media_type = content_type.partition(";")[0].strip().lower() or JSON
    known = READABLE[operation]
    if media_type in known:
        return media_type
    hint = ""
    if media_type == FORM:  # what curl says of every body unless it is told
        hint = f"; with curl, add -H 'Content-Type: {JSON}'"
    elif media_type == NPY:
        hint = f"; one array is not enough for /{operation}, send {NPZ} with logits and labels"
    message = f"expected Content-Type {' or '.join(known)}, got {media_type[:40]!r}{hint}"
    raise UnsupportedMedia("unsupported_media_type", message)


@lru_cache(CACHED_HEADERS)
def accepted(accept_header: str | None, writable: tuple[str, ...] = WRITABLE) -> str:
    """Pick the media type of the answer: the one of the highest q, the first of `writable` where several share it.

    Raises
    ------
    NotAcceptable
        `not_acceptable`: the header leaves none of them.
    """
    if not accept_header or accept_header == "*/*":
        return writable[0]
    ranges = [read_range(text) for text in accept_header.split(",")]
    best = max(writable, key=lambda media_type: _quality(media_type, ranges))
    if _quality(best, ranges) <= 0:
        message = f"expected Accept to allow {', '.join(writable)}; got {accept_header[:40]!r}"
        raise NotAcceptable("not_acceptable", message)
    return best


def read_range(text: str) -> tuple[str, float]:
    """Read `application/json;q=0.5`; a q that is none counts as 1, as if it were not there."""
    name, *parameters = text.lower().split(";")
    quality = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            quality = float(value) if _Q.fullmatch(value.strip()) else 1.0
    return name.strip(), quality


def _quality(media_type: str, ranges: list[tuple[str, float]]) -> float:
    """Return the q of the most specific range that matches (RFC 9110, section 12.5.1)."""
    for wanted in (media_type, f"{media_type.partition('/')[0]}/*", "*/*"):
        for name, quality in ranges:
            if name == wanted:
                return quality
    return 0.0
