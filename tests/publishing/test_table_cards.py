"""The cards of the paper's table: as rendered, with the table's numbers, and commands that run."""

import re

import pytest
import yaml
from conftest import ROOT

from revt_hf.domains import DOMAINS
from revt_hf.publishing.card import check_card
from revt_hf.publishing.table_cards import ROWS, row_card, table_cards, write_table_cards
from revt_hf.recipe import parse_recipe

CARDS = ROOT / "model_cards"
_SOURCES = {"GTA train split": "gta5", "SYNTHIA train split": "synthia"}


def test_the_folder_is_what_is_rendered():
    """``python -m revt_hf.publishing.table_cards`` writes them anew."""
    there = {path.name: path.read_text(encoding="utf-8") for path in CARDS.iterdir()}
    assert there == table_cards()
    assert len(there) == 18 + 1


def test_they_are_written_where_asked(tmp_path):
    write_table_cards(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(table_cards())


def test_the_numbers_and_links_are_the_originals():
    path = ROOT.parent / "shared" / "facts" / "original_readme.txt"
    if not path.exists():
        pytest.skip("the original's README is not here")
    size = source = ""
    found = []
    for line in path.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|") if cell.strip()]
        if not re.fullmatch(r"\d+\.\d+%", cells[-2] if len(cells) > 1 else ""):
            continue
        *names, method, cityscapes, bdd, link = cells
        for name in names:
            size = name.split()[1].lower() if name.startswith("Segformer") else size
            source = _SOURCES.get(name, source)
        methods = tuple(map(int, re.findall(r"\d", method))) or (1,)
        scores = float(cityscapes[:-1]), float(bdd[:-1])
        found.append((size, source, methods, *scores, link if "://" in link else None))
    rows = [(r.size, r.source, r.methods, r.cityscapes, r.bdd, r.link) for r in ROWS]
    assert rows == found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.file_name)
def test_a_card(row):
    text = row_card(row)
    check_card(text)
    assert "model-index" not in text
    assert "the paper's" in text
    assert f"| Cityscapes | {row.cityscapes:.2f} |" in text
    assert f"| BDD100K | {row.bdd:.2f} |" in text
    assert ("Weights not published" in text) == (row.link is None)
    assert "planned" in text
    values = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    recipe = parse_recipe(values, row.file_name)
    assert recipe.source.domain == row.source
    assert {spec.domain for spec in (recipe.source, *recipe.targets)} <= DOMAINS.keys()
    numbers = re.findall(r"--set augmentation\.method=(\d)", text)
    assert tuple(map(int, numbers)) == row.methods
    assert ("revt merge" in text) == row.is_merge


def test_links_between_documents_lead_somewhere():
    for name, text in table_cards().items():
        for link in re.findall(r"\]\((?!https?://)([^)]+)\)", text):
            assert (CARDS / link).exists(), (name, link)
