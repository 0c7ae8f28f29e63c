"""When the service is lost and found again, and when it asks for a key."""

import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Running, running_service, untraced
from playwright.sync_api import Browser, Page, Route, expect

from browser.playing import asked, expect_answer, numbers, row, set_slider, take_logits, visited
from browser.watching import look, looks, scrolls_sideways

SOON_MS = 15_000


def test_a_lost_service_is_told_and_found_again(browser: Browser) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with visited(browser, url) as watch:
        watch.expect("ERR_CONNECTION_REFUSED")
        page = watch.page
        with running_service(f"--port={port}") as lost:
            take_logits(page, "1, 2")
            expect_answer(page, asked(url, "softmax", logits=[[1, 2]]))
            lost.process.kill()
            lost.process.wait(20)
        set_slider(page, "Temperature", 0.3)
        expect(page.locator("#notice")).to_contain_text("The service does not answer.")
        expect(page.locator(".results")).to_have_class(re.compile(r"\bstale\b"))
        numbers(page).fill("3, 5")
        with running_service(f"--port={port}", "--drain-delay-s=0"):
            expect(page.locator("#notice")).to_be_hidden(timeout=SOON_MS)
            expect(page.locator(".results")).not_to_have_class(re.compile("stale"))
            expect_answer(page, asked(url, "softmax", logits=[[3, 5]], temperature=2))
            expect(page.get_by_role("alert")).to_be_hidden()
            # What was typed meanwhile stands, and may be changed.
            expect(numbers(page)).to_have_value("3, 5")


def new_key(name: str, scopes: str) -> tuple[str, str]:
    """A key, and its line of the keys file."""
    command = [sys.executable, "-m", "service", "key", name, f"--scopes={scopes}"]
    made = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=untraced(), check=True)
    return made.stderr.strip(), made.stdout


@pytest.fixture(scope="module")
def key() -> tuple[str, str]:
    return new_key("page", "infer")


@pytest.fixture(scope="module")
def whole_key() -> tuple[str, str]:
    return new_key("operator", "infer,metrics")


