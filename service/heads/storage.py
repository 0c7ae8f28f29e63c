"""Where the files of heads lie, and which versions are there.

Knows names, sizes and dates of files; opens none of them. Three layouts are understood:

    LOCATION/<model>/<version>/model.onnx    with head.json beside it; versions are positive integers
    LOCATION/<model>.onnx                    a bare model, version 1; model.onnx too may have head.json beside it
    LOCATION = <model>.onnx                  one bare model, version 1
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Protocol

from service.errors import ModelError, StartError

MODEL_FILE = "model.onnx"
DESCRIPTION_FILE = "head.json"
SUFFIX = ".onnx"
# No leading zero: 1 and 01 would be the same version twice.
VERSION = re.compile("[1-9][0-9]*")


# One protobuf message, which a model is, ends there; whatever is larger is none.
MODEL_LIMIT_BYTES = 2**31 - 1
# A million golden numbers take less; more is no description.
DESCRIPTION_LIMIT_BYTES = 16 * 1024**2

# What would end or change a path, or be cut off from a name, where a model's stands in one.
_NOT_IN_NAMES = frozenset("/\\:?#% ")


class StoredVersion(NamedTuple):
    """One version of a head; sorts by model, then by version as a number.

    `mark` tells its files from others in their place, as far as that can be told without reading them.
    """

    model: str
    version: int
    model_path: Path
    description_path: Path | None
    mark: str = ""


class Storage(Protocol):
    """Where versions come from."""

    def versions(self) -> list[StoredVersion]:
        """List every version that is there now, sorted; `StartError` where there is none."""
        ...

    def fetch(self, stored: StoredVersion) -> None:
        """Have the files of a version at its paths; `ModelError` where they cannot be or must not be read."""
        ...


class Folder:
    """A folder of this machine, or one .onnx file; nothing outside it is read, whatever links there."""

    def __init__(self, location: Path) -> None:
        self._location = location

    def versions(self) -> list[StoredVersion]:
        return list_versions(self._location)

    def fetch(self, stored: StoredVersion) -> None:
        check_name(stored.model)
        self._check(stored.model_path, MODEL_LIMIT_BYTES)
        if stored.description_path is not None:
            self._check(stored.description_path, DESCRIPTION_LIMIT_BYTES)

    def _check(self, path: Path, limit_bytes: int) -> None:
        try:
            real = path.resolve(strict=True)
            size = real.stat().st_size
        except (OSError, RuntimeError) as error:  # the latter for a ring of links
            reason = getattr(error, "strerror", None) or "its links lead in a circle"
            raise ModelError(f"cannot read {path}: {reason}") from error
        at = self._location
        roots = {at.resolve().parent, at.parent.resolve()} if at.is_file() else {at.resolve()}
        if not any(real.is_relative_to(root) for root in roots):
            raise ModelError(
                f"{path} leads out of {at}, to {real}: put the file itself there, or serve what it leads to"
            )
        if not real.is_file():
            raise ModelError(f"cannot read {path}: it is no file")
        check_size(path.name, size, limit_bytes)


def check_name(model: str) -> None:
    """Raise `ModelError` for a model whose name cannot stand in the path of a URL."""
    if not model.isprintable() or _NOT_IN_NAMES & set(model) or model in {"", ".", ".."}:
        raise ModelError(
            f"the model's name cannot stand in a URL: expected no spaces and none of / \\ : ? # %, got {model[:40]!r}"
        )


def check_size(name: str, size: int, limit_bytes: int) -> None:
    if size > limit_bytes:
        raise ModelError(f"{name} is too large: expected at most {limit_bytes} bytes, got {size}")


def list_versions(location: Path) -> list[StoredVersion]:
    """List every version at `location`, sorted; `StartError` where there is none."""
    try:
        found = list(_bare(location) if location.is_file() else _folder(location))
    except OSError as error:
        raise StartError(
            f"cannot read the models at {location}: {error.strerror}; set --models to the folder that has them"
        ) from error
    return in_order(found, str(location))


def in_order(found: list[StoredVersion], location: str) -> list[StoredVersion]:
    """Sort versions; `StartError` where there is none, or one twice."""
    found = sorted(found, key=lambda stored: stored[:3])
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
                    yield _stored(
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
        yield _stored(path.stem, 1, path, description if described else None)


def _stored(model: str, version: int, model_path: Path, description_path: Path | None) -> StoredVersion:
    mark = f"{_mark(model_path)} {_mark(description_path)}"
    return StoredVersion(model, version, model_path, description_path, mark)


def _mark(path: Path | None) -> str:
    if path is None:
        return "none"
    try:
        status = path.stat()
    except OSError:  # not there yet, or no more
        return "none"
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ino}"
