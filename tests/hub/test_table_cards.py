"""The cards of the paper's table: as rendered, with the table's numbers, and commands that run."""

import re

import pytest
import yaml

from revt_hf.config.recipe import parse_recipe
from revt_hf.data.domains import DOMAINS
from revt_hf.hub.cards import check_card
from revt_hf.hub.table_cards import file_name, row_card, table_cards, write_table_cards
from revt_hf.results.rows import ROWS
from tests.helpers.golden import ROOT

CARDS = ROOT / "model_cards"


def _contents(folder):
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


def test_the_folder_is_what_is_rendered(tmp_path):
    """``python -m revt_hf.hub.table_cards`` writes them anew."""
    write_table_cards(tmp_path)
    assert _contents(CARDS) == _contents(tmp_path)
    assert len(_contents(CARDS)) == 18 + 1


@pytest.mark.parametrize("row", ROWS, ids=file_name)
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
    recipe = parse_recipe(values, file_name(row))
    assert recipe.source.domain == row.source
    assert {spec.domain for spec in (recipe.source, *recipe.targets)} <= DOMAINS.keys()
    numbers = re.findall(r"--set augmentation\.method=(\d)", text)
    assert tuple(map(int, numbers)) == row.methods
    assert ("revt merge" in text) == row.is_merge


def test_links_between_documents_lead_somewhere():
    for name, text in table_cards().items():
        for link in re.findall(r"\]\((?!https?://)([^)]+)\)", text):
            assert (CARDS / link).exists(), (name, link)
