"""PyTriton: a real Triton with its Python backend and dynamic batcher."""
# The library is installed in the peer's own environment only.
# mypy: disable-error-code="import-not-found,misc,untyped-decorator"

import os
import sysconfig

import numpy as np
from head_session import PORT, Session
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

MAX_BATCH_ROWS = 256

session = Session()


@batch
def predict(features: NDArray[np.float32]) -> list[NDArray[np.generic]]:
    probabilities, classes = session.run(features)
    return [probabilities, classes[:, None]]  # Triton has no output without an axis beside the rows


if __name__ == "__main__":
    # Triton's stub links libpython, which only some interpreters put on the loader's path.
    os.environ["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
    config = TritonConfig(http_port=PORT, grpc_port=PORT + 1, metrics_port=PORT + 2)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="head",
            infer_func=predict,
            inputs=[Tensor(name="features", dtype=np.float32, shape=(-1,))],
            outputs=[
                Tensor(name="probabilities", dtype=np.float32, shape=(-1,)),
                Tensor(name="classes", dtype=np.int64, shape=(1,)),
            ],
            config=ModelConfig(max_batch_size=MAX_BATCH_ROWS),
        )
        triton.serve()
