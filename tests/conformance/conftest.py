"""One real service for all foreign clients, and what it is to answer."""

import socket
from collections.abc import Iterator
from typing import cast

import numpy as np
import pytest
from conftest import MODELS, Running, running_service
from numpy.typing import NDArray

from service.heads.repository import Repository
from service.numeric.softmax import softmax

FEATURES = (np.arange(128) % 17).reshape(2, 64).astype(np.float32)


@pytest.fixture(scope="session")
def grpc_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(scope="session")
def running(grpc_address: str) -> Iterator[Running]:
    with running_service(f"--grpc-port={grpc_address.rpartition(':')[2]}") as running:
        yield running


@pytest.fixture(scope="session")
def logits() -> NDArray[np.float32]:
    """What the head makes of `FEATURES`, without a server."""
    repository = Repository(MODELS, provider="cpu")
    repository.load()
    made = repository.head(repository.info("digits", None)).run(FEATURES)
    return cast("NDArray[np.float32]", made)


@pytest.fixture(scope="session")
def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return cast("NDArray[np.float32]", softmax(logits))
