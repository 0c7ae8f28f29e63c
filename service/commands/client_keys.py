"""The key that a command sends to a service: from a file or the environment, since others on the machine see flags."""

import argparse
from pathlib import Path

from service import sources
from service.errors import StartError


def add_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help=f"file with the API key to send, where one is asked for; also {sources.CLIENT_KEY}, which is the key itself",
    )


def read(arguments: argparse.Namespace) -> str | None:
    """Read the key, if there is one.

    Raises
    ------
    StartError
    """
    path: Path | None = arguments.key_file
    if path is None:
        key, source = sources.client_key(), sources.CLIENT_KEY
    else:
        try:
            key, source = path.read_text(encoding="ascii").strip(), str(path)
        except UnicodeDecodeError:
            key, source = None, str(path)
        except OSError as error:
            raise StartError(f"{path}: the key cannot be read: {error.strerror}") from error
        key = key or " "  # an empty file is a mistake, where an empty variable is none
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise StartError(f"{source}: expected a key, printable ASCII without spaces")
    return key
