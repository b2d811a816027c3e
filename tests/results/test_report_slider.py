"""The slider of a report, in a browser: by keyboard and pointer, on a phone, without scripts."""

import numpy as np
import pytest

from revt_hf.results.page import write_page
from revt_hf.results.report import Example
from revt_hf.results.sheets import Panel
from tests.helpers.browser import PHONE, browser, overflows
from tests.results.test_report import make_report

SHOWN = ".compare:not([hidden])"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A page with two scenes of four pictures."""
    path = tmp_path_factory.mktemp("report") / "page.html"
    colours = {"input": 250, "plain": 180, "average": 110, "a <b> & 'c'": 40}
    panels = [Panel(t, np.full((60, 120, 3), grey, np.uint8)) for t, grey in colours.items()]
    write_page(make_report(examples=[Example("rain", n, panels) for n in ("one", "two")]), path)
    return path.as_uri()


@pytest.fixture(scope="module")
def driver():
    with browser() as opened:
        yield opened


def test_keyboard_and_pointer_move_the_divider(address, driver):
    page = driver.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: complaints.append(line.text))
    page.goto(address)
    assert page.locator(SHOWN).count() == 2
    scene = page.locator(".scene").nth(1)
    divider = scene.locator(".pair input")
    options = scene.locator("select").nth(0).locator("option").all_inner_texts()
    assert options == ["input", "plain", "average", "a <b> & 'c'"]
    # The picture as it is against the merge.
    assert scene.locator(".pair span").all_inner_texts() == ["input", "average"]
    scene.locator("select").nth(0).select_option("a <b> & 'c'")
    assert scene.locator(".pair span").all_inner_texts() == ["a <b> & 'c'", "average"]
    assert scene.locator(".pair img").nth(0).get_attribute("alt") == "a <b> & 'c': rain, two"
    divider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    assert divider.get_attribute("aria-valuetext") == "40 % a <b> & 'c', the rest average"
    outline = scene.locator(".pair").evaluate("one => getComputedStyle(one).outlineStyle")
    assert outline == "solid"
    scene.locator(".pair").scroll_into_view_if_needed()
    box = scene.locator(".pair").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2)
    assert divider.input_value() == "80"
    # The other scene is as it was.
    assert page.locator(".pair input").nth(0).input_value() == "50"
    assert complaints == []
    page.close()


def test_a_phone_and_a_dark_screen(address, driver):
    page = driver.new_page(viewport=PHONE, color_scheme="dark")
    page.goto(address)
    assert page.locator(SHOWN).count() == 2
    assert not overflows(page)
    page.close()


def test_all_of_a_tall_image_fits_the_window(tmp_path, driver):
    tall = np.zeros((200, 100, 3), np.uint8)
    panels = [Panel("input", tall), Panel("average", tall)]
    write_page(make_report(examples=[Example("rain", "one", panels)]), tmp_path / "page.html")
    page = driver.new_page(viewport={"width": 1280, "height": 600})
    page.goto((tmp_path / "page.html").as_uri())
    box = page.locator(".pair").bounding_box()
    assert box["height"] == pytest.approx(2 * box["width"], rel=0.01)
    assert box["height"] < 600
    page.close()


def test_without_scripts_all_pictures_are_there(address, driver):
    context = driver.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator(".panels img:visible").count() == 8
    assert page.locator(".compare:visible, .with-script:visible").count() == 0
    context.close()
