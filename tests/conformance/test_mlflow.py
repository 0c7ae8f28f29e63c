"""MLflow's own scoring client, as it comes, with the data that its users have: data frames and arrays."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Running
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from numpy.typing import NDArray

from service import __version__

FEATURES = (np.arange(128) % 17).reshape(2, 64).astype(np.float32)


@pytest.fixture
def client(running: Running) -> Any:
    return ScoringServerClient("127.0.0.1", running.port)


def test_health_and_version(client: Any) -> None:
    client.ping()
    client.wait_server_ready(timeout=5)
    assert client.get_version() == __version__


@pytest.mark.parametrize("data", [FEATURES, pd.DataFrame(FEATURES), FEATURES.tolist()])
def test_frames_and_arrays_to_the_last_digit(
    client: Any, data: Any, probabilities: NDArray[np.float32]
) -> None:
    answer = client.invoke(data)
    found = np.asarray(answer["predictions"], np.float32)
    np.testing.assert_array_equal(found, probabilities, strict=True)


def test_params(client: Any, logits: NDArray[np.float32]) -> None:
    answer = client.invoke(pd.DataFrame(FEATURES), params={"outputs": ["classes"]})
    assert answer["predictions"] == logits.argmax(-1).tolist()


def test_mistakes_are_told(client: Any) -> None:
    with pytest.raises(Exception, match=r"400.*expected shape \[..., 64\], got \[2, 63\]"):
        client.invoke(pd.DataFrame(FEATURES[:, 1:]))
