"""The page: files as they lie in the package, which ask for nothing but this service."""

import functools
import gzip
import hashlib
from importlib import resources
from typing import NamedTuple

from service.api.exchange import Answer, Exchange, header_lines
from service.api.transport import Route
from service.errors import NotFound

START = "index.html"
MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Asset(NamedTuple):
    """A file, as it is and compressed; its tag changes with its bytes."""

    plain: bytes
    compressed: bytes
    tag: str


class Page:
    """The page and its files; nothing of it is secret, so no key is asked for."""

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/", "page", self.start),
            Route("HEAD", "/", "page", self.start),
            Route("GET", "/page/{asset}", "page_asset", self.asset),
        ]

    async def start(self, exchange: Exchange) -> Answer:
        return _answer(exchange, START)

    async def asset(self, exchange: Exchange) -> Answer:
        return _answer(exchange, exchange.path_params["asset"])


def _answer(exchange: Exchange, name: str) -> Answer:
    if name not in _names():
        raise NotFound("unknown_route", "the page has no such file")
    asset = _asset(name)
    # A browser asks each time whether there is a newer one: after an update no old file meets new ones.
    headers = {
        "cache-control": "no-cache",
        "content-security-policy": POLICY,
        "etag": asset.tag,
        "referrer-policy": "no-referrer",
        "vary": "accept-encoding",
        "x-content-type-options": "nosniff",
    }
    media_type = MEDIA_TYPES[name.rpartition(".")[2]]
    if exchange.header(b"if-none-match") == asset.tag:
        return Answer(b"", media_type, 304, header_lines(headers))
    if "gzip" in (exchange.header(b"accept-encoding") or ""):
        headers["content-encoding"] = "gzip"
        return Answer(asset.compressed, media_type, headers=header_lines(headers))
    return Answer(asset.plain, media_type, headers=header_lines(headers))


@functools.cache
def _names() -> frozenset[str]:
    files = (file.name for file in resources.files("service").joinpath("page").iterdir())
    return frozenset(name for name in files if name.rpartition(".")[2] in MEDIA_TYPES)


@functools.cache
def _asset(name: str) -> Asset:
    plain = resources.files("service").joinpath("page", name).read_bytes()
    tag = f'"{hashlib.sha256(plain).hexdigest()[:16]}"'
    return Asset(plain, gzip.compress(plain, mtime=0), tag)
