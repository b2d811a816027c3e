"""Training an adapter of the encoder: what learns, what is saved, and that PEFT agrees."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoModelForSemanticSegmentation,
    BeitConfig,
    Dinov2Config,
    DINOv3ViTConfig,
    SegformerConfig,
    SwinConfig,
)

from revt_hf import merge
from revt_hf.checkpoints.tensors import open_checkpoint
from revt_hf.checkpoints.torch_files import read_tensor
from revt_hf.core.errors import UserError
from revt_hf.merging.average import MergeOptions
from revt_hf.models.load import load_model
from revt_hf.models.networks import family_of_model
from revt_hf.training.loop import TrainOptions, train
from revt_hf.training.optim import parameter_groups
from revt_hf.training.run_folder import newest_checkpoint
from revt_hf.training.setup import load_parts
from tests.helpers.command_line import refused, revt
from tests.helpers.tiny import run, same_weights, tiny_recipe

peft = pytest.importorskip("peft")

_VIT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 32}
ENCODERS = {
    "dinov2": ("upernet", Dinov2Config(**_VIT, patch_size=8, mlp_ratio=2)),
    "dinov3": ("upernet", DINOv3ViTConfig(**_VIT, patch_size=8, intermediate_size=32)),
    "swin": (
        "upernet",
        SwinConfig(embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=4, image_size=64),
    ),
    "beit": ("beit", BeitConfig(**_VIT, patch_size=8, intermediate_size=32)),
    "segformer": (
        "segformer",
        SegformerConfig(hidden_sizes=[8, 16, 40, 64], depths=[1] * 4),
    ),
}
STAGES = ["stage1", "stage2", "stage3", "stage4"]
SMALL = {
    "upernet": {"hidden_size": 16},
    "beit": {"out_features": STAGES, "out_indices": [1, 2, 3, 4]},
}


@pytest.fixture
def encoder(tmp_path):
    """Save a random encoder as a folder."""

    def make(kind="dinov2"):
        folder = tmp_path / kind
        if not folder.exists():
            torch.manual_seed(7)
            AutoModel.from_config(ENCODERS[kind][1]).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def recipe(encoder):
    def make(kind="dinov2", adapter=None, **sections):
        family = ENCODERS[kind][0]
        model = dict.fromkeys(("size", "depths", "hidden_sizes", "decoder_hidden_size"))
        model |= {"family": family, "init": str(encoder(kind)), "config": SMALL.get(family, {})}
        model |= sections.pop("model", {})
        # Large steps, so that updates are.
        sections.setdefault("optimizer", {"lr": 0.02, "head_lr_factor": 0.1})
        adapter = {"rank": 2, **(adapter or {})}
        return tiny_recipe(model=model, adapter=adapter, **sections)

    return make


def base_model(folder, kind, init):
    """What a user of PEFT adapts: the network around the encoder's weights, with any head."""
    model = AutoModelForSemanticSegmentation.from_config(load_model(folder).config)
    part = model.get_submodule(family_of_model(model).prefix.rstrip("."))
    start = type(part).from_pretrained(init)
    part.load_state_dict(start.state_dict(), strict=False)
    return model


INITS = {
    "default": {},
    "gaussian": {"init": "gaussian", "alpha": 5},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "pissa": {"init": "pissa"},
    "pissa and rslora": {"init": "pissa", "rslora": True, "alpha": 3},
    "pissa and dora": {"init": "pissa", "dora": True},
    "orthogonal": {"init": "orthogonal"},
    "mica": {"init": "mica"},
    "attention": {"targets": r".*attention\.(q|v)_proj"},
}
CASES = dict.fromkeys([*(("dinov2", i) for i in INITS), *((kind, "default") for kind in ENCODERS)])


