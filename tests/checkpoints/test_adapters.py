"""Adapters against PEFT's own merge_and_unload."""

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from revt_hf import MergeOptions, MergeSpec, Rule, merge, recalibrate
from revt_hf.checkpoints.names import standard_name
from revt_hf.checkpoints.tensors import open_checkpoint
from revt_hf.checkpoints.torch_files import read_tensor
from revt_hf.core.errors import DataWarning, UserError
from revt_hf.core.outputs import check_output
from revt_hf.data.normalisation import IMAGENET, normalisation_of
from revt_hf.merging.layer_weights import LayerWeights
from revt_hf.merging.member_states import member_states
from revt_hf.merging.record import describes, read_merge_record
from revt_hf.models.load import load_model
from revt_hf.models.recorded import recorded_protocol
from tests.helpers.command_line import refused, revt
from tests.helpers.hub_repository import files_of
from tests.helpers.segformers import saved
from tests.helpers.small_hub import small_hub
from tests.helpers.tiny import tiny_recipe

peft = pytest.importorskip("peft")

ATTENTION = ["q_proj", "v_proj"]
KINDS = {
    "linear": {"target_modules": ATTENTION},
    "convolution": {"target_modules": ["q_proj", "proj"]},
    "rslora": {"target_modules": ATTENTION, "use_rslora": True},
    "dora": {"target_modules": [*ATTENTION, "proj"], "use_dora": True},
    "patterns": {
        "target_modules": ATTENTION,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {r"stages\.1\..*v_proj": 3},
    },
    "pissa": {"target_modules": ATTENTION, "init_lora_weights": "pissa"},
    "orthogonal": {"target_modules": ATTENTION, "init_lora_weights": "orthogonal"},
    "mica": {"target_modules": ATTENTION, "init_lora_weights": "mica"},
    "head": {"target_modules": ATTENTION, "modules_to_save": ["decode_head"]},
    "bias": {"target_modules": ATTENTION, "bias": "all"},
}


@pytest.fixture
def base(tmp_path):
    return saved(tmp_path / "base", hidden_sizes=[8, 16, 40, 64])


