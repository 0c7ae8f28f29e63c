"""head.json as people read it, and a version that appears in its folder whole or not at all.

Knows names of folders and bytes; knows no source and opens no model.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.export.source import ExportError
from service.heads.description import digest_of
from service.heads.storage import DESCRIPTION_FILE, MODEL_FILE, VERSION

# One folder's name, and no hidden one: those are not looked into by who serves.
MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def to_json(description: dict[str, Any]) -> str:
    """Write head.json with one key, one golden row a line: a change of one number is a change of one line."""

    def lines(value: Any, indent: str) -> str:
        inner = indent + "  "
        if isinstance(value, dict):
            items = [f"{inner}{json.dumps(key)}: {lines(item, inner)}" for key, item in value.items()]
            return "{\n" + ",\n".join(items) + "\n" + indent + "}"
        if isinstance(value, list) and value and isinstance(value[0], list):
            return "[\n" + ",\n".join(inner + json.dumps(row) for row in value) + "\n" + indent + "]"
        return json.dumps(value, ensure_ascii=False)

    return lines(description, "") + "\n"


def choose_version(location: Path, model: str, version: int | None, *, force: bool) -> int:
    """Check the names before any work is done; the next version by default."""
    if not MODEL_NAME.fullmatch(model):
        raise ExportError(
            f"--model: expected letters, digits, '.', '_' and '-', not '.' or '-' first, got {model[:40]!r}"
        )
    folder = location / model
    there = [int(entry.name) for entry in _entries(folder) if VERSION.fullmatch(entry.name)]
    if version is None:
        return max(there, default=0) + 1
    if version in there and not force:
        raise ExportError(f"{folder / str(version)} is there already: leave --version out, or say --force")
    return version


@contextmanager
def staged(location: Path, model: str, version: int, files: tuple[bytes, dict[str, Any]]) -> Iterator[Path]:
    """Write model.onnx and head.json, with its digest, where nobody serves; on leaving well, put them in place.

    Gives the folder in which they lie as `<model>/<version>/`, for whoever tries them first.
    """
    model_bytes, description = files
    text = to_json({**description, "digest": digest_of(model_bytes, to_json(description).encode())})
    try:
        location.mkdir(parents=True, exist_ok=True)
        # In the same folder, so that it is moved and not copied; hidden, so that no one serves it.
        with tempfile.TemporaryDirectory(prefix=".export-", dir=location) as name:
            stage = Path(name)
            folder = stage / model / str(version)
            folder.mkdir(parents=True)
            (folder / MODEL_FILE).write_bytes(model_bytes)
            (folder / DESCRIPTION_FILE).write_text(text, encoding="utf-8", newline="\n")
            yield stage
            _put(folder, location / model / str(version), stage / "replaced")
    except OSError as error:
        raise ExportError(f"cannot write to {location}: {error.strerror}") from error


def _put(folder: Path, place: Path, replaced: Path) -> None:
    place.parent.mkdir(exist_ok=True)
    if place.exists():
        shutil.move(place, replaced)
    folder.rename(place)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []
