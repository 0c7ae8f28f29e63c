"""Compressed bodies: gzip, deflate and zstd, inflated under a limit."""

import gzip
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Malformed, RequestError, TooLarge, UnsupportedMedia
from service.wire.encodings import COMPRESSORS, MAX_ENCODINGS, compress, decompress, preferred

BODY = b'{"logits": [0.5, 1.5, 0.1]}' * 20
LIMIT_BYTES = 100_000
MEBIBYTE = 1 << 20

Compress = Callable[[bytes], bytes]


def raw_deflate(body: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(body) + deflater.flush()


def zstd_without_size(body: bytes) -> bytes:
    """What a streaming writer sends: a frame that does not say how much is in it."""
    deflater = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return deflater.compress(body) + deflater.flush()


COMPRESSIONS = [
    pytest.param("gzip", gzip.compress, id="gzip"),
    pytest.param("x-gzip", gzip.compress, id="x-gzip"),
    pytest.param("deflate", zlib.compress, id="zlib"),
    pytest.param("deflate", raw_deflate, id="raw deflate"),
    pytest.param("zstd", zstandard.compress, id="zstd"),
    pytest.param("zstd", zstd_without_size, id="zstd of unknown size"),
]


@pytest.mark.parametrize(("encoding", "compress"), COMPRESSIONS)
@pytest.mark.parametrize("body", [b"", b"x", BODY, bytes(range(256)) * 300])
def test_what_was_compressed_comes_out(encoding: str, compress: Compress, body: bytes) -> None:
    assert decompress(compress(body), encoding, LIMIT_BYTES) == body


@given(body=st.binary(max_size=2000), level=st.integers(0, 9))
def test_any_bytes_survive_every_level_of_gzip_and_deflate(body: bytes, level: int) -> None:
    assert decompress(gzip.compress(body, level), "gzip", LIMIT_BYTES) == body
    assert decompress(zlib.compress(body, level), "deflate", LIMIT_BYTES) == body
    deflater = zlib.compressobj(level, wbits=-15)
    assert decompress(deflater.compress(body) + deflater.flush(), "deflate", LIMIT_BYTES) == body


@pytest.mark.parametrize(
    "header", ["GZIP", " gzip ", "gzip, identity", "identity,gzip", "gzip,", ",gzip", "Identity, X-Gzip"]
)
def test_spelling_and_identity_make_no_difference(header: str) -> None:
    assert decompress(gzip.compress(BODY), header, LIMIT_BYTES) == BODY


@pytest.mark.parametrize("header", ["", "identity", "identity, identity", " , "])
def test_without_an_encoding_the_body_is_left_alone(header: str) -> None:
    assert decompress(BODY, header, LIMIT_BYTES) is BODY


def test_several_encodings_are_undone_from_the_last_to_the_first() -> None:
    twice = zstandard.compress(gzip.compress(BODY))
    assert decompress(twice, "gzip, zstd", LIMIT_BYTES) == BODY
    with pytest.raises(Malformed):
        decompress(twice, "zstd, gzip", LIMIT_BYTES)


def test_too_many_encodings_are_refused() -> None:
    body = BODY
    for _ in range(MAX_ENCODINGS):
        body = gzip.compress(body)
    assert decompress(body, ", ".join(["gzip"] * MAX_ENCODINGS), LIMIT_BYTES) == BODY
    with pytest.raises(UnsupportedMedia) as caught:
        decompress(gzip.compress(body), ", ".join(["gzip"] * (MAX_ENCODINGS + 1)), LIMIT_BYTES)
    assert caught.value.code == "unsupported_encoding"


@pytest.mark.parametrize("header", ["br", "compress", "gzip, br", "br, gzip", "*", "gzip;q=1", "b" * 5000])
def test_an_unknown_encoding_is_refused_with_what_is_read(header: str) -> None:
    with pytest.raises(UnsupportedMedia) as caught:
        decompress(BODY, header, LIMIT_BYTES)
    error = caught.value
    assert (error.status, error.code) == (415, "unsupported_encoding")
    assert "zstd" in error.message
    assert error.headers == {"accept-encoding": "gzip, deflate, zstd"}
    assert len(error.message) < 200


@pytest.mark.parametrize("join", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_members_in_a_row_are_one_body(join: Compress) -> None:
    encoding = "gzip" if join is gzip.compress else "zstd"
    body = b"".join(join(part) for part in (BODY, b"", b"and more"))
    assert decompress(body, encoding, LIMIT_BYTES) == BODY + b"and more"


def test_very_many_members_take_time_in_proportion() -> None:
    # Copying the rest behind each member would move 2 GB here.
    assert decompress(gzip.compress(b"") * 10_000, "gzip", LIMIT_BYTES) == b""


@pytest.mark.parametrize(("encoding", "compress"), COMPRESSIONS)
def test_a_truncated_body_is_malformed_wherever_it_ends(encoding: str, compress: Compress) -> None:
    body = compress(bytes(range(256)))
    for end in range(len(body)):
        with pytest.raises(Malformed) as caught:
            decompress(body[:end], encoding, LIMIT_BYTES)
        assert caught.value.code == "malformed_encoding"
        assert encoding in caught.value.message


@pytest.mark.parametrize(("encoding", "compress"), COMPRESSIONS)
@pytest.mark.parametrize("garbage", [b"\0", b"garbage", b"\x1f\x8b", b"\x28\xb5\x2f"])
def test_bytes_behind_the_compressed_ones_are_malformed(
    encoding: str, compress: Compress, garbage: bytes
) -> None:
    with pytest.raises(Malformed) as caught:
        decompress(compress(BODY) + garbage, encoding, LIMIT_BYTES)
    assert caught.value.code == "malformed_encoding"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize("body", [BODY, b"\xff" * 100, b"\x78\x9c" + b"\xff" * 50, b"\0"])
def test_what_was_never_compressed_is_malformed(encoding: str, body: bytes) -> None:
    with pytest.raises(Malformed):
        decompress(body, encoding, LIMIT_BYTES)


def test_a_flipped_bit_is_found_by_the_checksum() -> None:
    body = bytearray(gzip.compress(b"abc" * 100, mtime=0))
    body[-6] ^= 1
    with pytest.raises(Malformed):
        decompress(bytes(body), "gzip", LIMIT_BYTES)


@pytest.mark.parametrize(("encoding", "compress"), COMPRESSIONS)
def test_the_limit_is_exact(encoding: str, compress: Compress) -> None:
    assert len(decompress(compress(b"x" * 5000), encoding, 5000)) == 5000
    with pytest.raises(TooLarge) as caught:
        decompress(compress(b"x" * 5001), encoding, 5000)
    assert caught.value.code == "body_too_large"
    assert "LOGITSERVE_BODY_LIMIT_BYTES" in caught.value.message


def test_the_limit_holds_for_every_step_and_all_members() -> None:
    inner = gzip.compress(b"x" * 5000)
    assert len(inner) < 100
    with pytest.raises(TooLarge):
        decompress(gzip.compress(inner + b"\0" * 5000), "gzip, gzip", 4000)
    with pytest.raises(TooLarge):
        decompress(gzip.compress(b"x" * 600) * 10, "gzip", 5000)


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("zstd", zstandard.compress)],
)
def test_a_bomb_takes_little_memory(encoding: str, compress: Compress) -> None:
    bomb = compress(bytes(64 * MEBIBYTE))
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            decompress(bomb, encoding, LIMIT_BYTES)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 20 * MEBIBYTE


