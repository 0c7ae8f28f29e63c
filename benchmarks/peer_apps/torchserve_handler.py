"""TorchServe: a custom handler; the server itself is Java."""

from typing import Any

from head_session import Session


class Head:
    """What TorchServe asks of a handler."""

    def initialize(self, context: Any) -> None:  # noqa: ARG002 - the server calls it so
        self.session = Session()

    def handle(self, requests: list[dict[str, Any]], context: Any) -> list[dict[str, Any]]:  # noqa: ARG002
        return [self.session.run_to_lists(request["body"]["features"]) for request in requests]