@pytest.fixture
def adapter(base, tmp_path):
    """Save an adapter whose weights were changed; its folder, and PEFT's merged weights."""

    def make(name="a", seed=0, **settings):
        config = peft.LoraConfig(r=4, lora_alpha=6, **settings)
        model = peft.get_peft_model(load_model(base), config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        model.peft_config["default"].base_model_name_or_path = str(base)
        model.save_pretrained(tmp_path / name)
        merged = model.merge_and_unload().state_dict()
        return tmp_path / name, {standard_name(key): value for key, value in merged.items()}

    return make


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_an_adapter_is_the_model_that_peft_makes_of_it(adapter, base, settings):
    folder, wanted = adapter(**settings)
    with open_checkpoint(folder) as found:
        assert found.tensors.keys() == wanted.keys()
        for name, info in found.tensors.items():
            torch.testing.assert_close(read_tensor(info), wanted[name], rtol=0, atol=2e-6)
        changed = [
            name
            for name, value in load_file(base / "model.safetensors").items()
            if not value.equal(wanted[name])
        ]
    assert changed
    assert load_model(folder).config.hidden_sizes == [8, 16, 40, 64]


def test_merging_adapters_is_the_mean_of_the_whole_models(adapter, tmp_path):
    made = [adapter(name, seed, target_modules=ATTENTION) for seed, name in enumerate("abc")]
    merge([folder for folder, _ in made], tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    for name, value in merged.items():
        mean = torch.stack([weights[name].double() for _, weights in made]).mean(0)
        torch.testing.assert_close(value.double(), mean, rtol=0, atol=1e-6)
    record = read_merge_record(tmp_path / "merged" / "merge.json")
    assert member_states(record) == ["same"] * 3
    weights = made[0][0] / "adapter_model.safetensors"
    save_file({name: value * 2 for name, value in load_file(weights).items()}, weights)
    assert member_states(record) == ["changed", "same", "same"]


def test_pefts_own_average_is_another_one(adapter, base, tmp_path):
    """Its ``linear`` averages the factors: the product of means is no mean of products.

    Ours is as exact as its ``cat``, which refuses adapters with a head.
    """
    made = [adapter(name, seed, target_modules=ATTENTION) for seed, name in enumerate("abc")]
    start = {standard_name(n): value.double() for n, value in load_model(base).state_dict().items()}
    mean = {name: sum(weights[name].double() for _, weights in made) / 3 for name in start}
    merge([folder for folder, _ in made], tmp_path / "sum", MergeOptions(as_adapter=True))

    def off(model):
        found = {standard_name(k): v for k, v in model.merge_and_unload().state_dict().items()}
        distance = sum((found[name].double() - mean[name]).square().sum() for name in start)
        return (distance / sum((mean[n] - start[n]).square().sum() for n in start)).sqrt()

    def average(kind, folders):
        model = peft.PeftModel.from_pretrained(load_model(base), folders[0], adapter_name="a")
        for folder in folders[1:]:
            model.load_adapter(folder, folder.name)
        names = [folder.name[0] for folder in folders]
        weights = [1 / len(names)] * len(names)
        model.add_weighted_adapter(names, weights, "mean", combination_type=kind)
        model.set_adapter("mean")
        return model

    folders = [folder for folder, _ in made]
    assert off(average("linear", folders)) > 0.3
    assert off(average("cat", folders)) < 1e-5
    assert off(peft.PeftModel.from_pretrained(load_model(base), tmp_path / "sum")) < 1e-5
    for seed, name in enumerate("ab"):
        shutil.rmtree(tmp_path / name)
        adapter(name, seed, target_modules=ATTENTION, modules_to_save=["decode_head"])
    with pytest.raises(ValueError, match="modules_to_save"):
        average("cat", folders[:2])


SUMMED = [name for name in KINDS if name != "dora"]


@pytest.mark.parametrize("kind", SUMMED)
def test_a_merge_written_as_an_adapter_is_that_merge(adapter, base, tmp_path, kind):
    folders = [str(adapter(name, seed, **KINDS[kind])[0]) for seed, name in enumerate("abc")]
    early = Rule("backbone", "weighted_mean", (1.0, 2.0, 1.0))
    late = Rule("stage3+stage4", "weighted_mean", layer_weights=LayerWeights(2))
    spec = MergeSpec(tuple(folders), (early, late), head=2)
    merge(spec, tmp_path / "whole")
    merge(spec, tmp_path / "summed", MergeOptions(as_adapter=True))
    wanted = load_file(tmp_path / "whole" / "model.safetensors")
    model = peft.PeftModel.from_pretrained(load_model(base), tmp_path / "summed")
    found = {standard_name(k): v for k, v in model.merge_and_unload().state_dict().items()}
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-6)
    with open_checkpoint(tmp_path / "summed") as own:
        for name, value in wanted.items():
            torch.testing.assert_close(read_tensor(own.tensors[name]), value, rtol=0, atol=2e-6)
    record = read_merge_record(tmp_path / "summed" / "merge.json")
    assert describes(record, tmp_path / "summed")
    weights = tmp_path / "summed" / "adapter_model.safetensors"
    save_file({name: value * 2 for name, value in load_file(weights).items()}, weights)
    assert not describes(record, tmp_path / "summed")


def test_what_is_no_adapter_is_refused_before_it_is_merged(adapter, base, tmp_path, capsys):
    first, second = (adapter(n, s, target_modules=ATTENTION)[0] for s, n in enumerate("ab"))
    dora, _ = adapter("d", use_dora=True, target_modules=ATTENTION)
    biased, _ = adapter("e", bias="all", target_modules=ATTENTION)
    elsewhere = tmp_path / "copy"
    shutil.copytree(base, elsewhere)
    other = tmp_path / "other"
    shutil.copytree(second, other)
    path = other / "adapter_config.json"
    path.write_text(path.read_text().replace(str(base), str(elsewhere)))
    for members, rule, sentence in [
        ((first, dora), Rule(), "is a DoRA"),
        ((first, biased), Rule(), "has other biases"),
        ((first, other), Rule(), "was trained on"),
        ((first, base), Rule(), "is no adapter"),
        ((first, second), Rule(method="median"), "the median of adapters is no adapter"),
    ]:
        spec = MergeSpec(tuple(map(str, members)), (rule,))
        with pytest.raises(UserError, match=sentence):
            merge(spec, tmp_path / "merged", MergeOptions(as_adapter=True))
        assert not (tmp_path / "merged").exists()
    code, _, error = revt(
        capsys, "merge", first, second, "--output", tmp_path / "out", "--as-adapter"
    )
    assert code == 0, error
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_what_an_adapter_lacks_is_its_bases(adapter, base, tmp_path, capsys):
    """Its configuration names its classes; normalisation and protocol stay the base's."""
    folder, _ = adapter(target_modules=ATTENTION)
    path = base / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.1, 0.2, 0.3]}))
    recipe = tiny_recipe(evaluation={"max_size": [80, 40]})
    (base / "recipe.yaml").write_text(recipe.to_yaml())
    shutil.copy(base / "config.json", folder)
    wanted = normalisation_of(load_model(base))
    assert normalisation_of(load_model(folder)) == wanted != IMAGENET
    assert recorded_protocol([folder]) == recorded_protocol([base]) == recipe.evaluation
    other, _ = adapter("b", 1, target_modules=ATTENTION)
    merge([folder, other], tmp_path / "merged")
    assert recorded_protocol([tmp_path / "merged"]) == recipe.evaluation
    for command in (["push", folder, "me/roads", "--license", "mit", "--dry-run", tmp_path / "c"],):
        assert "is an adapter" in refused(capsys, *command)
    with pytest.raises(UserError, match="is an adapter"):
        recalibrate(folder, tmp_path / "r", recipe)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_whole_weights_beside_an_adapter_are_used_and_said(adapter, base, name):
    folder, _ = adapter(target_modules=ATTENTION)
    path = base / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.1, 0.2, 0.3]}))
    shutil.copy(base / "config.json", folder)
    whole = {key: tensor + 1 for key, tensor in load_file(base / "model.safetensors").items()}
    save = save_file if name == "model.safetensors" else torch.save
    save(whole, folder / name)
    with pytest.warns(DataWarning, match=f"{folder} holds whole weights .* {name} is used"):
        loaded = load_model(folder)
    assert loaded.decode_head.classifier.bias.equal(whole["decode_head.classifier.bias"])
    # Nor is anything else the adapter's.
    assert normalisation_of(loaded) == IMAGENET
    folder.rename(base / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(base)


def test_the_base_of_an_adapter_is_an_input(adapter, base, tmp_path):
    folder, _ = adapter(target_modules=ATTENTION)
    (base / ".revt_hf.json").write_text(
        json.dumps({"files": sorted(p.name for p in base.iterdir())})
    )
    with pytest.raises(UserError, match="input"):
        check_output(base, True, [folder])
    check_output(tmp_path / "elsewhere", True, [folder])


def test_a_changed_configuration_is_another_adapter(adapter, tmp_path):
    folders = [adapter(name, s, target_modules=ATTENTION)[0] for s, name in enumerate("ab")]
    merge(folders, tmp_path / "whole")
    merge(folders, tmp_path / "summed", MergeOptions(as_adapter=True))
    whole, summed = (read_merge_record(tmp_path / n / "merge.json") for n in ("whole", "summed"))
    assert describes(summed, tmp_path / "summed")
    for folder in (folders[0], tmp_path / "summed"):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 60}))
    assert member_states(whole) == ["changed", "same"]
    assert not describes(summed, tmp_path / "summed")


