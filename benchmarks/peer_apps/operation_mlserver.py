"""MLServer: a custom runtime for the operations on bare logits, run in the server's own process."""
# The library is installed in the peer's own environment only.
# mypy: disable-error-code="import-not-found,misc"

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from operation_session import Operation


class OperationRuntime(MLModel):
    async def load(self) -> bool:
        self.operation = Operation(self.name)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensors = {one.name: NumpyCodec.decode_input(one) for one in payload.inputs}
        answered = self.operation.run(tensors)
        return InferenceResponse(
            model_name=self.name,
            outputs=[NumpyCodec.encode_output(name, tensor) for name, tensor in answered.items()],
        )
