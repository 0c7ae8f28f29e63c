"""Makes the pictures of the page that the documentation shows, of a real service under a little load.

python docs/pictures.py
"""

import json
import random
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from conftest import running_service  # noqa: E402 - it is found by the line above

IMAGES = Path(__file__).parent / "images"
HEAD = json.loads((ROOT / "models" / "digits" / "1" / "head.json").read_text(encoding="utf-8"))

# Long enough for a few steps of the lines that go by ten seconds.
LOAD_S = 75
# An example that the head is not sure about: its bars say more than one long one.
DOUBTFUL = 12


def bodies() -> Iterator[dict[str, object]]:
    """Requests of many sizes, most of them with labels, some of them wrong."""
    examples = HEAD["examples"]
    chosen = random.Random(1)
    while True:
        places = chosen.choices(range(len(examples["labels"])), k=chosen.choice([1, 1, 2, 3, 8, 24]))
        body: dict[str, object] = {"features": [examples["features"][place] for place in places]}
        if chosen.random() < 0.6:
            body["labels"] = [examples["labels"][place] for place in places]
        yield body if chosen.random() > 0.004 else {"features": "none"}


def load(url: str) -> None:
    end_s = time.monotonic() + LOAD_S
    with httpx.Client(base_url=url) as client:
        for body in bodies():
            client.post("/predict", json=body)
            time.sleep(random.uniform(0.002, 0.02))
            if time.monotonic() > end_s:
                return


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with running_service("--workers=2") as service, sync_playwright() as playwright:
        loading = threading.Thread(target=load, args=(service.url,))
        loading.start()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": 1280, "height": 1290}, reduced_motion="reduce")
        page.goto(service.url)
        page.get_by_role("button", name=f"Example {DOUBTFUL}:").click()
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(1000)
        page.screenshot(path=IMAGES / "playground.png")
        page.emulate_media(color_scheme="dark")
        page.goto(f"{service.url}/#/live")
        page.reload()
        page.get_by_label("Show the last").select_option(index=0)
        time.sleep(LOAD_S - 8)
        page.screenshot(path=IMAGES / "live.png")
        browser.close()
        loading.join()


if __name__ == "__main__":
    main()
