"""The live view as an operator sees it: numbers that are the service's own, and what it says when there are none."""

import re
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import Running, running_service
from playwright.sync_api import Browser, Page, expect
from sklearn.datasets import load_digits

from browser.watching import look, looks, scrolls_sideways

PIXELS, DIGITS = load_digits(return_X_y=True)
# Samples are two seconds apart, and the page asks every two seconds.
SOON_MS = 15_000


def score(url: str, rows: int = 40, wrong: int = 4) -> None:
    """Traffic with labels, some of which say that the head was wrong, and an error of the caller's."""
    while not httpx.get(f"{url}/activity").json()[
        "times_s"
    ]:  # what came before the first sample is in no interval
        time.sleep(0.2)
    labels = np.where(np.arange(rows) < wrong, (DIGITS[:rows] + 1) % 10, DIGITS[:rows])
    for at in range(0, rows, 4):
        body = {"features": PIXELS[at : at + 4].tolist(), "labels": labels[at : at + 4].tolist()}
        assert httpx.post(f"{url}/predict", json=body).status_code == 200
    assert httpx.post(f"{url}/predict", json={}).status_code == 422


def shown(page: Page, card: str, name: str) -> str:
    """What a summary card says under a name."""
    place = page.get_by_role("region", name=card).locator(f"dt:text-is('{name}') + dd")
    return place.inner_text()


def labelled(url: str) -> Any:
    (version,) = httpx.get(f"{url}/models/digits/quality").json()["versions"]
    return version["since_start"]["labelled"]


def test_before_any_request_it_says_so_in_words(browser: Browser) -> None:
    with running_service() as fresh, browser.new_context(base_url=fresh.url) as context:
        page = context.new_page()
        page.goto("/#/live")
        expect(page.get_by_text("No errors in this time.")).to_be_visible(timeout=SOON_MS)
        expect(page.get_by_text("No batches yet.")).to_be_visible()
        expect(page.get_by_text("No labelled rows yet: send labels").first).to_be_visible(timeout=SOON_MS)
        expect(page.get_by_role("cell", name="● ready").or_(page.get_by_text("ready")).first).to_be_visible()


def test_traffic_shows_up_as_the_numbers_of_the_service(page: Page, running: Running) -> None:
    score(running.url)
    page.goto("/#/live")
    expect(page.get_by_role("region", name="Is it healthy?")).to_contain_text("1 of 1", timeout=SOON_MS)
    expect(page.get_by_role("region", name="Is it healthy?")).to_contain_text(
        "missing_field", timeout=SOON_MS
    )
    quality = labelled(running.url)
    right = page.get_by_role("region", name="Is it right?")
    expect(right).to_contain_text(f"{quality['rows']:,}", timeout=SOON_MS)
    assert shown(page, "Is it right?", "Accuracy") == f"{100 * quality['accuracy']:.1f} %"
    assert shown(page, "Is it right?", "Log loss") == f"{quality['log_loss']:.4f} nats"
    assert shown(page, "Is it right?", "ECE") == f"{quality['ece_equal_width']:.4f}"
    minute = httpx.get(f"{running.url}/activity").json()["last_minute"]
    assert minute["errors"]["missing_field"] >= 1
    errors = page.get_by_role("img", name=re.compile("^Errors by code"))
    expect(errors).to_be_visible()
    most = quality["mistakes"][0]
    matrix = page.get_by_role("img", name=re.compile("^Confusion of"))
    expect(matrix).to_have_accessible_name(re.compile(f"{most['label']} taken for {most['predicted']}"))
    digest = httpx.get(f"{running.url}/models/digits").json()["versions"][0]["digest"]
    expect(page.get_by_role("region", name="Versions")).to_contain_text(digest[:12])


def test_a_table_stands_behind_the_charts(page: Page, running: Running) -> None:
    score(running.url)
    page.goto("/#/live")
    chart = page.locator("figure", has=page.get_by_role("heading", name="Reliability"))
    chart.get_by_text("Numbers").click(timeout=SOON_MS)
    told = chart.get_by_role("row").all_inner_texts()
    full = [one for one in labelled(running.url)["equal_width_bins"] if one["rows"]]
    assert len(told) == 16, "the head and fifteen bins"
    for one in full:
        assert any(row.startswith(f"{one['up_to']:.3f}") and f"{one['rows']:,}" in row for row in told), one


def test_it_asks_only_while_it_is_looked_at(page: Page, running: Running) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/#/live")
    expect(page.get_by_text(re.compile("as of"))).to_be_visible(timeout=SOON_MS)
    page.goto("/#/")
    page.wait_for_timeout(500)
    asked.clear()
    page.wait_for_timeout(3000)
    assert not [url for url in asked if "/activity" in url]


def test_a_service_that_is_lost_and_back_is_followed(browser: Browser) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with browser.new_context(base_url=f"http://127.0.0.1:{port}") as context:
        page = context.new_page()
        with running_service(f"--port={port}", "--drain-delay-s=0"):
            page.goto("/#/live")
            expect(page.get_by_text(re.compile("as of"))).to_be_visible(timeout=SOON_MS)
        expect(page.locator("#notice")).to_be_visible(timeout=SOON_MS)
        with running_service(f"--port={port}", "--drain-delay-s=0"):
            expect(page.locator("#notice")).to_be_hidden(timeout=SOON_MS)
            expect(page.locator("#live.stale")).to_have_count(0, timeout=SOON_MS)
            before = page.get_by_text(re.compile("as of")).inner_text()
            expect(page.get_by_text(re.compile("as of"))).not_to_have_text(before, timeout=SOON_MS)


def test_two_workers_are_one_service(browser: Browser) -> None:
    flags = "--workers=2", "--drain-delay-s=0"
    with running_service(*flags) as two, browser.new_context(base_url=two.url) as context:
        page = context.new_page()
        page.goto("/#/live")
        expect(page.get_by_role("region", name="Is it healthy?")).to_contain_text("2 of 2", timeout=SOON_MS)
        for _ in range(5):
            score(two.url)
        expect(page.get_by_role("region", name="Is it right?")).to_contain_text("200", timeout=SOON_MS)
        expect(page.get_by_role("img", name=re.compile("^Workers. Now: 2"))).to_be_visible()
        time.sleep(4)
        assert httpx.get(f"{two.url}/activity").json()["last_minute"]["rows_per_s"] > 0


@looks
def test_it_looks_well_for_everybody(
    page: Page, running: Running, axe: Callable[[Page], None], size: str, scheme: str
) -> None:
    score(running.url)
    look(page, size, scheme)
    page.goto("/#/live")
    expect(page.get_by_role("img", name=re.compile("^Confusion of"))).to_be_visible(timeout=SOON_MS)
    page.wait_for_timeout(2500)
    assert not scrolls_sideways(page)
    axe(page)


@pytest.mark.parametrize(
    "name", ["Requests", "Rows", "Latency", "decode", "Workers", "Memory", "Batches by size"]
)
def test_every_chart_says_its_numbers_to_who_cannot_see_it(page: Page, running: Running, name: str) -> None:
    score(running.url)
    page.goto("/#/live")
    expect(page.get_by_role("img", name=re.compile(rf"^{name}\b.*\d"))).to_be_visible(timeout=SOON_MS)
