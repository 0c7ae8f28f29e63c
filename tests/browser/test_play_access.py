"""The playground for everybody: by keyboard, by screen reader, on a phone and at a desk, light and dark."""

import re
from collections.abc import Callable

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from browser.playing import numbers, row, take_digits, take_logits
from browser.watching import Watch, look, looks, scrolls_sideways


def with_a_head(page: Page) -> None:
    take_digits(page)
    row(page).locator("button.class").first.click()
    expect(row(page).locator("tr.masked")).to_have_count(1)


def with_logits_and_labels(page: Page) -> None:
    take_logits(page, "2.5, 0.25, -1\n0.5, 3, 2")
    page.get_by_label("Names of the classes").fill("a class with a rather long name, dog, eel")
    row(page).get_by_label("Label").select_option("1")
    expect(row(page).locator(".sum .loss")).to_be_visible()


def with_a_thousand_classes(page: Page) -> None:
    take_logits(page)
    logits = np.round(np.random.default_rng(5).normal(size=(7, 1000)), 2)
    numbers(page).fill("\n".join(",".join(map(str, one)) for one in logits.tolist()))
    expect(page.get_by_role("searchbox", name="Find a class")).to_be_visible()
    expect(row(page).locator("button.class")).to_have_count(12)


def with_nothing(page: Page) -> None:
    take_logits(page, "")
    expect(page.locator(".results .empty")).to_be_visible()


def with_an_error(page: Page) -> None:
    take_logits(page, "1, 2\n3, four")
    expect(page.get_by_role("alert")).to_contain_text("row 2, number 2")


STATES = [with_a_head, with_logits_and_labels, with_a_thousand_classes, with_nothing, with_an_error]


@looks
@pytest.mark.parametrize("state", STATES)
def test_every_state_is_for_everybody(
    watch: Watch, axe: Callable[[Page], None], state: Callable[[Page], None], size: str, scheme: str
) -> None:
    page = watch.page
    if state is with_an_error:
        watch.expect("422.*/softmax")
    look(page, size, scheme)
    state(page)
    axe(page)
    assert not scrolls_sideways(page)


# What the keyboard must reach: every control that can be seen and is not switched off.
CONTROLS = """() => {
  const found = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex]")];
  globalThis.controls = found.filter((node) => node.tabIndex >= 0 && !node.disabled && node.checkVisibility({ visibilityProperty: true }));
  return controls.map((node) => node.id || node.getAttribute("aria-label") || node.textContent.trim());
}"""
FOCUSED = """() => {
  const node = document.activeElement;
  const { outlineStyle, outlineWidth, outlineColor } = getComputedStyle(node);
  const seen = outlineStyle !== "none" && parseFloat(outlineWidth) >= 2 && !/, 0\\)$/.test(outlineColor);
  return [controls.indexOf(node), seen];
}"""


@pytest.mark.parametrize("state", [with_a_head, with_logits_and_labels, with_a_thousand_classes])
def test_every_control_is_reached_by_keyboard_and_seen_there(
    page: Page, state: Callable[[Page], None]
) -> None:
    state(page)
    names = page.evaluate(CONTROLS)
    assert len(names) > 15
    visited: dict[int, bool] = {}
    page.evaluate("document.querySelector('.skip').focus()")
    # Once around, past the end of the page and back to where it began.
    for _ in range(len(names) + 1):
        page.keyboard.press("Tab")
        place, seen = page.evaluate(FOCUSED)
        if place >= 0:
            visited[place] = seen
    assert [names[place] for place in range(len(names)) if place not in visited] == []
    assert [names[place] for place, seen in visited.items() if not seen] == []


def test_the_skip_link_leads_to_the_content(page: Page) -> None:
    take_digits(page)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    expect(page.locator("#play")).to_be_visible()


def test_controls_say_what_they_are(page: Page) -> None:
    with_logits_and_labels(page)
    unnamed = page.locator("main :is(button, input, select, textarea, canvas[tabindex])").evaluate_all(
        """nodes => nodes.filter((node) => node.checkVisibility() && !node.labels?.length
             && !node.getAttribute("aria-label") && !node.textContent.trim()).map((node) => node.outerHTML)"""
    )
    assert unnamed == []
    expect(page.get_by_role("slider", name="Temperature")).to_have_attribute("aria-valuetext", "1")
    expect(row(page).get_by_role("button", name="dog")).to_have_attribute("aria-pressed", "false")


def test_the_theme_is_switched_on_the_playground_and_kept(page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    take_digits(page)
    html = page.locator("html")
    expect(html).to_have_attribute("data-theme", "dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    ink = "document.querySelector('.examples canvas').toDataURL()"
    dark = page.evaluate(ground), page.evaluate(ink)
    page.get_by_role("button", name="Switch to the light theme").click()
    expect(html).to_have_attribute("data-theme", "light")
    page.wait_for_timeout(100)
    light = page.evaluate(ground), page.evaluate(ink)
    # The digits are drawn in the ink of the theme, too.
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    page.reload()
    expect(html).to_have_attribute("data-theme", "light")
    expect(page.get_by_role("button", name=re.compile("Switch to the dark theme"))).to_be_visible()
