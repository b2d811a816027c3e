"""BatchNorm statistics of the head, re-estimated."""

import json

import numpy as np
import pytest
import torch

from revt_hf.checkpoints.headers import tensors_sha256
from revt_hf.cli.model_folders import inspect
from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import DataWarning, UserError
from revt_hf.evaluation.predictor import prepare
from revt_hf.merging.average import merge
from revt_hf.merging.recalibration import recalibrate_on_images
from revt_hf.merging.record import (
    ChangeSource,
    MemberRecord,
    MergeHistory,
    checked_record,
    read_merge_record,
)
from revt_hf.merging.statistics import recalibrate_model
from tests.helpers.segformers import change_tensors, saved, tensors_of, tiny

pytestmark = pytest.mark.numeric

NATIVE = Protocol(max_size=None)
STATISTICS = {"decode_head.batch_norm.running_mean", "decode_head.batch_norm.running_var"}
SOURCES = (ChangeSource("streets", "train"),)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [{"image": rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)} for _ in range(4)]


@pytest.fixture
def merged(tmp_path):
    return merge([saved(tmp_path / name) for name in "ab"], tmp_path / "merged")


def test_statistics_are_those_of_the_layers_input(images):
    model = tiny().eval()
    recalibrate_model(model, images, NATIVE)
    layer = model.decode_head.batch_norm
    seen = []
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batch = torch.cat([prepare(row["image"], NATIVE) for row in images])
    with torch.inference_mode():
        model(pixel_values=batch)
    torch.testing.assert_close(layer.running_mean, seen[0].mean((0, 2, 3)), atol=1e-6, rtol=1e-5)
    expected = seen[0].var((0, 2, 3), unbiased=False)
    torch.testing.assert_close(layer.running_var, expected, atol=1e-8, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_statistics_change(images, tmp_path, dtype):
    folder = saved(tmp_path / "model", 0, dtype)
    out = recalibrate_on_images(folder, tmp_path / "out", images, NATIVE)
    before, after = tensors_of(folder), tensors_of(out)
    assert {name for name in before if not before[name].equal(after[name])} == STATISTICS
    assert {tensor.dtype for tensor in after.values()} == {dtype, torch.int64}
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == str(dtype).removeprefix("torch.")
    # A trained model has a record of its own.
    assert not (out / "merge.json").exists()
    assert [change.images for change in checked_record(out).changes] == [4]


def test_the_record_says_what_was_done(merged, images, tmp_path):
    once = recalibrate_on_images(merged, tmp_path / "once", images, NATIVE, sources=SOURCES)
    twice = recalibrate_on_images(once, tmp_path / "twice", images[:1], NATIVE, sources=SOURCES)
    record = read_merge_record(twice / "merge.json")
    first, second = record.changes
    assert (first.kind, first.images, second.images) == ("recalibrated", 4, 1)
    assert first.sources == SOURCES
    assert first.protocol == NATIVE.model_dump(mode="json")
    assert first.before == read_merge_record(merged / "merge.json").tensors_sha256
    assert first.after == second.before == tensors_sha256(once / "model.safetensors")
    assert second.after == tensors_sha256(twice / "model.safetensors")
    assert record.tensors_sha256 == second.after


def test_a_merge_of_merges_keeps_what_its_members_are(merged, images, tmp_path, capsys):
    a, b = tmp_path / "a", tmp_path / "b"
    again = recalibrate_on_images(merged, tmp_path / "again", images, NATIVE, sources=SOURCES)
    new = recalibrate_on_images(a, tmp_path / "new-a", images[:2], NATIVE, sources=SOURCES)
    nested = merge([again, new, b], tmp_path / "nested")
    over = merge([nested / "model.safetensors", b], tmp_path / "over")
    entries = read_merge_record(nested / "merge.json").members
    own = read_merge_record(again / "merge.json")
    assert entries[0].merge == MergeHistory(own.members, own.base, own.rules, own.head)
    assert [[change.images for change in entry.changes] for entry in entries] == [[4], [2], []]
    assert entries[1].merge is None
    assert entries[2] == MemberRecord(str(b), entries[2].sha256)
    assert read_merge_record(over / "merge.json").members[0].merge.members == entries
    inspect(over, None)
    told = capsys.readouterr().out
    for words in (
        f"itself a merge of {again}, {new}, {b} (mean of",
        f"{again}: then recalibrated on 4 images of streets",
        f"{new}: then recalibrated on 2 images of streets",
    ):
        assert words in told


def test_weights_that_their_record_does_not_describe_are_refused(merged, images, tmp_path):
    change_tensors(merged, lambda state: state["decode_head.classifier.bias"].add_(1))
    sentence = r"merge\.json does not describe the weights beside it"
    with pytest.raises(UserError, match=sentence):
        merge([tmp_path / "a", merged], tmp_path / "out")
    with pytest.raises(UserError, match=sentence):
        recalibrate_on_images(merged, tmp_path / "out", images, NATIVE)
    assert not (tmp_path / "out").exists()


def test_a_recipe_of_another_program_is_not_passed_on(images, tmp_path):
    saved(tmp_path / "m")
    (tmp_path / "m" / "recipe.yaml").write_text("trainer: theirs\n")
    with pytest.warns(DataWarning, match="not a revt recipe"):
        recalibrate_on_images(tmp_path / "m", tmp_path / "out", images[:1], NATIVE)
    assert not (tmp_path / "out" / "recipe.yaml").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "merge.json"])
def test_a_model_that_changes_meanwhile_is_refused(merged, images, tmp_path, name):
    def change():
        (merged / name).write_bytes((merged / name).read_bytes())

    with pytest.raises(UserError, match=rf"{name} changed while it was read"):
        recalibrate_on_images(merged, tmp_path / "out", images, NATIVE, on_image=change)
    assert not (tmp_path / "out").exists()


def test_single_files_and_outputs_in_the_way_are_refused(merged, images, tmp_path):
    with pytest.raises(UserError, match="single file: give a folder"):
        recalibrate_on_images(merged / "model.safetensors", tmp_path / "out", images, NATIVE)
    for overwrite in (False, True):
        with pytest.raises(UserError, match="is or holds the input"):
            recalibrate_on_images(merged, merged, images, NATIVE, overwrite)
