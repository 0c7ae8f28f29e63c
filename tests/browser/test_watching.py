"""The watch itself: what it must notice on a page, and what it lets pass."""

import pytest
from conftest import Running
from playwright.sync_api import BrowserContext, Page, Route

from browser.watching import AXE, Watch, scrolls_sideways, violations

POLICY = "default-src 'none'; script-src 'self'; connect-src *"


@pytest.fixture
def watch(context: BrowserContext, running: Running) -> Watch:
    """One whose complaints are the test's subject, not its end."""
    return Watch(context.new_page(), running.url)


def show(page: Page, body: str) -> None:
    """Open a page with this body, which a server might have sent with a strict policy."""

    def answer(route: Route) -> None:
        html = f'<!doctype html><html lang="en"><title>A page</title><main><h1>A page</h1>{body}</main>'
        route.fulfill(body=html, content_type="text/html", headers={"content-security-policy": POLICY})

    page.route("**/a-page", answer)
    page.goto("/a-page")


def test_a_page_without_fault_gives_no_complaint(watch: Watch) -> None:
    show(watch.page, "<p>All is well</p>")
    watch.page.evaluate("console.info('nothing of note')")
    assert watch.complaints() == []


@pytest.mark.parametrize(
    ("body", "script", "complaint"),
    [
        ("<p style='color: red'>Red</p>", "0", "Content Security Policy"),
        ("<script>document.title = 'Inline'</script>", "0", "Content Security Policy"),
        ("", "console.error('It broke')", "error: It broke"),
        ("", "console.warn('It may break')", "warning: It may break"),
        (
            "",
            "setTimeout(() => { throw new Error('nobody caught it') }) && 0",
            "uncaught: Error: nobody caught it",
        ),
        ("", "void Promise.reject(new Error('nobody waited'))", "uncaught: Error: nobody waited"),
        ("", "fetch('/models/nobody').then(() => 0)", "404"),
        ("", "fetch('http://elsewhere.invalid/').catch(() => 0)", "another host: http://elsewhere.invalid/"),
    ],
)
def test_a_fault_is_a_complaint(watch: Watch, body: str, script: str, complaint: str) -> None:
    show(watch.page, body)
    watch.page.evaluate(script)
    assert any(complaint in found for found in watch.complaints()), watch.complaints()


def test_what_is_expected_must_come_and_excuses_nothing_else(watch: Watch) -> None:
    show(watch.page, "")
    watch.expect("It broke")
    assert watch.complaints() == ["expected on the console, but not there: It broke"]
    watch.page.evaluate("console.error('It broke, as it should')")
    assert watch.complaints() == []
    watch.page.evaluate("console.error('Something else')")
    (complaint,) = watch.complaints()
    assert complaint.startswith("error: Something else")


def test_axe_sees_through_a_strict_policy(watch: Watch) -> None:
    source = AXE.read_text(encoding="utf-8")
    show(watch.page, "<p>All is well</p>")
    assert violations(watch.page, source) == []
    show(watch.page, "<button></button>")
    (found,) = violations(watch.page, source)
    assert found.startswith("button-name (critical): button\n  <button></button>")
    assert watch.complaints() == []


def test_a_page_that_is_too_wide_scrolls_sideways(watch: Watch) -> None:
    show(watch.page, "<p>Short</p>")
    assert not scrolls_sideways(watch.page)
    show(watch.page, f"<p>{'long' * 1000}</p>")
    assert scrolls_sideways(watch.page)
