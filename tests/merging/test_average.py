"""The merge: right numbers, right head, nothing half-written."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from revt_hf.checkpoints.names import disk_name
from revt_hf.core.errors import UserError
from revt_hf.merging.average import merge

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    root = tmp_path_factory.mktemp("members")
    for seed in range(3):
        torch.manual_seed(seed)
        model = SegformerForSemanticSegmentation(
            SegformerConfig(depths=[1, 1, 1, 1], num_labels=19, decoder_hidden_size=16)
        )
        model.decode_head.batch_norm.num_batches_tracked.fill_(seed + 5)
        model.decode_head.batch_norm.running_mean.fill_(seed)
        model.save_pretrained(root / str(seed))
    return [root / str(seed) for seed in range(3)]


def test_encoder_is_the_mean_and_head_the_first_ones(members, tmp_path):
    merge(members, tmp_path / "out")
    states = [load_file(member / "model.safetensors") for member in members]
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert merged.keys() == states[0].keys()
    for name, tensor in merged.items():
        if name.startswith("segformer."):
            expected = torch.stack([state[name].double() for state in states]).mean(0)
            torch.testing.assert_close(tensor.double(), expected, atol=1e-7, rtol=2e-7)
            assert (
                not torch.equal(tensor, states[0][name])
                or not states[0][name].any()
                or (states[0][name] == states[1][name]).all()
            )
        else:
            assert torch.equal(tensor, states[0][name]), name
    assert merged["decode_head.batch_norm.num_batches_tracked"] == 5


def test_the_order_decides_the_head_alone(members, tmp_path):
    merge(members, tmp_path / "a")
    merge(members[1:] + members[:1], tmp_path / "b")
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    for name in a:
        if name.startswith("segformer."):
            torch.testing.assert_close(a[name], b[name], atol=1e-8, rtol=0)
    assert b["decode_head.batch_norm.num_batches_tracked"] == 6


def test_the_result_is_an_ordinary_segformer(members, tmp_path):
    out = merge(members, tmp_path / "out")
    model, report = SegformerForSemanticSegmentation.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 19, 16, 16)


def test_it_is_reproducible_and_says_what_it_did(members, tmp_path):
    for name in "ab":
        merge(members, tmp_path / name)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]
    record = json.loads((tmp_path / "a" / "merge.json").read_text())
    assert [row["path"] for row in record["members"]] == [str(member) for member in members]
    assert len({row["sha256"] for row in record["members"]}) == 3


def test_in_memory_names_and_names_on_disk_mix(members, tmp_path):
    model = SegformerForSemanticSegmentation.from_pretrained(members[1])
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    assert set(map(disk_name, state)) == load_file(members[1] / "model.safetensors").keys()
    (tmp_path / "memory").mkdir()
    save_file(state, tmp_path / "memory" / "model.safetensors")
    model.config.save_pretrained(tmp_path / "memory")
    merge([members[0], tmp_path / "memory"], tmp_path / "mixed")
    merge(members[:2], tmp_path / "plain")
    mixed, plain = (load_file(tmp_path / name / "model.safetensors") for name in ("mixed", "plain"))
    assert mixed.keys() == plain.keys()
    assert all(torch.equal(mixed[name], plain[name]) for name in plain)


def _damaged(members, tmp_path, change):
    state = load_file(members[1] / "model.safetensors")
    change(state)
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "config.json").write_bytes((members[1] / "config.json").read_bytes())
    save_file(state, folder / "model.safetensors")
    return folder


NAME = "segformer.encoder.layer_norm.2.bias"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop(NAME), f"{NAME} is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "'extra' has no place"),
        (lambda state: state.update({NAME: torch.zeros(3)}), rf"{NAME}'? is \[3\], not \[160\]"),
        (lambda state: state[NAME].fill_(torch.nan), f"{NAME} holds NaN"),
    ],
)
def test_what_does_not_match_is_named_and_nothing_is_written(members, tmp_path, change, words):
    folder = _damaged(members, tmp_path, change)
    with pytest.raises(UserError, match=words):
        merge([members[0], folder], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged"]


def test_bad_members_and_outputs(members, tmp_path):
    with pytest.raises(UserError, match="at least two"):
        merge(members[:1], tmp_path / "out")
    with pytest.raises(UserError, match=r"nowhere.*no such file or folder"):
        merge([members[0], tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(UserError, match="is or holds the input"):
        merge(members[:2], members[0], overwrite=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "keep.txt").write_text("precious")
    with pytest.raises(UserError, match="full exists already"):
        merge(members[:2], tmp_path / "full")
    assert (tmp_path / "full" / "keep.txt").read_text() == "precious"
    with pytest.raises(UserError, match="full was not written by revt"):
        merge(members[:2], tmp_path / "full", overwrite=True)
    assert (tmp_path / "full" / "keep.txt").read_text() == "precious"
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    (tmp_path / "broken" / "model.safetensors").write_text("hello")
    with pytest.raises(UserError, match=r"broken/model\.safetensors is not a readable"):
        merge([members[0], tmp_path / "broken"], tmp_path / "out")
