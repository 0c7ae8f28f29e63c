"""What a store of waiting rows must do, and what it holds of a row."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.errors import LogitserveError
from service.types import FloatArray

# How long a store may keep a writer waiting: for another process that writes, or for the network. Callers wait so long.
PATIENCE_S = 2.0


class ScoredBy(NamedTuple):
    """The version that scored a row, with what it takes to read labels long after it has gone."""

    model: str
    version: str
    digest: str
    dtype: str
    num_classes: int
    class_names: tuple[str, ...] | None


class Scored(NamedTuple):
    """Rows that one head has scored together: an id and the head's own logits, before any calibration, for each."""

    by: ScoredBy
    ids: Sequence[str]
    logits: FloatArray  # [rows, num_classes]


class Waiting(NamedTuple):
    """A row that waits for its label; `stamp` tells it from others that were given the same id."""

    stamp: str
    by: ScoredBy
    logits: bytes


class StoreFailed(LogitserveError):
    """The place cannot be read or written; the text is the reason, for whoever runs the service."""


# What is known of an id; nothing where there never was a row of it, or too long ago.
Found: TypeAlias = Waiting | Literal["joined", "expired"]


class Store(Protocol):
    """Rows by id, shared by every process that opens the same place; each opens its own, for one thread at a time.

    A row waits for the time-to-live. Joined ids are remembered until then, expired ones for as long again. Where there
    are more ids than the limit, the oldest are forgotten. An id that is given again stands for the row scored last.
    All of it raises `StoreFailed` where the place cannot be read or written.
    """

    def add(self, scored: Sequence[Scored]) -> None:
        """Let rows wait: all of them or, where this raises, none."""

    def find(self, ids: Collection[str]) -> Mapping[str, Found]:
        """Look ids up; unknown ones are left out."""
        ...

    def take(self, waiting: Mapping[str, Waiting]) -> set[str]:
        """Mark rows as joined, and return the ids of those that still waited: of several takers one gets each."""
        ...

    def close(self) -> None:
        """Let go of the place; what waits there stays."""


def pieces(ids: Collection[str], size: int) -> Iterator[list[str]]:
    listed = list(ids)
    return (listed[start : start + size] for start in range(0, len(listed), size))


def as_array(rows: Sequence[Waiting]) -> NDArray[np.float32] | NDArray[np.float64]:
    """Stack the logits of rows of one head, [rows, num_classes]."""
    by = rows[0].by
    flat: FloatArray = np.frombuffer(b"".join(row.logits for row in rows), np.dtype(by.dtype))
    return flat.reshape(len(rows), by.num_classes)
