"""`logitserve serve`: the main job, and `--print-config`, which shows what it would run with."""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service import __version__, logs, settings, sources, workers
from service.errors import LogitserveError
from service.settings import Settings
from service.sources import Sourced

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 # argparse has no public name for it

EPILOG = """\
Each setting comes from its flag, else from its LOGITSERVE_ variable, else from the TOML file, else from the default.
exit codes: 0 stopped well, 1 could not start, 2 called wrongly, 3 workers kept dying or requests were cut off.

examples:
  logitserve serve
  logitserve serve --models ./models --host 0.0.0.0 --port 9000 --workers auto
  LOGITSERVE_PORT=9000 logitserve serve --print-config > logitserve.toml
  logitserve serve --config logitserve.toml
"""

_log = logging.getLogger("logitserve")

# Enough of a digest to tell two versions apart at a glance, as git shows of its own.
DIGEST_CHARACTERS = 12


def add_parser(subparsers: "Subparsers") -> None:
    parser = subparsers.add_parser(
        "serve",
        help="answer requests over HTTP",
        description="Answer requests over HTTP until told to stop by Ctrl-C or SIGTERM.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file with settings by name; also LOGITSERVE_CONFIG"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="show each setting and its source, and end"
    )
    for name in Settings.model_fields:
        parser.add_argument(settings.flag_of(name), metavar="VALUE", help=settings.help_of(name))


def run(arguments: argparse.Namespace) -> int:
    flags = {name: getattr(arguments, name) for name in Settings.model_fields}
    sourced = sources.read(flags, config=arguments.config)
    if arguments.print_config:
        _print_config(sourced)
        return 0
    chosen = sourced.settings
    logs.configure(chosen.log_level, chosen.log_format)
    if chosen.log_format == "text":
        return workers.serve(chosen, announce=lambda url, served: _announce(chosen, url, served))
    try:
        return workers.serve(chosen, announce=lambda url, served: _announce_as_json(chosen, url, served))
    except LogitserveError as error:  # which would be told as text
        _log.critical("%s", error)
        return 1


def _announce_as_json(chosen: Settings, url: str, served: dict[str, Any]) -> None:
    fields = {"version": __version__, "url": url, "workers": chosen.worker_count, **served}
    _log.info("logitserve answers on %s", url, extra={"fields": fields})


def _announce(chosen: Settings, url: str, served: dict[str, Any]) -> None:
    models = [
        f"{model['model']} {model['version']} (sha256 {model['digest'][:DIGEST_CHARACTERS]})"
        for model in served["models"]
    ]
    providers = sorted({model["provider"] for model in served["models"]})
    rows = {
        "models": ", ".join(models) or "none",
        "provider": ", ".join(providers) or "none",
        "workers": str(chosen.worker_count),
        "threads": f"{served['threads']} in each worker",
        **({"grpc": served["grpc"]} if "grpc" in served else {}),
        "docs": f"{url}/docs",
        "stop": "Ctrl-C or SIGTERM; what is in flight is answered first",
    }
    print(f"logitserve {__version__} answers on {url}")
    for name, text in rows.items():
        print(f"  {name:<9} {text}")
    sys.stdout.flush()


def _print_config(sourced: Sourced) -> None:
    here = {"workers": sourced.settings.worker_count, "threads": sourced.settings.thread_count}
    rows = []
    for name, source in sourced.sources.items():
        value = getattr(sourced.settings, name)
        resolved = f"; here {here[name]}" if value == "auto" and name in here else ""
        rows.append((name, value, source + resolved))
    if not sys.stdout.isatty():
        for name, value, source in rows:
            # What stands for a secret must not be read back as one.
            hidden = "# " if name in settings.SECRETS and value else ""
            print(f"{hidden}{name} = {_toml(value)}  # {source}")
        return
    from rich.console import Console  # noqa: PLC0415 # the serving process stays without it
    from rich.table import Table  # noqa: PLC0415

    table = Table("setting", "value", "source", title="settings in force")
    for name, value, source in rows:
        table.add_row(name, str(value), source)
    Console().print(table)


def _toml(value: str | float | Path) -> str:
    """Write a value as TOML; a JSON string is also one of TOML."""
    return str(value) if isinstance(value, int | float) else json.dumps(str(value), ensure_ascii=False)
