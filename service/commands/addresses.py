"""Addresses as they are written on the command line."""

import argparse
from urllib.parse import urlsplit


def url(text: str) -> str:
    """Read http://HOST:PORT, where http:// may be left out."""
    address = text if "//" in text else f"http://{text}"
    try:
        parsed = urlsplit(address)
        usable = parsed.scheme in {"http", "https"} and parsed.hostname and parsed.port != 0
    except ValueError:  # of a port that is no number
        usable = False
    if not usable:
        raise argparse.ArgumentTypeError(f"expected http://HOST:PORT, got {text[:40]!r}")
    return address.rstrip("/")
