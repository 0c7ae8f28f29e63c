"""What one writes in an hour: softmax and cross-entropy, shifted by the maximum, pydantic lists in and out."""

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from pydantic import BaseModel


class Logits(BaseModel):
    logits: list[list[float]]


class LabelledLogits(Logits):
    labels: list[int] | list[list[float]]


class Distribution(BaseModel):
    probabilities: list[list[float]]
    classes: list[int]
    log_probabilities: list[list[float]]


class Loss(BaseModel):
    loss: float
    losses: list[float]


app = FastAPI()


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logarithms: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logarithms


@app.get("/health")
async def health() -> dict[str, bool]:
    return {"ready": True}


@app.post("/softmax")
async def softmax(body: Logits) -> Distribution:
    logits = np.array(body.logits)
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return Distribution(
        probabilities=(exponentials / exponentials.sum(axis=-1, keepdims=True)).tolist(),
        classes=logits.argmax(axis=-1).tolist(),
        log_probabilities=log_softmax(logits).tolist(),
    )


@app.post("/loss")
async def loss(body: LabelledLogits) -> Loss:
    logarithms, labels = log_softmax(np.array(body.logits)), np.array(body.labels)
    if labels.ndim == 1:
        losses = -logarithms[np.arange(len(labels)), labels]
    else:
        losses = -(labels * logarithms).sum(axis=-1)
    return Loss(loss=float(losses.mean()), losses=losses.tolist())
