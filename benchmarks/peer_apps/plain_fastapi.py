"""What one writes in an hour: FastAPI, pydantic lists in, pydantic lists out."""

from fastapi import FastAPI
from head_session import Session
from pydantic import BaseModel


class Features(BaseModel):
    features: list[list[float]]


class Prediction(BaseModel):
    probabilities: list[list[float]]
    classes: list[int]


app = FastAPI()
session = Session()


@app.get("/health")
async def health() -> dict[str, bool]:
    return {"ready": True}


@app.post("/predict")
async def predict(body: Features) -> Prediction:
    return Prediction(**session.run_to_lists(body.features))
