"""The decode head trained alone, on the frozen encoder of a merge."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from revt_hf.checkpoints.families import SEGFORMER
from revt_hf.checkpoints.image_processor import read_processor
from revt_hf.config.protocol import Protocol
from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import DomainScore
from revt_hf.hub.cards import card_text
from revt_hf.hub.commit import PushOptions
from revt_hf.hub.facts import model_facts
from revt_hf.hub.push import push
from revt_hf.merging import refit as module
from revt_hf.merging.average import merge
from revt_hf.merging.recalibration import recalibrate_on_images, spread_images
from revt_hf.merging.record import Change, ChangesRecord, checked_record, read_merge_record
from revt_hf.merging.refit import RefitOptions, refit
from revt_hf.merging.statistics import recalibrate_model
from revt_hf.models.load import load_model
from revt_hf.models.recorded import read_metrics
from revt_hf.training.run_folder import refit_run
from tests.helpers.command_line import in_two_processes, refused, revt, until
from tests.helpers.made_up_results import score
from tests.helpers.networks import random_image
from tests.helpers.segformers import SMALL, change_tensors, saved, tensors_of
from tests.helpers.tiny import NIGHT, run, same_weights, tiny_recipe

RECIPE = tiny_recipe(train={"steps": 40, "checkpoint_every": 20}, schedule={"warmup_steps": 10})
FEW = RefitOptions(steps=4, score_val=False)


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    root = tmp_path_factory.mktemp("members")
    members = [root / name for name in ("first", "second")]
    for seed, member in enumerate(members):
        run(member, tiny_recipe(train={"seed": seed}))
    return merge(members, root / "merged")


def _parts(folder):
    """Tensors of the encoder, and all others."""
    found = tensors_of(folder)
    inside = {name: found[name] for name in found if SEGFORMER.in_encoder(name)}
    return inside, {name: found[name] for name in found if name not in inside}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fresh", [False, True])
def test_the_head_learns_and_the_encoder_keeps_its_bits(tmp_path, monkeypatch, dtype, fresh):
    model, losses = saved(tmp_path / "model", 0, dtype, **SMALL), []
    monkeypatch.setattr(module, "_write", _keeping_losses(losses))
    options = RefitOptions(steps=30, fresh=fresh)
    (score,) = refit(model, tmp_path / "out", RECIPE, options)
    (before, old), (after, new) = _parts(model), _parts(tmp_path / "out")
    assert same_weights(before, after)
    assert old.keys() == new.keys()
    assert {tensor.dtype for tensor in new.values()} == {dtype, torch.int64}
    assert not [name for name in old if old[name].equal(new[name])]
    assert losses[-1] < 0.8 * losses[0]
    assert score.after > score.before
    # It is the model's own folder otherwise, and nothing is left beside it.
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["dtype"] == str(dtype).removeprefix("torch.")
    assert read_processor(tmp_path / "out") == read_processor(model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]
    record = checked_record(tmp_path / "out")
    assert isinstance(record, ChangesRecord)
    assert [change.fresh for change in record.changes] == [fresh]


def _keeping_losses(losses):
    write = module._write

    def keeping(read, where, *rest):
        losses.extend(row["loss"] for row in read_metrics(where))
        write(read, where, *rest)

    return keeping


def test_an_own_head_starts_where_it_was_and_a_fresh_one_does_not(merged, tmp_path):
    """With a rate of nothing only the statistics move."""
    still = tiny_recipe(optimizer={"lr": 1e-30, "weight_decay": 0})
    for fresh in (False, True):
        refit(merged, tmp_path / str(fresh), still, RefitOptions(2, fresh, score_val=False))
    name = "decode_head.classifier.weight"
    before, own, fresh = (
        tensors_of(f)[name] for f in (merged, tmp_path / "False", tmp_path / "True")
    )
    assert own.equal(before) and not fresh.equal(before)


def test_the_encoder_runs_without_a_graph_and_as_in_predictions(merged, tmp_path, monkeypatch):
    from revt_hf.training import setup

    load, seen = setup.load_parts, []

    def watched(*arguments):
        parts = load(*arguments)
        hook = lambda layer, _, out: seen.append((layer.training, out[0].requires_grad))  # noqa: E731
        parts.model.segformer.register_forward_hook(hook)
        return parts

    monkeypatch.setattr(setup, "load_parts", watched)
    # Dropout of a whole path would change features between two passes.
    recipe = tiny_recipe(model={"drop_path": 0.9})
    refit(merged, tmp_path / "out", recipe, FEW)
    assert seen == [(False, False)] * 4


def test_the_record_says_what_was_done(merged, tmp_path, capsys):
    recipe = tiny_recipe(
        train={"steps": 40, "gradient_accumulation": 3, "ema": 0.5, "validate_every": 5},
        schedule={"warmup_steps": 20},
        more_sources=[NIGHT],
        targets=[{**NIGHT, "config": "fog"}],
    )
    refit(merged, tmp_path / "out", recipe, FEW)
    record = read_merge_record(tmp_path / "out/merge.json")
    before = read_merge_record(merged / "merge.json")
    (change,) = record.changes
    assert (change.kind, change.steps, change.images, change.fresh) == ("refit", 4, 24, False)
    assert [source.config for source in change.sources] == [None, "night"]
    assert (change.before, change.after) == (before.tensors_sha256, record.tensors_sha256)
    assert record.members == before.members
    used = change.recipe
    assert used["optimizer"] == recipe.optimizer.model_dump(mode="json")
    assert used["augmentation"] == recipe.augmentation.model_dump(mode="json")
    # The same part of fewer steps.
    assert used["schedule"]["warmup_steps"] == 2
    assert (used["train"]["steps"], used["train"]["ema"]) == (4, None)
    assert used["model"]["freeze"] == "encoder"
    code, out, _ = revt(capsys, "inspect", tmp_path / "out")
    assert code == 0
    assert "then refit in 4 steps on 24 images of streets, streets: the decode head" in out
    error = refused(capsys, "merge", "--from", tmp_path / "out/merge.json", "--output", "x")
    assert "describes weights that were refit after the merge" in error


def test_one_step_on_one_image_is_told_in_english():
    said = {"sources": (), "before": "0" * 64, "after": "0" * 64, "revt_hf": "1"}
    told = str(Change(kind="refit", images=1, steps=1, recipe={}, **said))
    assert told.startswith("then refit in 1 step on 1 image of an unknown source: ")
    told = str(Change(kind="recalibrated", images=1, protocol={}, **said))
    assert told.startswith("then recalibrated on 1 image of an unknown source: ")


def test_the_heads_statistics_are_those_of_its_last_weights(merged, tmp_path):
    """Of all layers, and not of the last batches; those of a frozen BatchNorm stay."""
    refit(merged, tmp_path / "out", RECIPE, FEW)
    again, name = load_model(tmp_path / "out"), "decode_head.batch_norm.running_mean"
    rows = spread_images(RECIPE.sources, 100)
    recalibrate_model(again, rows, RECIPE.evaluation)
    new = tensors_of(tmp_path / "out")[name]
    torch.testing.assert_close(again.state_dict()[name], new)
    assert read_merge_record(tmp_path / "out/merge.json").changes[0].measured == len(rows) == 5
    refit(merged, tmp_path / "frozen", tiny_recipe(model={"batch_norm": "frozen"}), FEW)
    assert tensors_of(tmp_path / "frozen")[name].equal(tensors_of(merged)[name])
    assert read_merge_record(tmp_path / "frozen/merge.json").changes[0].measured == 0


def test_images_that_the_network_does_not_take_are_refused_first(merged, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "train", _interrupted)
    small = tiny_recipe(evaluation={"max_size": [16, 16]})
    with pytest.raises(UserError, match="choose another max size"):
        refit(merged, tmp_path / "out", small, FEW)


def test_changes_follow_each_other(merged, tmp_path):
    images = [{"image": random_image(64, 64)}]
    recalibrate_on_images(merged, tmp_path / "first", images, Protocol(max_size=None))
    refit(tmp_path / "first", tmp_path / "second", RECIPE, FEW)
    first, second = read_merge_record(tmp_path / "second/merge.json").changes
    assert (first.kind, second.kind, second.before) == ("recalibrated", "refit", first.after)
    # A merge of refit models tells how they were made.
    over = merge([tmp_path / "second", merged], tmp_path / "over")
    member = read_merge_record(over / "merge.json").members[0]
    assert [change.kind for change in member.changes] == ["recalibrated", "refit"]


def _facts(folder):
    return model_facts(folder, "me/revt", PushOptions(license="mit"), None)


def test_the_card_of_a_refit_model(merged, tmp_path):
    images = [{"image": random_image(64, 64)}]
    recalibrate_on_images(merged, tmp_path / "a", images, Protocol(max_size=None))
    refit(tmp_path / "a", tmp_path / "out", tiny_recipe(source=NIGHT), FEW)
    text = card_text(_facts(tmp_path / "out"))
    assert "recalibrated and refit afterwards, of 2 fine-tuned models" in text
    assert "Then refit in 4 steps on 8 images of streets: the decode head was trained" in text
    push(tmp_path / "out", "me/revt", PushOptions(license="mit", dry_run=tmp_path / "sent"))
    assert str(tmp_path).encode() not in (tmp_path / "sent/merge.json").read_bytes()
    assert checked_record(tmp_path / "sent").changes[1].steps == 4
    over = merge([tmp_path / "out", tmp_path / "a"], tmp_path / "over")
    assert "(2 merged before, 2 recalibrated before, 1 refit before)" in card_text(_facts(over))


def test_a_domain_that_the_head_was_refit_on_is_not_called_unseen(merged, tmp_path):
    refit(merged, tmp_path / "out", tiny_recipe(source=NIGHT), FEW)
    night = DomainScore(**score("streets (night)", 1.0, domain="streets", config="night"))
    assert [_facts(folder).kind(night) for folder in (merged, tmp_path / "out")] == [
        "unseen",
        "source",
    ]


def test_a_killed_refit_ends_with_the_same_bits(merged, tmp_path, capsys):
    killed, whole, path = (tmp_path / name for name in ("killed", "whole", "recipe.yaml"))
    path.write_text(RECIPE.to_yaml())
    words = ["refit", str(merged), "--recipe", str(path), "--steps", "24", "--skip-val", "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "revt_hf.cli.main", *words, "--output", str(killed)]
    )
    steps = refit_run(killed) / "checkpoints"
    until(lambda: process.poll() is not None or list(steps.glob("step-*")))
    process.kill()
    process.wait()
    assert list(steps.glob("step-*"))
    assert not killed.exists(), "the refit ended before it could be killed"
    assert "pass --resume" in refused(capsys, *words, "--output", killed)
    assert not revt(capsys, *words, "--output", killed, "--resume")[0]
    assert not revt(capsys, *words, "--output", whole)[0]
    assert same_weights(tensors_of(killed), tensors_of(whole))
    names = ("merge.json", "config.json")
    assert all((killed / name).read_bytes() == (whole / name).read_bytes() for name in names)
    # What is finished stays as it is.
    before = (killed / "model.safetensors").stat().st_ino
    assert not revt(capsys, *words, "--output", killed, "--resume")[0]
    assert (killed / "model.safetensors").stat().st_ino == before
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["killed", "recipe.yaml", "whole"]


@pytest.fixture
def begun(merged, tmp_path, monkeypatch):
    """A copy of the merge, and the output of a refit of it that stopped at its end."""
    model, output = shutil.copytree(merged, tmp_path / "model"), tmp_path / "out"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, "_write", _interrupted)
        refit(model, output, RECIPE, FEW)
    return model, output


def _interrupted(*_):
    raise KeyboardInterrupt


def test_a_refit_that_stopped_before_its_result_was_written(begun, merged, tmp_path):
    model, output = begun
    assert not output.exists()
    refit(model, output, RECIPE, RefitOptions(4, score_val=False, resume=True))
    refit(merged, tmp_path / "whole", RECIPE, FEW)
    assert same_weights(tensors_of(output), tensors_of(tmp_path / "whole"))


def test_another_model_or_recipe_is_not_resumed(begun):
    model, output = begun
    resumed = RefitOptions(4, score_val=False, resume=True)
    others = [(tiny_recipe(source=NIGHT), resumed), (RECIPE, replace(resumed, steps=5))]
    for recipe, options in [*others, (RECIPE, replace(resumed, fresh=True))]:
        with pytest.raises(UserError, match="another recipe, --steps, --fresh or spelling"):
            refit(model, output, recipe, options)
    recalibrated = model.with_name("recalibrated")
    images = [{"image": random_image(64, 64)}]
    recalibrate_on_images(model, recalibrated, images, Protocol(max_size=None))
    shutil.rmtree(model)
    recalibrated.rename(model)
    with pytest.raises(UserError, match=r"is not the model that the refit for .* was begun with"):
        refit(model, output, RECIPE, resumed)
    refit(model, output, RECIPE, RefitOptions(4, score_val=False, overwrite=True))
    assert checked_record(output)


def test_a_result_that_was_changed_since_is_not_called_finished(merged, tmp_path):
    resumed = RefitOptions(4, score_val=False, resume=True)
    refit(merged, tmp_path / "out", RECIPE, FEW)
    refit(merged, tmp_path / "out", RECIPE, resumed)
    change_tensors(tmp_path / "out", lambda t: t["decode_head.classifier.bias"].add_(1))
    with pytest.raises(UserError, match="does not describe the weights beside it"):
        refit(merged, tmp_path / "out", RECIPE, resumed)


def test_a_refit_that_fails_leaves_nothing(merged, tmp_path):
    recipe = tiny_recipe(optimizer={"lr": 1e30})
    with pytest.raises(UserError, match="the loss is"):
        refit(merged, tmp_path / "out", recipe, RefitOptions(8, score_val=False))
    assert not list(tmp_path.iterdir())


def test_a_model_that_changes_meanwhile_is_refused(merged, tmp_path, monkeypatch):
    model, train = shutil.copytree(merged, tmp_path / "model"), module.train

    def changing(*arguments):
        (model / "config.json").write_bytes((model / "config.json").read_bytes())
        return train(*arguments)

    monkeypatch.setattr(module, "train", changing)
    with pytest.raises(UserError, match=r"config\.json changed while it was read"):
        refit(model, tmp_path / "out", RECIPE, FEW)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_refit_is_refused(merged, tmp_path, capsys):
    path, out = tmp_path / "recipe.yaml", tmp_path / "out"
    path.write_text(RECIPE.to_yaml())

    def error(model, *more, output=out):
        words = ("refit", model, "--recipe", path, "--output", output, *more)
        return refused(capsys, *words, "--quiet")

    assert "single file" in error(merged / "model.safetensors")
    assert "is or holds the input" in error(merged, "--overwrite", output=merged)
    assert "no refit to resume" in error(merged, "--resume")
    assert "--steps" in error(merged, "--steps", 0)
    assert "from --steps" in error(merged, "--set", "train.steps=7")
    encoder = tmp_path / "encoder"
    load_model(merged).segformer.save_pretrained(encoder)
    assert "no decode head" in error(encoder)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    assert "is an adapter" in error(adapter)
    fewer = saved(tmp_path / "fewer", id2label={0: "road", 1: "sky"})
    for more in ((), ("--fresh",)):
        assert "2 classes, " in error(fewer, *more)
    out.mkdir()
    (out / "mine.txt").touch()
    assert "exists already" in error(merged)
    assert "not written by revt" in error(merged, "--overwrite")
    assert "which is also a target" in error(merged, "--set", f"targets=[{json.dumps(_TARGET)}]")
    names = ("adapter", "encoder", "fewer", "out", "recipe.yaml")
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(names)


_TARGET = {**RECIPE.source.model_dump(include={"domain", "options"}), "split": "train"}


def test_two_processes_write_one_result(merged, tmp_path):
    path, out = tmp_path / "recipe.yaml", tmp_path / "out"
    path.write_text(RECIPE.to_yaml())
    words = ("refit", merged, "--recipe", path, "--steps", 3, "--output", out)
    done = in_two_processes("revt_hf.cli.main", *words)
    assert done.stdout.count("before, ") == done.stdout.count("refit: ") == 1
    assert checked_record(out).changes[0].images == 12
    assert same_weights(_parts(merged)[0], _parts(out)[0])
