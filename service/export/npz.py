"""npz: weights and a bias under the names that people give them."""

from pathlib import Path

from service.errors import RequestError
from service.export.source import (
    WEIGHTS_LIMIT_BYTES,
    ExportError,
    Options,
    Source,
    answer_linearly,
    read_bounded,
)
from service.export.tensors import Shelf, as_float, find_linear
from service.wire import arrays
from service.wire.limits import Limits

UNDERSTOOD = frozenset({"weight", "bias", "transpose", "as_scores"})
LIMITS = Limits(
    body_bytes=WEIGHTS_LIMIT_BYTES,
    rows=WEIGHTS_LIMIT_BYTES,
    elements=WEIGHTS_LIMIT_BYTES // 4,
    json_depth=0,  # there is no JSON in it
)


def read(path: Path, options: Options) -> Source:
    """Read an npz; which way round the weights lie shows by the length of the bias."""
    try:
        found = arrays.read_npz(read_bounded(path), LIMITS)
    except RequestError as error:
        raise ExportError(f"{path}: {error.detail}") from error
    shelf = Shelf(
        {name: array.shape for name, array in found.items()},
        lambda name: as_float(found[name], name),
    )
    linear, dtype, notes = find_linear(shelf, options)
    return Source(
        "npz",
        linear,
        dtype,
        answer_linearly(linear),
        file=path,
        notes=notes,
        calibrated=not options.as_scores,
    )
