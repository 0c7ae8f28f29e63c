"""Heads that others have trained, exported once by models/others.py, and the application that serves them."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from conftest import MODELS, connected, load_script

# Before keras is imported by anything: the package of one head asks for TensorFlow's, whose Keras runs on torch, too.
os.environ["KERAS_BACKEND"] = "torch"


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all of them, made by the command that users have."""
    folder = tmp_path_factory.mktemp("others")
    assert load_script(MODELS / "others.py").main(["--out", str(folder)]) == 0
    return folder


@pytest.fixture
async def client(heads: Path) -> AsyncIterator[httpx.AsyncClient]:
    from service.app import create_app
    from service.settings import Settings

    app = create_app(Settings(models=heads))
    async with app.router.lifespan_context(app), connected(app) as client:
        yield client
