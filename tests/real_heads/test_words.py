"""Deepcut's network for Thai: what enters its last layer, scored by the service, gives the words of the package."""

import sys
from itertools import pairwise
from types import ModuleType
from typing import Any

import httpx
import keras
import keras.layers
import keras.models
import keras.optimizers
import numpy as np
import pytest

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore")]

SENTENCES = ("มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ", "ตัดคำได้ดีมาก")


@pytest.fixture(scope="module")
def deepcut() -> Any:
    """The package, given Keras itself where it asks for TensorFlow's."""
    tensorflow = ModuleType("tensorflow")
    tensorflow.keras = keras  # type: ignore[attr-defined]
    sys.modules["tensorflow"] = tensorflow
    sys.modules["tensorflow.keras"] = keras
    for part in ("layers", "models", "optimizers"):
        sys.modules[f"tensorflow.keras.{part}"] = getattr(keras, part)
    import deepcut

    return deepcut


@pytest.mark.parametrize("sentence", SENTENCES)
async def test_the_words_of_a_sentence(client: httpx.AsyncClient, deepcut: Any, sentence: str) -> None:
    network = deepcut.DeepcutTokenizer().model
    body_of = keras.Model(network.inputs, network.layers[-2].output)
    entered = body_of.predict(list(deepcut.utils.create_feature_array(sentence)), verbose=0)
    answer = await client.post("/predict", json={"features": entered.tolist(), "model": "words"})
    assert answer.status_code == 200, answer.text
    begins = np.array(answer.json()["classes"]) == 1
    begins[0] = True
    places = [*np.flatnonzero(begins), len(sentence)]
    words = [sentence[start:stop] for start, stop in pairwise(places)]
    assert words == deepcut.tokenize(sentence)
    assert len(words) > 3


async def test_one_score_became_two_classes(client: httpx.AsyncClient) -> None:
    (version,) = (await client.get("/models/words")).json()["versions"]
    assert version["class_names"] == ["inside", "beginning"]
    assert "one score z became the logits [0, z]" in version["source"]["notes"]
