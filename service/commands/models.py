"""`logitserve models`: load the models of a folder or a URL as `serve` would, and say what is there."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from service import settings, sources
from service.errors import ModelError
from service.heads.policy import read_policy
from service.heads.remote import storage_at
from service.heads.repository import Repository

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 # argparse has no public name for it

EPILOG = """\
Each version that the policy wants is opened, warmed up and checked against its golden rows; where one fails the exit
code is 1, and its reason is told.

examples:
  logitserve models
  logitserve models --models ./models --provider cpu --version-policy latest:2
  logitserve models --models s3://bucket/heads
  logitserve models --json | jq '.[].versions[].digest'
"""

COLUMNS = (
    "model",
    "version",
    "state",
    "classes",
    "features",
    "accuracy",
    "loss",
    "digest",
    "provider",
    "policy",
)
FLAGS = ("models", "version_policy", "cache_dir", "provider")

# Enough of a digest to tell two versions apart at a glance; --json has it whole.
DIGEST_CHARACTERS = 12

# Wide enough that no row is folded where it does not end up on a terminal.
PIPE_COLUMNS = 200


def add_parser(subparsers: "Subparsers") -> None:
    parser = subparsers.add_parser(
        "models",
        help="list the models of a folder or URL, checked as by serve",
        description="List the models of a folder or a URL, checked as serve checks them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name in FLAGS:
        parser.add_argument(settings.flag_of(name), metavar="VALUE", help=settings.help_of(name))
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file with settings by name; also LOGITSERVE_CONFIG"
    )
    parser.add_argument("--json", action="store_true", help="everything that is known, as JSON")


def run(arguments: argparse.Namespace) -> int:
    flags = {name: getattr(arguments, name) for name in FLAGS}
    chosen = sources.read(flags, config=arguments.config).settings
    repository = Repository(
        storage_at(chosen.models, chosen.cache_dir, chosen.cache_limit_bytes),
        policy=read_policy(chosen.version_policy),
        provider=chosen.provider,
        threads=chosen.thread_count,
    )
    failures = repository.follow(repository.first())
    described = repository.describe()
    repository.close()
    if arguments.json:
        print(json.dumps(described, indent=2, ensure_ascii=False))
    else:
        Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(_table(described))
    if failures:
        raise ModelError("; ".join(f"{model} version {v}: {why}" for (model, v), why in failures.items()))
    return 0


def _table(described: list[dict[str, Any]]) -> Table:
    table = Table(*COLUMNS)
    for model in described:
        for version in model["versions"]:
            table.add_row(model["name"], *_cells(version), model["version_policy"])
    return table


def _cells(version: dict[str, Any]) -> list[str]:
    if version["state"] != "ready":
        return [version["version"], version["state"], *[""] * 6]
    return [
        version["version"],
        version["state"],
        str(version["outputs"][0]["shape"][-1]),
        str(version["inputs"][0]["shape"][-1]),
        _metric(version["metrics"], "accuracy"),
        _metric(version["metrics"], "loss"),
        version["digest"][:DIGEST_CHARACTERS],
        version["provider"],
    ]


def _metric(metrics: dict[str, float], kind: str) -> str:
    """Return the metric of this kind, such as `held_out_accuracy`, to four digits."""
    return next((f"{value:.4g}" for name, value in metrics.items() if name.endswith(kind)), "")