@pytest.mark.parametrize(("kind", "init"), CASES)
def test_a_member_is_saved_folded_and_as_pefts_adapter(recipe, encoder, tmp_path, kind, init):
    folder = tmp_path / "run"
    folded = run(folder, recipe(kind, INITS[init]))
    adapter = folder / "adapter"
    # Without PEFT: an ordinary model.
    assert not any("lora" in name or "base_layer" in name for name in folded)
    # The own reader makes the same of base and adapter.
    with open_checkpoint(adapter) as found:
        # Also the norms that transformers adds to a Swin, which its encoder's file lacks.
        assert found.tensors.keys() == folded.keys()
        for name, info in found.tensors.items():
            torch.testing.assert_close(read_tensor(info), folded[name], rtol=0, atol=2e-6)
    # So does PEFT.
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    theirs = peft.PeftModel.from_pretrained(base_model(folder, kind, encoder(kind)), adapter)
    ours = load_model(folder)
    with torch.no_grad():
        wanted, found = ours(images).logits, theirs.eval()(images).logits
        read = load_model(adapter)(images).logits
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(read, wanted, rtol=1e-5, atol=2e-5)
    # The encoder learned in the adapted layers only.
    start = {
        name: value
        for name, value in base_model(folder, kind, encoder(kind)).state_dict().items()
        if family_of_model(ours).in_encoder(name)
    }
    final = ours.state_dict()
    changed = {name for name in start if not final[name].equal(start[name])}
    targets = json.loads((adapter / "adapter_config.json").read_text())["target_modules"]
    # No output depends on the last block of a BEiT of four.
    unused = {f"{name}.weight" for name in targets if kind == "beit" and ".3." in name}
    assert changed == {f"{name}.weight" for name in targets} - unused
    assert all((start[n] - final[n]).abs().max() > 1e-4 for n in changed)


