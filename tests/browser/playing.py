"""The playground as a person finds it, and what the service itself answers, to hold one against the other."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from browser.watching import Watch

OUTPUTS = ["probabilities", "log_probabilities", "classes", "entropy"]
WITH_LABELS = [*OUTPUTS, "loss", "losses", "count", "gradient", "accuracy"]


@contextlib.contextmanager
def visited(browser: Browser, url: str) -> Iterator[Watch]:
    """A page of a service of the test's own, watched like those of the fixture."""
    with browser.new_context(base_url=url, locale="en-GB", reduced_motion="reduce") as context:
        context.set_default_timeout(10_000)
        watch = Watch(context.new_page(), url)
        yield watch
        assert watch.complaints() == []


def asked(url: str, path: str, **body: Any) -> Any:
    """What the service answers, asked by another client than the page."""
    outputs = WITH_LABELS if "labels" in body else OUTPUTS
    answer = httpx.post(f"{url}/{path}", json={"outputs": outputs, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def row(page: Page, place: int = 0) -> Locator:
    return page.locator(f".results article[aria-label='Row {place + 1}']")


def numbers(page: Page) -> Locator:
    """The field that rows are typed into, whatever they are."""
    return page.get_by_role("textbox", name=re.compile("^(Logits|Features)"))


def take_logits(page: Page, text: str | None = None) -> None:
    """Come to the playground and type rows of logits into it."""
    page.goto("/")
    expect(row(page)).to_be_visible()
    page.get_by_label("Compute from").select_option(label="logits, as they are")
    if text is not None:
        numbers(page).fill(text)


def take_digits(page: Page) -> None:
    """Come to the playground, which begins with an example of the head of digits."""
    page.goto("/")
    expect(row(page).locator(".verdict")).to_contain_text("predicted")


def set_slider(page: Page, name: str, value: float) -> None:
    """Move a slider as a browser does for a person: its value, then the event."""
    page.get_by_role("slider", name=name).evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')) }", value
    )


def written(page: Page, how: str, values: Any, *digits: int) -> list[str]:
    """Numbers as the page writes them (its format.js has tests of its own), to compare them as text."""
    script = "([how, values, digits]) => import('/page/format.js').then((m) => values.map((v) => m[how](v, ...digits)))"
    texts: list[str] = page.evaluate(script, [how, list(values), list(digits)])
    return texts


def expect_answer(page: Page, answer: Any, place: int = 0, shares: str = "probabilities") -> None:
    """Fails unless a row shows what the service has answered, in its bars and in its figures."""
    card = row(page, place)
    probabilities = answer[shares][place]
    expect(card.locator("td.share span")).to_have_text(written(page, "probability", probabilities))
    expect(card.locator("tbody td:nth-child(4)")).to_have_text(
        written(page, "fixed", answer["log_probabilities"][place], 3)
    )
    widths = card.locator(".bar .fill").evaluate_all("bars => bars.map((bar) => bar.width.baseVal.value)")
    assert widths == pytest.approx([100 * share for share in probabilities], abs=1e-4)  # SVG has float32
    (entropy,) = written(page, "number", [answer["entropy"][place]], 3)
    expect(card.locator(".sum")).to_contain_text(f"entropy {entropy} nats")
    predicted = card.locator("tr.predicted").evaluate("line => line.sectionRowIndex")
    assert predicted == answer["classes"][place]
    if "gradient" in answer:
        expect(card.locator("tbody td:nth-child(5)")).to_have_text(
            written(page, "fixed", answer["gradient"][place], 4)
        )
        (loss,) = written(page, "number", [answer["losses"][place]])
        expect(card.locator(".sum .loss")).to_have_text(loss)


def expect_totals(page: Page, answer: Any) -> None:
    (loss,) = written(page, "number", [answer["loss"]])
    (accuracy,) = written(page, "share", [answer["accuracy"]])
    expect(page.locator("#mean-loss")).to_have_text(loss)
    expect(page.locator(".totals")).to_contain_text(f"over {answer['count']} labelled")
    expect(page.locator(".totals")).to_contain_text(f"accuracy {accuracy}")
