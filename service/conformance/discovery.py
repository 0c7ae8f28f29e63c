"""Finding out which protocol a server speaks, and what it calls things.

A service that describes itself in OpenAPI says which options it reads; a V2 server which tensors its models take.
What they do not say is assumed to be as little as possible: logits and labels, and no options.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from service.conformance.dialect import Dialect, Model, Tensor, Words, read_json
from service.conformance.judge import OK
from service.conformance.native import Native
from service.conformance.v1 import V1
from service.conformance.v2 import V2
from service.conformance.vectors import Operation
from service.errors import StartError
from service.wire.options import FIELDS

DIALECTS: dict[str, type[Dialect]] = {kind.name: kind for kind in (Native, V2, V1)}
# How our own service calls itself in its OpenAPI document; it reads every option in every protocol.
OURS = "logitserve"
# A vector has at most some sixty numbers: who needs longer hangs.
TIMEOUT_S = 30.0
OPERATIONS: tuple[Operation, ...] = ("softmax", "loss")
ALL_OPTIONS = frozenset(FIELDS["loss"]) - {"logits", "labels"}


@dataclass(frozen=True)
class Asked:
    """What the caller says of the server; the options are found out where none are named."""

    dialect: str = "auto"
    targets: Mapping[Operation, tuple[str, ...]] = field(
        default_factory=lambda: {"softmax": ("softmax",), "loss": ("loss",)}
    )
    renamed: Mapping[str, str] = field(default_factory=dict)
    options: frozenset[str] | None = None
    dtypes: frozenset[str] = frozenset({"float32", "float64"})
    binary: bool = False


def connect(url: str, headers: Mapping[str, str] | None = None) -> httpx.Client:
    """Make a client that goes past the proxies of the environment, with a connection for each question.

    A server that fails at one question may close its connection, which is no answer to the next.
    """
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S, limits=limits, trust_env=False)


def discover(http: httpx.Client, asked: Asked) -> Dialect:
    """Find the dialect to speak with a server.

    Raises
    ------
    StartError
        Nobody answers, or in no protocol known here, or raw bytes are asked for where there are none.
    """
    document = _get(http, "/openapi.json")
    name = _spoken(http, document, asked) if asked.dialect == "auto" else asked.dialect
    if asked.binary and name == "v1":
        raise StartError("the V1 protocol has no raw bytes: leave --binary out")
    words = Words(asked.targets, asked.renamed, asked.options or frozenset(), asked.dtypes)
    if _title(document) == OURS:
        words = replace(words, options=asked.options or ALL_OPTIONS)
    elif name == "native":
        words = _described(words, document, asked)
    elif name == "v2":
        words = _modelled(http, words)
    return DIALECTS[name](http, words, binary=asked.binary)


def _spoken(http: httpx.Client, document: Any, asked: Asked) -> str:
    if any(_body_schema(document, targets) is not None for targets in asked.targets.values()):
        return "native"
    models = [name for targets in asked.targets.values() for name in targets]
    for dialect in ("v2", "v1"):
        paths = [f"/{dialect}/models/{name}" for name in models] + (
            [f"/{dialect}"] if dialect == "v2" else []
        )
        if any(isinstance(_get(http, path), dict) for path in paths):
            return dialect
    named = ", ".join(f"/{name}" for name in models)
    raise StartError(
        f"{http.base_url} describes neither {named} in /openapi.json nor such models at /v2 or /v1: "
        "name them with --softmax and --loss, and the protocol with --dialect"
    )


def _get(http: httpx.Client, path: str) -> Any:
    """Fetch a JSON document; None where there is none."""
    try:
        response = http.get(path)
    except httpx.TransportError as error:
        raise StartError(f"nobody answers at {http.base_url}: {error}") from error
    return read_json(response.content)[0] if response.status_code == OK else None


def _title(document: Any) -> object:
    return _within(document, "info", "title")


def _described(words: Words, document: Any, asked: Asked) -> Words:
    """Take from OpenAPI which fields a plain service reads, and how deep its logits are nested."""
    if not isinstance(document, dict):
        return words
    ours = {words.theirs(name): name for name in ALL_OPTIONS}
    known: set[str] = set()
    ranks: dict[Operation, int] = {}
    targets = dict(words.targets)
    for operation in OPERATIONS:
        schema = _body_schema(document, words.targets[operation])
        if schema is None:
            targets[operation] = ()
            continue
        properties = _within(schema, "properties") or {}
        known |= {ours[name] for name in properties if name in ours}
        if rank := _nesting(properties.get(words.theirs("logits"))):
            ranks[operation] = rank
    options = frozenset(known) if asked.options is None else asked.options
    return replace(words, targets=targets, options=options, ranks=ranks)


def _body_schema(document: Any, targets: tuple[str, ...]) -> Any:
    """Give the schema of what is posted to the path, or None where nothing can be."""
    for target in targets:
        path = "/" + target.removeprefix("/")
        schema = _within(
            document, "paths", path, "post", "requestBody", "content", "application/json", "schema"
        )
        if schema is not None:
            reference = schema.get("$ref", "") if isinstance(schema, dict) else ""
            return _within(document, *reference.removeprefix("#/").split("/")) if reference else schema
    return None


def _nesting(schema: Any) -> int | None:
    """Count the lists around the numbers, where the schema says it for sure."""
    depth = 0
    while isinstance(schema, dict) and schema.get("type") == "array":
        schema, depth = schema.get("items"), depth + 1
    is_number = isinstance(schema, dict) and schema.get("type") in {"number", "integer"}
    return depth if is_number else None


def _within(document: Any, *keys: str) -> Any:
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def _modelled(http: httpx.Client, words: Words) -> Words:
    """Ask a V2 server for its models' tensors."""
    models: dict[str, Model] = {}
    targets = dict(words.targets)
    for operation in OPERATIONS:
        described = {name: _model(http, name) for name in words.targets[operation]}
        models |= {name: model for name, model in described.items() if model is not None}
    for operation in OPERATIONS if models else ():
        targets[operation] = tuple(name for name in targets[operation] if name in models)
    return replace(words, targets=targets, models=models)


def _model(http: httpx.Client, name: str) -> Model | None:
    said = _get(http, f"/v2/models/{name}")
    if not isinstance(said, dict):
        return None
    return Model(name, *(tuple(map(_tensor, said.get(key) or ())) for key in ("inputs", "outputs")))


def _tensor(said: Mapping[str, Any]) -> Tensor:
    shape = said.get("shape")
    return Tensor(str(said.get("name")), str(said.get("datatype")), len(shape) if shape else None)
