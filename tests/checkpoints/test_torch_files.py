"""Torch's own files: what they may hold, how it is named, and that nothing in them is run."""

import json
import os
import pickle

import numpy as np
import pytest
import torch

from revt_hf.checkpoints.tensors import open_checkpoint
from revt_hf.checkpoints.torch_files import read_torch_file
from revt_hf.cli.main import main
from revt_hf.core.errors import UserError
from tests.helpers.mutate import COUNT, cases, mutated_bytes, reads_or_refuses

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
    commands = [["merge", source, source, "--output", tmp_path / "out"]]
    commands += [["convert", source, "--output", tmp_path / "out"], ["inspect", source]]
    for command in commands:
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in command])
        assert caught.value.code == 2
    assert not trace.exists()
    assert not (tmp_path / "out").exists()


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
    ],
)
def test_what_is_not_a_model_is_one_sentence(tmp_path, content, words):
    with pytest.raises(UserError, match=words):
        open_checkpoint(saved(tmp_path, content))


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
