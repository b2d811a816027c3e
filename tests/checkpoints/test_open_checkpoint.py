"""Sources of every kind: the same tensors, whatever they are kept in."""

import json
import os
import shutil
import subprocess
import sys
import tempfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerModel

from revt_hf.checkpoints.tensors import open_checkpoint
from revt_hf.checkpoints.torch_files import read_tensor
from revt_hf.core.errors import UserError
from tests.helpers.golden import golden_file
from tests.helpers.hub_repository import COMMIT, Hub, Repository, files_of
from tests.helpers.hub_server import serve_hub

SMALL = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 40, 64], "decoder_hidden_size": 16}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SegformerForSemanticSegmentation(SegformerConfig(**SMALL, num_labels=19))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("segformer")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    return load_file(folder / "model.safetensors")


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """Where temporary files go; nothing is left there after a test."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    yield scratch
    assert not list(scratch.iterdir())


def read(checkpoint):
    return {name: read_tensor(place) for name, place in checkpoint.tensors.items()}


def check_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_a_folder_and_its_file(folder, expected, tmp_path):
    with open_checkpoint(folder) as checkpoint:
        check_same(read(checkpoint), expected)
        assert (checkpoint.label, checkpoint.folder) == (str(folder), folder)
        assert checkpoint.files == checkpoint.originals == (folder / "model.safetensors",)
    lone = shutil.copy(folder / "model.safetensors", tmp_path)
    for file, beside in ((folder / "model.safetensors", folder), (lone, None)):
        with open_checkpoint(str(file)) as checkpoint:
            check_same(read(checkpoint), expected)
            assert checkpoint.folder == beside


def test_shards(model, expected, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert not (tmp_path / "model.safetensors").exists()
    with open_checkpoint(tmp_path) as checkpoint:
        check_same(read(checkpoint), expected)
        order = [(place.file, place.offset) for place in checkpoint.tensors.values()]
        assert order == sorted(order) and len(checkpoint.files) > 1


def test_torch_weights_in_a_folder(model, folder, expected, tmp_path, scratch):
    shutil.copy(folder / "config.json", tmp_path)
    torch.save(dict(model.state_dict()), tmp_path / "pytorch_model.bin")
    with open_checkpoint(tmp_path) as checkpoint:
        check_same(read(checkpoint), expected)
        assert checkpoint.folder == tmp_path
        assert checkpoint.originals == (tmp_path / "pytorch_model.bin",)
        assert scratch in checkpoint.files[0].parents


def test_in_memory_names_and_an_encoder_by_itself(model, expected, tmp_path):
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "memory.safetensors")
    with open_checkpoint(tmp_path / "memory.safetensors") as checkpoint:
        check_same(read(checkpoint), expected)
        assert {place.name for place in checkpoint.tensors.values()} == state.keys()
    encoder = SegformerModel(model.config)
    encoder.load_state_dict(model.segformer.state_dict())
    encoder.save_pretrained(tmp_path / "encoder")
    own = {name: tensor for name, tensor in expected.items() if name.startswith("segformer.")}
    with open_checkpoint(tmp_path / "encoder") as checkpoint:
        check_same(read(checkpoint), own)


@pytest.mark.parametrize("name", ["a", "merged_mean_backbone"])
def test_the_originals_files_open_too(name):
    with open_checkpoint(golden_file(f"merge/{name}.pth")) as checkpoint:
        found = read(checkpoint)
    assert "segformer.encoder.block.0.0.attention.self.query.weight" in found
    assert found["decode_head.batch_norm.num_batches_tracked"].dtype == torch.int64


def test_temporary_files_go_when_the_reader_fails_and_need_a_place(tmp_path, scratch, monkeypatch):
    torch.save({"state_dict": {"decode_head.a": torch.ones(2)}}, tmp_path / "x.pth")
    with pytest.raises(RuntimeError, match="mine"), open_checkpoint(tmp_path / "x.pth") as opened:
        assert opened.files[0].is_file()
        raise RuntimeError("mine")
    assert not list(scratch.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
        with pytest.raises(UserError, match=r"no temporary folder for .*x\.pth.*set TMPDIR"):
            open_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ({}, "is not a shard index"),
        ({"a": 1}, "is not a shard index"),
        ({"a": "../model-1.safetensors"}, "is not a shard index"),
        ({"a": "/etc/model-1.safetensors"}, "is not a shard index"),
        ({"a": "model-1.bin"}, "is not a shard index"),
        ({"a": "model-3.safetensors"}, "model-3.safetensors is missing"),
        ({"a": "model-1.safetensors", "b": "model-2.safetensors"}, "look for the tensor 'b'"),
        ({"a": "model-1.safetensors"}, "look for the tensor 'b'"),
        (dict.fromkeys("abc", "model-1.safetensors"), "look for the tensor 'c'"),
    ],
)
def test_an_index_that_does_not_fit(tmp_path, weight_map, words):
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "model-1.safetensors")
    save_file({"b": torch.ones(1)}, tmp_path / "model-2.safetensors")
    index = weight_map if isinstance(weight_map, str) else json.dumps({"weight_map": weight_map})
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=words):
        open_checkpoint(tmp_path)


def test_what_cannot_be_opened_is_one_sentence(folder, tmp_path):
    for name in ("empty", "weightless"):
        (tmp_path / name).mkdir()
    shutil.copy(folder / "config.json", tmp_path / "weightless")
    save_file({}, tmp_path / "nothing.safetensors")
    twice = {"segformer.stages.0.layer_norm.bias": torch.ones(1)}
    twice["segformer.encoder.layer_norm.0.bias"] = torch.zeros(1)
    save_file(twice, tmp_path / "twice.safetensors")
    (tmp_path / "garbage.safetensors").write_bytes(b"garbage" * 10)
    for source, words in (
        ("empty", "empty is not a SegFormer folder: config.json is missing"),
        ("weightless", "model.safetensors is missing"),
        ("nothing.safetensors", "holds no tensors"),
        ("twice.safetensors", "one tensor under two names"),
        ("garbage.safetensors", "is not a readable safetensors file"),
        ("absent.pth", "there is no such file or folder"),
        ("absent/deeper/still", "there is no such file or folder"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            open_checkpoint(tmp_path / source)
        assert source in str(caught.value)
        assert "\n" not in str(caught.value)


CODE = """
import json, sys
from revt_hf.checkpoints.tensors import open_checkpoint
with open_checkpoint(sys.argv[1], quiet=len(sys.argv) > 2) as opened:
    files = sorted(path.name for path in opened.folder.rglob("*"))
    heavy = sorted({"torch", "transformers"} & set(sys.modules))
    print(json.dumps([len(opened.tensors), opened.folder.name, files, heavy, opened.label]))
"""


def test_a_hub_id_is_fetched_without_torch(folder, expected, tmp_path):
    repository = shutil.copytree(folder, tmp_path / "repository")
    (repository / "README.md").write_text("not needed")
    shutil.copytree(folder, repository / "ema")
    files = ["config.json", "model.safetensors"]
    token = "hf_secretsecretsecret"
    hub = Hub(repositories={("models", "someone/tiny"): Repository(files_of(repository))})
    with serve_hub(hub):
        for name, quiet in (("someone/tiny@v1", []), ("someone/tiny", ["quiet"])):
            settings = {
                "HF_ENDPOINT": hub.endpoint,
                "HF_HOME": str(tmp_path / "home"),
                "HF_TOKEN": token,
            }
            done = subprocess.run(
                [sys.executable, "-c", CODE, name, *quiet],
                env={**os.environ, **settings, "HF_HUB_DISABLE_XET": "1"},
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert json.loads(done.stdout) == [len(expected), COMMIT, files, [], name]
            assert token not in done.stderr
            assert ("%" in done.stderr, bool(done.stderr)) == (not quiet, not quiet)
