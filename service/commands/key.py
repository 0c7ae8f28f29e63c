"""`logitserve key`: make an API key, and the line that lets it in."""

import argparse
import sys
from datetime import date, datetime
from typing import TYPE_CHECKING

from service import keys
from service.keys import Grant, Key

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 # argparse has no public name for it

EPILOG = """\
The key itself is written to stderr, once and nowhere else; on stdout is the line for LOGITSERVE_KEYS_FILE, which has its
SHA-256 only, so that it can be added to the file by >>. A service that runs takes it within a second or two.

scopes:
  infer    scoring, feedback, and what there is of models
  metrics  /metrics, quality, statistics
  admin    loading, unloading and naming versions, and all of the above

examples:
  logitserve key mobile-app >> keys.toml
  logitserve key prometheus --scopes metrics --expires 2030-01-01 >> keys.toml
"""


def add_parser(subparsers: "Subparsers") -> None:
    parser = subparsers.add_parser(
        "key",
        help="make an API key",
        description="Make an API key, and the line of the keys file that lets it in.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("name", type=_name, help="whose key it is, as logs will have it")
    add("--scopes", type=_scopes, default="infer", metavar="SCOPE,…", help="default: %(default)s")
    add(
        "--expires",
        type=_moment,
        metavar="DATE",
        help="when it ends: a date, or a time with its offset from UTC",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    key = keys.new()
    told = Key(arguments.name, keys.digest_of(key.encode()), arguments.scopes)
    if arguments.expires is not None:
        told = told._replace(expires_s=arguments.expires)
    if sys.stderr.isatty():
        print("The key, which is shown this once; the line for the keys file is below it:", file=sys.stderr)
    print(key, file=sys.stderr, flush=True)
    print(keys.line_of(told))
    return 0


def _name(text: str) -> str:
    if not keys.NAME.fullmatch(text):
        raise argparse.ArgumentTypeError("expected at most 40 letters, digits, _ and -")
    return text


def _scopes(text: str) -> frozenset[Grant]:
    try:
        return keys.read_scopes([scope.strip() for scope in text.split(",")])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _moment(text: str) -> float:
    value: date | datetime | None = None
    for kind in (date, datetime):
        try:
            value = kind.fromisoformat(text)
            break
        except ValueError:
            pass
    try:
        return keys.read_moment(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, got {text[:40]!r}") from error
