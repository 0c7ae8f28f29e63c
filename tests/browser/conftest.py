"""One browser and one server for all tests, and a page of its own for each, which must give no cause for complaint."""

import shutil
from collections.abc import Callable, Iterator

import pytest
from conftest import Running, running_service
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from browser.watching import AXE, Watch, violations


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium: Playwright would download its own."""
    chromium = shutil.which("chromium")
    assert chromium is not None, "there is no chromium on the PATH; .ci/get-chromium installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    """A server with the shipped heads; a test that stops one, or wants other settings, starts its own."""
    with running_service() as running:
        yield running


@pytest.fixture
def context(browser: Browser, running: Running) -> Iterator[BrowserContext]:
    """A browser that was never here before: `page.goto("/docs")` is relative to the server."""
    # Movement is reduced, so that nothing is looked at halfway.
    with browser.new_context(base_url=running.url, locale="en-GB", reduced_motion="reduce") as context:
        context.set_default_timeout(
            10_000
        )  # all is on this machine; the default of 30 s only delays a failure
        yield context


@pytest.fixture
def watch(context: BrowserContext, running: Running) -> Iterator[Watch]:
    """Says what the test expects on the console: `watch.expect("422")`; anything else fails it at its end."""
    watch = Watch(context.new_page(), running.url)
    yield watch
    assert watch.complaints() == []


@pytest.fixture
def page(watch: Watch) -> Page:
    return watch.page


@pytest.fixture(scope="session")
def axe() -> Callable[[Page], None]:
    """`axe(page)` fails if axe finds the page hard to use for anybody, as it is now."""
    source = AXE.read_text(encoding="utf-8")

    def check(page: Page) -> None:
        found = violations(page, source)
        assert not found, "\n".join([f"axe finds on {page.url}:", *found])

    return check
