"""The documentation: every page in the navigation, every link and image accounted for.

That the site builds is for `make check`.
"""

import importlib.util
import re

import pytest
import yaml

from tests.helpers.golden import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
_IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)]+)\)")
_LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")
_COMMAND = re.compile(r"\b(?:revt|make) [a-z]")


def _hook():
    spec = importlib.util.spec_from_file_location("docs_hook", ROOT / SITE["hooks"][0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOK = _hook()


def _places(nav):
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            (below,) = entry.values()
            yield from [below] if isinstance(below, str) else _places(below)


def _sections(text):
    """The parts between headings, each as its text and its code blocks."""
    prose, blocks, fenced = [], [], False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced:
            blocks.append(line)
        elif line.startswith("#"):
            yield "\n".join(prose), "\n".join(blocks)
            prose, blocks = [], []
        else:
            prose.append(line)
    yield "\n".join(prose), "\n".join(blocks)


def _name(page):
    return str(page.relative_to(ROOT))


def test_the_navigation_names_every_page_once():
    outside = [path.relative_to(ROOT).as_posix() for path in HOOK.outside_pages(ROOT)]
    cards = [place for place in outside if re.fullmatch(r"model_cards/.+-.+\.md", place)]
    pages = [page.relative_to(DOCS).as_posix() for page in PAGES]
    expected = sorted({*pages, *outside} - {*cards})
    assert sorted(_places(SITE["nav"])) == expected
    assert {"recipes/README.md", "recipes/camvid/README.md", "CHANGELOG.md"} <= set(expected)


def test_nothing_comes_from_another_server():
    assert SITE["theme"]["font"] is False
    assert "://" not in (ROOT / "mkdocs.yml").read_text()


@pytest.mark.parametrize("page", PAGES, ids=_name)
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


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_image_stands_beside_the_command_that_makes_it(page):
    for prose, blocks in _sections(page.read_text()):
        for alternative, link in _IMAGE.findall(prose):
            assert _COMMAND.search(alternative) or _COMMAND.search(blocks), link


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
    assert HOOK.with_site_links(text, page, "results/page.md", found) == expected


def test_links_between_pages_outside(tmp_path):
    for file in ("recipes/camvid/README.md", "docs/domains.md"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    places = {str(tmp_path / "docs/domains.md"): "domains.md"}
    page = tmp_path / "recipes" / "camvid" / "README.md"
    text = "[data](../../docs/domains.md#splits)"
    site = HOOK.with_site_links(text, page, "recipes/camvid/README.md", places)
    assert site == "[data](../../domains.md#splits)"


def _rows(page, heading):
    """The cells of each row but the last one, and the last one."""
    rows = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    rows = [row for row in rows if "---" not in row and not row.startswith(f"| {heading} |")]
    assert rows
    return [row.removesuffix(" |").rsplit(" | ", 1) for row in rows]


def _check_tests(row, cell):
    """Every test that a cell names exists; ``::name`` alone is in the file before it."""
    file = None
    for path, name in re.findall(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`", cell):
        file = path or file
        assert file is not None, row
        tests = (ROOT / file).read_text()
        begins = rf"^def {name}\(" if name else "^def test_"
        assert re.search(begins, tests, re.MULTILINE), f"{row}: {file}::{name}"
    assert file is not None, row


def test_every_promise_names_tests_that_exist():
    for promise, held_by in _rows(DOCS / "safety.md", "promise"):
        _check_tests(promise, held_by)


def test_every_feature_names_tests_that_exist():
    for feature, held_by in _rows(DOCS / "features.md", "feature"):
        if held_by != "-":
            _check_tests(feature, held_by)
