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
from transformers import SegformerModel

from revt_hf.checkpoints.tensors import open_checkpoint
from revt_hf.core.errors import UserError
from tests.helpers.hub_repository import COMMIT, Hub, Repository, files_of
from tests.helpers.hub_server import serve_hub
from tests.helpers.segformers import check_opened, tiny


@pytest.fixture(scope="module")
def model():
    return tiny(0, hidden_sizes=[8, 16, 40, 64])


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("segformer")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """Where temporary files go; nothing is left there after a test."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    yield scratch
    assert not list(scratch.iterdir())


def _sharded(model, folder):
    model.save_pretrained(folder, max_shard_size="60KB")
    assert not (folder / "model.safetensors").exists()
    return folder


def _torch_weights(model, folder):
    model.config.save_pretrained(folder)
    torch.save(dict(model.state_dict()), folder / "pytorch_model.bin")
    return folder


def _alone(model, folder):
    model.save_pretrained(folder)
    return (folder / "model.safetensors").rename(folder.parent / "lone.safetensors")


def _in_memory_names(model, folder):
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder.with_suffix(".safetensors"))
    return folder.with_suffix(".safetensors")


def _encoder(model, folder):
    encoder = SegformerModel(model.config)
    encoder.load_state_dict(model.segformer.state_dict())
    encoder.save_pretrained(folder)
    return folder


def _folder(model, folder):
    model.save_pretrained(folder)
    return folder


def _file_of_a_folder(model, folder):
    return _folder(model, folder) / "model.safetensors"


DESCRIBED = (_folder, _file_of_a_folder, _sharded, _torch_weights, _encoder)


@pytest.mark.parametrize("kind", [*DESCRIBED, _alone, _in_memory_names])
def test_sources_of_every_kind_have_the_same_tensors(model, folder, tmp_path, scratch, kind):
    source = kind(model, tmp_path / "own")
    expected = load_file(folder / "model.safetensors")
    if kind is _encoder:
        expected = {n: tensor for n, tensor in expected.items() if n.startswith("segformer.")}
    with open_checkpoint(source) as checkpoint:
        assert checkpoint.label == str(source)
        assert checkpoint.folder == (tmp_path / "own" if kind in DESCRIBED else None)
        order = [(place.file, place.offset) for place in checkpoint.tensors.values()]
        assert order == sorted(order)
        assert (len(checkpoint.files) > 1) == (kind is _sharded)
        rewritten = [scratch in file.parents for file in checkpoint.files]
        assert rewritten == [kind is _torch_weights] * len(rewritten)
        assert (checkpoint.files != checkpoint.originals) == (kind is _torch_weights)
        assert not any(scratch in file.parents for file in checkpoint.originals)
    check_opened(source, expected)


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
        ("empty", "empty is not a model folder: config.json is missing"),
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


def test_a_hub_id_is_fetched_without_torch(folder, tmp_path):
    count = len(load_file(folder / "model.safetensors"))
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
            assert json.loads(done.stdout) == [count, COMMIT, files, [], name]
            assert token not in done.stderr
            assert ("%" in done.stderr, bool(done.stderr)) == (not quiet, not quiet)
