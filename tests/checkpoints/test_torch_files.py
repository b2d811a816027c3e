"""Torch's own files and wrapped models: one model is found, nothing is run, all else is named."""

import json
import os
import pickle
import shutil
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from revt_hf.checkpoints.architecture import COUNTER
from revt_hf.checkpoints.tensors import open_checkpoint
from revt_hf.checkpoints.torch_files import read_torch_file
from revt_hf.cli.main import main
from revt_hf.core.errors import UserError
from revt_hf.core.outputs import file_sha256
from revt_hf.data.label_space import CLASSES
from revt_hf.merging.average import merge
from revt_hf.merging.record import read_merge_record
from revt_hf.models.convert import convert
from revt_hf.models.load import load_model
from tests.helpers.mutate import COUNT, cases, mutated_bytes, reads_or_refuses
from tests.helpers.original_files import original_state
from tests.helpers.segformers import check_opened

QUERY = "backbone.block1.0.attn.q.weight"
ON_DISK = "segformer.encoder.block.0.0.attention.self.query.weight"
VALUES = torch.arange(4.0).reshape(2, 2)


def saved(tmp_path, content, **how):
    torch.save(content, tmp_path / "x.pth", **how)
    return tmp_path / "x.pth"


def test_numbers_of_numpy_in_meta_old_and_new(tmp_path):
    numbers = [np.float64(0.5), np.int64(3), np.float32(0.25), np.bool_(True)]
    meta = {"CLASSES": ("road",), "numbers": numbers}
    content = {"meta": meta, "state_dict": {QUERY: VALUES}}
    assert read_torch_file(saved(tmp_path, content)).classes == ("road",)
    # NumPy 1 wrote the older module's name.
    path = saved(tmp_path, content, _use_new_zipfile_serialization=False)
    stored = path.read_bytes()
    assert b"numpy._core.multiarray" in stored
    path.write_bytes(stored.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_torch_file(path).classes == ("road",)


def test_tensors_that_share_memory_are_parted(tmp_path):
    shared = torch.arange(6.0)
    parts = (shared, shared, shared[2:4], shared.reshape(2, 3).T)
    state = {f"decode_head.{name}": part for name, part in zip("abcd", parts, strict=True)}
    path = saved(tmp_path, {"state_dict": state})
    tensors = read_torch_file(path).tensors
    assert len({tensor.data_ptr() for tensor in tensors.values()}) == 4
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.tensors.keys() == state.keys()
        assert checkpoint.tensors["decode_head.d"].shape == (3, 2)
    for name, tensor in state.items():
        assert torch.equal(tensors[name], tensor)


class Evil:
    """Runs a command when it is unpickled in the ordinary way."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


class EvilBuiltin(Evil):
    def __reduce__(self):
        return eval, (f"open({str(self.trace)!r}, 'w')",)


@pytest.mark.parametrize(("kind", "named"), [(Evil, r"\w+\.system"), (EvilBuiltin, "eval")])
def test_a_file_that_would_run_something_is_refused(tmp_path, kind, named):
    trace = tmp_path / "ran"
    content = {"state_dict": {QUERY: VALUES}, "meta": kind(trace)}
    for archive in (True, False):
        path = saved(tmp_path, content, _use_new_zipfile_serialization=archive)
        with pytest.raises(UserError, match=rf"x\.pth is refused.* asks for {named},") as caught:
            open_checkpoint(path)
        assert "\n" not in str(caught.value)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(kind(trace), protocol=protocol))
        with pytest.raises(UserError, match=r"x\.pth"):
            open_checkpoint(path)
        with pytest.raises(UserError, match=r"x\.pth"):
            open_checkpoint(saved(tmp_path, content, pickle_protocol=max(protocol, 2)))
    assert not trace.exists()


NAMES = ("x.pth", "x.pt", "x.ckpt", "x.bin", "x.tar", "x", "x.safetensors", "m/pytorch_model.bin")


@pytest.mark.parametrize("name", [*NAMES, "m/pytorch_model-1.bin", "m/model.safetensors"])
def test_nothing_is_run_whatever_the_file_is_called(tmp_path, name):
    trace, path = tmp_path / "ran", tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if name.startswith("m/"):
        (tmp_path / "m" / "config.json").write_text('{"model_type": "segformer"}')
        index = {"weight_map": {QUERY: "pytorch_model-1.bin"}}
        (tmp_path / "m" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    torch.save({"state_dict": {QUERY: VALUES}, "hook": Evil(trace)}, path)
    source = tmp_path / name.partition("/")[0]
    commands = [["merge", f"a={source}", f"b={source}", "--output", tmp_path / "out"]]
    commands += [["convert", source, "--output", tmp_path / "out"], ["inspect", source]]
    for command in commands:
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in command])
        assert caught.value.code == 2
    assert not trace.exists()
    assert not (tmp_path / "out").exists()


def test_damaged_files_and_another_protocol(tmp_path):
    for archive in (True, False):
        path = saved(tmp_path, {QUERY: VALUES}, _use_new_zipfile_serialization=archive)
        content = path.read_bytes()
        for length in range(0, len(content), len(content) // 20):
            path.write_bytes(content[:length])
            with pytest.raises(UserError, match=r"x\.pth"):
                open_checkpoint(path)
        for rng, where in cases("torch file", COUNT // 5):
            path.write_bytes(rng.choice((mutated_bytes(content, rng), rng.randbytes(60))))
            reads_or_refuses(lambda path=path: open_checkpoint(path).close(), where)
    path = saved(tmp_path, {QUERY: VALUES}, pickle_protocol=4)
    with pytest.raises(UserError, match=r"save it again with torch\.save's own"):
        open_checkpoint(path)


WIDTHS, ONE = (32, 64, 160, 256), (1, 1, 1, 1)
STATE = original_state(0, WIDTHS, ONE, 16)


def prefixed(prefix, state=STATE):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    root = tmp_path_factory.mktemp("plain")
    torch.save(STATE, root / "x.pth")
    return convert(root / "x.pth", root / "folder").output


AUXILIARY = {
    "conv_seg.weight": torch.ones(19, 2, 1, 1),
    "convs.0.bn.num_batches_tracked": torch.tensor(1),
    "norm1.weight": torch.ones(2),
}
CYCLE = {"state_dict": STATE}
CYCLE["again"] = CYCLE


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": prefixed("model.")},
        prefixed("_orig_mod."),
        prefixed("module._orig_mod."),
        prefixed("model.module._orig_mod.net."),
        {name.replace("decode_head.", "decode_head._orig_mod."): t for name, t in STATE.items()},
        {"model_state_dict": STATE, "epoch": 3},
        {"net": STATE},
        {"params": STATE},
        {"ema": STATE},
        {"module": prefixed("segmentor.")},
        {"checkpoint": {"model": {"state_dict": prefixed("module.model.")}}},
        {"model": STATE, "state_dict": STATE},  # one object under two keys
        {"state_dict": STATE, "optimizer": {"exp_avg": prefixed("", dict(STATE))}},
        {**prefixed("module."), "n_averaged": torch.tensor(5)},
        {**prefixed("model."), "criterion.weight": torch.ones(19)},
        {**STATE, **prefixed("ema."), "data_preprocessor.mean": torch.ones(3, 1, 1)},
        {**STATE, "ema_backbone_patch_embed1_proj_weight": torch.ones(2)},
        {**prefixed("model."), **prefixed("model.model_ema.module.")},
        CYCLE,
        [STATE],
        ({"model": STATE}, 3),
        {"ensemble": [{"state_dict": STATE}]},
        {name: tensor.float() for name, tensor in STATE.items()},
        {"state_dict": {**STATE, **prefixed("auxiliary_head.0.", AUXILIARY)}},
        prefixed("model.", {**STATE, **prefixed("auxiliary_head.", AUXILIARY)}),
        {"state_dict": OrderedDict(STATE), "step": torch.ones(2), "epoch": 3},
        {"state_dict": {**STATE, "epoch": 3}},
        {n: torch.nn.Parameter(t, requires_grad=t.is_floating_point()) for n, t in STATE.items()},
    ],
)
def test_one_model_is_found_whatever_it_lies_in(plain, tmp_path, content):
    # Files from before torch 1.6 are not archives.
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    old = read_torch_file(tmp_path / "old.pth").tensors
    torch.save(content, tmp_path / "x.pth")
    expected = load_file(plain / "model.safetensors")
    check_opened(tmp_path / "x.pth", expected)
    assert all(torch.equal(old[name], tensor) for name, tensor in expected.items())
    found = load_file(convert(tmp_path / "x.pth", tmp_path / "out").output / "model.safetensors")
    assert found.keys() == expected.keys()


@pytest.mark.parametrize("prefix", ["", "model.", "module._orig_mod."])
def test_safetensors_of_the_original_and_wrapped_ones(plain, tmp_path, prefix):
    expected = load_file(plain / "model.safetensors")
    save_file({**prefixed(prefix), "n_averaged": torch.tensor(1)}, tmp_path / "a.safetensors")
    save_file(prefixed(prefix, expected), tmp_path / "b.safetensors")
    assert "n_averaged" in check_opened(tmp_path / "a.safetensors", expected)
    check_opened(tmp_path / "b.safetensors", expected)


def test_a_float_count_of_batches_is_a_whole_number(plain, tmp_path):
    state = load_file(plain / "model.safetensors")
    state[COUNTER] = torch.tensor(7.0)
    save_file(state, tmp_path / "x.safetensors", metadata={"format": "pt"})
    out = merge([tmp_path / "x.safetensors", plain], tmp_path / "out")
    assert load_file(out / "model.safetensors")[COUNTER].equal(torch.tensor(7))
    digest = file_sha256(tmp_path / "x.safetensors")
    assert read_merge_record(out / "merge.json").members[0].sha256 == digest
    shutil.copytree(plain, tmp_path / "folder")
    shutil.copy(tmp_path / "x.safetensors", tmp_path / "folder" / "model.safetensors")
    load_model(tmp_path / "folder")
    for odd in (3.5, float("inf"), float("nan")):
        state[COUNTER] = torch.tensor(odd)
        save_file(state, tmp_path / "x.safetensors")
        torch.save(state, tmp_path / "x.pth")
        for name in ("x.safetensors", "x.pth"):
            with pytest.raises(UserError, match="_tracked counts batches and is no whole number"):
                open_checkpoint(tmp_path / name)


def test_class_names_are_found_beside_the_model_and_what_is_left_out_is_told(tmp_path):
    names = tuple(reversed(CLASSES))
    beside = {**prefixed("ema."), **prefixed("auxiliary_head.", AUXILIARY)}
    inner = {"meta": {"CLASSES": names}, "state_dict": {**STATE, **beside}}
    for number, content in enumerate(([inner], {"checkpoint": inner}, (1, {"a": [inner]}))):
        torch.save(content, tmp_path / "x.pth")
        done = convert(tmp_path / "x.pth", tmp_path / f"{number}")
        assert done.labels == names
        left_out = {name.partition(".")[0] for name in done.dropped}
        assert left_out == {"ema", "auxiliary_head", "decode_head"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": {}}, "holds no named tensors"),
        ([VALUES], "holds no named tensors"),
        (VALUES, "holds no named tensors"),
        ({3: VALUES}, "holds no named tensors"),
        ({"state_dict": {"conv1.weight": VALUES}}, r"it holds state_dict\.conv1\.weight"),
        ({"state_dict": {"decode_head.conv_seg.bias": VALUES}}, "holds no tensors of a SegFormer"),
        ({QUERY: VALUES.to_sparse()}, "is not an ordinary tensor"),
        ({QUERY: torch.ones(1).expand(10**12)}, "is not an ordinary tensor"),
        ({QUERY: torch.ones(2, dtype=torch.complex64)}, "is not an ordinary tensor"),
        ({QUERY: torch.empty(2, device="meta")}, "is not an ordinary tensor"),
        ({QUERY: VALUES, ON_DISK: VALUES}, "one tensor under two names"),
        ({"backbone.block1.0.attn.kv.bias": torch.ones(3)}, "holds no key and value"),
        ({"backbone.block1.0.attn.kv.bias": torch.ones(())}, "holds no key and value"),
        ({**prefixed("model."), **prefixed("imnet_model.")}, r" model\., imnet_model\."),
        ({**STATE, **prefixed("teacher.")}, r"several models, .*segformer\..*, teacher\."),
        ({"state_dict": STATE, "state_dict_ema": dict(STATE)}, "under state_dict, state_dict_ema"),
        ({"model": STATE, "ema": {"model": dict(STATE)}}, r"under model, ema\.model"),
        ([STATE, dict(STATE)], "several models, under 0, 1"),
        ({"net": {"conv1.weight": torch.ones(1)}}, r"no named tensors .* net\.conv1\.weight"),
        ({"epoch": 3, "args": {"lr": 1}}, "no named tensors .* epoch, args"),
        ({f"\x1b[31m{n}": torch.ones(1) for n in range(50)}, r"holds \\x1b\[31m0, .* and 42 more"),
    ],
)
def test_what_is_not_one_model_is_one_sentence(tmp_path, content, words):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match=words) as caught:
        open_checkpoint(tmp_path / "x.pth")
    assert "x.pth" in str(caught.value)
    assert not {"\n", "\x1b"} & set(str(caught.value))
