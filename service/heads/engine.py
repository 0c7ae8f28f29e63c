"""One onnxruntime session: opened, checked, warmed up, run. The one home of onnxruntime.

Knows the bytes of a model and arrays of features; knows no file, no version and no class names. onnxruntime
is imported when the first session opens, so that commands without heads neither wait for it nor need it.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import ModuleType
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.errors import Invalid, ModelError, StartError
from service.heads.batcher import RowError
from service.heads.graphs import has_external_data
from service.numeric.checks import all_finite
from service.types import FloatArray, FloatType

Provider: TypeAlias = Literal["auto", "cpu", "cuda"]
# Names of outputs and arrays by name of input -> the outputs as arrays.
Compute: TypeAlias = Callable[[list[str], dict[str, NDArray[Any]]], list[Any]]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
PROVIDER_NAMES = {CPU: "cpu", CUDA: "cuda"}
# TF32 keeps 10 bits of a float32's 23: the golden rows would fail.
CUDA_OPTIONS = {"use_tf32": "0"}
DTYPES: dict[str, FloatType] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
}
DEFAULT_OUTPUT = "logits"
# Nothing below a fatal error is logged: every error is raised too, and its reader is told once.
SEVERITY_FATAL = 4
# onnxruntime's messages can hold a whole page of shapes; the first sentences name the fault.
MAX_REASON = 300
# What it says of an operator that only a library of its own could bring.
FOREIGN_OPERATOR = "is not a registered function/op"


class NonFiniteLogits(Invalid, RowError):
    """The logits of a row overflow; `row` is its number among the flattened rows of `batch_shape`."""

    def __init__(self, row: int, batch_shape: tuple[int, ...]) -> None:
        self.row = row
        place = "".join(f"[{index}]" for index in np.unravel_index(row, batch_shape))
        message = (
            "expected features whose logits are finite in the head's type, got a row whose logits overflow"
        )
        super().__init__("non_finite_logits", message, path="features" + place)


class Engine:
    """A head ready to run; made whole or not at all.

    Parameters
    ----------
    model : bytes
        An ONNX model with one float32 or float64 input [rows, num_features], rows dynamic and the rest fixed.
    provider : "auto", "cpu" or "cuda"
        Where it runs; "auto" is CUDA where it starts, else the CPU.
    threads : int
        How many threads one run may use.
    input_name, output_name : str or None
        The tensors of features and logits; None for the only input, and for `logits` or the only output.

    Raises
    ------
    StartError
        If onnxruntime is not installed, or the provider asked for is not there.
    ModelError
        If the model is broken or no head; the text says why.
    """

    def __init__(
        self,
        model: bytes,
        *,
        provider: Provider = "auto",
        threads: int = 1,
        input_name: str | None = None,
        output_name: str | None = None,
    ) -> None:
        self._session = _open(model, provider, threads)
        self.provider = PROVIDER_NAMES[self._session.get_providers()[0]]
        self._compute = _compute_on(self._session, self.provider)
        features = _features(self._session, input_name)
        self.input_name: str = features.name
        self.output_name = _output_name(self._session, output_name)
        self.dtype = DTYPES[features.type]
        self.num_features: int = features.shape[1]
        self.num_classes = self._warm_up()

    def run(self, features: FloatArray) -> FloatArray:
        """Run the head; safe in several threads at once.

        Parameters
        ----------
        features : float array [..., num_features]
            Finite, in the engine's dtype.

        Returns
        -------
        float array [..., num_classes]
            Finite logits in the same dtype; no rows give no rows.

        Raises
        ------
        Invalid
            `features_shape`, or `non_finite_logits` where a row's logits overflow.
        """
        if features.shape[-1:] != (self.num_features,):
            got = "[" + ", ".join(map(str, features.shape)) + "]"
            raise Invalid(
                "features_shape", f"expected shape [..., {self.num_features}], got {got}", path="features"
            )
        batch_shape = features.shape[:-1]
        # Some graphs have no answer for no rows, and some kernels give them the shape of their input.
        if features.size == 0:
            return np.empty((*batch_shape, self.num_classes), self.dtype)
        rows = np.ascontiguousarray(features.reshape(-1, self.num_features))
        logits: FloatArray = self._compute([self.output_name], {self.input_name: rows})[0]
        if not all_finite(logits):
            row = int(np.argmin(np.isfinite(logits).all(axis=1)))
            raise NonFiniteLogits(row, batch_shape)
        return logits.reshape(*batch_shape, self.num_classes)

    def _warm_up(self) -> int:
        """Run one row and two, which shows the classes and that rows are a batch; gives num_classes."""
        for rows in (1, 2):
            zeros = np.zeros((rows, self.num_features), self.dtype)
            try:
                logits = self._compute([self.output_name], {self.input_name: zeros})[0]
            except Exception as error:  # onnxruntime's errors share no base class
                raise ModelError(
                    f"the model does not run on {rows} rows of zeros: {_reason(error)}"
                ) from error
            if (
                not isinstance(logits, np.ndarray)
                or logits.ndim != 2
                or len(logits) != rows
                or not logits.size
            ):
                shape = list(getattr(logits, "shape", ()))
                raise ModelError(
                    f"output {self.output_name!r}: expected logits [rows, num_classes], got shape {shape} for "
                    f"{rows} rows"
                )
            if logits.dtype != self.dtype:
                raise ModelError(
                    f"output {self.output_name!r}: expected {self.dtype} like the input, got {logits.dtype}"
                )
        return int(logits.shape[1])


def _onnxruntime() -> ModuleType:
    try:
        import onnxruntime  # noqa: PLC0415 - see the module's docstring
    except ImportError as error:
        raise StartError(
            "onnxruntime is not installed: install logitserve[cpu], or logitserve[cuda] for an NVIDIA GPU"
        ) from error
    # For the whole process: a session's own severity does not reach the loading of a provider's library.
    onnxruntime.set_default_logger_severity(SEVERITY_FATAL)
    runtime: ModuleType = onnxruntime
    return runtime


def _open(model: bytes, provider: Provider, threads: int) -> Any:
    runtime = _onnxruntime()
    offered = CUDA in runtime.get_available_providers()
    if provider == "auto" and offered:
        # onnxruntime-gpu on a machine without a GPU; nobody asked for CUDA, so the CPU will do. A broken
        # model fails there again, and says so.
        with suppress(StartError, ModelError):
            return _open(model, "cuda", threads)
    if provider == "cuda" and not offered:
        raise StartError(
            "provider cuda was asked for, but this onnxruntime has no CUDA: install logitserve[cuda] in place "
            "of logitserve[cpu], or ask for provider cpu"
        )
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that wait by spinning take the CPU from the event loop and the other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = [(CUDA, CUDA_OPTIONS), CPU] if provider == "cuda" else [CPU]
    try:
        _refuse_external_data(model)
        # Without enable_fallback=0 a run that fails on the GPU would go on on the CPU, for good.
        session = runtime.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except ModelError:
        raise
    except Exception as error:  # onnxruntime's errors share no base class
        reason = _reason(error)
        # Such a library would be code that runs here: none is ever registered, whatever a model asks for.
        hint = "; operators from other libraries are not loaded" if FOREIGN_OPERATOR in reason else ""
        raise ModelError(f"onnxruntime cannot open the model: {reason}{hint}") from error
    # A session without the GPU is what onnxruntime gives, in silence, where CUDA's libraries do not load.
    if provider == "cuda" and CUDA not in session.get_providers():
        raise StartError(
            "onnxruntime has CUDA but could not start it: check the NVIDIA driver and the CUDA and cuDNN "
            "libraries, or ask for provider cpu"
        )
    return session


def _compute_on(session: Any, provider: str) -> Compute:
    """What runs the session, chosen once: a run on the CPU has nothing to bind."""
    run: Compute = session.run if provider == "cpu" else partial(_run_bound, session)
    return run


def _run_bound(session: Any, output_names: list[str], arrays: dict[str, NDArray[Any]]) -> list[Any]:
    """Run through IO binding: inputs are copied to the device once, outputs to host memory once.

    Parameters
    ----------
    session : InferenceSession
        Used by several threads at once; nothing else is shared between two runs.
    output_names : list of str
    arrays : dict of input name to array
        Contiguous, in the types of the inputs; not changed until this returns.

    Returns
    -------
    list of array
        In memory that onnxruntime allocated for this run and that lives as long as the array.
    """
    # A binding of its own for every run: it remembers its outputs, and a second run would write into arrays
    # that the first has given away. Memory on the device comes from the session's arena all the same.
    binding = session.io_binding()
    for name, array in arrays.items():
        binding.bind_cpu_input(name, array)
    for name in output_names:
        binding.bind_output(name)
    # Binding only begins the copies, on a stream that need not be the one that this run gets.
    binding.synchronize_inputs()
    session.run_with_iobinding(binding)
    # `copy_outputs_to_cpu` would copy once more what the run has copied to host memory.
    return [output.numpy() for output in binding.get_outputs()]


def _refuse_external_data(model: bytes) -> None:
    # onnxruntime would read any file below the working directory that the model names.
    if has_external_data(model):
        raise ModelError("the model keeps weights in another file: save it as one file")


def _features(session: Any, input_name: str | None) -> Any:
    """The one input, checked: float [rows, num_features] with rows dynamic."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise ModelError(f"expected one input, the features, got {len(inputs)}: {_names(inputs)}")
    features = inputs[0]
    if input_name not in (None, features.name):
        raise ModelError(f"head.json names the input {input_name!r}, but the model has {features.name!r}")
    if features.type not in DTYPES:
        raise ModelError(f"input {features.name!r}: expected float32 or float64, got {features.type}")
    if len(features.shape) != 2:
        raise ModelError(
            f"input {features.name!r}: expected rank 2, [rows, num_features], got shape {features.shape}"
        )
    rows, num_features = features.shape
    if isinstance(rows, int):
        raise ModelError(
            f"input {features.name!r}: expected any number of rows, got {rows}: export with a "
            "dynamic batch axis"
        )
    if not isinstance(num_features, int) or num_features < 1:
        raise ModelError(
            f"input {features.name!r}: expected a fixed number of features, got {num_features!r}"
        )
    return features


def _output_name(session: Any, output_name: str | None) -> str:
    outputs = session.get_outputs()
    names = [output.name for output in outputs]
    if output_name is not None:
        if output_name not in names:
            raise ModelError(
                f"head.json names the output {output_name!r}, but the model has {_names(outputs)}"
            )
        return output_name
    if DEFAULT_OUTPUT in names:
        return DEFAULT_OUTPUT
    if len(names) != 1:
        raise ModelError(f"which output are the logits? name one in head.json: {_names(outputs)}")
    only: str = names[0]
    return only


def _names(tensors: list[Any]) -> str:
    return ", ".join(repr(tensor.name) for tensor in tensors)[:MAX_REASON] or "none"


def _reason(error: Exception) -> str:
    """The error in one line of bounded length."""
    return " ".join(str(error).split())[:MAX_REASON]
