"""The page of ``revt app`` in a browser: upload, slider, legend, corruptions, phones."""

import threading
from contextlib import ExitStack
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from revt_hf.app.page import serving
from revt_hf.app.scenes import load_shown, read_examples
from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.evaluation.predictor import Segmenter
from revt_hf.merging.average import merge
from tests.helpers.browser import PHONE, browser, overflows
from tests.helpers.networks import tiny_model

pytest.importorskip("gradio", reason="the extra 'app' is not installed")
DRAWN = "#scene .compare:not([hidden])"
EXIF_ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two members, their merge, a folder of examples, and files to upload."""
    root = tmp_path_factory.mktemp("app")
    for seed, name in enumerate(("a", "b")):
        tiny_model(seed).save_pretrained(root / name)
    merge([root / "a", root / "b"], root / "revt")
    noise = np.random.default_rng(0)
    (root / "examples").mkdir()
    for name in ("first", "second"):
        pixels = noise.integers(0, 256, (64, 96, 3), np.uint8)
        Image.fromarray(pixels).save(root / "examples" / f"{name}.png")
    turned = Image.fromarray(noise.integers(0, 256, (64, 96, 3), np.uint8))
    exif = turned.getexif()
    exif[EXIF_ORIENTATION] = 6
    turned.save(root / "turned.jpg", exif=exif)
    deep = noise.integers(0, 65536, (64, 80), np.uint16)
    Image.fromarray(deep).save(root / "deep.png")
    (root / "text.png").write_text("no image")
    return root


@pytest.fixture(scope="module")
def served(folder):
    """The address, a browser, and the calls of networks."""
    models = {name: str(folder / name) for name in ("a", "b", "revt")}
    shown = load_shown(models, Protocol(max_size=None), ensemble=True)
    examples = read_examples(str(folder / "examples"), shown.space)
    with ExitStack() as stack:
        driver = stack.enter_context(browser())
        address = stack.enter_context(serving(shown, examples))
        run = Segmenter.probabilities
        calls = stack.enter_context(
            mock.patch.object(Segmenter, "probabilities", autospec=True, side_effect=run)
        )
        yield address, driver, calls


@pytest.fixture(scope="module")
def page(served):
    """The page at the width of a desk, with what it asked for and complained about."""
    address, driver, _ = served
    opened = driver.new_page(viewport={"width": 1200, "height": 900})
    opened.set_default_timeout(20_000)
    opened.asked, opened.complaints = [], []
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.on(
        "console",
        lambda line: opened.complaints.append(line.text) if line.type == "error" else None,
    )
    opened.goto(address)
    opened.wait_for_selector(DRAWN)
    return opened


def test_a_port_that_is_taken_is_one_sentence(served, folder):
    port = int(served[0].rstrip("/").rpartition(":")[2])
    shown = load_shown({"a": str(folder / "a")}, Protocol(max_size=None), ensemble=False)
    with (
        pytest.raises(UserError, match=f"cannot listen on 127.0.0.1, port {port}: "),
        serving(shown, [], port=port),
    ):
        pass


def panel(page, title):
    return page.locator(f'#scene figure[data-title="{title}"] img').get_attribute("src")


def changed(page, title, before):
    page.wait_for_function(
        "([title, before]) => { const found = document.querySelector("
        '`#scene figure[data-title="${title}"] img`); return found && found.src !== before }',
        arg=[title, before],
    )
    return panel(page, title)


def named(page, text):
    page.wait_for_function(
        "text => document.querySelector('#scene .scene-name')?.innerText.includes(text)", arg=text
    )


def test_the_first_example_is_there_and_nothing_comes_from_elsewhere(page, served):
    address = served[0]
    named(page, "first.png: 96x64 pixels")
    titles = page.locator("#scene figure").evaluate_all("all => all.map(one => one.dataset.title)")
    names = ["a", "b", "revt", "ensemble of 2 (probabilities)"]
    assert titles == ["image", *names, "where they differ"]
    assert "mean confidence" in page.locator("#scene figcaption").nth(1).inner_text()
    outside = [url for url in page.asked if not url.startswith((address, "data:", "blob:"))]
    assert outside == []
    policy = page.request.get(address).headers["content-security-policy"]
    assert policy.startswith("default-src 'self'")
    assert page.complaints == []


def test_the_slider_compares_any_two_pictures_by_keyboard_and_pointer(page):
    pair = page.locator("#scene .pair")
    shown = "all => all.map(one => one.src)"
    assert pair.locator("img").evaluate_all(shown) == [panel(page, "image"), panel(page, "revt")]
    assert pair.locator("span").all_inner_texts() == ["image", "revt"]
    page.locator("#scene .sides select").nth(0).select_option("a")
    assert pair.locator("img").evaluate_all(shown) == [panel(page, "a"), panel(page, "revt")]
    divider = page.locator("#scene .pair input")
    divider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert divider.input_value() == "53"
    assert divider.get_attribute("aria-valuetext") == "53 % a, the rest revt"
    box = pair.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 5)
    page.mouse.up()
    page.mouse.move(box["x"], box["y"] + 5)
    assert divider.input_value() == "25"
    clip = pair.locator("img").nth(1).evaluate("one => getComputedStyle(one).clipPath")
    assert clip == "inset(0px 0px 0px 25%)"


def test_toggling_classes_and_confidence_draws_again_without_the_networks(page, served):
    calls = served[2]
    before, count = panel(page, "revt"), calls.call_count
    checkbox = page.locator("#legend label:visible").nth(1).locator("input")
    checkbox.uncheck()
    hidden = changed(page, "revt", before)
    # What was chosen in the slider outlives the new drawing.
    assert page.locator("#scene .pair input").input_value() == "25"
    page.get_by_label("confidence").check()
    confident = changed(page, "revt", hidden)
    page.wait_for_selector("#scene .ramp")
    checkbox.check()
    changed(page, "revt", confident)
    page.get_by_label("classes", exact=True).check()
    page.wait_for_selector("#scene .ramp", state="detached")
    assert panel(page, "revt") == before
    assert calls.call_count == count


def test_corruptions_run_the_networks_again(page, served):
    calls = served[2]
    before, count = panel(page, "image"), calls.call_count
    fog = page.get_by_label("range slider for Fog")
    fog.focus()
    page.keyboard.press("End")
    foggy = changed(page, "image", before)
    assert calls.call_count == count + 3
    fog.focus()
    page.keyboard.press("Home")
    assert changed(page, "image", foggy) == before


def test_a_view_that_is_chosen_while_networks_run_is_shown(page, served):
    run = Segmenter.probabilities.side_effect

    def slow(*arguments):
        page_is_ahead.wait(20)
        return run(*arguments)

    page_is_ahead = threading.Event()
    before = panel(page, "image")
    fog = page.get_by_label("range slider for Fog")
    with mock.patch.object(served[2], "side_effect", slow):
        fog.focus()
        page.keyboard.press("End")
        page.get_by_label("confidence").check()
        page.wait_for_selector("#scene .ramp")
        page_is_ahead.set()
        changed(page, "image", before)
    assert page.locator("#scene .ramp").count() == 1
    page.get_by_label("classes", exact=True).check()
    page.wait_for_selector("#scene .ramp", state="detached")
    fog.focus()
    page.keyboard.press("Home")
    page.wait_for_function(
        "before => document.querySelector('#scene figure[data-title=image] img').src === before",
        arg=before,
    )


def test_uploads_are_read_as_everywhere_and_refused_in_words(page, folder):
    upload = page.locator("#upload input[type=file]")
    upload.set_input_files(folder / "turned.jpg")
    named(page, "turned.jpg: 64x96 pixels")
    upload.set_input_files(folder / "text.png")
    problem = page.locator("#scene [role=alert]")
    problem.wait_for()
    assert problem.inner_text().startswith("text.png: not an image that OpenCV can read")
    upload.set_input_files(folder / "deep.png")
    named(page, "deep.png: 80x64 pixels")
    # An example afterwards.
    page.locator("#examples .thumbnail-item").nth(1).click()
    named(page, "second.png")
    assert page.complaints == []


def test_a_phone_shows_it_without_scrolling_sideways(served):
    address, driver, _ = served
    page = driver.new_page(viewport=PHONE, color_scheme="dark")
    page.goto(address)
    page.wait_for_selector(DRAWN, timeout=20_000)
    assert not overflows(page)
    places = {
        name: page.locator(name).bounding_box()["y"] for name in ("#upload", "#scene", "#legend")
    }
    assert sorted(places, key=places.get) == ["#upload", "#scene", "#legend"]
    page.close()
