"""The documentation's site in a browser: on a phone, and its search."""

import functools
import http.server
import os
import re
import subprocess
import sys
import threading

import pytest

from tests.helpers.browser import PHONE, overflows
from tests.helpers.browser import browser as open_browser
from tests.helpers.golden import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of the site, which is built and served; and its pages."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", folder]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    subprocess.run(command, cwd=ROOT, env=quiet, check=True, capture_output=True)
    handler = functools.partial(_Quiet, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    pages = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.html"))]
    yield f"http://127.0.0.1:{server.server_address[1]}/", pages
    server.shutdown()
    server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


def test_no_page_is_wider_than_a_phone_and_nothing_comes_from_elsewhere(site, browser):
    address, pages = site
    page = browser.new_page(viewport=PHONE)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    for name in pages:
        page.goto(address + name, wait_until="domcontentloaded")
        assert not overflows(page), name
    assert len(pages) > 40
    assert [url for url in asked if not url.startswith(address)] == []


def test_the_search_finds_a_page_that_explains_the_word_first(site, browser):
    address, _ = site
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{address}index.html")
    page.click(".md-search__input")
    page.keyboard.type("recalibrate")
    results = page.locator(".md-search-result__item .md-search-result__link")
    results.first.wait_for()
    first = results.first.get_attribute("href")
    assert re.search(r"/(choosing|merging)\.html", first), first
