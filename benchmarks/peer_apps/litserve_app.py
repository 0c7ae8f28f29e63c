"""LitServe as its quick start shows it: one API process, one worker on the CPU."""
# The library is installed in the peer's own environment only.
# mypy: disable-error-code="import-not-found,misc"

from typing import Any

import litserve
from head_session import PORT, Session


class Head(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002 - the library calls it so
        self.session = Session()

    def decode_request(self, request: dict[str, Any]) -> Any:
        return request["features"]

    def predict(self, features: Any) -> dict[str, Any]:
        return self.session.run_to_lists(features)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    server = litserve.LitServer(Head(), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=PORT, num_api_servers=1, generate_client_file=False, log_level="warning"
    )
