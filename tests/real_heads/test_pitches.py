"""CREPE of torchcrepe: what enters its last layer, scored by the service, gives the pitches of the package."""

from typing import Any

import httpx
import numpy as np
import pytest
import torch
import torchcrepe

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore")]

SAMPLE_RATE, FRAME = 16_000, 1024


@pytest.fixture(scope="module")
def frames() -> Any:
    """A tone that rises from 110 Hz to 880 Hz, with overtones and noise, in frames as the package makes them."""
    seconds = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    phase = 2 * np.pi * 110 * (8 ** (seconds / 4) - 1) / (np.log(8) / 4)
    tone = sum(np.sin(n * phase) / n for n in range(1, 5)) + np.random.default_rng(0).normal(
        0, 0.05, seconds.size
    )
    audio = torch.from_numpy(tone.astype(np.float32))[None]
    return next(iter(torchcrepe.preprocess(audio, SAMPLE_RATE, hop_length=FRAME)))


async def test_the_pitch_of_every_frame(client: httpx.AsyncClient, frames: Any) -> None:
    torchcrepe.load.model("cpu", "tiny")
    model = torchcrepe.infer.model
    entered = []
    hook = model.classifier.register_forward_hook(lambda _module, inputs, _output: entered.append(inputs[0]))
    with torch.no_grad():
        said = model(frames).numpy()  # each pitch with a sigmoid of its own
    hook.remove()
    body = {"features": entered[0].tolist(), "model": "pitches", "outputs": ["logits", "classes"]}
    answer = await client.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    np.testing.assert_allclose(1 / (1 + np.exp(-np.array(found["logits"]))), said, rtol=1e-4, atol=1e-6)
    assert found["classes"] == said.argmax(axis=1).tolist()
    hertz = 10 * 2 ** ((1997.3794084376191 + 20 * np.array(found["classes"])) / 1200)
    assert np.corrcoef(np.log(hertz), np.arange(len(hertz)))[0, 1] > 0.9  # and it rises


async def test_the_head_says_that_these_are_scores(client: httpx.AsyncClient) -> None:
    (version,) = (await client.get("/models/pitches")).json()["versions"]
    assert version["source"]["probabilities"].startswith("uncalibrated")
    assert version["class_names"][0] == "31.70 Hz"
