"""Members are one network, or they are refused; whatever is merged can be evaluated and pushed."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from revt_hf.core.errors import UserError
from revt_hf.data.label_space import CLASSES
from revt_hf.hub.push import check_model
from revt_hf.merging.average import merge
from revt_hf.merging.record import ImageSize, read_merge_record
from revt_hf.merging.registry import MergeSpec, Rule
from revt_hf.models.convert import convert
from revt_hf.models.load import load_model
from tests.helpers.segformers import COUNTER, change_tensors, rewrite, saved, tensors_of, tiny

NAMES = dict(enumerate(reversed(CLASSES)))


def _first_class(folder):
    return json.loads((folder / "config.json").read_text())["id2label"]["0"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"id2label": NAMES}, "another order: number 0 is 'bicycle', not 'road'"),
        ({"id2label": {**NAMES, 3: "boat"}}, "other classes: number 0 is 'bicycle', not 'road'"),
        ({"num_attention_heads": [1] * 4}, r"num_attention_heads .* \[1, 1, 1, 1\], not \[1"),
        ({"hidden_act": "relu"}, "hidden_act of its config.json is relu, not gelu"),
        ({"layer_norm_eps": 1e-3}, "layer_norm_eps of its config.json is 0.001, not 1e-06"),
        ({"strides": [4, 2, 2, 1]}, "strides"),
        ({"processor": {"image_mean": [0.5] * 3}}, r"image_mean of its preprocessor_config.json"),
        ({"processor": {"do_normalize": False}}, "do_normalize"),
        ({"processor": {"do_rescale": False}}, "do_rescale"),
        ({"processor": {"do_reduce_labels": True}}, "do_reduce_labels"),
        ({"processor": {"resample": 3}}, "resample of its preprocessor_config.json is 3, not 2"),
        # Without a processor the normalisation is ImageNet's.
        ({"processor": {"image_std": [0.5] * 3}, "usual": False}, "image_std of its preprocessor"),
    ],
)
def test_what_differs_is_refused_by_name(tmp_path, fields, words):
    usual = fields.pop("usual", None)
    members = [saved(tmp_path / "a", processor=usual), saved(tmp_path / "b", 1, **fields)]
    with pytest.raises(UserError, match=rf"b does not match .*a: .*{words}") as caught:
        merge(members, tmp_path / "out")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"a does not match .*b: "):
        merge(members[::-1], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_image_sizes_may_differ_and_the_heads_is_taken(tmp_path, caplog):
    caplog.set_level("INFO", "revt_hf")
    other = {"size": {"height": 96, "width": 64}}
    names = [str(saved(tmp_path / "a")), str(saved(tmp_path / "b", 1, processor=other))]
    names.append(str(saved(tmp_path / "none", 2, processor=False)))
    sizes = [{"height": 64, "width": 128}, other["size"]]
    for head, taken, left in ((1, 0, 1), (2, 1, 0), (3, 0, 1)):
        caplog.clear()
        out = merge(MergeSpec(tuple(names), head=head), tmp_path / f"out-{head}")
        written = json.loads((out / "preprocessor_config.json").read_text())
        assert written["size"] == sizes[taken]
        entries = read_merge_record(out / "merge.json").members
        own, used = ({"do_resize": True, "size": sizes[at]} for at in (left, taken))
        assert entries[left].image_size == ImageSize(own, used, taken + 1)
        assert sum(entry.image_size is not None for entry in entries) == 1
        (line,) = caplog.messages
        assert f"image size of {names[left]}: height" in line
        assert f"the merge uses that of {names[taken]}: height {sizes[taken]['height']}" in line
        check_model(out)


def test_the_classes_of_the_originals_files_count_too(tmp_path):
    same, permuted, folder = tmp_path / "same.pth", tmp_path / "permuted.pth", tmp_path / "folder"
    for path, order in ((same, [name.upper() for name in CLASSES]), (permuted, CLASSES[::-1])):
        state = {f"module.{name}": tensor for name, tensor in tiny().state_dict().items()}
        torch.save({"meta": {"CLASSES": order}, "state_dict": state}, path)
    spec = MergeSpec((str(saved(folder)), str(same)), head=2)
    assert _first_class(merge(spec, tmp_path / "out")) == "ROAD"
    for members in ([folder, permuted], [permuted, folder]):
        with pytest.raises(UserError, match="classes are in another order"):
            merge(members, tmp_path / "no")
    assert _first_class(merge([permuted] * 2, tmp_path / "alone")) == CLASSES[-1]


@pytest.mark.parametrize("names", [NAMES, {**NAMES, 3: "boat"}])
def test_rows_without_names_do_not_get_another_orders(tmp_path, names):
    odd, usual = saved(tmp_path / "odd", 1, id2label=names), saved(tmp_path / "usual")
    # The folder's weights by themselves: nothing names their rows.
    file = shutil.copy(usual / "model.safetensors", tmp_path / "b.safetensors")
    spec = MergeSpec((str(odd), str(file)), head=2)
    averaged = MergeSpec((str(odd), str(file)), (Rule("all"),))
    based = MergeSpec((str(odd), str(odd)), (Rule("all", "wise_ft"),), base=str(file))
    for refused in (spec, averaged, based):
        with pytest.raises(UserError, match=r"b\.safetensors names no classes, and those of .*odd"):
            merge(refused, tmp_path / "no")
    # Its rows are not used, or there is but one order.
    merge([odd, file], tmp_path / "out")
    merge(MergeSpec((str(usual), str(file)), (Rule("all"),), head=2), tmp_path / "all")
    # By their own name they are the folder.
    alone = merge([odd / "model.safetensors"] * 2, tmp_path / "alone")
    assert _first_class(alone) == CLASSES[-1]


def test_training_settings_and_spelling_may_differ(tmp_path):
    settings = {"drop_path_rate": 0.3, "classifier_dropout_prob": 0.0, "initializer_range": 0.5}
    names = {n: name.title().replace(" ", "_") for n, name in enumerate(CLASSES)}
    other = saved(tmp_path / "b", 1, torch.float16, id2label=names, **settings)
    rewrite(other / "config.json", transformers_version="4.1", _name_or_path="/home/x")
    members = (str(saved(tmp_path / "a")), str(other))
    for head, first in ((1, "road"), (2, "Road")):
        out = merge(MergeSpec(members, head=head), tmp_path / f"out-{head}")
        assert _first_class(out) == first
        assert "/home/x" not in (out / "config.json").read_text()
        load_model(out)


def test_what_is_no_whole_segformer_is_refused(tmp_path):
    folder = saved(tmp_path / "a")
    tiny().segformer.save_pretrained(tmp_path / "b")
    with pytest.raises(UserError, match=r"decode_head.* is missing"):
        merge([folder, tmp_path / "b"], tmp_path / "out")
    with pytest.raises(UserError, match="no decode head"):
        merge([tmp_path / "b"] * 2, tmp_path / "out")
    deep = saved(tmp_path / "deep", depths=[2, 2, 2, 2])
    rewrite(deep / "config.json", depths=[1, 1, 1, 1])
    with pytest.raises(UserError, match=r"block\.0\.1\..* has no place in the network"):
        merge([deep, deep], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _wrapped(seed):
    """Odd, and still a SegFormer: wrapped names, an average, no counter, what a trainer adds."""
    state = dict(tiny(seed).state_dict())
    state.pop(COUNTER)
    return {
        **{f"model.module.{name}": tensor for name, tensor in state.items()},
        **{f"model.ema.{name}": tensor.clone() for name, tensor in state.items()},
        "model.data_preprocessor.mean": torch.zeros(3, 1, 1),
        "loss.weight": torch.ones(19),
    }


def _odd_folder(folder, seed, dtype=torch.float32):
    saved(folder, seed, dtype)

    def change(state):
        state.pop(COUNTER)
        state["ema.decode_head.classifier.bias"] = torch.zeros(19)
        state["data_preprocessor.std"] = torch.zeros(3, 1, 1)

    change_tensors(folder, change)
    code = {"AutoModelForSemanticSegmentation": "modeling_evil.Evil"}
    rewrite(folder / "config.json", auto_map=code, architectures=["Evil"])
    rewrite(folder / "preprocessor_config.json", auto_map={"AutoImageProcessor": "x.Evil"})


def _sharded_bins(folder, seed):
    state = tensors_of(saved(folder, seed))
    names = sorted(state)
    where = {n: f"pytorch_model-0000{1 + (at % 2)}-of-00002.bin" for at, n in enumerate(names)}
    for file in set(where.values()):
        torch.save({n: state[n] for n in names if where[n] == file}, folder / file)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / "model.safetensors").unlink()


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    root = tmp_path_factory.mktemp("odd")
    torch.save({"state_dict": _wrapped(0)}, root / "lightning.ckpt")
    save_file(_wrapped(1), root / "lightning.safetensors")
    torch.save({"net": tiny(2).state_dict(), "epoch": 3}, root / "net.pth")
    _odd_folder(root / "odd", 3)
    _odd_folder(root / "half", 4, torch.float16)
    saved(root / "plain", 5, processor=False)
    tiny(6).save_pretrained(root / "sharded", max_shard_size="400KB")
    _sharded_bins(root / "bins", 7)
    return root


@pytest.mark.parametrize(
    ("first", "second", "select"),
    [
        ("lightning.ckpt", "lightning.safetensors", "backbone"),
        ("net.pth", "lightning.ckpt", "all"),
        ("odd", "half", "backbone"),
        ("half", "odd", "all"),
        ("plain", "odd", "backbone"),
        ("odd", "plain", "all"),
        ("sharded", "bins", "backbone"),
        ("bins", "net.pth", "all"),
        ("lightning.ckpt", "sharded", "all"),
    ],
)
def test_every_merge_can_be_loaded_evaluated_and_pushed(odd, tmp_path, first, second, select):
    spec = MergeSpec((str(odd / first), str(odd / second)), (Rule(select),))
    out = merge(spec, tmp_path / "out")
    model, report = AutoModelForSemanticSegmentation.from_pretrained(out, output_loading_info=True)
    assert not any(report.values()), report
    assert str(model.dtype) == f"torch.{json.loads((out / 'config.json').read_text())['dtype']}"
    assert {tensor.dtype for tensor in tensors_of(out).values()} == {model.dtype, torch.int64}
    AutoImageProcessor.from_pretrained(out)
    load_model(out)
    check_model(out)
    for name in ("config.json", "preprocessor_config.json"):
        assert "Evil" not in (out / name).read_text()


def test_what_is_left_out_and_filled_in_stands_in_the_record(odd, tmp_path):
    out = merge([odd / "plain", odd / "odd"], tmp_path / "out")
    plain, other = read_merge_record(out / "merge.json").members
    assert not plain.dropped
    assert set(other.dropped) == {"ema.decode_head.classifier.bias", "data_preprocessor.std"}
    assert other.added == (COUNTER,)
    back = merge(MergeSpec((str(odd / "plain"), str(odd / "odd")), head=2), tmp_path / "back")
    assert tensors_of(back)[COUNTER] == 0
    converted = convert(odd / "lightning.ckpt", tmp_path / "converted").output
    assert tensors_of(converted)[COUNTER] == 0
    load_model(converted)


def test_what_the_dtype_cannot_hold_and_a_variance_below_zero_are_refused(tmp_path):
    members = [saved(tmp_path / name, seed, torch.float16) for seed, name in enumerate("ab")]
    wide, name = saved(tmp_path / "c", 2), "segformer.encoder.layer_norm.2.bias"
    change_tensors(wide, lambda state: state[name][3:4].fill_(3e5))
    with pytest.raises(UserError, match=r"layer_norm\.2\.bias holds 100000, which float16 cannot"):
        merge([*members, wide], tmp_path / "out")
    assert tensors_of(merge([wide, *members], tmp_path / "ok"))[name].dtype is torch.float32
    change_tensors(members[1], lambda state: state["decode_head.batch_norm.running_var"].mul_(3))
    rule = Rule("all", "weighted_mean", (2.0, -1.0))
    with pytest.raises(UserError, match="running_var holds a negative number"):
        merge(MergeSpec(tuple(map(str, members)), (rule,)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_copied_tensors_keep_odd_bits(tmp_path, dtype):
    """Subnormal numbers and negative zeros of the head."""
    numbers = torch.tensor([-0.0, 6e-8, 1e-40]).to(dtype)
    folder = saved(tmp_path / "a", 0, dtype)
    change_tensors(folder, lambda state: state["decode_head.classifier.bias"][:3].copy_(numbers))
    merged = load_file(merge([folder, folder], tmp_path / "out") / "model.safetensors")
    for key, tensor in tensors_of(folder).items():
        if key.startswith("decode_head."):
            assert tensor.numpy().tobytes() == merged[key].numpy().tobytes()
