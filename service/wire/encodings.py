"""Compressed bodies: gzip, deflate and zstd, inflated under a limit, and written where a caller asks.

Nothing is inflated much further than the limit, whatever a body claims. What the bytes mean is not known
here.
"""

import gzip
import zlib
from collections.abc import Callable
from typing import NamedTuple, Protocol

import zstandard

from service.errors import Malformed, UnsupportedMedia
from service.wire.limits import body_too_large
from service.wire.media import read_range

GZIP_WBITS = 31  # zlib's word for "a gzip header and trailer"
RAW_WBITS = -15  # zlib's word for "neither header nor trailer"

# Neither library bounds what one call returns, so little is fed at once: a byte of deflate stands for at
# most 1032 bytes, and 4 bytes of zstd for a block of 128 KiB. A bomb overshoots by 8 MiB at most.
ZLIB_CHUNK_BYTES = 4 << 10
ZSTD_CHUNK_BYTES = 256

# RFC 9659: zstd sent over HTTP needs a window of at most 8 MiB; a frame that declares more would have that
# much allocated before its first byte comes out.
ZSTD_WINDOW_BYTES = 8 << 20

# A body compressed more often than this is an attack, not a saving.
MAX_ENCODINGS = 3


class Inflater(Protocol):
    """What the decompression objects of zlib and zstandard have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: memoryview | bytes, /) -> bytes: ...


class Codec(NamedTuple):
    """How one encoding is read; `joined` says whether several streams in a row are one body."""

    open: Callable[[bytes], Inflater]
    chunk_bytes: int
    joined: bool


def _open_gzip(_body: bytes) -> Inflater:
    return zlib.decompressobj(GZIP_WBITS)


def _open_deflate(body: bytes) -> Inflater:
    """RFC 9110 says zlib; some clients send raw deflate, which cannot begin with zlib's two bytes."""
    is_zlib = len(body) > 1 and body[0] & 0x0F == zlib.DEFLATED and int.from_bytes(body[:2], "big") % 31 == 0
    return zlib.decompressobj(zlib.MAX_WBITS if is_zlib else RAW_WBITS)


def _open_zstd(_body: bytes) -> Inflater:
    return zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).decompressobj()


_GZIP = Codec(_open_gzip, ZLIB_CHUNK_BYTES, joined=True)
CODECS = {
    "gzip": _GZIP,
    "x-gzip": _GZIP,  # RFC 9110, section 8.4.1.3: an alias
    "deflate": Codec(_open_deflate, ZLIB_CHUNK_BYTES, joined=False),
    "zstd": Codec(_open_zstd, ZSTD_CHUNK_BYTES, joined=True),
}


# Numbers hardly compress: the higher levels of zlib cost three times as much for a hundredth of the bytes.
LEVEL = 1
# The first are the fastest; a header that likes several alike gets the first of them.
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda body: zstandard.ZstdCompressor(LEVEL).compress(body),
    "gzip": lambda body: gzip.compress(body, LEVEL, mtime=0),
    "deflate": lambda body: zlib.compress(body, LEVEL),
}


def decompress(body: bytes, content_encoding: str, limit_bytes: int) -> bytes:
    """Undo what a Content-Encoding header lists, the last encoding first.

    Raises
    ------
    UnsupportedMedia
        `unsupported_encoding`: an encoding that is not read here, or too many of them.
    Malformed
        `malformed_encoding`: truncated, corrupt, or followed by other bytes.
    TooLarge
        `body_too_large`: more than `limit_bytes` come out of any step.
    """
    listed = [name.strip().lower() for name in content_encoding.split(",")]
    names = [name for name in listed if name not in {"", "identity"}]
    unknown = [name for name in names if name not in CODECS]
    if unknown:
        raise _unsupported(repr(unknown[0][:40]))
    if len(names) > MAX_ENCODINGS:
        raise _unsupported(f"{len(names)} of them, one over another")
    for name in reversed(names):
        try:
            body = _inflate(body, CODECS[name], limit_bytes)
        except (EOFError, zlib.error, zstandard.ZstdError) as error:
            message = f"expected a body compressed with {name}: {str(error)[:80]}"
            raise Malformed("malformed_encoding", message) from None
    return body


def preferred(accept_encoding: str) -> str | None:
    """Return the encoding that an Accept-Encoding header likes best, of those that we write; None for none."""
    qualities = dict(map(read_range, accept_encoding.split(",")))
    best = max(COMPRESSORS, key=lambda name: qualities.get(name, 0))
    return best if qualities.get(best, 0) > 0 else None


def compress(body: bytes, encoding: str) -> bytes:
    """Compress a body with one of `COMPRESSORS`."""
    return COMPRESSORS[encoding](body)


def _inflate(body: bytes, codec: Codec, limit_bytes: int) -> bytes:
    inflater = codec.open(body)
    parts: list[bytes] = []
    size = 0
    view = memoryview(body)
    for start in range(0, len(body), codec.chunk_bytes):
        rest: memoryview | bytes = view[start : start + codec.chunk_bytes]
        while rest:
            if inflater.eof:
                if not codec.joined:
                    raise EOFError("other bytes follow the compressed ones")
                inflater = codec.open(body)
            part = inflater.decompress(rest)
            size += len(part)
            if size > limit_bytes:
                raise body_too_large(limit_bytes)
            parts.append(part)
            rest = inflater.unused_data if inflater.eof else b""
    if not inflater.eof:
        raise EOFError("it ends too early")
    return b"".join(parts)


def _unsupported(got: str) -> UnsupportedMedia:
    return UnsupportedMedia(
        "unsupported_encoding",
        f"expected Content-Encoding gzip, deflate, zstd or identity, got {got}",
        headers={"accept-encoding": "gzip, deflate, zstd"},  # RFC 9110, section 12.5.3
    )