@pytest.fixture(scope="module")
def locked(
    key: tuple[str, str], whole_key: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A service that asks for a key."""
    keys: Path = tmp_path_factory.mktemp("keys") / "keys.toml"
    keys.write_text(key[1] + whole_key[1])
    with running_service(f"--keys-file={keys}", "--drain-delay-s=0") as running:
        yield running


def give(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Use it").click()


def test_a_key_is_asked_for_once_and_kept_nowhere(
    browser: Browser, locked: Running, key: tuple[str, str]
) -> None:
    with visited(browser, locked.url) as watch:
        watch.expect("401")
        page = watch.page
        page.add_init_script("""globalThis.shown = 0;
            const show = HTMLDialogElement.prototype.showModal;
            HTMLDialogElement.prototype.showModal = function () { shown += 1; show.call(this); };""")
        refused: list[str] = []
        page.on("response", lambda response: refused.append(response.url) if response.status == 401 else None)
        page.goto("/")
        dialog = page.get_by_role("dialog", name="This service asks for a key")
        expect(dialog).to_be_visible()
        expect(page.get_by_label("API key")).to_be_focused()
        page.wait_for_timeout(300)
        assert len(refused) > 1, "several requests are refused at once"
        assert page.evaluate("shown") == 1
        give(page, "nobody's")
        expect(page.get_by_text("That key is not known here.")).to_be_visible()
        expect(page.get_by_label("API key")).to_have_value("")
        assert page.evaluate("shown") == 2
        give(page, key[0])
        expect(dialog).to_be_hidden()
        expect(page.locator("[data-at='loss']")).to_have_text(re.compile(r"\d"))
        expect(row(page).locator(".verdict")).to_contain_text("predicted")
        assert page.evaluate("shown") == 2
        kept = page.evaluate(
            "[Object.values(localStorage), Object.values(sessionStorage), document.cookie, location.href]"
        )
        assert key[0] not in str(kept)
        assert page.context.storage_state()["cookies"] == []
        page.reload()
        expect(dialog).to_be_visible()
        expect(page.get_by_text("That key is not known here.")).to_be_hidden()


def test_what_was_under_way_when_the_key_came_takes_it(
    browser: Browser, locked: Running, key: tuple[str, str]
) -> None:
    with visited(browser, locked.url) as watch:
        watch.expect("401")
        page = watch.page
        held: list[Route] = []
        page.route("**/models", lambda route: held.append(route), times=1)  # noqa: PLW0108 - a built-in takes no attributes
        page.goto("/")
        give(page, key[0])
        expect(page.locator("[data-at='loss']")).to_have_text(re.compile(r"\d"))
        with page.expect_response(lambda response: response.status == 401):
            held[0].continue_()
        expect(row(page).locator(".verdict")).to_contain_text("predicted")
        expect(page.get_by_role("dialog")).to_be_hidden()


def test_one_may_go_on_without_a_key(browser: Browser, locked: Running) -> None:
    with visited(browser, locked.url) as watch:
        watch.expect("401")
        page = watch.page
        page.goto("/")
        page.get_by_role("button", name="Go on without").click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_be_hidden()
        expect(page.get_by_role("alert")).to_contain_text("key")
        expect(page.locator("#example-error")).to_contain_text("key")
        assert re.search(r"\d", page.locator("[data-at='loss']").inner_text()) is None
        # Whoever has no key is not asked at each step, and may think otherwise later.
        numbers(page).fill("1, 2, 3")
        set_slider(page, "Temperature", 0.5)
        page.wait_for_timeout(500)
        expect(dialog).to_be_hidden()
        expect(page.get_by_role("alert")).to_contain_text("button Key")
        page.get_by_role("button", name="Key").click()
        expect(dialog).to_be_visible()


def test_a_key_that_lacks_a_scope_makes_room_for_one_that_has_it(
    browser: Browser, locked: Running, key: tuple[str, str], whole_key: tuple[str, str]
) -> None:
    with visited(browser, locked.url) as watch:
        watch.expect("401")
        watch.expect("403")
        page = watch.page
        page.goto("/")
        give(page, key[0])
        expect(row(page).locator(".verdict")).to_contain_text("predicted")
        page.get_by_role("link", name="Live").click()
        expect(page.get_by_text("it lacks the scope")).to_be_visible()
        give(page, whole_key[0])
        expect(page.get_by_role("dialog")).to_be_hidden()
        expect(page.get_by_text("All workers serve")).to_be_visible(timeout=SOON_MS)


def test_escape_is_no_key_either(browser: Browser, locked: Running) -> None:
    with visited(browser, locked.url) as watch:
        watch.expect("401")
        page = watch.page
        page.goto("/")
        page.get_by_label("API key").fill("half a k")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        expect(page.get_by_role("alert")).to_contain_text("key")


def test_enter_gives_the_key(browser: Browser, locked: Running, key: tuple[str, str]) -> None:
    with visited(browser, locked.url) as watch:
        watch.expect("401")
        page = watch.page
        page.goto("/")
        page.get_by_label("API key").fill(key[0])
        page.keyboard.press("Enter")
        expect(row(page).locator(".verdict")).to_contain_text("predicted")


@looks
def test_the_dialog_is_for_everybody(
    browser: Browser, locked: Running, axe: Callable[[Page], None], size: str, scheme: str
) -> None:
    with visited(browser, locked.url) as watch:
        watch.expect("401")
        page = watch.page
        look(page, size, scheme)
        page.goto("/")
        expect(page.get_by_role("dialog")).to_be_visible()
        axe(page)
        assert not scrolls_sideways(page)
        give(page, "nobody's")
        expect(page.get_by_text("That key is not known here.")).to_be_visible()
        axe(page)
        page.get_by_role("button", name="Go on without").click()
        expect(page.get_by_role("alert")).to_be_visible()
        axe(page)
        assert not scrolls_sideways(page)
