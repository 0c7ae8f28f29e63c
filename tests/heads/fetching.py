"""What a process of its own fetches; apart, so that it need not import what only tests need."""

from pathlib import Path

from folders import LINEAR

from service.heads.remote import RemoteFolder


def fetch_all(url: str, cache: Path) -> None:
    storage = RemoteFolder(url, cache, 1024**3)
    for stored in storage.versions():
        storage.fetch(stored)
        assert stored.model_path.read_bytes() == LINEAR
