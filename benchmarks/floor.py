"""The floor of a request: what no Python server can leave out once the bytes are there.

Reading the body's floats with every check, one session run of head, Softmax and ArgMax, and writing the
answer's floats, each in the fastest way known, in process and on their own. With the bound's time for the
bytes themselves it is what a request costs at least. It uses nothing of the service.
"""

import importlib
import io
import os
import struct
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import that would send it

import numpy as np
import onnxruntime
import orjson
from cases import Array, Case, Form, Request
from onnx import TensorProto, helper

try:
    simdjson: Any = importlib.import_module("simdjson")
except ModuleNotFoundError:  # it has no wheels for some platforms
    simdjson = None

# Short and many: the least of them is what a quiet machine takes.
REPEAT_S = 0.02
NPY_HEADER_BYTES = 128  # as numpy writes it for arrays of two dimensions


class Floor(NamedTuple):
    """Seconds of each part of a request."""

    parse_s: float
    run_s: float
    write_s: float

    @property
    def total_s(self) -> float:
        return self.parse_s + self.run_s + self.write_s


def measure(case: Case, form: Form, request: Request, models: Path, duration_s: float = 0.3) -> Floor:
    """Measure each part; `models` is the folder with the heads that have Softmax in their graph."""
    session = session_of(case, models)
    names = [one.name for one in session.get_inputs()]
    feed = dict(zip(names, case.arrays.values(), strict=True))
    outputs: list[Array] = session.run(None, feed)
    answer = dict(zip((one.name for one in session.get_outputs()), outputs, strict=True))
    part_s = duration_s / 3
    readers = READERS[form]
    return Floor(
        min(_fastest_s(partial(read, case, request.body), part_s / len(readers)) for read in readers),
        _fastest_s(lambda: session.run(None, feed), part_s),
        _fastest_s(lambda: WRITERS[form](answer), part_s),
    )


def _fastest_s(work: Callable[[], object], duration_s: float) -> float:
    begun_s = time.perf_counter()
    work()
    once_s = time.perf_counter() - begun_s
    times = max(1, int(REPEAT_S / once_s))
    best_s, deadline_s = once_s, begun_s + duration_s
    while time.perf_counter() < deadline_s:
        begun_s = time.perf_counter()
        for _ in range(times):
            work()
        best_s = min(best_s, (time.perf_counter() - begun_s) / times)
    return best_s


def session_of(case: Case, models: Path) -> Any:
    """The finishing step for bare logits, or a head with it, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = _finishing(case) if case.operation != "predict" else (models / f"{case.model}.onnx").read_bytes()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _finishing(case: Case) -> bytes:
    """The graph from float32 logits to probabilities and classes, or to losses."""
    rows, num_classes = case.logits.shape
    inputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [rows, num_classes])]
    if case.operation == "loss":
        inputs.append(helper.make_tensor_value_info("labels", TensorProto.INT64, [rows]))
        nodes = [
            helper.make_node("SoftmaxCrossEntropyLoss", ["logits", "labels"], ["losses"], reduction="none")
        ]
        outputs = [helper.make_tensor_value_info("losses", TensorProto.FLOAT, [rows])]
    else:
        nodes = [
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
            helper.make_node("ArgMax", ["logits"], ["classes"], axis=-1, keepdims=0),
        ]
        outputs = [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [rows, num_classes]),
            helper.make_tensor_value_info("classes", TensorProto.INT64, [rows]),
        ]
    graph = helper.make_graph(nodes, "finishing", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    serialised: bytes = model.SerializeToString()
    return serialised


def _checked(found: Array, case: Case) -> Array:
    array = next(iter(case.arrays.values()))
    if found.shape != array.shape or not np.isfinite(found).all():
        raise ValueError("expected finite numbers of one shape")
    return found


def _read_orjson(case: Case, body: bytes) -> Array:
    fields = orjson.loads(body)
    if "labels" in case.arrays:
        np.array(fields["labels"], np.int64)
    return _checked(np.array(fields[next(iter(case.arrays))], np.float32), case)


def _read_simdjson(case: Case, body: bytes) -> Array:
    name, array = next(iter(case.arrays.items()))
    rows, length = array.shape
    # A parser of its own for every request: a value still in use would otherwise be overwritten.
    fields = simdjson.Parser().parse(body)
    tensor = fields[name]
    brackets = 1 + rows + (1 if "labels" in case.arrays else 0)
    # The buffer is flat: it has the shape only if every row has that length and nothing is nested deeper.
    if body.count(b"[") != brackets or any(len(row) != length for row in tensor):
        raise ValueError("expected rows of one length")
    if "labels" in case.arrays:
        np.frombuffer(fields["labels"].as_buffer(of_type="i"), np.int64)
    flat = np.frombuffer(tensor.as_buffer(of_type="d"), np.float64)
    return _checked(flat.astype(np.float32).reshape(rows, length), case)


def _read_npz(case: Case, body: bytes) -> Array:
    """The first member alone, its checksum compared; the directory and the npy header are left out."""
    crc32, _, _, name_bytes, extra_bytes = struct.unpack("<IIIHH", body[14:30])
    array = next(iter(case.arrays.values()))
    begin = 30 + name_bytes + extra_bytes
    member = memoryview(body)[begin : begin + NPY_HEADER_BYTES + array.nbytes]
    if zlib.crc32(member) != crc32:
        raise ValueError("expected another checksum")
    found = np.frombuffer(member, array.dtype, offset=NPY_HEADER_BYTES)
    return _checked(found.reshape(array.shape), case)


def _read_v2(case: Case, body: bytes) -> Array:
    array = next(iter(case.arrays.values()))
    begin = len(body) - sum(one.nbytes for one in case.arrays.values())
    orjson.loads(body[:begin])
    found = np.frombuffer(body, array.dtype, array.size, offset=begin)
    return _checked(found.reshape(array.shape), case)


def _write_json(answer: dict[str, Array]) -> bytes:
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _write_npz(answer: dict[str, Array]) -> bytes:
    """Checksums and one copy of the data; zip's and npy's headers, some 200 bytes an array, are left out."""
    file = io.BytesIO()
    for array in answer.values():
        data = array.data.cast("B")
        file.write(struct.pack("<I", zlib.crc32(data)))
        file.write(data)
    return file.getvalue()


def _write_v2(answer: dict[str, Array]) -> bytes:
    header = orjson.dumps({"outputs": [{"name": name, "shape": a.shape} for name, a in answer.items()]})
    return b"".join([header, *(array.data.cast("B") for array in answer.values())])


READERS: dict[Form, tuple[Callable[[Case, bytes], Array], ...]] = {
    "json": (_read_orjson, _read_simdjson) if simdjson else (_read_orjson,),
    "npz": (_read_npz,),
    "v2": (_read_v2,),
}
WRITERS: dict[Form, Callable[[dict[str, Array]], bytes]] = {
    "json": _write_json,
    "npz": _write_npz,
    "v2": _write_v2,
}
