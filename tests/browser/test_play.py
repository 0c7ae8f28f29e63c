"""The playground's numbers, which are the service's own whatever is moved: options, labels, masks."""

import re

import pytest
from conftest import Running
from playwright.sync_api import Page, Route, expect

from browser.playing import (
    asked,
    expect_answer,
    expect_totals,
    numbers,
    row,
    set_slider,
    take_digits,
    take_logits,
    written,
)
from browser.watching import Watch

ROWS = [[2.5, 0.25, -1.0], [0.1, 3.0, 2.0]]
TEXT = "2.5, 0.25, -1\n0.1 3 2"


def test_the_worked_example_has_the_numbers_of_the_service(page: Page, running: Running) -> None:
    answer = asked(
        running.url, "loss", logits=[[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]], labels=[[0, 1, 0], [0, 0, 1]]
    )
    page.goto("/")
    expect(page.locator("[data-at='loss']")).to_have_text(written(page, "number", [answer["loss"]]))
    for place in range(2):
        texts = written(page, "probability", answer["probabilities"][place])
        expect(page.locator(f"[data-bar^='probabilities.{place}.'] span")).to_have_text(texts)
        losses = page.locator(f"[data-at='losses.{place}']")
        expect(losses).to_have_text(written(page, "number", [answer["losses"][place]]) * 2)
        expect(page.locator(f"[data-at='classes.{place}']")).to_have_text(str(answer["classes"][place]))


def test_the_example_is_taken_along_to_be_changed(page: Page, running: Running) -> None:
    page.goto("/")
    expect(row(page)).to_be_visible()
    page.get_by_role("button", name="Change these numbers").click()
    answer = asked(running.url, "loss", logits=[[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]], labels=[1, 2])
    expect_totals(page, answer)
    expect_answer(page, answer, 1)
    expect(numbers(page)).to_be_focused()
    numbers(page).fill("1, 2, 3\n4, 5, 6")
    expect_totals(page, asked(running.url, "loss", logits=[[1, 2, 3], [4, 5, 6]], labels=[1, 2]))


def test_typed_logits_become_what_softmax_answers(page: Page, running: Running) -> None:
    take_logits(page, TEXT)
    answer = asked(running.url, "softmax", logits=ROWS)
    for place in range(2):
        expect_answer(page, answer, place)
    expect(page.locator(".totals")).to_have_text("2 rows. Choose a label to have a loss.")
    expect(page.get_by_role("slider", name="Label smoothing")).to_be_disabled()
    expect(page.get_by_label("Class weights")).to_be_disabled()


def test_classes_have_the_names_that_are_typed(page: Page) -> None:
    take_logits(page, TEXT)
    # Key by key, as a person does: what is not there yet is no error.
    page.get_by_label("Names of the classes").press_sequentially("cat, dog, eel")
    expect(row(page).locator("button.class")).to_have_text(["cat", "dog", "eel"])
    expect(row(page).locator(".verdict b")).to_have_text("cat")
    expect(row(page, 1).locator(".verdict b")).to_have_text("dog")
    expect(row(page).get_by_label("Label").locator("option")).to_have_text(["none", "cat", "dog", "eel"])


def test_a_label_brings_loss_gradient_and_accuracy(page: Page, running: Running) -> None:
    take_logits(page, TEXT)
    row(page).get_by_label("Label").select_option("1")
    one = asked(running.url, "loss", logits=ROWS, labels=[1, -100], ignore_index=-100)
    expect_totals(page, one)
    expect(page.locator(".totals")).to_contain_text("over 1 labelled of 2 rows, accuracy 0 %")
    row(page, 1).get_by_label("Label").select_option("1")
    both = asked(running.url, "loss", logits=ROWS, labels=[1, 1])
    expect_totals(page, both)
    for place in range(2):
        expect_answer(page, both, place)
    expect(row(page).locator("tr.true")).to_have_count(1)
    for place in range(2):
        row(page, place).get_by_label("Label").select_option("none")
    expect(page.locator("#mean-loss")).to_have_count(0)


def test_the_temperature_moves_by_keyboard_and_by_pointer(page: Page, running: Running) -> None:
    take_logits(page, TEXT)
    slider = page.get_by_role("slider", name="Temperature")
    value = page.locator(".control:has(#temperature) .value")
    slider.focus()
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    expect(value).to_have_text("2")
    expect_answer(page, asked(running.url, "softmax", logits=ROWS, temperature=2))
    box = slider.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 8, box["y"] + box["height"] / 2, steps=25)
    page.mouse.up()
    temperature = float(value.inner_text())
    assert temperature < 0.5
    expect_answer(page, asked(running.url, "softmax", logits=ROWS, temperature=temperature))
    expect(slider).to_have_attribute("aria-valuetext", value.inner_text())
    page.get_by_role("button", name="Reset temperature").click()
    expect(value).to_have_text("1")
    expect_answer(page, asked(running.url, "softmax", logits=ROWS))


