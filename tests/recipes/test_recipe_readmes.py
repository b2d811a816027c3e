"""What the recipes' READMEs say: links, files, names and the paper's numbers are right."""

import re

import pytest

from revt_hf.experiments.experiment_recipe import load_experiment
from revt_hf.results.published import ROWS
from tests.helpers.recipe_tree import PAPER_EXPERIMENTS, RECIPES, SOURCES, name_of

READMES = sorted(RECIPES.rglob("README.md"))
OVERVIEW = (RECIPES / "README.md").read_text()
_FILE = re.compile(r"`([^`\s]+\.yaml)`")
_COMMAND_FILE = re.compile(r"\b(recipes/[^\s$]+\.yaml)")

# Folders of the original's scripts, all sizes together.
MERGES = (
    *("base", "pixmix", "bilateral", "pixmix_bilateral", "different", "different2", "1-4-6"),
    *("4-5-6", "*/org_size", "different2_no_rescaling", "pixmix_pixmix-bilateral_bilateral"),
    *("pixmix_pixmixbilateral_base", "pixmix_pixmixbilateral_base_all", "base_same_seed"),
    *("base_same_seed_with _head", "pixmix_same_seed_all", "pixmix_same_seed_w_head"),
    *("encoder_different_same_seed", "full_network_different_same_seed"),
    *("full_network_different_same_seed2", "head_different_same_seed", "wo_PhotoAug"),
    *("wo_PhotoAug_randomflip", "base2", "base4", "base5", "base6", "base7", "base_fgh"),
    *("base_best_checkpoint_fgh", "base120k", "base120k_correct", "full_network", "head"),
    *("different_layer_types", "no_norm_layers", "only_norm_layers", "l2r_fine_pyramid"),
    *("max_distance", "max_distance_blk3", "max_distance_blk3_2", "max_distance_linear"),
    *("s_and_p_pixmix", "sgd_40k", "sgd_60k_no_warmup", "weight_decay", "ternary_plot"),
    *("ternary_plot_on_cs_dev", "ternary_plot_on_cs_dev2"),
)
ENSEMBLES = (
    *("base", "pixmix", "bilateral", "pixmix_bilateral", "different", "different2", "base120k"),
    *("wo_PhotoAug", "wo_PhotoAug_randomflip"),
    *(f"{kind}{count}" for kind in ("mul", "backbone") for count in range(2, 8)),
    *(f"base{count}" for count in (2, 4, 5, 6, 7)),
)


def _tables():
    """The rows (original, here) of each of the overview's mapping tables."""
    parts = OVERVIEW.partition("## Where every experiment of the original is")[2].split("\n\n")
    tables = [part.splitlines()[2:] for part in parts if part.startswith("|")]
    return [[row.strip("| ").split(" | ", 1) for row in rows] for rows in tables]


def _places(cell):
    """Pairs of files and the names that a cell finds in them."""
    for group in cell.split("; `"):
        tokens = re.findall(r"`([^`]+)`", group if group.startswith("`") else f"`{group}")
        paths = [token for token in tokens if token.endswith(".yaml")]
        yield paths, [token for token in tokens if token not in paths]


@pytest.mark.parametrize("readme", READMES, ids=name_of)
def test_links_lead_somewhere(readme):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", readme.read_text()):
        assert "://" in link or (readme.parent / link).exists(), link


@pytest.mark.parametrize("readme", READMES, ids=name_of)
def test_recipes_that_are_named_exist(readme):
    text = readme.read_text()
    for pattern in _FILE.findall(text):
        beside = [*readme.parent.glob(pattern), *readme.parent.rglob(pattern)]
        assert beside or list(RECIPES.glob(pattern)), pattern
    for path in _COMMAND_FILE.findall(text):
        assert (RECIPES.parent / path).is_file(), path


def test_every_family_has_a_readme():
    families = {path.relative_to(RECIPES).parts[0] for path in PAPER_EXPERIMENTS}
    assert all((RECIPES / family / "README.md").is_file() for family in families)


@pytest.mark.parametrize("cell", [here for rows in _tables() for _, here in rows])
def test_what_an_experiment_of_the_original_became_is_there(cell):
    if cell.startswith("left out: "):
        return
    found = False
    for patterns, names in _places(cell):
        for pattern in patterns:
            files = list(RECIPES.glob(pattern))
            assert files, pattern
            for path in files:
                experiment = load_experiment(path)
                known = {*experiment.members, *experiment.merges, *experiment.ensembles}
                assert set(names) <= known, path
                found = bool(names)
    assert found


@pytest.mark.parametrize(("number", "folders"), [(0, MERGES), (1, ENSEMBLES)])
def test_no_experiment_of_the_original_is_forgotten(number, folders):
    text = "\n".join(original for original, _ in _tables()[number])
    assert [name for name in folders if f"`{name}`" not in text] == []


def test_every_experiment_stands_in_the_mapping():
    cells = [here for rows in _tables() for _, here in rows]
    patterns = {path for cell in cells for paths, _ in _places(cell) for path in paths}
    named = {path for pattern in patterns for path in RECIPES.glob(pattern)}
    assert set(PAPER_EXPERIMENTS) - named == set()


@pytest.mark.parametrize("source", SOURCES)
def test_the_expected_numbers_are_the_papers(source):
    text = (RECIPES / source / "README.md").read_text()
    rows = re.findall(r"^\| (B\d), (.+) \| (\d+\.\d\d) \| (\d+\.\d\d) \|$", text, re.MULTILINE)
    expected = [
        (
            row.size.upper(),
            f"ReVT {{{','.join(map(str, row.methods))}}}" if row.is_merge else "baseline",
            f"{row.miou['cityscapes/val']:.2f}",
            f"{row.miou['bdd100k/val']:.2f}",
        )
        for row in ROWS
        if row.source == source
    ]
    assert rows == expected