def test_peft_reads_every_summed_adapter_as_it_is_meant(adapter, base, tmp_path):
    """Also where members save other modules, leave layers out, or are in half precision."""
    made = {
        "head": adapter("head", 0, target_modules=ATTENTION, modules_to_save=["decode_head"])[0],
        "plain": adapter("plain", 1, target_modules=ATTENTION)[0],
        "few": adapter("few", 2, target_modules=ATTENTION, exclude_modules=r".*stages\.0.*")[0],
        "half": adapter("half", 3, target_modules=ATTENTION)[0],
    }
    path = made["half"] / "adapter_model.safetensors"
    save_file({name: value.bfloat16() for name, value in load_file(path).items()}, path)
    for number, (names, head) in enumerate(
        [(("head", "plain"), 2), (("few", "plain"), 1), (("half", "plain"), 1)]
    ):
        spec = MergeSpec(tuple(str(made[name]) for name in names), (Rule(),), head)
        whole, summed = tmp_path / f"w{number}", tmp_path / f"s{number}"
        merge(spec, whole)
        merge(spec, summed, MergeOptions(as_adapter=True))
        model = peft.PeftModel.from_pretrained(load_model(base), summed)
        found = {standard_name(k): v for k, v in model.merge_and_unload().state_dict().items()}
        for name, value in load_file(whole / "model.safetensors").items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=2e-6)


