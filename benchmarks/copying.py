"""How fast bytes come to the device and back: what a head's rows cannot beat.

Between ordinary host memory, in which the features and logits of requests lie, and the device; in large blocks,
by onnxruntime itself. On the CPU's provider both ways are a copy from memory to memory.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple, TypeAlias

from service.heads.engine import CPU, CUDA, CUDA_OPTIONS  # first: it turns onnxruntime's telemetry off

# isort: split
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

Block: TypeAlias = NDArray[np.float32]
PROVIDERS = {"cpu": [CPU], "cuda": [(CUDA, CUDA_OPTIONS)]}
FLOAT_BYTES = 4


class Bandwidth(NamedTuple):
    """Bytes a second of large copies."""

    to_device: float
    to_host: float

    def seconds(self, to_device_bytes: int, to_host_bytes: int) -> float:
        """How long copying alone takes, there and back."""
        return to_device_bytes / self.to_device + to_host_bytes / self.to_host


def measure(device: str, block_bytes: int, turns: int) -> Bandwidth:
    """Measure on "cpu" or "cuda", the median of so many turns."""
    host = np.random.default_rng(0).standard_normal(block_bytes // FLOAT_BYTES, np.float32)
    value = ort.OrtValue.ortvalue_from_shape_and_type(host.shape, np.float32, device, 0)
    back = np.zeros_like(host)
    copy_back = copying_back(device, value, back)
    value.update_inplace(host)
    copy_back()
    if not np.array_equal(back, host):
        raise RuntimeError(f"what was copied to {device} and back is not what it was")
    seen = [(seconds(lambda: value.update_inplace(host)), seconds(copy_back)) for _ in range(turns)]
    return Bandwidth(*(host.nbytes / median(times) for times in zip(*seen, strict=True)))


def copying_back(device: str, value: ort.OrtValue, back: Block) -> Callable[[], None]:
    """Copy from the device into memory that is there already, as the end of a run whose output is bound.

    The graph is one Identity: on a GPU it moves the block once more inside the device, tens of times faster
    than it leaves.
    """
    shape = ["elements"]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["block"], ["copy"])],
        "copying",
        [helper.make_tensor_value_info("block", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("copy", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=PROVIDERS[device], enable_fallback=0)
    binding = session.io_binding()
    binding.bind_ortvalue_input("block", value)
    binding.bind_output("copy", "cpu", 0, np.float32, back.shape, back.ctypes.data)
    return lambda: session.run_with_iobinding(binding)


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    begun_s = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - begun_s) / repeats
