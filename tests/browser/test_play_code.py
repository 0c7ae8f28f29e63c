"""What the playground hands out: code that does the same for real, and a link that holds the view."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable

import pytest
from conftest import ROOT, Running, untraced
from playwright.sync_api import Page, expect

from browser.playing import (
    asked,
    expect_answer,
    expect_totals,
    numbers,
    row,
    set_slider,
    take_digits,
    take_logits,
)
from browser.watching import Watch

ROWS = [[2.5, 0.25, -1.0], [0.5, 3.0, 2.0]]
NUMBER = r"-?\d+\.?\d*(?:[eE][-+]?\d+)?"


def copied(page: Page, kind: str) -> str:
    """The code of a tab, by way of the clipboard."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("tab", name=kind).click()
    expect(page.get_by_role("tab", name=kind)).to_have_attribute("aria-selected", "true")
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_text("Copied.")).to_be_visible()
    text: str = page.evaluate("navigator.clipboard.readText()")
    assert text == page.locator("#code").inner_text()
    return text


def printed(kind: str, code: str) -> str:
    command = ["bash", "-c", code] if kind == "curl" else [sys.executable, "-c", code]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=ROOT, env=untraced(), check=False
    )
    assert ran.returncode == 0, f"{code}\n{ran.stderr}"
    assert ran.stdout, ran.stderr
    return ran.stdout


def first_shares(kind: str, said: str, wanted: str, width: int) -> list[float]:
    """The probabilities of the first row, out of a JSON answer or out of a printed array."""
    start = said.index(f'"{wanted}"') + len(wanted) + 2 if kind == "curl" else 0
    return [float(text) for text in re.findall(NUMBER, said[start:])[:width]]


def plain_logits(page: Page) -> None:
    take_logits(page, "2.5, 0.25, -1\n0.5, 3, 2")
    expect(page.locator("#code")).to_contain_text("[[2.5,0.25,-1],[0.5,3,2]]")


def logits_with_everything(page: Page) -> None:
    plain_logits(page)
    page.get_by_label("Names of the classes").fill("cat, dog's, eel")
    row(page).get_by_label("Label").select_option("0")
    set_slider(page, "Temperature", 0.3)
    set_slider(page, "Label smoothing", 0.1)
    page.get_by_label("Class weights").fill("1, 2.5, 0.5")
    expect(page.locator("#code")).to_contain_text('"class_weight":[1,2.5,0.5]')


def masked_logits(page: Page) -> None:
    plain_logits(page)
    row(page).locator("button.class").nth(2).click()
    expect(row(page).locator("tr.masked")).to_have_count(1)


def head_with_mask_and_label(page: Page) -> None:
    take_digits(page)
    page.get_by_role("button", name=re.compile(r"^Example \d+: four$")).first.click()
    expect(row(page).get_by_label("Label")).to_have_value("4")
    row(page).get_by_role("button", name="four").click()
    expect(row(page).locator("tr.masked")).to_have_count(1)


@pytest.mark.parametrize("kind", ["curl", "Python", "tritonclient"])
@pytest.mark.parametrize(
    "view", [plain_logits, logits_with_everything, masked_logits, head_with_mask_and_label]
)
def test_the_code_prints_what_the_page_shows(
    page: Page, running: Running, kind: str, view: Callable[[Page], None]
) -> None:
    view(page)
    *_, body = shlex.split(page.locator("#code").inner_text())
    path = "models/digits/versions/1/predict" if view is head_with_mask_and_label else None
    answer = asked(running.url, path or ("loss" if "labels" in body else "softmax"), **json.loads(body))
    wanted = "adjusted_probabilities" if "adjusted_probabilities" in answer else "probabilities"
    expect_answer(page, answer, shares=wanted)
    said = printed(kind, copied(page, kind))
    shares = first_shares(kind, said, wanted, len(answer["probabilities"][0]))
    assert shares == pytest.approx(answer[wanted][0], rel=1e-5, abs=1e-8)
    if "losses" in answer and kind != "curl":
        assert float(re.findall(NUMBER, said)[-1 if len(answer["losses"]) == 1 else -2]) == pytest.approx(
            answer["losses"][0], rel=1e-5
        )


