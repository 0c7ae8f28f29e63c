"""Other people's servers, small: one that says what it is told, and one that is right in nothing hard."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Handler = Callable[[Any], Any]

SCHEMA = {
    "type": "object",
    "properties": {
        "logits": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
        "labels": {"type": "array", "items": {}},
    },
}


def described(*paths: str, schema: Any = SCHEMA, title: str = "other") -> dict[str, Any]:
    """An OpenAPI document with these paths, the schema behind a reference as FastAPI writes it."""
    body = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Body"}}}}
    return {
        "info": {"title": title},
        "paths": {path: {"post": {"requestBody": body}} for path in paths},
        "components": {"schemas": {"Body": schema}},
    }


def serving(gets: dict[str, Any], posts: Mapping[str, Handler] | None = None) -> Starlette:
    """Answer `gets` with what they hold, and `posts` with what their function makes of the JSON that comes."""

    def get_route(path: str, said: Any) -> Route:
        async def get(_: Request) -> Response:
            return Response(orjson.dumps(said), media_type="application/json")

        return Route(path, get)

    def post_route(path: str, handler: Handler) -> Route:
        async def post(request: Request) -> Response:
            answered = handler(json.loads(await request.body()))
            if isinstance(answered, Response):
                return answered
            # Python's own writer: it has bare words for what JSON lacks.
            return Response(json.dumps(answered), media_type="application/json")

        return Route(path, post, methods=["POST"])

    routes = [get_route(path, said) for path, said in gets.items()]
    return Starlette(routes=routes + [post_route(path, handler) for path, handler in (posts or {}).items()])


def _floats(values: Any) -> NDArray[np.float64]:
    return np.array(values, dtype=object).astype(np.float64)


def _nulls(array: NDArray[Any]) -> Any:
    """What most JSON writers make of infinities and NaN."""
    return orjson.loads(orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY))


def naive_softmax(body: Any) -> Any:
    """No maximum is subtracted; masks become null; nothing is refused."""
    with np.errstate(all="ignore"):
        exponentials = np.exp(_floats(body["logits"]))
        probabilities = exponentials / exponentials.sum(axis=-1, keepdims=True)
        return {
            "probabilities": _nulls(probabilities),
            "classes": probabilities.argmax(axis=-1).tolist(),
            "log_probabilities": _nulls(np.log(probabilities)),
        }


def naive_loss(body: Any) -> Any:
    """The logarithm of a rounded probability; a label of -1 is the last class; the mean of nothing is NaN."""
    labels = np.array(body["labels"])
    with np.errstate(all="ignore"):
        probabilities = _floats(naive_softmax(body)["probabilities"])
        if labels.ndim == 1:
            losses = -np.log(np.take_along_axis(probabilities, labels.astype(int)[:, None], -1))[:, 0]
        else:
            losses = -(labels * np.log(probabilities)).sum(axis=-1)
        return {"losses": losses.tolist(), "loss": float(losses.mean())}


def naive() -> Starlette:
    """The deliberately wrong service."""
    posts = {"/softmax": naive_softmax, "/loss": naive_loss}
    return serving({"/openapi.json": described(*posts)}, posts)
