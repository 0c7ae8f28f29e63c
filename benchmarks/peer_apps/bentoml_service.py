"""BentoML: one service with one worker, arrays in and lists out."""
# The library is installed in the peer's own environment only.
# mypy: disable-error-code="import-not-found,misc,untyped-decorator"

from typing import Any

import bentoml
from head_session import Session


@bentoml.service(workers=1)
class Head:
    def __init__(self) -> None:
        self.session = Session()

    @bentoml.api
    def predict(self, features: list[list[float]]) -> dict[str, Any]:
        return self.session.run_to_lists(features)
