"""KServe's Python server, with both of its protocols."""
# The library is installed in the peer's own environment only.
# mypy: disable-error-code="import-not-found,misc"

from typing import Any

from head_session import PORT, Session
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.logging import KSERVE_LOG_CONFIG


class Head(Model):
    def __init__(self) -> None:
        super().__init__("head")
        self.session = Session()
        self.ready = True

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:  # noqa: ARG002
        if not isinstance(payload, InferRequest):
            return {"predictions": self.session.run_to_lists(payload["instances"])}
        probabilities, classes = self.session.run(payload.inputs[0].as_numpy())
        binary = payload.from_grpc is False and payload.request_outputs is not None
        outputs = []
        for name, datatype, array in (
            ("probabilities", "FP32", probabilities),
            ("classes", "INT64", classes),
        ):
            output = InferOutput(name, list(array.shape), datatype)
            output.set_data_from_numpy(array, binary_data=binary)
            outputs.append(output)
        return InferResponse(payload.id or "none", "head", outputs)


if __name__ == "__main__":
    KSERVE_LOG_CONFIG["loggers"]["uvicorn.access"]["level"] = "WARNING"
    ModelServer(http_port=PORT, enable_grpc=False, workers=1, enable_latency_logging=False).start([Head()])