def test_the_adapter_learns_at_the_encoders_rate(recipe):
    made = recipe(optimizer={"lr": 1e-3, "head_lr_factor": 4})
    model = load_parts(made).model
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    in_encoder = {name for name in learning if family_of_model(model).in_encoder(name)}
    assert in_encoder and all(".lora_" in name for name in in_encoder)
    assert {n for n, _ in model.named_parameters() if n.startswith("decode_head.")} <= learning
    rates = {
        id(p): group["lr"]
        for group in parameter_groups(model, made.optimizer)
        for p in group["params"]
    }
    found = {name: rates[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert {found[name] for name in in_encoder} == {1e-3}
    assert {found[name] for name in learning - in_encoder} == {4e-3}


def test_mica_trains_one_factor_only(recipe):
    model = load_parts(recipe(adapter={"init": "mica"})).model
    kinds = {
        name.split(".lora_")[1][0]: p.requires_grad
        for name, p in model.named_parameters()
        if ".lora_" in name
    }
    assert kinds == {"A": True, "B": False}


@pytest.mark.parametrize("init", ["default", "pissa", "dora"])
def test_a_killed_run_resumes_to_the_same_bits(recipe, tmp_path, monkeypatch, init):
    made = recipe(
        adapter={**INITS[init], "dropout": 0.2},
        train={"steps": 4, "checkpoint_every": 2, "keep_checkpoints": 2},
    )
    whole = run(tmp_path / "whole", made)

    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("revt_hf.training.loop.save_result", kill)
        with pytest.raises(Killed):
            train(made, tmp_path / "again", TrainOptions(quiet=True))
    shutil.rmtree(newest_checkpoint(tmp_path / "again")[0])
    assert newest_checkpoint(tmp_path / "again")[1] == 2
    assert same_weights(whole, run(tmp_path / "again", made, resume=True))
    files = [
        tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("whole", "again")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_adapters_merge_to_the_mean_of_the_whole_models(recipe, encoder, tmp_path):
    """Of another family than SegFormer, by another start each, as a model and as an adapter."""
    inits, folders = ("default", "pissa", "rslora"), []
    for kind in ("dinov2", "dinov3"):
        folders = [tmp_path / f"{kind}-{seed}" for seed in range(3)]
        for seed, (init, folder) in enumerate(zip(inits, folders, strict=True)):
            run(folder, recipe(kind, {**INITS[init], "rank": 2 + seed}, train={"seed": seed}))
        adapters = [folder / "adapter" for folder in folders]
        merge(folders, tmp_path / f"{kind}-whole")
        merge(adapters, tmp_path / f"{kind}-adapters")
        merge(adapters, tmp_path / f"{kind}-summed", MergeOptions(as_adapter=True))
        members = [load_file(folder / "model.safetensors") for folder in folders]
        for name, value in load_file(tmp_path / f"{kind}-whole" / "model.safetensors").items():
            if name.startswith("backbone."):
                mean = torch.stack([member[name].double() for member in members]).mean(0)
                torch.testing.assert_close(value.double(), mean, rtol=0, atol=1e-6)
        wanted = load_model(tmp_path / f"{kind}-whole")
        images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        base = base_model(folders[0], kind, encoder(kind))
        summed = peft.PeftModel.from_pretrained(base, tmp_path / f"{kind}-summed").eval()
        others = [load_model(tmp_path / f"{kind}-{end}") for end in ("adapters", "summed")]
        with torch.no_grad():
            logits = wanted(images).logits
            for model in (*others, summed):
                torch.testing.assert_close(model(images).logits, logits, rtol=1e-5, atol=2e-5)


def test_adapters_are_diagnosed_as_the_whole_models(recipe, encoder, tmp_path, capsys):
    made = [recipe(train={"seed": seed}) for seed in range(2)]
    for seed, one in enumerate(made):
        run(tmp_path / f"{seed}", one)
    (tmp_path / "recipe.yaml").write_text(made[0].to_yaml())
    data = ("--recipe", tmp_path / "recipe.yaml", "--images", "2", "--points", "3")
    for command, more in (("similarity", ()), ("path", data)):
        found = []
        for end in (".", "adapter"):
            members = [f"m{seed}={tmp_path / str(seed) / end}" for seed in range(2)]
            path = tmp_path / f"{command}-{end}.json"
            output = ("--output", tmp_path / f"{command}-{end}-out", "--json", path)
            code, _, error = revt(capsys, "diagnose", command, *members, *output, *more)
            assert code == 0, error
            found.append(dict(_numbers(json.loads(path.read_text()))))
        assert len(found[0]) > 10
        assert found[1] == pytest.approx(found[0], abs=1e-4)


def _numbers(value, place=""):
    """The measured numbers of a result by their place in it."""
    if isinstance(value, float):
        yield place, value
    elif isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in parts:
            if "seconds" not in str(key):
                yield from _numbers(part, f"{place}/{key}")


def test_what_cannot_be_adapted_is_refused(recipe, tmp_path, capsys, monkeypatch):
    def refusal(made):
        path = tmp_path / "recipe.yaml"
        path.write_text(made.to_yaml())
        error = refused(capsys, "train", path, "--output", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return error

    assert "there are backbone.encoder.layer.0.attention.q_proj" in refusal(
        recipe(adapter={"targets": "attention"})
    )
    assert "is no usable regex" in refusal(recipe(adapter={"targets": "("}))
    assert "is only [16, 16]" in refusal(recipe(adapter={"rank": 17}))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'revt_hf[adapters]'" in refusal(recipe())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"train": {"ema": 0.9}}, "average an adapter's factors apart"),
        ({"train": {"swad": {}, "validate_every": 1}}, "average an adapter's factors apart"),
        ({"adapter": {"init": "orthogonal", "rank": 3}}, "even rank"),
        ({"adapter": {"init": "mica", "dora": True}}, "no DoRA that starts as MiCA"),
        (
            {"model": {"init": None, "size": "b0", "family": "segformer", "config": {}}},
            "model.init",
        ),
    ],
)
def test_recipes_that_make_no_sense_are_refused(recipe, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        recipe(**changes)


def test_an_adapted_run_can_be_replaced(recipe, tmp_path):
    run(tmp_path / "run", recipe())
    plain = recipe().model_copy(update={"adapter": None})
    for made in (recipe(train={"seed": 1}), plain):
        run(tmp_path / "run", made, overwrite=True)
        assert (tmp_path / "run" / "adapter" / "config.json").is_file() is bool(made.adapter)
