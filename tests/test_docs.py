"""Every example in the README and in docs/ is run, and answers what it says there."""

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import ROOT, running_service, untraced

from service import __version__, errors
from service.instruments import INSTRUMENTS
from service.settings import Settings

PAGES = [ROOT / "README.md", ROOT / "models" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What takes minutes or needs more than this machine has is run elsewhere: by .ci/first-run and .ci/container-check.
ELSEWHERE = ("make ", "docker ", "git clone", "pip install")
ADDRESS = "127.0.0.1:8000"
GRPC_ADDRESS = "127.0.0.1:8001"


class Example(NamedTuple):
    page: Path
    line: int
    language: str
    text: str


def examples() -> Iterator[Example]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, found.start()) + 1
            yield Example(page, line, found[1], found[2])


def named(example: Example) -> str:
    return f"{example.page.name}:{example.line}"


CONSOLE = [example for example in examples() if example.language == "console"]
PYTHON = [example for example in examples() if example.language == "python"]


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(scope="module")
def grpc_address() -> str:
    return free_address()


@pytest.fixture(scope="module")
def address(grpc_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    grpc_port = f"--grpc-port={grpc_address.rpartition(':')[2]}"
    flags = "--vertex-predict-route=/vertex", "--admin-key=change-me", grpc_port  # as pages have them
    feedback = f"--feedback={tmp_path_factory.mktemp('feedback') / 'rows.sqlite'}"
    with running_service(*flags, feedback) as service:
        yield f"127.0.0.1:{service.port}"


def steps(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block with what it prints; it goes on after a backslash, or up to its line `end`."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.splitlines(keepends=True)
        if lines[0].endswith("<<'end'\n"):
            end = lines.index("end\n")
        else:
            end = next(i for i, line in enumerate(lines) if not line.endswith("\\\n"))
        yield "".join(lines[: end + 1]), "".join(lines[end + 1 :])


def alike(expected: Any, got: Any) -> bool:
    """Compare JSON values; the last bit of a float64 may differ between kinds of CPU."""
    if isinstance(expected, float) and isinstance(got, float):
        return math.isclose(expected, got, rel_tol=1e-15)
    if isinstance(expected, list) and isinstance(got, list):
        return len(expected) == len(got) and all(map(alike, expected, got))
    if isinstance(expected, dict) and isinstance(got, dict):
        return list(expected) == list(got) and all(alike(expected[key], got[key]) for key in expected)
    return type(expected) is type(got) and bool(expected == got)


def matches(expected: str, got: str) -> bool:
    """Compare JSON as JSON, and text as text, in which an ellipsis of the page stands for anything."""
    if expected.startswith("{") and "…" not in expected:
        return alike(json.loads(expected), json.loads(got))
    pattern = ".*?".join(re.escape(part) for part in expected.strip().split("…"))
    return re.fullmatch(pattern, got.strip(), re.DOTALL) is not None


def run(command: str, folder: Path, **environment: str) -> str:
    """Run a command as bash does; one that ends with & leaves the number of its process in `background`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", f"{command}echo $! > background" if command.endswith("&\n") else command],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**untraced(), "PATH": path, "COLUMNS": "120", **environment},
        timeout=120,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with the shipped heads; what an example leaves running in it is ended."""
    (tmp_path / "models").symlink_to(ROOT / "models")
    yield tmp_path
    if (tmp_path / "background").exists():
        os.kill(int((tmp_path / "background").read_text(encoding="utf-8")), signal.SIGTERM)


@pytest.mark.parametrize("example", CONSOLE, ids=named)
def test_a_command_prints_what_the_page_says(example: Example, address: str, folder: Path) -> None:
    environment = {}
    if any(command.endswith("&\n") for command, _ in steps(example.text)):  # a service of its own
        address = free_address()
        environment["LOGITSERVE_PORT"] = address.rpartition(":")[2]
    ran = 0
    for command, expected in steps(example.text):
        if command.startswith(ELSEWHERE):
            continue
        got = run(command.replace(ADDRESS, address), folder, **environment).replace(address, ADDRESS)
        end_s = time.monotonic() + 5
        while command.startswith("grep ") and not matches(expected, got) and time.monotonic() < end_s:
            time.sleep(0.05)  # a log is written once its request is answered
            got = run(command, folder, **environment)
        assert matches(expected, got), f"{command}expected:\n{expected}\ngot:\n{got}"
        ran += 1
    assert ran or all(command.startswith(ELSEWHERE) for command, _ in steps(example.text))


@pytest.mark.parametrize("example", PYTHON, ids=named)
def test_python_prints_what_its_comments_say(
    example: Example, address: str, grpc_address: str, tmp_path: Path
) -> None:
    """A line `print(x)  # y` prints y."""
    expected = re.findall(r"^ *print\(.*\)  # (.*)$", example.text, re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-c", example.text.replace(ADDRESS, address).replace(GRPC_ADDRESS, grpc_address)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=untraced(),
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert matches("\n".join(expected), done.stdout), done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_shows_the_three_endpoints_with_their_answers() -> None:
    readme = next(page for page in PAGES if page.parent == ROOT).read_text(encoding="utf-8")
    shown = [(c, out) for example in CONSOLE if example.text in readme for c, out in steps(example.text)]
    for route in ("/softmax", "/loss", "/predict"):
        assert any(route in command and output.startswith("{") for command, output in shown), route


def test_the_changelog_tells_of_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {__version__}" in changelog


def test_no_page_tells_how_it_was_made() -> None:
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"/work/|/root/|\bshared/|\bissue #?\d", text), page.name


def test_every_error_code_is_explained() -> None:
    page = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
    for kind in errors.RequestError.__subclasses__():
        for code, title in kind.titles.items():
            assert code == "internal" or f"| {kind.status} | `{code}` | {title} |" in page, code


def test_every_setting_and_metric_is_explained() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    for name, setting in Settings.model_fields.items():
        assert f"| `LOGITSERVE_{name.upper()}` |" in page
        assert f"| {setting.description} |" in page, name
    for instrument in INSTRUMENTS:
        assert f"| `{instrument.name}{'_total' if instrument.kind == 'counter' else ''}` |" in page
        assert f"| {instrument.help} |" in page
