"""New versions on disk: head.json as it is laid out for people, and a folder that appears whole or not at all."""

import json
import shutil
from pathlib import Path
from typing import Any

from service.errors import StartError
from service.heads.description import digest_of, parse
from service.heads.storage import DESCRIPTION_FILE, MODEL_FILE, VERSION


def to_json(description: dict[str, Any]) -> str:
    """One key, one golden row a line: a change of one number is a change of one line."""
    return _lines(description, "") + "\n"


def write_version(location: Path, model: str, graph: bytes, description: dict[str, Any]) -> Path:
    """Write a version of a model, numbered after the newest that its folder has, and return its folder.

    Parameters
    ----------
    location : Path
        The folder of all models.
    model : str
    graph : bytes
        Its model.onnx.
    description : dict
        Its head.json but for the digest, which is made anew.

    Raises
    ------
    StartError
        Where the folder cannot be written.
    """
    plain = {key: value for key, value in description.items() if key != "digest"}
    text = to_json(plain | {"digest": digest_of(graph, to_json(plain).encode())})
    parse(text.encode())
    try:
        folder = location / model
        folder.mkdir(parents=True, exist_ok=True)
        taken = [int(entry.name) for entry in folder.iterdir() if VERSION.fullmatch(entry.name)]
        # A bare model beside the folder is version 1.
        taken += [1] if (location / f"{model}.onnx").is_file() else []
        version = folder / str(max(taken, default=0) + 1)
        # Whoever lists versions passes over a name that is no number.
        unfinished = folder / f".{version.name}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        (unfinished / MODEL_FILE).write_bytes(graph)
        (unfinished / DESCRIPTION_FILE).write_text(text, encoding="utf-8", newline="\n")
        unfinished.rename(version)
    except OSError as error:
        raise StartError(f"cannot write to {location}: {error.strerror}") from error
    return version


def _lines(value: Any, indent: str) -> str:
    inner = indent + "  "
    if isinstance(value, dict) and value:
        items = [f"{inner}{json.dumps(key)}: {_lines(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + "\n" + indent + "}"
    if isinstance(value, list) and value and isinstance(value[0], list):
        return "[\n" + ",\n".join(inner + json.dumps(row) for row in value) + "\n" + indent + "]"
    return json.dumps(value, ensure_ascii=False)
