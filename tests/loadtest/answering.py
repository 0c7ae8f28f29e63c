"""A small ASGI server with one answer for everybody."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Standin:
    """Answers everybody the same, `delay_s` late, and keeps how often and by whom it is asked."""

    def __init__(
        self, status: int = 200, body: bytes = b"{}", *, problem: bool = False, delay_s: float = 0
    ) -> None:
        self.asked = 0
        self.callers: set[tuple[str, int]] = set()
        self.media_types: set[bytes] = set()
        self._status = status
        self._body = body
        self._type = b"application/problem+json" if problem else b"application/json"
        self._delay_s = delay_s

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        while (await receive()).get("more_body"):
            pass
        self.asked += 1
        self.callers.add(tuple(scope["client"]))
        self.media_types.add(dict(scope["headers"])[b"content-type"])
        await asyncio.sleep(self._delay_s)
        headers = [(b"content-type", self._type), (b"content-length", b"%d" % len(self._body))]
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})
