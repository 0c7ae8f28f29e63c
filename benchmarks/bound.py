"""The bound: the least that a Python server on uvicorn can do with a request.

    python benchmarks/bound.py --port 8001 --answer answer.json --media-type application/json

A raw ASGI function reads the body and answers a fixed one. No framework, no parsing, no model: whatever a
real service adds comes on top of this. It must know nothing of ours.
"""

import argparse
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, TypeAlias

import uvicorn

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]


def answering(body: bytes, media_type: str) -> ASGIApp:
    """Make the ASGI function; what it sends is made once."""
    headers = [
        (b"content-type", media_type.encode("latin-1")),
        (b"content-length", str(len(body)).encode("ascii")),
    ]

    async def app(_scope: Message, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body", False):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--answer", type=Path, required=True, help="file with the body of every answer")
    parser.add_argument("--media-type", required=True)
    options = parser.parse_args()
    uvicorn.run(
        answering(options.answer.read_bytes(), options.media_type),
        port=options.port,
        http="httptools",
        loop="uvloop",
        ws="none",
        interface="asgi3",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
    )


if __name__ == "__main__":
    main()
