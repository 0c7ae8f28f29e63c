"""How a question becomes a request and a response an answer, in each protocol.

What a server has words for it is told (`Words`); whether an answer is right is not known here. Arrays become bytes
and bytes arrays in `wire`, but for rows of plain JSON, which are the first version's of the protocol and small.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray

from service.conformance.judge import OK, Answer
from service.conformance.vectors import Operation, Question, array
from service.errors import RequestError
from service.wire import media, native, v2
from service.wire.nested import NON_FINITE

OUTPUTS: dict[Operation, tuple[str, ...]] = {
    "softmax": ("probabilities", "classes", "log_probabilities", "top_classes", "top_probabilities"),
    "loss": ("loss", "losses", "count"),
}
# The output that a model with a single one answers.
ONLY: dict[Operation, str] = {"softmax": "probabilities", "loss": "losses"}
DATATYPES = {"FP32": np.dtype(np.float32), "FP64": np.dtype(np.float64)}
ARRAY_OPTIONS = ("class_weight", "sample_weight")
# The strings that JSON's missing numbers are sent as, and as what some servers' JSON has them.
_SPELT = re.compile(rb'"(NaN|-?Infinity)"')
# The right answer of a server that has no such operation.
NO_ROUTE = frozenset({404, 405, 501})


class Tensor(NamedTuple):
    """A tensor as a server declares it; of no rank where it does not say."""

    name: str
    datatype: str
    rank: int | None


class Model(NamedTuple):
    """A model as its server describes it."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Words:
    """What a server has words for.

    Parameters
    ----------
    targets : mapping of operation to names
        The models, or the one path, that answer it; none where nothing does.
    renamed : mapping of str to str
        What the server calls our fields and outputs, where it calls them otherwise.
    options : frozenset of str
        The options that it understands, of which `outputs` and `dtype` are two.
    dtypes : frozenset of str
        The types that it computes in.
    ranks : mapping of operation to int
        The rank that logits must have; others are laid out as rows.
    models : mapping of name to Model
        Those that the server describes.
    """

    targets: Mapping[Operation, tuple[str, ...]]
    renamed: Mapping[str, str] = field(default_factory=dict)
    options: frozenset[str] = frozenset()
    dtypes: frozenset[str] = frozenset({"float32", "float64"})
    ranks: Mapping[Operation, int] = field(default_factory=dict)
    models: Mapping[str, Model] = field(default_factory=dict)

    def theirs(self, ours: str) -> str:
        return self.renamed.get(ours, ours)


class Request(NamedTuple):
    """One request; `keeps_shape` as in `Answer`."""

    path: str
    body: bytes
    headers: dict[str, str]
    query: dict[str, str]
    keeps_shape: bool = True


class Dialect(ABC):
    """One protocol, spoken with one server.

    Parameters
    ----------
    http : httpx.Client
        Knows the address.
    words : Words
    binary : bool
        Whether arrays travel as raw bytes, where the protocol can.
    """

    name: ClassVar[str]
    # How arrays travel: as text, and as raw bytes where the protocol can.
    forms: ClassVar[tuple[str, str]]

    def __init__(self, http: httpx.Client, words: Words, *, binary: bool = False) -> None:
        self.http = http
        self.words = words
        self.binary = binary

    @property
    def title(self) -> str:
        return self.forms[self.binary]

    def cannot_say(self, question: Question) -> str:
        """Say why the question cannot be put at all, or nothing."""
        if not self.words.targets[question.operation]:
            return f"the server has no {question.operation}"
        if question.dtype.name not in self.words.dtypes:
            return f"the server does not compute in {question.dtype}"
        return ""

    def ask(self, question: Question) -> Iterator[Answer]:
        """Put the question, in each of the ways in which JSON may spell what is no number there."""
        request = self.write(question)
        for body in spellings(request.body):
            try:
                response = self.http.post(
                    request.path, content=body, headers=request.headers, params=request.query or None
                )
            except httpx.TransportError as error:
                yield Answer(0, text=f"no answer: {type(error).__name__} {error}".rstrip())
                continue
            if response.status_code == OK:
                outputs, faults = self.read(question, response)
                yield Answer(OK, outputs, faults, keeps_shape=request.keeps_shape)
            else:
                text, code = error_of(response)
                yield Answer(response.status_code, text=text, code=code)

    @abstractmethod
    def write(self, question: Question) -> Request: ...

    @abstractmethod
    def read(self, question: Question, response: httpx.Response) -> "Read": ...


Read = tuple[dict[str, NDArray[Any] | None], dict[str, str]]


