"""BentoML: one service with one worker, arrays in and lists out."""
# The library is installed in the peer's own environment only.
# mypy: disable-error-code="import-not-found,misc,untyped-decorator,type-arg"

from typing import Any

import bentoml
import numpy as np
from head_session import Session


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Head:
    def __init__(self) -> None:
        self.session = Session()

    @bentoml.api
    async def predict(self, features: np.ndarray) -> dict[str, Any]:
        return self.session.run_to_lists(features)