def test_smoothing_and_weights_change_the_loss(page: Page, running: Running) -> None:
    take_logits(page, TEXT)
    for place, label in enumerate("01"):
        row(page, place).get_by_label("Label").select_option(label)
    page.get_by_role("slider", name="Label smoothing").focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    smoothed = asked(running.url, "loss", logits=ROWS, labels=[0, 1], label_smoothing=0.1)
    expect_totals(page, smoothed)
    expect_answer(page, smoothed)
    page.get_by_label("Class weights").fill("1, 2.5, 0.5")
    weighed = asked(
        running.url, "loss", logits=ROWS, labels=[0, 1], label_smoothing=0.1, class_weight=[1, 2.5, 0.5]
    )
    expect_totals(page, weighed)
    expect_answer(page, weighed, 1)
    page.get_by_role("button", name="Reset label smoothing").click()
    expect_totals(page, asked(running.url, "loss", logits=ROWS, labels=[0, 1], class_weight=[1, 2.5, 0.5]))


@pytest.mark.parametrize("label", [None, "1"])
def test_a_click_on_a_class_masks_it_and_brings_it_back(
    page: Page, running: Running, label: str | None
) -> None:
    take_logits(page, TEXT)
    if label:
        row(page).get_by_label("Label").select_option(label)
    page.get_by_label("Names of the classes").fill("cat, dog, eel")
    row(page).get_by_role("button", name="cat").click()
    masked = [["-Infinity", *rest] for _, *rest in ROWS]
    answer = asked(running.url, "softmax", logits=masked)
    expect(row(page).locator("td.share span").first).to_have_text("0")
    expect(row(page).locator("td.share span")).to_have_text(
        written(page, "probability", answer["probabilities"][0])
    )
    # Minus infinity is what the logarithm of nothing is, with a label and without.
    expect(row(page).locator("tbody td:nth-child(4)").first).to_have_text("\N{MINUS SIGN}∞")
    expect(row(page).get_by_role("button", name="cat")).to_have_attribute("aria-pressed", "true")
    expect(row(page).locator(".verdict b")).to_have_text("dog")
    row(page).get_by_role("button", name="cat").click()
    expect(row(page).locator("td.share span")).to_have_text(
        written(page, "probability", asked(running.url, "softmax", logits=ROWS)["probabilities"][0])
    )


def test_a_label_whose_class_is_masked_costs_infinitely_much(page: Page) -> None:
    take_logits(page, TEXT)
    row(page).get_by_label("Label").select_option("0")
    row(page).locator("button.class").first.click()
    expect(page.locator("#mean-loss")).to_have_text("∞")
    expect(row(page).locator(".sum .loss")).to_have_text("∞")


def test_a_heads_mask_goes_by_its_decisions(page: Page, running: Running) -> None:
    take_digits(page)
    features = [float(text) for text in numbers(page).input_value().split(",")]
    first = row(page).locator(".verdict b").inner_text()
    row(page).get_by_role("button", name=first).click()
    names = row(page).locator("button.class").all_inner_texts()
    label = row(page).get_by_label("Label").input_value()
    answer = asked(
        running.url,
        "predict",
        features=[features],
        labels=[int(label)],
        decision={"mask": [names.index(first)]},
        outputs=[
            *["probabilities", "log_probabilities", "classes", "entropy", "loss", "losses", "gradient"],
            *["accuracy", "count", "adjusted_probabilities", "decisions"],
        ],
    )
    assert answer["decisions"] != answer["classes"]
    expect(row(page).get_by_role("columnheader", name="Probability, masked")).to_be_visible()
    expect_answer(page, answer, shares="adjusted_probabilities")
    expect(row(page).locator(".verdict b")).to_have_text([first, names[answer["decisions"][0]]])
    row(page).get_by_role("button", name=first).click()
    expect(row(page).locator(".verdict b")).to_have_text([first])
    plain = asked(running.url, "predict", features=[features], labels=[int(label)])
    expect_answer(page, plain)


def test_after_fast_changes_the_last_state_stands(page: Page, running: Running) -> None:
    take_logits(page, TEXT)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.get_by_role("slider", name="Temperature").evaluate("""slider => {
        for (let step = 0; step <= 300; step += 1) {
          slider.value = -1 + 2 * ((step * 7) % 100) / 100;
          slider.dispatchEvent(new Event("input"));
        }
        slider.value = 0.7;
        slider.dispatchEvent(new Event("input"));
    }""")
    expect_answer(page, asked(running.url, "softmax", logits=ROWS, temperature=5.01))
    expect(page.locator(".control:has(#temperature) .value")).to_have_text("5.01")
    page.wait_for_timeout(300)  # nothing that was asked before comes later
    expect_answer(page, asked(running.url, "softmax", logits=ROWS, temperature=5.01))
    assert len(requests) < 10


def test_without_answers_no_number_moves(page: Page, watch: Watch) -> None:
    watch.expect("net::ERR_FAILED")
    take_logits(page, TEXT)
    row(page).get_by_label("Label").select_option("1")
    expect(page.locator("#mean-loss")).to_have_text(re.compile(r"\d"))
    results = page.locator(".results td, .results .sum, .results .totals, .results .verdict")
    before = results.all_inner_texts()
    widths = "bars => bars.map((bar) => bar.width.baseVal.value)"
    bars = page.locator(".results .bar .fill").evaluate_all(widths)

    def refuse_posts(route: Route) -> None:
        if route.request.method == "POST":
            route.abort()
        else:
            route.continue_()

    page.route("**/*", refuse_posts)
    with page.expect_event("requestfailed"):
        set_slider(page, "Temperature", 0.8)
    expect(page.locator(".results")).to_have_class(re.compile("stale"))
    assert results.all_inner_texts() == before
    assert page.locator(".results .bar .fill").evaluate_all(widths) == bars
