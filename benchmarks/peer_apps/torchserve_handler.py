"""TorchServe: a custom handler, which is given all requests of a batch; the server itself is Java."""

from typing import Any

import numpy as np
from head_session import Session


class Head:
    """What TorchServe asks of a handler."""

    def initialize(self, context: Any) -> None:  # noqa: ARG002 - the server calls it so
        self.session = Session()

    def handle(self, requests: list[dict[str, Any]], context: Any) -> list[dict[str, Any]]:  # noqa: ARG002
        features = [np.asarray(request["body"]["features"], np.float32) for request in requests]
        answers = self.session.run(np.concatenate(features))
        ends = np.cumsum([len(rows) for rows in features])[:-1]
        return [
            {"probabilities": probabilities.tolist(), "classes": classes.tolist()}
            for probabilities, classes in zip(*(np.split(answer, ends) for answer in answers), strict=True)
        ]
