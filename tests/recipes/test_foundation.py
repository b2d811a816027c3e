"""The recipes of foundation models: what their members are, and that they run, in small."""

import json

import pytest
import torch
import yaml
from transformers import AutoModel, Dinov2Config

from revt_hf.data.domains import DOMAINS
from revt_hf.experiments.experiment_recipe import load_experiment, member_recipe
from tests.helpers.command_line import revt
from tests.helpers.recipe_tree import RECIPES, SOURCES, name_of

FOUNDATION = RECIPES / "foundation"
EXPERIMENTS = [
    FOUNDATION / s / f"{e}.yaml" for s in SOURCES for e in ("dinov2-b", "dinov2-l", "dinov3-l")
]
INITS = {
    "dinov2-b": "facebook/dinov2-base",
    "dinov2-l": "facebook/dinov2-large",
    "dinov3-l": "facebook/dinov3-vitl16-pretrain-lvd1689m",
}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_members_differ_in_encoder_method_and_what_learns_only(path):
    experiment = load_experiment(path)
    for name in experiment.members:
        recipe = member_recipe(experiment, name, 0)
        base = member_recipe(load_experiment(FOUNDATION / "gta5" / "dinov2-b.yaml"), "base", 0)
        full, source = name.startswith("full-"), path.parent.name
        method = {"base": 1, "pixmix": 4, "both": 6}[name.removeprefix("full-")]
        # A multiple of the size of patches.
        crop = 512 if path.stem == "dinov3-l" else 518
        changes = {
            "model": base.model.model_copy(update={"init": INITS[path.stem]}),
            "source": base.source.model_copy(
                update={"domain": source, "data_dir": f"data/{source}"}
            ),
            "augmentation": base.augmentation.model_copy(update={"method": method, "crop": crop}),
        }
        if full:
            rates = {"lr": 1e-5, "head_lr_factor": 10}
            changes |= {"adapter": None, "optimizer": base.optimizer.model_copy(update=rates)}
        assert recipe == base.model_copy(update=changes)
        # The head learns at the field's rate either way.
        assert recipe.optimizer.lr * recipe.optimizer.head_lr_factor == pytest.approx(1e-4)
        assert (recipe.train.steps, recipe.train.batch_size) == (40_000, 4)
        assert [target.domain for target in recipe.targets] == [
            *("cityscapes", "bdd100k", "mapillary", "acdc", "kitti2015")
        ]
    sizes = [p if isinstance(p, str) else p.max_size for p in experiment.evaluate.protocols]
    assert sizes == ["paper", (2048, 1024)]


def test_sources_are_added_one_after_the_other():
    """As often as they have images of their training split."""
    experiment = load_experiment(FOUNDATION / "rendered" / "dinov2-l.yaml")
    gta5 = member_recipe(load_experiment(FOUNDATION / "gta5" / "dinov2-l.yaml"), "base", 0)
    names = ("gta5", "synthia", "urbansyn")
    for member, count in (
        ("gta5", 1),
        ("gta5-synthia", 2),
        ("base", 3),
        ("pixmix", 3),
        ("both", 3),
    ):
        recipe = member_recipe(experiment, member, 0)
        assert tuple(source.domain for source in recipe.sources) == names[:count]
        for source in recipe.sources:
            assert source.weight == DOMAINS[source.domain].facts.images["train"]
        changes = {key: getattr(recipe, key) for key in ("source", "more_sources", "augmentation")}
        assert recipe == gta5.model_copy(update=changes)
    assert experiment.merges["revt-1-4-6"].members == ("base", "pixmix", "both")


def test_an_experiment_runs_in_small(tmp_path, capsys):
    """Trained, merged and evaluated, from a random encoder in a folder."""
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        patch_size=8,
        image_size=32,
    )
    AutoModel.from_config(config).save_pretrained(tmp_path / "encoder")
    options = {"images": 4, "val_images": 2, "size": [64, 128]}
    small = {
        "model.init": str(tmp_path / "encoder"),
        "model.config": {"hidden_size": 16},
        "adapter.rank": 2,
        "source": {"domain": "streets", "options": options},
        "targets": [{"domain": "streets", "config": "night", "options": options}],
        "augmentation.crop": 56,
        "augmentation.max_size": [128, 64],
        "train.steps": 2,
        "train.batch_size": 2,
        "train.precision": "fp32",
        "train.workers": 0,
    }
    values = {
        "extends": str(FOUNDATION / "gta5" / "dinov2-b.yaml"),
        "members": {},
        "evaluate": {"protocols": ["native"], "workers": 0, "cost": False},
    }
    for name in load_experiment(FOUNDATION / "gta5" / "dinov2-b.yaml").members:
        changes = {k: v for k, v in small.items() if "adapter" not in k or "full" not in name}
        values["members"][name] = {"set": changes}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    # Of the six trainings, those that one merge needs and one without adapters.
    steps = ("results/native/merges/revt-1-4-6", "members/full-base")
    only = [text for step in steps for text in ("--only", step)]
    code, _, error = revt(capsys, "run", path, "--output", tmp_path / "runs", *only)
    assert code == 0, error
    runs = tmp_path / "runs"
    assert (runs / "members" / "base" / "0" / "adapter" / "adapter_model.safetensors").is_file()
    assert not (runs / "members" / "full-base" / "0" / "adapter").exists()
    record = json.loads(next((runs / "merges" / "revt-1-4-6").rglob("merge.json")).read_text())
    assert len(record["members"]) == 3
    scored = {p.parent.name for p in (runs / "results" / "native" / "merges").rglob("*.json")}
    assert scored
