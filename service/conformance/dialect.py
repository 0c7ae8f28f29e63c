"""What all dialects share: the words that a server has, and how a question is put and its answer read.

Whether an answer is right is not known here, nor what any protocol looks like.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeAlias

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray

from service.conformance.judge import OK, Answer
from service.conformance.vectors import Operation, Question
from service.errors import RequestError

Outputs: TypeAlias = dict[str, NDArray[Any] | None]
# The outputs that can be read, and what is wrong with the others; under "" with the whole answer.
Read: TypeAlias = tuple[Outputs, dict[str, str]]

OUTPUTS: dict[Operation, tuple[str, ...]] = {
    "softmax": ("probabilities", "classes", "log_probabilities", "top_classes", "top_probabilities"),
    "loss": ("loss", "losses", "count"),
}
# The output that a model with a single one answers.
ONLY: dict[Operation, str] = {"softmax": "probabilities", "loss": "losses"}
# The strings that JSON's missing numbers are sent as, and as what some servers' JSON has them.
_SPELT = re.compile(rb'"(NaN|-?Infinity)"')
# Kinds of dtype that can be compared with numbers.
NUMBERS = "fiub"
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
    # The outputs that have no place in the protocol.
    unspeakable: ClassVar[frozenset[str]] = frozenset()

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

    def options_said(self, question: Question) -> dict[str, Any]:
        """Give the question's options that the server has words for; the others change nothing that is judged."""
        options = {
            **question.options,
            "dtype": question.dtype.name,
            "outputs": list(question.expected) or None,
        }
        if question.may_be_refused:
            options["non_finite"] = "string"
        known = self.words.options
        return {name: value for name, value in options.items() if name in known and value is not None}

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
    def read(self, question: Question, response: httpx.Response) -> Read: ...


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


def read_each(found: Mapping[str, Any], read: Callable[[str, Any], Mapping[str, Any]]) -> Read:
    """Read outputs one by one: a fault in one says nothing of the others."""
    outputs: Outputs = {}
    faults: dict[str, str] = {}
    for name, value in found.items():
        try:
            values = read(name, value)
        except RequestError as error:
            faults[name] = error.detail
        except KeyError as error:
            faults[name] = f"it has no {error}, or one that is not read here"
        except (TypeError, ValueError, OverflowError):
            faults[name] = "null, or what is no number, among the numbers"
        else:
            arrays = {key: None if one is None else np.asarray(one) for key, one in values.items()}
            outputs |= {key: one for key, one in arrays.items() if one is None or one.dtype.kind in NUMBERS}
            faults |= dict.fromkeys(arrays.keys() - outputs.keys(), "no numbers")
    return outputs, faults
