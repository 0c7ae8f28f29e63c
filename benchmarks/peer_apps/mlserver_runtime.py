"""MLServer: a custom runtime, run in the server's own process."""
# The library is installed in the peer's own environment only.
# mypy: disable-error-code="import-not-found,misc"

from head_session import Session
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Head(MLModel):
    async def load(self) -> bool:
        self.session = Session()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        probabilities, classes = self.session.run(NumpyCodec.decode_input(payload.inputs[0]))
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                NumpyCodec.encode_output("probabilities", probabilities),
                NumpyCodec.encode_output("classes", classes),
            ],
        )
