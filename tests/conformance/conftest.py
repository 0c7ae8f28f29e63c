"""One real service for all foreign clients, and what it is to answer."""

from collections.abc import Iterator
from typing import cast

import numpy as np
import pytest
from conftest import MODELS, Running, running_service
from numpy.typing import NDArray

from service.heads.repository import Repository
from service.numeric.softmax import softmax

FEATURES = (np.arange(128) % 17).reshape(2, 64).astype(np.float32)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with running_service() as running:
        yield running


@pytest.fixture(scope="module")
def logits() -> NDArray[np.float32]:
    """What the head makes of `FEATURES`, without a server."""
    repository = Repository(MODELS, provider="cpu")
    repository.load()
    made = repository.head(repository.info("digits", None)).run(FEATURES)
    return cast("NDArray[np.float32]", made)


@pytest.fixture(scope="module")
def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return cast("NDArray[np.float32]", softmax(logits))