def test_curl_sends_what_the_page_sent(page: Page, running: Running) -> None:
    plain_logits(page)
    with page.expect_request("**/loss") as sent:
        row(page).get_by_label("Label").select_option("1")
    _, _, url, *_, body = shlex.split(copied(page, "curl"))
    assert url == f"{running.url}/loss"
    assert body == sent.value.post_data


def test_tabs_are_turned_by_the_arrow_keys(page: Page) -> None:
    plain_logits(page)
    page.get_by_role("tab", name="curl").focus()
    for kind, sign in [
        ("Python", "from service"),
        ("tritonclient", "import tritonclient"),
        ("curl", "curl -s"),
    ]:
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("tab", name=kind)).to_be_focused()
        expect(page.locator("#code")).to_contain_text(sign)
        expect(page.get_by_role("tabpanel")).to_have_accessible_name(kind)


def test_a_refused_clipboard_is_told(page: Page) -> None:
    plain_logits(page)
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new DOMException('no')); }")
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_text("select the text instead")).to_be_visible()


def link(page: Page) -> str:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy a link to this view").click()
    expect(page.get_by_text("Copied.")).to_be_visible()
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def figures(page: Page) -> list[str]:
    return page.locator(".results td, .results .sum, .results .totals, .results .class").all_inner_texts()


@pytest.mark.parametrize("view", [logits_with_everything, head_with_mask_and_label])
def test_a_link_holds_the_view(page: Page, running: Running, view: Callable[[Page], None]) -> None:
    view(page)
    page.wait_for_timeout(600)  # the address follows a little later
    address = link(page)
    assert address == page.url
    seen = figures(page)
    other = page.context.new_page()
    other.goto(address)
    expect(row(other)).to_be_visible()
    expect(other.locator(".results td")).to_have_text(page.locator(".results td").all_text_contents())
    assert figures(other) == seen
    assert numbers(other).input_value() == numbers(page).input_value()


@pytest.mark.parametrize(
    "hash_",
    [
        "#/?",
        "#/?text=%E0%A4%A",
        "#/?text=1,2&temperature=-1&smoothing=7&labels=x,,&masked=;;",
        "#/?text=1,2&masked=999&weights=%00",
        "#nonsense",
        "#/?text=<img src=x onerror=alert(1)>&names=<b>,<i>",
    ],
)
def test_a_malformed_link_does_no_harm(page: Page, running: Running, hash_: str, watch: Watch) -> None:
    if "img" in hash_ or "%E0" in hash_:
        watch.expect("422.*/softmax")
    page.goto(f"/{hash_}")
    expect(page.get_by_label("Compute from").locator("option")).to_have_count(2)
    page.get_by_label("Compute from").select_option(label="logits, as they are")
    numbers(page).fill("1, 2, 3")
    expect_answer(page, asked(running.url, "softmax", logits=[[1, 2, 3]]))


def test_a_link_to_a_head_that_is_gone_says_so(page: Page) -> None:
    page.goto("/#/?model=letters&version=3&text=1,2,3")
    expect(page.get_by_role("alert")).to_contain_text("The service has no head letters now")


def test_a_link_is_followed_in_the_same_page(page: Page, running: Running) -> None:
    plain_logits(page)
    page.goto("/#/?text=1,2&labels=1&temperature=3")
    answer = asked(running.url, "loss", logits=[[1, 2]], labels=[1], temperature=3)
    expect_answer(page, answer)
    expect_totals(page, answer)
    expect(numbers(page)).to_have_value("1,2")


def test_so_many_numbers_are_too_long_for_a_link(page: Page) -> None:
    take_logits(page)
    # Typing so many lines takes Chromium some ten seconds.
    numbers(page).evaluate(
        "(field, rows) => { field.value = rows; field.dispatchEvent(new Event('input')); }",
        "\n".join(["1.25, 2.5"] * 1500),
    )
    expect(page.locator(".totals")).to_contain_text("1,500 rows")
    expect(page.get_by_role("button", name="Copy a link to this view")).to_be_disabled()
    expect(page.locator("#code")).to_contain_text("more characters; Copy takes all of it")
