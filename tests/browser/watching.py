"""What a browser complains of while a test uses a page, and what axe finds in it."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import ROOT
from playwright.sync_api import ConsoleMessage, Error, Page, Request

AXE = ROOT / "tests" / "page" / "node_modules" / "axe-core" / "axe.min.js"

# A phone that is still in use, and a desk. Each in both colour schemes is how every page must look well.
SIZES = {"phone": (360, 740), "desk": (1280, 800)}
looks = pytest.mark.parametrize(
    ("size", "scheme"), [(size, scheme) for size in SIZES for scheme in ("light", "dark")]
)


def look(page: Page, size: str, scheme: str) -> None:
    """Make the window as large as SIZES says, for a person whose system is light or dark."""
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")


class Watch:
    """Notes every error and warning on a page's console, every uncaught error and every request elsewhere.

    Chromium writes what the content security policy refuses, and answers of 400 and above, to the console, too.
    """

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self._host = urlsplit(origin).netloc
        self._noted: list[str] = []
        self._expected: list[re.Pattern[str]] = []
        page.on("console", self._note_message)
        page.on("pageerror", self._note_error)
        page.context.on("request", self._note_request)

    def expect(self, pattern: str) -> None:
        """Let messages pass in which the pattern is found; if none comes, that is a complaint as well.

        A message names its source, so `expect("422.*/softmax")` is the console's line of a refused request.
        """
        self._expected.append(re.compile(pattern))

    def complaints(self) -> list[str]:
        if not self.page.is_closed():
            self.page.evaluate("0")  # what happened before this has been told once it is answered
        return list(self._judged())

    def _judged(self) -> Iterator[str]:
        for noted in self._noted:
            if not any(pattern.search(noted) for pattern in self._expected):
                yield noted
        for pattern in self._expected:
            if not any(pattern.search(noted) for noted in self._noted):
                yield f"expected on the console, but not there: {pattern.pattern}"

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self._noted.append(f"{message.type}: {message.text} ({message.location['url']})")

    def _note_error(self, error: Error) -> None:
        self._noted.append(f"uncaught: {error.stack or error.message}")

    def _note_request(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in {"data", "blob"} and address.netloc != self._host:
            self._noted.append(f"request to another host: {request.url}")


def violations(page: Page, source: str) -> list[str]:
    """What axe finds in the page as it is now: a line for each node, with the rule that it breaks.

    The source goes in through the debugger, which a content security policy does not hold up.
    """
    page.evaluate(source)
    found: list[dict[str, Any]] = page.evaluate("axe.run().then(({violations}) => violations)")
    return [
        f"{rule['id']} ({rule['impact']}): {node['target'][-1]}\n  {node['html'][:200]}\n  {node['failureSummary']}"
        for rule in found
        for node in rule["nodes"]
    ]


def scrolls_sideways(page: Page) -> bool:
    return bool(page.evaluate("document.scrollingElement.scrollWidth > innerWidth"))
