"""Versions that lie elsewhere: listed at a URL, fetched into a folder of this machine. The one home of fsspec.

fsspec has a library for each kind of store: s3fs for s3://, gcsfs for gs://, adlfs for az:// and abfs://. They find
credentials as their users know it (variables, files, the machine's role); none stand in our settings.

A version is fetched once, into a folder of its own that is named after what was listed: other files of the same name
go into another one. Folders are made whole or not at all, checked before they are used again, and the one that was
used longest ago goes first when all of them take too much room. Several processes may share them.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from service.errors import ModelError, StartError
from service.heads.storage import (
    DESCRIPTION_FILE,
    DESCRIPTION_LIMIT_BYTES,
    MODEL_FILE,
    MODEL_LIMIT_BYTES,
    SUFFIX,
    VERSION,
    Folder,
    Storage,
    StoredVersion,
    check_name,
    check_size,
    in_order,
)

LIMITS_BYTES = {MODEL_FILE: MODEL_LIMIT_BYTES, DESCRIPTION_FILE: DESCRIPTION_LIMIT_BYTES}
# What stores call the name of an object's content, or else its date: the first that is there tells it from others.
TAGS = (
    "ETag",
    "etag",
    "md5Hash",
    "content_md5",
    "generation",
    "LastModified",
    "last_modified",
    "mtime",
    "created",
)
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
MANIFEST_FILE = "sha256.json"
UNFINISHED = ".unfinished-"
# Errors of these libraries can hold a page; its first words name the fault.
MAX_REASON = 300


class _Object(NamedTuple):
    path: str
    size: int
    mark: str


class RemoteFolder:
    """Heads at a URL, in the layouts of `storage`.

    Parameters
    ----------
    url : str
        Without credentials: it stands in messages.
    cache : Path
        A folder that nobody else can write to; made where it is missing.
    limit_bytes : int
        How much it may hold; the version that was fetched last stays whatever its size.
    """

    def __init__(self, url: str, cache: Path, limit_bytes: int) -> None:
        self._url = url.rstrip("/")
        self._cache = cache.expanduser()
        self._limit_bytes = limit_bytes
        self._files, self._root = _open(self._url)
        # The objects behind each version's folder, as they were listed.
        self._objects: dict[Path, Mapping[str, _Object]] = {}

    def versions(self) -> list[StoredVersion]:
        """List every version that is there now, sorted; `StartError` where there is none or nobody answers."""
        try:
            self._files.invalidate_cache()
            listed = self._files.find(self._root, detail=True)
        except Exception as error:  # each library has errors of its own
            raise StartError(f"cannot list the models at {self._url}: {_reason(error)}") from error
        found: dict[tuple[str, int], dict[str, _Object]] = {}
        for path, about in listed.items():
            if place := _place(path, self._root):
                model, version, name = place
                described = _Object(path, about["size"], _mark(about))
                found.setdefault((model, version), {})[name] = described
        if "model" in {model for model, _ in found}:
            _describe_bare(found, listed, self._root)
        return in_order([self._stored(*key, objects) for key, objects in found.items()], self._url)

    def fetch(self, stored: StoredVersion) -> None:
        """Have the files of a version at its paths; `ModelError` where they cannot be fetched or do not fit."""
        check_name(stored.model)
        folder = stored.model_path.parent
        try:
            with self._alone():
                if not _is_whole(folder):
                    self._download(folder)
                now_ns = time.time_ns()
                os.utime(folder, ns=(now_ns, now_ns))  # by itself it would take the time of the last tick
                self._make_room(folder)
        except OSError as error:
            raise ModelError(f"cannot keep what was fetched in {self._cache}: {error.strerror}") from error

    def _stored(self, model: str, version: int, objects: Mapping[str, _Object]) -> StoredVersion:
        mark = " ".join(f"{name} {objects[name].mark}" for name in sorted(objects))
        named = "\n".join((self._url, model, str(version), mark))
        folder = self._cache / hashlib.sha256(named.encode()).hexdigest()[:32]
        self._objects[folder] = objects
        description = folder / DESCRIPTION_FILE if DESCRIPTION_FILE in objects else None
        return StoredVersion(model, version, folder / MODEL_FILE, description, mark)

    def _download(self, folder: Path) -> None:
        if folder not in self._objects:  # another worker listed it
            self._relist()
        objects = self._objects.get(folder)
        if objects is None:
            raise ModelError(f"its files at {self._url} have gone, or are others by now")
        if MODEL_FILE not in objects:
            raise ModelError(f"there is no {MODEL_FILE} of it at {self._url}")
        for name, listed in objects.items():
            check_size(name, listed.size, LIMITS_BYTES[name])
        written = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self._cache))
        digests = {name: self._get(listed, written / name) for name, listed in objects.items()}
        (written / MANIFEST_FILE).write_text(json.dumps(digests), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # what was there is not whole
        written.rename(folder)

    def _relist(self) -> None:
        try:
            self.versions()
        except StartError as error:
            raise ModelError(str(error)) from error

    def _get(self, listed: _Object, path: Path) -> str:
        """Download one object, see that it is the one that was listed, and return its sha256."""
        try:
            self._files.get_file(listed.path, str(path))
            self._files.invalidate_cache()
            mark = _mark(self._files.info(listed.path))
        except Exception as error:
            raise ModelError(f"cannot fetch {path.name} from {self._url}: {_reason(error)}") from error
        if path.stat().st_size != listed.size or mark != listed.mark:
            raise ModelError(f"{path.name} at {self._url} changed while it was fetched")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from changing the folders; the lock ends with the process that holds it."""
        self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(self._cache / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def _make_room(self, used: Path) -> None:
        for unfinished in self._cache.glob(f"{UNFINISHED}*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        folders = [path.parent for path in self._cache.glob(f"*/{MANIFEST_FILE}")]
        sizes = {folder: sum(path.stat().st_size for path in folder.iterdir()) for folder in folders}
        excess = sum(sizes.values()) - self._limit_bytes
        for folder in sorted(sizes.keys() - {used}, key=lambda folder: folder.stat().st_mtime_ns):
            if excess > 0:
                shutil.rmtree(folder)
                excess -= sizes[folder]


def storage_at(location: Path | str, cache: Path, limit_bytes: int) -> Storage:
    """Serve from a folder of this machine, or from a URL."""
    return Folder(location) if isinstance(location, Path) else RemoteFolder(location, cache, limit_bytes)


def _open(url: str) -> tuple[Any, str]:
    """Find the library for a URL and what it calls the place there."""
    kind = url.partition("://")[0]
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415 - only who serves from a URL has it
    except ModuleNotFoundError as error:
        raise StartError(f"models at {kind}:// need fsspec: pip install logitserve[cpu,remote]") from error
    try:
        # One of its own: those that fsspec keeps are shared with whoever asks for the same.
        files, root = url_to_fs(url, skip_instance_cache=True)
    except ImportError as error:
        package = PACKAGES.get(kind, f"fsspec's library for {kind}://")
        raise StartError(
            f"models at {kind}:// need {package}, which cannot be imported: {_reason(error)}"
        ) from error
    except Exception as error:
        raise StartError(f"cannot use the models at {url}: {_reason(error)}") from error
    return files, str(root).rstrip("/")


def _place(path: str, root: str) -> tuple[str, int, str] | None:
    """Tell which model's version an object belongs to and what it is, or None where it is nothing of ours."""
    inside = PurePosixPath(path.rstrip("/"))
    parts = inside.relative_to(root).parts if inside.is_relative_to(root) else ()
    if any(part.startswith(".") for part in parts):
        return None
    if len(parts) == 3 and VERSION.fullmatch(parts[1]) and parts[2] in LIMITS_BYTES:
        return parts[0], int(parts[1]), parts[2]
    bare = inside if not parts else PurePosixPath(*parts)
    if len(parts) <= 1 and bare.suffix == SUFFIX:
        return bare.stem, 1, MODEL_FILE
    return None


def _describe_bare(
    found: dict[tuple[str, int], dict[str, _Object]], listed: Mapping[str, Any], root: str
) -> None:
    """Give a bare model.onnx the head.json that lies beside it."""
    path = f"{root}/{DESCRIPTION_FILE}"
    about = listed.get(path)
    bare = found.get(("model", 1), {})
    if about is not None and MODEL_FILE in bare and bare[MODEL_FILE].path == f"{root}/{MODEL_FILE}":
        bare[DESCRIPTION_FILE] = _Object(path, about["size"], _mark(about))


def _mark(about: Mapping[str, Any]) -> str:
    tag = next((about[name] for name in TAGS if about.get(name)), "")
    if isinstance(tag, datetime):  # some list seconds and describe by dates
        tag = tag.timestamp()
    return f"{about['size']}-{tag}"


def _is_whole(folder: Path) -> bool:
    """Whether what was fetched once is still there as it was."""
    try:
        digests = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        for name, digest in digests.items():
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return False
    except (OSError, ValueError):
        return False
    return True


def _reason(error: Exception) -> str:
    """Say what went wrong in one line of bounded length, without what a URL in it may carry as a secret."""
    line = " ".join(str(error).split()) or type(error).__name__
    line = re.sub(r"(://)[^/\s@]*:[^/\s@]*@", r"\1", line)
    return re.sub(r"\?[^\s'\")]*=[^\s'\")]*", "?…", line)[:MAX_REASON]
