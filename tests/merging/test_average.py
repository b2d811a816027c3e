"""The merge: right numbers, right head, nothing half-written."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import SegformerForSemanticSegmentation

from revt_hf.checkpoints.names import disk_name
from revt_hf.core.errors import UserError
from revt_hf.merging.average import MergeOptions, merge
from tests.helpers.segformers import change_tensors, random_state, saved, saved_state, tensors_of

pytestmark = pytest.mark.numeric

NAME = "segformer.encoder.layer_norm.2.bias"


@pytest.fixture
def members(tmp_path):
    return [saved_state(tmp_path / f"m{seed}", random_state(seed)) for seed in range(3)]


def test_encoder_is_the_mean_and_head_the_first_ones(members, tmp_path):
    states = [tensors_of(member) for member in members]
    merged = tensors_of(merge(members, tmp_path / "out"))
    assert merged.keys() == states[0].keys()
    for name, tensor in merged.items():
        if name.startswith("segformer."):
            expected = torch.stack([state[name].double() for state in states]).mean(0)
            torch.testing.assert_close(tensor.double(), expected, atol=1e-7, rtol=2e-7)
            assert not torch.equal(tensor, states[0][name])
        else:
            assert torch.equal(tensor, states[0][name]), name


def test_in_memory_names_and_names_on_disk_mix(tmp_path):
    members = [saved(tmp_path / name, seed) for seed, name in enumerate("ab")]
    model = SegformerForSemanticSegmentation.from_pretrained(members[1])
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    assert set(map(disk_name, state)) == tensors_of(members[1]).keys()
    (tmp_path / "memory").mkdir()
    save_file(state, tmp_path / "memory" / "model.safetensors")
    model.config.save_pretrained(tmp_path / "memory")
    mixed = tensors_of(merge([members[0], tmp_path / "memory"], tmp_path / "mixed"))
    plain = tensors_of(merge(members, tmp_path / "plain"))
    assert mixed.keys() == plain.keys()
    assert all(torch.equal(mixed[name], plain[name]) for name in plain)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop(NAME), f"{NAME} is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "'extra' has no place"),
        (lambda state: state.update({NAME: torch.zeros(3)}), rf"{NAME}'? is \[3\], not \[40\]"),
        (lambda state: state[NAME].fill_(torch.nan), f"m1: the tensor {NAME} holds NaN"),
        (lambda state: state[NAME].fill_(-torch.inf), f"m1: the tensor {NAME} holds NaN"),
    ],
)
def test_what_does_not_match_is_named_and_nothing_is_written(members, tmp_path, change, words):
    change_tensors(members[1], change)
    with pytest.raises(UserError, match=words):
        merge(members, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m0", "m1", "m2"]


def test_bad_members_and_outputs(members, tmp_path):
    with pytest.raises(UserError, match="at least two"):
        merge(members[:1], tmp_path / "out")
    with pytest.raises(UserError, match=r"nowhere.*no such file or folder"):
        merge([members[0], tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(UserError, match="is or holds the input"):
        merge(members[:2], members[0], MergeOptions(overwrite=True))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "keep.txt").write_text("precious")
    with pytest.raises(UserError, match="full exists already"):
        merge(members[:2], tmp_path / "full")
    with pytest.raises(UserError, match="full was not written by revt"):
        merge(members[:2], tmp_path / "full", MergeOptions(overwrite=True))
    assert (tmp_path / "full" / "keep.txt").read_text() == "precious"


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"{}", b"\x89PNG\r\n\x1a\n" + b"\0" * 100])
def test_damaged_weights_are_one_sentence_with_the_file(members, tmp_path, content):
    for name in ("model.safetensors", "pytorch_model.bin"):
        for path in members[1].glob("*model*"):
            path.unlink()
        (members[1] / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"m1/{name} ") as caught:
            merge(members, tmp_path / "out")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
