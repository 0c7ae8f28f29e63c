"""Models of real frameworks, saved as their own documentation says, against what the frameworks answer.

Collected only where all of them are installed, which takes gigabytes: torch, keras (on torch), flax, skl2onnx.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import flax.linen
import flax.serialization
import jax
import keras
import numpy as np
import pytest
import skl2onnx
import torch
from keras import layers
from safetensors.torch import save_file
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from service.export import formats
from service.export.exporter import export
from service.export.source import ExportError, Options
from service.heads.handle import Head

pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)


def exported(path: Path, **said: Any) -> Head:
    return export(formats.read(path, Options(**said)), path.parent / "models", model="m").head


def same(head: Head, expected: Any, rows: Any = ROWS) -> None:
    np.testing.assert_allclose(head.run(rows.astype(head.info.dtype)), expected, rtol=1e-5, atol=1e-5)


def softmax(logits: Any) -> Any:
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True)


# torch


class Network(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Sequential(torch.nn.Linear(9, 6), torch.nn.ReLU())
        self.classifier = torch.nn.Linear(6, 4)


@pytest.fixture
def network() -> Any:
    torch.manual_seed(0)
    return Network().eval()


def logits_of(network: Any) -> Any:
    return network.classifier.float()(torch.from_numpy(ROWS)).detach().numpy()


@pytest.mark.parametrize("wrap", [None, "state_dict", "model_state_dict"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_of_torch(tmp_path: Path, network: Any, wrap: str | None, *, zipped: bool) -> None:
    state = network.state_dict() if wrap is None else {"epoch": 3, wrap: network.state_dict()}
    torch.save(state, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    same(exported(tmp_path / "m.pt"), logits_of(network))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_types_of_torch(tmp_path: Path, network: Any, dtype: Any) -> None:
    torch.save(network.to(dtype).state_dict(), tmp_path / "m.pth")
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, tmp_path / "m.safetensors")
    for name in ("m.pth", "m.safetensors"):
        head = exported(tmp_path / name)
        same(head, logits_of(network))
        assert str(head.info.dtype) == ("float64" if dtype == torch.float64 else "float32")


def test_a_sequence_of_torch_ends_in_its_last_layer(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(9, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    torch.save(model.state_dict(), tmp_path / "m.pt")
    same(exported(tmp_path / "m.pt"), model[2](torch.from_numpy(ROWS)).detach().numpy())


def test_one_logit_of_torch_is_two_classes(tmp_path: Path) -> None:
    model = torch.nn.Linear(6, 1)
    torch.save(model.state_dict(), tmp_path / "m.pt")
    probability = torch.sigmoid(model(torch.from_numpy(ROWS))).detach().numpy()[:, 0]
    np.testing.assert_allclose(softmax(exported(tmp_path / "m.pt").run(ROWS))[:, 1], probability, atol=1e-6)


def test_a_whole_module_of_torch_is_not_unpickled(tmp_path: Path, network: Any) -> None:
    torch.save(network, tmp_path / "m.pt")
    with pytest.raises(ExportError, match=r"expected a state_dict, as torch\.save"):
        exported(tmp_path / "m.pt")
    torch.save([1], tmp_path / "m.pt")
    with pytest.raises(ExportError, match="expected a state_dict, got list"):
        exported(tmp_path / "m.pt")
    torch.save({"fc.weight": torch.ones(3, 6, dtype=torch.int8), "fc.bias": torch.ones(3)}, tmp_path / "m.pt")
    with pytest.raises(ExportError, match=r"fc\.weight: expected a dense tensor of floats"):
        exported(tmp_path / "m.pt")


# Keras


def sequence(end: str | None, *more: Any) -> Any:
    keras.utils.set_random_seed(0)
    inputs = [layers.Input((6,)), layers.Dropout(0.1), layers.Dense(4, activation=end, name="logits")]
    return keras.Sequential([*inputs, *more])


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize(
    "make",
    [lambda: sequence("softmax"), lambda: sequence(None, layers.Softmax()), lambda: sequence(None)],
    ids=["softmax", "Softmax", "linear"],
)
def test_a_model_of_keras(tmp_path: Path, suffix: str, make: Callable[[], Any]) -> None:
    model = make()
    model.save(tmp_path / f"m.{suffix}")
    said = np.asarray(model.predict(ROWS, verbose=0))
    given = softmax(exported(tmp_path / f"m.{suffix}").run(ROWS))
    expected = said if np.allclose(said.sum(axis=1), 1) else softmax(said)
    np.testing.assert_allclose(given, expected, atol=1e-6)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_layers_of_keras_are_found_in_a_graph(tmp_path: Path, suffix: str) -> None:
    start = layers.Input((9,))
    both = layers.Concatenate()([layers.Dense(2, name="z")(start), layers.Dense(4, name="a")(start)])
    end = layers.Dense(3, name="end")
    model = keras.Model(start, end(both))
    model.save(tmp_path / f"m.{suffix}")
    kernel, bias = (np.asarray(each) for each in end.get_weights())
    same(exported(tmp_path / f"m.{suffix}"), ROWS @ kernel + bias)
    named = exported(tmp_path / f"m.{suffix}", layer="a")
    kernel, bias = (np.asarray(each) for each in model.get_layer("a").get_weights())
    rows = np.random.default_rng(1).normal(size=(5, 9)).astype(np.float32)
    same(named, rows @ kernel + bias, rows)


def test_weights_of_keras_alone_need_the_name_of_the_layer(tmp_path: Path) -> None:
    model = sequence("softmax")
    model.save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ExportError, match="of weights alone, name the layer with --layer"):
        exported(tmp_path / "m.weights.h5")
    given = softmax(exported(tmp_path / "m.weights.h5", layer="logits").run(ROWS))
    np.testing.assert_allclose(given, np.asarray(model.predict(ROWS, verbose=0)), atol=1e-6)


def test_a_sigmoid_of_keras(tmp_path: Path) -> None:
    model = keras.Sequential([layers.Input((6,)), layers.Dense(1, activation="sigmoid")])
    model.save(tmp_path / "m.keras")
    given = softmax(exported(tmp_path / "m.keras").run(ROWS))[:, 1]
    np.testing.assert_allclose(given, np.asarray(model.predict(ROWS, verbose=0))[:, 0], atol=1e-6)


# Flax


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_of_flax(tmp_path: Path, dtype: str) -> None:
    class Network(flax.linen.Module):  # type: ignore[misc]
        def setup(self) -> None:
            self.head = flax.linen.Dense(5, param_dtype=dtype)

        def __call__(self, rows: Any) -> Any:
            return self.head(rows)

    network = Network()
    variables = network.init(jax.random.key(0), ROWS)
    (tmp_path / "m.msgpack").write_bytes(flax.serialization.to_bytes(variables))
    expected = ROWS @ np.asarray(variables["params"]["head"]["kernel"], np.float32)
    same(exported(tmp_path / "m.msgpack"), expected)


# ONNX


def as_onnx(path: Path, module: Any, width: int = 6) -> Path:
    torch.onnx.export(
        module.eval(),
        torch.zeros(2, width),
        path,
        dynamo=False,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "rows"}},
    )
    return path


def test_a_network_of_torch_as_onnx_is_served_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    body = torch.nn.Sequential(
        torch.nn.Linear(6, 8), torch.nn.GELU(), torch.nn.LayerNorm(8), torch.nn.Linear(8, 3)
    )
    expected = body.eval()(torch.from_numpy(ROWS)).detach().numpy()
    same(exported(as_onnx(tmp_path / "plain.onnx", body)), expected)
    whole = torch.nn.Sequential(body, torch.nn.Softmax(dim=-1))
    same(exported(as_onnx(tmp_path / "softmax.onnx", whole)), expected)


def test_a_linear_network_of_torch_as_onnx_becomes_weights(tmp_path: Path) -> None:
    linear = torch.nn.Linear(6, 3)
    head = exported(as_onnx(tmp_path / "m.onnx", torch.nn.Sequential(linear, torch.nn.LogSoftmax(dim=1))))
    same(head, linear(torch.from_numpy(ROWS)).detach().numpy())
    assert head.contributions(ROWS[:1], np.array([0]), 2)[0].shape == (1, 2)


def test_scikit_learn_as_onnx_gives_probabilities_and_is_refused(tmp_path: Path) -> None:
    rows, labels = load_wine(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, labels)
    model = skl2onnx.to_onnx(pipeline, rows[:1].astype(np.float32), options={"zipmap": False})
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="looks like probabilities, not logits"):
        exported(tmp_path / "m.onnx")
    with pytest.raises(ExportError):
        exported(tmp_path / "m.onnx", output="label")