def test_a_zstd_frame_that_asks_for_a_huge_window_is_refused() -> None:
    # A frame header without content size, whose window descriptor says 2^30 bytes, and one empty block.
    frame = struct.pack("<IBB", 0xFD2FB528, 0x00, (30 - 10) << 3) + b"\x01\x00\x00"
    with pytest.raises(Malformed) as caught:
        decompress(frame, "zstd", LIMIT_BYTES)
    assert caught.value.code == "malformed_encoding"


def outcome(encoding: str, body: bytes) -> str:
    try:
        decompress(body, encoding, LIMIT_BYTES)
    except RequestError as error:
        return error.code
    return "decompressed"


@given(st.sampled_from(["gzip", "deflate", "zstd", "gzip, zstd"]), st.binary(max_size=300))
def test_any_bytes_decompress_or_are_refused(encoding: str, body: bytes) -> None:
    assert outcome(encoding, body) in {"decompressed", "malformed_encoding", "body_too_large"}


@given(data=st.data(), encoding=st.sampled_from(["gzip", "deflate", "zstd"]))
def test_a_damaged_body_decompresses_or_is_refused(data: st.DataObject, encoding: str) -> None:
    compress: dict[str, Compress] = {
        "gzip": gzip.compress,
        "deflate": zlib.compress,
        "zstd": zstandard.compress,
    }
    body = bytearray(compress[encoding](BODY))
    place = data.draw(st.integers(0, len(body) - 1))
    body[place] ^= data.draw(st.integers(1, 255))
    assert outcome(encoding, bytes(body)) in {"decompressed", "malformed_encoding", "body_too_large"}


@given(st.binary(max_size=4096), st.sampled_from(sorted(COMPRESSORS)))
def test_what_we_compress_comes_out_again(body: bytes, encoding: str) -> None:
    assert decompress(compress(body, encoding), encoding, LIMIT_BYTES) == body


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("gzip", "gzip"),
        ("gzip, deflate, zstd", "zstd"),
        ("gzip, deflate", "gzip"),
        ("deflate;q=1.0, gzip;q=0.5", "deflate"),
        ("GZIP ; q=0.1", "gzip"),
        ("br", None),
        ("gzip;q=0", None),
        ("identity", None),
        ("*", None),
        ("", None),
    ],
)
def test_the_caller_says_which_encoding_he_likes_best(accepted: str, chosen: str | None) -> None:
    assert preferred(accepted) == chosen
