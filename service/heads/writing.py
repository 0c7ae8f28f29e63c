"""New versions on disk: head.json as people read it, and a folder that appears whole or not at all."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.errors import StartError
from service.heads.description import digest_of, parse
from service.heads.storage import DESCRIPTION_FILE, MODEL_FILE, VERSION

# One folder's name, and no hidden one: those are not looked into by who serves.
MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def to_json(description: dict[str, Any]) -> str:
    """Write head.json with one key, one golden row a line: a change of one number is a change of one line."""
    return _lines(description, "") + "\n"


def choose_version(location: Path, model: str, version: int | None, *, force: bool) -> int:
    """Check the names of a new version before any work is done; by default it is numbered after the newest."""
    if not MODEL_NAME.fullmatch(model):
        raise StartError(
            f"--model: expected letters, digits, '.', '_' and '-', not '.' or '-' first, got {model[:40]!r}"
        )
    there = _versions(location, model)
    if version is None:
        return max(there, default=0) + 1
    if version in there and not force:
        raise StartError(
            f"{location / model / str(version)} is there already: leave --version out, or say --force"
        )
    return version


@contextmanager
def staged(
    location: Path, model: str, version: int, graph: bytes, description: dict[str, Any]
) -> Iterator[Path]:
    """Write a version where nobody serves; on leaving well, put it in its place.

    Parameters
    ----------
    location : Path
        The folder of all models.
    model : str
    version : int
        One that is there is replaced.
    graph : bytes
        Its model.onnx.
    description : dict
        Its head.json but for the digest, which is made anew.

    Yields
    ------
    Path
        The folder in which it lies as `<model>/<version>/`, for whoever tries it first.

    Raises
    ------
    ModelError
        Where the description would not be read.
    StartError
        Where the folder cannot be written.
    """
    plain = {key: value for key, value in description.items() if key != "digest"}
    text = to_json({**plain, "digest": digest_of(graph, to_json(plain).encode())})
    parse(text.encode())
    try:
        location.mkdir(parents=True, exist_ok=True)
        # In the same folder, so that it is moved and not copied; hidden, so that no one serves it.
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=location) as name:
            stage = Path(name)
            folder = stage / model / str(version)
            folder.mkdir(parents=True)
            (folder / MODEL_FILE).write_bytes(graph)
            (folder / DESCRIPTION_FILE).write_text(text, encoding="utf-8", newline="\n")
            yield stage
            _put(folder, location / model / str(version), stage / "replaced")
    except OSError as error:
        raise StartError(f"cannot write to {location}: {error.strerror}") from error


def write_version(location: Path, model: str, graph: bytes, description: dict[str, Any]) -> Path:
    """Write a version after the newest, as `staged` does, and return its folder."""
    version = max(_versions(location, model), default=0) + 1
    with staged(location, model, version, graph, description):
        pass
    return location / model / str(version)


def _versions(location: Path, model: str) -> list[int]:
    folder = location / model
    entries = list(folder.iterdir()) if folder.is_dir() else []
    there = [int(entry.name) for entry in entries if VERSION.fullmatch(entry.name)]
    # A bare model beside the folder is version 1.
    return there + [1] * (location / f"{model}.onnx").is_file()


def _put(folder: Path, place: Path, replaced: Path) -> None:
    place.parent.mkdir(exist_ok=True)
    if place.exists():
        shutil.move(place, replaced)
    folder.rename(place)


def _lines(value: Any, indent: str) -> str:
    inner = indent + "  "
    if isinstance(value, dict) and value:
        items = [f"{inner}{json.dumps(key)}: {_lines(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + "\n" + indent + "}"
    if isinstance(value, list) and value and isinstance(value[0], list):
        return "[\n" + ",\n".join(inner + json.dumps(row) for row in value) + "\n" + indent + "]"
    return json.dumps(value, ensure_ascii=False)
