"""The page's files over HTTP: what they are, how they are kept, and that they ask nothing of others."""

import gzip
import re
from pathlib import Path

import pytest
from conftest import Serve

from service.api.page import MEDIA_TYPES

FOLDER = Path(__file__).parents[2] / "service" / "page"
FILES = sorted(path.name for path in FOLDER.iterdir() if path.suffix.removeprefix(".") in MEDIA_TYPES)
# Less than a photograph: it is there at once over any line.
LIMIT_BYTES = 150_000
SVG_NAMESPACE = "http://www.w3.org/2000/svg"


@pytest.mark.anyio
async def test_the_page_is_at_the_root(serve: Serve) -> None:
    async with serve() as client:
        answer = await client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.content == (FOLDER / "index.html").read_bytes()


@pytest.mark.anyio
async def test_every_file_comes_as_it_lies_and_as_what_it_is(serve: Serve) -> None:
    async with serve() as client:
        for name in FILES:
            plain = await client.get(f"/page/{name}", headers={"accept-encoding": "identity"})
            packed = await client.get(f"/page/{name}", headers={"accept-encoding": "gzip"})
            assert plain.content == packed.content == (FOLDER / name).read_bytes()
            assert plain.headers["content-type"] == MEDIA_TYPES[name.rpartition(".")[2]]
            assert "content-encoding" not in plain.headers
            assert packed.headers["content-encoding"] == "gzip"
            assert packed.headers["vary"] == "accept-encoding"


@pytest.mark.anyio
async def test_a_file_is_sent_again_only_when_it_has_changed(serve: Serve) -> None:
    async with serve() as client:
        first = await client.get("/page/main.js")
        again = await client.get("/page/main.js", headers={"if-none-match": first.headers["etag"]})
        other = await client.get("/page/main.js", headers={"if-none-match": '"another"'})
    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert (other.status_code, other.content) == (200, first.content)


@pytest.mark.anyio
async def test_nothing_but_the_page_s_own_files_is_there(serve: Serve) -> None:
    async with serve() as client:
        for name in ("nothing.js", "__init__.py", "..%2Fapi%2Fops.py", "%2e%2e", "index.html%00.js"):
            answer = await client.get(f"/page/{name}")
            assert answer.status_code == 404, name
            assert answer.json()["code"] == "unknown_route"


@pytest.mark.anyio
async def test_the_policy_lets_in_no_script_but_files_of_this_service(serve: Serve) -> None:
    async with serve() as client:
        answer = await client.get("/")
    policy = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.anyio
async def test_no_key_is_asked_for(serve: Serve) -> None:
    async with serve(admin_key="k" * 32) as client:
        assert (await client.get("/")).status_code == 200
        assert (await client.head("/")).status_code == 200


@pytest.mark.parametrize("name", FILES)
def test_a_file_names_no_other_host_and_no_inline_script_or_style(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8").replace(SVG_NAMESPACE, "")
    assert not re.search(r"https?://|[\"'(]//", text)
    if name.endswith(".html"):
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", text)
        assert not re.search(r"\b(?:href|src)=\"/", text), "the service may be mounted under a path"


def test_every_import_leads_to_a_file() -> None:
    for path in FOLDER.glob("*.js"):
        for imported in re.findall(r"from \"\./([^\"]+)\"", path.read_text(encoding="utf-8")):
            assert imported in FILES, f"{path.name} imports {imported}"
    for named in re.findall(r"page/([\w.-]+)", (FOLDER / "index.html").read_text(encoding="utf-8")):
        assert named in FILES


def test_all_of_it_is_small() -> None:
    packed = sum(len(gzip.compress((FOLDER / name).read_bytes())) for name in FILES)
    assert packed < LIMIT_BYTES