class Native(Dialect):
    """A JSON object or npz of fields, such as `logits`, answered as one of outputs: ours, and plain services'."""

    name = "native"
    forms = ("JSON", "npz")

    def cannot_say(self, question: Question) -> str:
        # No nesting has rows where there are none.
        if not self.binary and 0 in question.logits.shape[:-1]:
            return "JSON has no empty batch"
        return super().cannot_say(question)

    def write(self, question: Question) -> Request:
        operation, options = question.operation, self.words.options
        logits, labels, is_rows = as_rows(question, self.words.ranks.get(operation))
        if "dtype" not in options:  # else the codec names it of its own accord
            logits = logits.astype(np.float64)
        asked = {**question.options, "dtype": question.dtype.name, "outputs": list(question.expected) or None}
        if question.may_be_refused:
            asked["non_finite"] = "string"
        said = {name: value for name, value in asked.items() if name in options}
        fields = {"logits": logits, "labels": labels, **said}
        media_type = media.NPZ if self.binary else media.JSON
        sent = {self.words.theirs(name): value for name, value in fields.items()}
        body, query = native.encode_request(operation, sent, media_type)
        headers = {"content-type": media_type, "accept": media_type}
        path = "/" + self.words.targets[operation][0].removeprefix("/")
        return Request(path, body, headers, query, keeps_shape=not is_rows)

    def read(self, question: Question, response: httpx.Response) -> Read:
        if self.binary:
            return _read_each({"": response.content}, lambda _, body: native.decode_result(body, media.NPZ))
        said, fault = read_json(response.content)
        if fault or not isinstance(said, dict):
            return {}, {"": fault or "no JSON object"}
        theirs = {name: self.words.theirs(name) for name in OUTPUTS[question.operation]}
        found = {name: said[key] for name, key in theirs.items() if key in said}
        return _read_each(
            found, lambda name, value: native.decode_result(orjson.dumps({name: value}), media.JSON)
        )


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
        said = {name: value for name, value in question.options.items() if name in self.words.options}
        inputs |= {name: said.pop(name) for name in ARRAY_OPTIONS if name in said}
        if question.may_be_refused and "non_finite" in self.words.options:
            said["non_finite"] = "string"
        # Not listed where not needed: some servers answer a listed output as JSON whatever the request says.
        outputs = list(question.expected) if "outputs" in self.words.options else []
        body = v2.encode_request(inputs, outputs=outputs, parameters=said, binary=self.binary)
        headers = {"content-type": media.JSON}
        if body.json_bytes is not None:
            headers = {"content-type": "application/octet-stream", v2.JSON_LENGTH: str(body.json_bytes)}
        name = model.name if model else self._names(question)[0]
        return Request(f"/v2/models/{name}/infer", body.content, headers, {}, keeps_shape=False)

    def read(self, question: Question, response: httpx.Response) -> Read:
        json_length = response.headers.get(v2.JSON_LENGTH)
        if json_length is not None:
            found, faults = _read_each(
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
            found, faults = _read_each(
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


class V1(Dialect):
    """TensorFlow Serving's REST API and KServe's V1: rows, each a list of logits or an object."""

    name = "v1"
    forms = ("V1 JSON", "V1 JSON")

    def cannot_say(self, question: Question) -> str:
        if not question.logits.size:
            return "the protocol has no empty batch"
        if question.options.get("axis", -1) != -1:
            return "the protocol has rows, and no other axis"
        return super().cannot_say(question)

    def write(self, question: Question) -> Request:
        logits, labels, _ = as_rows(question, 2)
        rows: list[Any] = _spell(logits.astype(np.float64))
        if labels is not None:
            keys = (self.words.theirs("logits"), self.words.theirs("labels"))
            rows = [dict(zip(keys, pair, strict=False)) for pair in zip(rows, labels.tolist(), strict=False)]
        said: dict[str, Any] = {"instances": rows}
        known = {name: question.options[name] for name in question.options.keys() & self.words.options}
        if "dtype" in self.words.options:
            known["dtype"] = question.dtype.name
        if "outputs" in self.words.options:
            known["outputs"] = [name for name in question.expected if name not in {"loss", "count"}] or None
        if known := {name: value for name, value in known.items() if value is not None}:
            said["parameters"] = known
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
        return _read_each(named, lambda name, value: {name: array(value)})


DIALECTS: dict[str, type[Dialect]] = {kind.name: kind for kind in (Native, V2, V1)}


def as_rows(question: Question, rank: int | None) -> tuple[NDArray[Any], NDArray[Any] | None, bool]:
    """Lay logits and labels out as rows where the server takes matrices only; say whether that changed them."""
    logits, labels = question.logits, question.labels
    if rank != 2 or logits.ndim == 2 or question.refusal:
        return logits, labels, False
    rows = logits.reshape(-1, logits.shape[-1])
    if labels is not None:
        labels = labels.reshape(rows.shape) if labels.ndim == logits.ndim else labels.reshape(-1)
    return rows, labels, True


def spellings(body: bytes) -> list[bytes]:
    """Give a JSON body, and where it spells NaN or an infinity as a string, the same with JavaScript's bare words."""
    bare = _SPELT.sub(rb"\1", body)
    return [body] if bare == body else [body, bare]


def read_json(body: bytes) -> tuple[Any, str]:
    """Read JSON, and what is wrong with it where Python's generous reader takes what is none."""
    try:
        return orjson.loads(body), ""
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(body), "no JSON: it has bare words for numbers that JSON lacks"
    except ValueError:
        return None, "no JSON"


def error_of(response: httpx.Response) -> tuple[str, str]:
    """Read what an error says, and its code where it is one of RFC 9457 with a code of its own."""
    said, _ = read_json(response.content)
    if not isinstance(said, dict):
        return response.text, ""
    text = said.get("error") or said.get("detail") or said.get("message") or response.text
    code = said.get("code")
    return str(text), code if isinstance(code, str) else ""


def _read_each(found: Mapping[str, Any], read: Any) -> Read:
    """Read outputs one by one: a fault in one says nothing of the others."""
    outputs: dict[str, NDArray[Any] | None] = {}
    faults: dict[str, str] = {}
    for name, value in found.items():
        try:
            values = read(name, value)
        except RequestError as error:
            faults[name] = error.detail
        except (TypeError, ValueError, KeyError, OverflowError):
            faults[name] = "null, or what is no number, among the numbers"
        else:
            outputs |= {key: None if one is None else np.asarray(one) for key, one in values.items()}
    return outputs, faults


def _spell(numbers: NDArray[Any]) -> list[Any]:
    """Make lists in which infinities are strings: JSON has no other word for them."""
    spelt = numbers.astype(object)
    for index in np.argwhere(~np.isfinite(numbers)):
        number = float(numbers[tuple(index)])
        spelt[tuple(index)] = next(word for word, value in NON_FINITE.items() if str(value) == str(number))
    return list(spelt.tolist())
