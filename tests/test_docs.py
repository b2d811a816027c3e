"""The documentation: every page in the navigation, every link and image accounted for.

That the site builds is for `make check`.
"""

import re
import runpy

import pytest
import yaml

from tests.helpers.golden import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NOTEBOOKS = sorted((DOCS / "tutorials").glob("*.ipynb"))
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
_IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)]+)\)")
_LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")
_COMMAND = re.compile(r"\b(?:revt|make) [a-z]")


HOOK = runpy.run_path(str(ROOT / SITE["hooks"][0]))
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def _places(nav):
    """The pages of the navigation, which is a page or nested lists and titles of pages."""
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav
    return [place for entry in entries for place in _places(entry)]


def test_the_navigation_names_every_page_once():
    outside = [path.relative_to(ROOT).as_posix() for path in HOOK["outside_pages"](ROOT)]
    cards = [place for place in outside if re.fullmatch(r"model_cards/.+-.+\.md", place)]
    pages = [page.relative_to(DOCS).as_posix() for page in [*PAGES, *NOTEBOOKS]]
    pages = [re.sub(r"\.ipynb$", ".md", page) for page in pages]
    expected = sorted({*pages, *outside} - {*cards})
    assert sorted(_places(SITE["nav"])) == expected
    assert {"recipes/README.md", "recipes/camvid/README.md", "CHANGELOG.md"} <= set(expected)


def test_nothing_comes_from_another_server():
    assert SITE["theme"]["font"] is False
    assert "://" not in (ROOT / "mkdocs.yml").read_text()


@every_page
def test_links_lead_somewhere_on_a_code_host(page):
    for link in _LINK.findall(page.read_text()):
        assert "://" in link or (page.parent / link).exists(), link


def test_every_image_is_shown():
    shown = {
        (page.parent / link).resolve()
        for page in PAGES
        for _, link in _IMAGE.findall(page.read_text())
    }
    assert {path.resolve() for path in (DOCS / "images").iterdir()} == shown


@every_page
def test_every_image_stands_beside_the_command_that_makes_it(page):
    blocks = re.split(r"^```.*\n", page.read_text(), flags=re.MULTILINE)
    # Comments in code begin like headings.
    blocks[1::2] = [re.sub("^#", " ", block, flags=re.MULTILINE) for block in blocks[1::2]]
    for section in re.split("^#", "```\n".join(blocks), flags=re.MULTILINE):
        prose, code = section.split("```\n")[::2], section.split("```\n")[1::2]
        for alternative, link in _IMAGE.findall("".join(prose)):
            assert _COMMAND.search(alternative) or _COMMAND.search("".join(code)), link


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a](other.md#part)", "[a](other.md#part)"),
        ("[a](../b.md)", "[a](../b.md)"),
        ("[the\nrecipes](../../recipes/README.md#how)", "[the\nrecipes](../recipes/README.md#how)"),
        ("[`recipes`](../../recipes)", "[`recipes`](../recipes/README.md)"),
        ("[`a.yaml`](../../recipes/a.yaml), [b](../b.md)", "`a.yaml`, [b](../b.md)"),
        ("![a](../a.png)", "![a](../a.png)"),
        ("![a](../../recipes/a.yaml)", "![a](../../recipes/a.yaml)"),
        ("[a](../../recipes/missing.md)", "[a](../../recipes/missing.md)"),
        ("[a](https://example.org/a.md) [b](#part)", "[a](https://example.org/a.md) [b](#part)"),
    ],
)
def test_links_of_the_site(tmp_path, text, expected):
    places = {
        "docs/results/page.md": "results/page.md",
        "docs/results/other.md": "results/other.md",
        "docs/b.md": "b.md",
        "docs/a.png": "a.png",
        "recipes/README.md": "recipes/README.md",
    }
    for file in [*places, "recipes/a.yaml"]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    found = {str(tmp_path / file): place for file, place in places.items()}
    page = tmp_path / "docs" / "results" / "page.md"
    assert HOOK["with_site_links"](text, page, "results/page.md", found) == expected
    outside = "recipes/camvid/README.md"
    site = HOOK["with_site_links"]("[b](../../docs/b.md#c)", tmp_path / outside, outside, found)
    assert site == "[b](../../b.md#c)"


@pytest.mark.parametrize(
    ("page", "heading"), [("safety.md", "promise"), ("features.md", "feature")]
)
def test_every_promise_and_feature_names_tests_that_exist(page, heading):
    """``::name`` alone is in the file before it."""
    rows = [line for line in (DOCS / page).read_text().splitlines() if line.startswith("| ")]
    rows = [row for row in rows if "---" not in row and not row.startswith(f"| {heading} |")]
    assert rows
    for row in rows:
        file, cell = None, row.removesuffix(" |").rsplit(" | ", 1)[1]
        for path, name in re.findall(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`", cell):
            file = path or file
            assert file is not None, row
            begins = rf"^def {name}\(" if name else "^def test_"
            assert re.search(begins, (ROOT / file).read_text(), re.MULTILINE), f"{file}::{name}"
        assert file is not None or (cell, heading) == ("-", "feature"), row
