"""Where the files of heads lie, and which versions are there.

Knows names of folders and files; opens none of them. Three layouts are understood:

    LOCATION/<model>/<version>/model.onnx    with head.json beside it; versions are positive integers
    LOCATION/<model>.onnx                    a bare model, version 1; model.onnx too may have head.json beside it
    LOCATION = <model>.onnx                  one bare model, version 1
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from service.errors import StartError

MODEL_FILE = "model.onnx"
DESCRIPTION_FILE = "head.json"
SUFFIX = ".onnx"
# No leading zero: 1 and 01 would be the same version twice.
VERSION = re.compile("[1-9][0-9]*")


class StoredVersion(NamedTuple):
    """One version of a head on disk; sorts by model, then by version as a number."""

    model: str
    version: int
    model_path: Path
    description_path: Path | None


def list_versions(location: Path) -> list[StoredVersion]:
    """List every version at `location`, sorted; `StartError` where there is none."""
    try:
        found = sorted(_bare(location) if location.is_file() else _folder(location))
    except OSError as error:
        raise StartError(
            f"cannot read the models at {location}: {error.strerror}; set --models to the folder that has them"
        ) from error
    if not found:
        raise StartError(
            f"no heads in {location}: expected {location}/<model>/<version>/{MODEL_FILE} "
            f"or {location}/<model>{SUFFIX}"
        )
    for earlier, later in pairwise(found):
        if earlier[:2] == later[:2]:
            raise StartError(
                f"version {later.version} of {later.model} is there twice, remove one: "
                f"{earlier.model_path} and {later.model_path}"
            )
    return found


def _folder(location: Path) -> Iterator[StoredVersion]:
    for entry in location.iterdir():
        if entry.name.startswith("."):
            continue  # what editors, mounts and version control keep beside the models
        if entry.is_file():
            yield from _bare(entry)
        elif entry.is_dir():
            for version in entry.iterdir():
                if VERSION.fullmatch(version.name) and version.is_dir():
                    description = version / DESCRIPTION_FILE
                    yield StoredVersion(
                        entry.name,
                        int(version.name),
                        version / MODEL_FILE,
                        description if description.is_file() else None,
                    )


def _bare(path: Path) -> Iterator[StoredVersion]:
    if path.suffix == SUFFIX:
        # Several bare models may share a folder, so only that of the usual name has the description in it.
        description = path.with_name(DESCRIPTION_FILE)
        described = path.name == MODEL_FILE and description.is_file()
        yield StoredVersion(path.stem, 1, path, description if described else None)
