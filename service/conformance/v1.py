"""TensorFlow Serving's REST API and KServe's V1: rows in JSON, as small as the vectors are."""

import json
from typing import Any

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray

from service.conformance.dialect import ONLY, OUTPUTS, Dialect, Read, Request, as_rows, read_each
from service.conformance.vectors import Question, array
from service.wire import media
from service.wire.nested import NON_FINITE


class V1(Dialect):
    """TensorFlow Serving's REST API and KServe's V1: rows, each a list of logits or an object."""

    name = "v1"
    forms = ("V1 JSON", "V1 JSON")
    unspeakable = frozenset({"loss", "count"})  # they are no row's own

    def cannot_say(self, question: Question) -> str:
        if not question.logits.size:
            return "the protocol has no empty batch"
        if question.options.get("axis", -1) != -1:
            return "the protocol has rows, and no other axis"
        if question.labels is not None:
            labelled = question.labels.shape if question.has_index_labels else question.labels.shape[:-1]
            if labelled[:1] != question.logits.shape[:-1][:1]:
                return "the protocol has rows, each with its own label"
        return super().cannot_say(question)

    def write(self, question: Question) -> Request:
        logits, labels, _ = as_rows(question, 2)
        parameters = self.options_said(question)
        columns = {"logits": _spell(logits.astype(np.float64))}
        if labels is not None:
            columns["labels"] = labels.tolist()
        if "sample_weight" in parameters:
            columns["sample_weight"] = parameters.pop("sample_weight").tolist()
        theirs = [self.words.theirs(name) for name in columns]
        rows: list[Any] = [dict(zip(theirs, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        said: dict[str, Any] = {"instances": rows if len(columns) > 1 else columns["logits"]}
        if "outputs" in parameters:
            parameters["outputs"] = [name for name in parameters["outputs"] if name not in self.unspeakable]
        if parameters:
            said["parameters"] = parameters
        body = orjson.dumps(said, option=orjson.OPT_SERIALIZE_NUMPY)
        path = f"/v1/models/{self.words.targets[question.operation][0]}:predict"
        return Request(path, body, {"content-type": media.JSON}, {}, keeps_shape=False)

    def read(self, question: Question, response: httpx.Response) -> Read:
        try:
            predictions = json.loads(response.content)["predictions"]
        except (ValueError, KeyError, TypeError):
            return {}, {"": "no predictions in the answer"}
        columns: dict[str, Any] = {ONLY[question.operation]: predictions}
        if isinstance(predictions, dict):
            columns = predictions
        elif predictions and all(isinstance(row, dict) for row in predictions):
            columns = {key: [row.get(key) for row in predictions] for key in predictions[0]}
        ours = {self.words.theirs(name): name for name in OUTPUTS[question.operation]}
        named = {ours.get(key, key): value for key, value in columns.items()}
        return read_each(named, lambda name, value: {name: array(value)})


def _spell(numbers: NDArray[Any]) -> list[Any]:
    """Make lists in which infinities are strings: JSON has no other word for them."""
    spelt = numbers.astype(object)
    for index in np.argwhere(~np.isfinite(numbers)):
        number = float(numbers[tuple(index)])
        spelt[tuple(index)] = next(word for word, value in NON_FINITE.items() if str(value) == str(number))
    return list(spelt.tolist())