WRONG = {
    "another kind": ({"peft_type": "IA3"}, "only LORA"),
    "changed base": ({"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
    "random change of the base": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights"),
    "unknown setting": ({"use_qalora": True}, "use_qalora is True"),
    "future setting": ({"rotate": "all"}, "rotate is 'all'"),
    "no base": ({"base_model_name_or_path": None}, "base_model_name_or_path"),
    "missing base": ({"base_model_name_or_path": "no/such/folder"}, "no/such/folder"),
    "other rank": ({"r": 5}, "has rank 4"),
    "no number": ({"lora_alpha": "6"}, "lora_alpha of"),
    "no pattern": ({"rank_pattern": {"(": 4}}, "rank_pattern"),
    "endless pattern": ({"rank_pattern": {r"(?:.*?.*?){20}(.)\1{3}": 4}}, "rank_pattern"),
    "patterns are no object": ({"alpha_pattern": [4]}, "alpha_pattern"),
    "no magnitudes": ({"use_dora": True}, "magnitude"),
}


def test_a_local_base_has_no_revision(adapter, base):
    folder, wanted = adapter(target_modules=ATTENTION)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"revision": "main"}))
    with open_checkpoint(folder) as found:
        assert found.tensors.keys() == wanted.keys()


def _rename_base(folder, base):
    path = folder / "adapter_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(base)})
    )


def test_a_relative_base_lies_in_the_working_directory_or_beside(
    adapter, base, tmp_path, monkeypatch
):
    folder, wanted = adapter("a", target_modules=ATTENTION)
    other, _ = adapter("b", 1, target_modules=ATTENTION)
    shutil.copy(base / "config.json", folder)
    recipe = tiny_recipe(evaluation={"max_size": [80, 40]})
    (base / "recipe.yaml").write_text(recipe.to_yaml())
    path = base / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.1, 0.2, 0.3]}))
    for one in (folder, other):
        _rename_base(one, "../base")
    (tmp_path / "here" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "deep")
    with open_checkpoint(folder) as found:
        own = next(info for key, info in found.tensors.items() if "block.0.0" in key)
        torch.testing.assert_close(read_tensor(own), wanted[own.name], rtol=0, atol=2e-6)
    assert normalisation_of(load_model(folder)) == normalisation_of(load_model(base)) != IMAGENET
    assert recorded_protocol([folder]) == recipe.evaluation
    (base / ".revt_hf.json").write_text(json.dumps({"files": [one.name for one in base.iterdir()]}))
    with pytest.raises(UserError, match="input"):
        check_output(base, True, [folder])
    # A merge lies elsewhere, and names the same base.
    merge([folder, other], "summed", options=MergeOptions(as_adapter=True))
    merge([folder, other], "whole")
    with open_checkpoint("summed") as summed, open_checkpoint("whole") as whole:
        for key, info in whole.tensors.items():
            found = read_tensor(summed.tensors[key])
            torch.testing.assert_close(found, read_tensor(info), rtol=0, atol=2e-6)
    # The working directory comes first, as for PEFT.
    shutil.copytree(base, tmp_path / "here" / "base")
    (tmp_path / "here" / "base" / "recipe.yaml").unlink()
    assert recorded_protocol([folder]) != recipe.evaluation


