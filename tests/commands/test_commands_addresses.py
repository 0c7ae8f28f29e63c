"""Addresses on the command line."""

import argparse

import pytest

from service.commands import addresses


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("https://server/prefix/", "https://server/prefix"),
        ("server:80", "http://server:80"),
        ("[::1]:80", "http://[::1]:80"),
    ],
)
def test_an_address_may_leave_http_out(text: str, read: str) -> None:
    assert addresses.url(text) == read


@pytest.mark.parametrize("text", ["", "ftp://server", "http://", "server:0", "server:port", "server:99999"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected http://HOST:PORT"):
        addresses.url(text)
