"""The command line: which commands there are, and one line on stderr where one of them fails.

No logic lives here. A command's module is imported only when that command is asked for.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from service import __version__
from service.errors import LogitserveError

COMMANDS = {
    "serve": "answer requests over HTTP",
    "models": "list the models of a folder or URL, checked as by serve",
    "export": "make a head of weights from elsewhere",
    "evaluate": "judge a head on labelled data",
    "calibrate": "make a head as sure as it is right, as a new version",
    "loadtest": "measure a running service",
    "conformance": "hold any server against the numeric contract",
    "key": "make an API key",
}

EPILOG = """\
examples:
  logitserve serve                              serve ./models on http://127.0.0.1:8000
  logitserve serve --port 9000 --workers 2
  logitserve models --models ./models --json
  logitserve export classifier.safetensors --model sentiment
  logitserve evaluate --data test.npz
  logitserve calibrate --data validation.npz
  logitserve loadtest --help
  logitserve conformance --url http://127.0.0.1:8000
  logitserve key mobile-app --scopes infer >> keys.toml

Every command has its own --help.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 well, 1 it failed, 2 it was called wrongly, 3 see `serve`."""
    asked = list(sys.argv[1:] if arguments is None else arguments)
    parsed = _parser(asked).parse_args(asked)
    try:
        return int(parsed.run(parsed))
    except LogitserveError as error:
        sys.stderr.write(f"logitserve: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as a shell would say


def _parser(asked: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="logitserve",
        description="An HTTP scoring service for classification heads.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"logitserve {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = next((word for word in asked if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        if name == command:
            module = importlib.import_module(f"service.commands.{name}")
            module.add_parser(subparsers)
            subparsers.choices[name].set_defaults(run=module.run)
        else:
            subparsers.add_parser(name, help=summary)
    return parser
