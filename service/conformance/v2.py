"""The Open Inference Protocol V2: models with tensors of one type each; bytes are `wire.v2`'s."""

import httpx
import numpy as np
import orjson

from service.conformance.dialect import (
    ONLY,
    OUTPUTS,
    Dialect,
    Model,
    Read,
    Request,
    Tensor,
    as_rows,
    read_each,
    read_json,
)
from service.conformance.vectors import Question
from service.wire import media, v2

DATATYPES = {"FP32": np.dtype(np.float32), "FP64": np.dtype(np.float64)}
# The options that are tensors.
ARRAY_OPTIONS = ("class_weight", "sample_weight")


class V2(Dialect):
    """The Open Inference Protocol V2: tensors in, tensors out."""

    name = "v2"
    forms = ("V2 JSON", "V2 binary")

    def cannot_say(self, question: Question) -> str:
        if reason := super().cannot_say(question):
            return reason
        described = [self.words.models[name] for name in self._names(question) if name in self.words.models]
        if described and self._model(question) is None:
            kinds = ""
            if question.labels is not None:
                kinds = f" with {'indices' if question.has_index_labels else 'rows'} as labels"
            return f"no model of {question.operation} takes {question.dtype}{kinds}"
        return ""

    def write(self, question: Question) -> Request:
        model = self._model(question)
        tensors = self._ordered(model) if model else [Tensor(self.words.theirs("logits"), "", None)]
        logits, labels, _ = as_rows(question, tensors[0].rank)
        inputs = {tensors[0].name: logits}
        if labels is not None:
            tensor = tensors[1] if len(tensors) > 1 else Tensor(self.words.theirs("labels"), "", None)
            # Some have no tensor without an axis beside the rows.
            inputs[tensor.name] = labels[:, None] if tensor.rank == 2 and labels.ndim == 1 else labels
        said = self.options_said(question)
        inputs |= {name: said.pop(name) for name in ARRAY_OPTIONS if name in said}
        said.pop("dtype", None)  # tensors have their own
        # Not listed where not needed: some servers answer a listed output as JSON whatever the request says.
        outputs = said.pop("outputs", [])
        body = v2.encode_request(inputs, outputs=outputs, parameters=said, binary=self.binary)
        headers = {"content-type": media.JSON}
        if body.json_bytes is not None:
            headers = {"content-type": "application/octet-stream", v2.JSON_LENGTH: str(body.json_bytes)}
        name = model.name if model else self._names(question)[0]
        return Request(f"/v2/models/{name}/infer", body.content, headers, {}, keeps_shape=False)

    def read(self, question: Question, response: httpx.Response) -> Read:
        json_length = response.headers.get(v2.JSON_LENGTH)
        if json_length is not None:
            found, faults = read_each(
                {"": response.content}, lambda _, body: v2.decode_result(body, json_length)
            )
        else:
            said, fault = read_json(response.content)
            try:
                entries = {} if fault else {entry["name"]: entry for entry in said["outputs"]}
            except (KeyError, TypeError):
                fault = "no outputs in the answer"
            if fault:
                return {}, {"": fault}
            found, faults = read_each(
                entries, lambda _, entry: v2.decode_result(orjson.dumps({"outputs": [entry]}), None)
            )
        ours = {self.words.theirs(name): name for name in OUTPUTS[question.operation]}
        if len(found) + len(faults) == 1 and not ours.keys() & (found.keys() | faults.keys()):
            ours[next(iter(found | faults))] = ONLY[question.operation]
        return (
            {ours.get(name, name): value for name, value in found.items()},
            {ours.get(name, name): text for name, text in faults.items()},
        )

    def _names(self, question: Question) -> tuple[str, ...]:
        return self.words.targets[question.operation]

    def _model(self, question: Question) -> Model | None:
        """Find the model whose inputs have the types of the question."""
        for name in self._names(question):
            model = self.words.models.get(name)
            if model is None or not model.inputs:
                continue
            logits, *labels = self._ordered(model)
            fits = DATATYPES.get(logits.datatype) == question.dtype
            if question.labels is not None and labels:
                fits &= labels[0].datatype.startswith("FP") != question.has_index_labels
            if fits:
                return model
        return None

    def _ordered(self, model: Model) -> list[Tensor]:
        """Give the inputs, logits before labels, whatever their order."""
        return sorted(model.inputs, key=lambda tensor: tensor.name == self.words.theirs("labels"))