def test_an_adapter_and_its_base_may_lie_on_the_hub(adapter, base, tmp_path, monkeypatch, capsys):
    folder, wanted = adapter(target_modules=ATTENTION)
    path = base / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.1, 0.2, 0.3]}))
    recipe = tiny_recipe(evaluation={"max_size": [80, 40]})
    (base / "recipe.yaml").write_text(recipe.to_yaml())
    _rename_base(folder, "someone/base")
    with small_hub(monkeypatch, tmp_path / "cache") as hub:
        hub.make("models", "someone/base").commit("main", files_of(base))
        hub.make("models", "someone/adapter").commit("main", files_of(folder))
        for has_config in (False, True):
            if has_config:
                shutil.copy(base / "config.json", folder)
                hub.model("someone/adapter").commit("main", files_of(folder))
            for source in ("someone/adapter", folder):
                model = load_model(source)
                assert normalisation_of(model) == normalisation_of(load_model(base)) != IMAGENET
                for name, tensor in model.state_dict().items():
                    own = wanted[standard_name(name)]
                    torch.testing.assert_close(tensor, own, rtol=0, atol=2e-6)
        assert recorded_protocol([folder]) == recipe.evaluation
        options = ["--option", "val_images=1", "--option", "size=[64, 128]", "--quiet"]
        command = ["evaluate", "someone/adapter", "--domain", "streets", "--max-size", "native"]
        code, _, error = revt(capsys, *command, *options)
        assert code == 0, error


def test_an_adapter_is_no_base(adapter):
    folder, _ = adapter(target_modules=ATTENTION)
    path = folder / "adapter_config.json"
    changes = {"base_model_name_or_path": str(folder)}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match="is not a model folder"):
        open_checkpoint(folder)


@pytest.mark.parametrize(("changes", "sentence"), WRONG.values(), ids=WRONG)
def test_what_would_be_computed_wrongly_is_refused(adapter, changes, sentence):
    folder, _ = adapter(target_modules=ATTENTION)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=sentence.replace("(", r"\(")):
        open_checkpoint(folder)


DAMAGE = {
    "an unused tensor": (lambda t, n: t | {f"{n}.lora_C.weight": torch.ones(1)}, "lora_C"),
    "a foreign name": (lambda t, n: t | {"other.weight": torch.ones(1)}, "other.weight"),
    "half an update": (
        lambda t, n: {k: v for k, v in t.items() if k != f"{n}.lora_B.weight"},
        "lacks its",
    ),
    "another width": (
        lambda t, n: t | {f"{n}.lora_A.weight": torch.ones(4, 3)},
        "do not make an update",
    ),
    "another module": (
        lambda t, n: (
            t | {f"{n}x.lora_A.weight": torch.ones(4, 3), f"{n}x.lora_B.weight": torch.ones(3, 4)}
        ),
        "lacks",
    ),
}


@pytest.mark.parametrize(("damage", "sentence"), DAMAGE.values(), ids=DAMAGE)
def test_tensors_that_do_not_fit_are_refused(adapter, damage, sentence):
    folder, _ = adapter(target_modules=ATTENTION)
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    module = next(iter(tensors)).rsplit(".lora_", 1)[0]
    save_file(damage(tensors, module), path)
    with pytest.raises(UserError, match=sentence):
        open_checkpoint(folder)
