"""``revt merge``, ``inspect``, ``recalibrate`` and ``convert`` on the command line."""

import json

import pytest
import torch
import yaml
from transformers import SegformerForSemanticSegmentation

from tests.helpers.command_line import refused, revt
from tests.helpers.golden import golden_file
from tests.helpers.segformers import tensors_of
from tests.helpers.tiny import run, tiny_recipe


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    root = tmp_path_factory.mktemp("members")
    for seed in range(3):
        run(root / str(seed), tiny_recipe(train={"seed": seed, "steps": 1}))
    return [root / str(seed) for seed in range(3)]


def _record(folder):
    return json.loads((folder / "merge.json").read_text())


def test_merge_inspect_repeat(capsys, members, tmp_path):
    first, second, third = members
    arguments = ("--select", "stage1+head", "--method", "weighted_mean", "--weights", "1,2,5")
    # Models may stand anywhere.
    words = (f"base={first}", "--output", tmp_path / "a", second, *arguments, f"night={third}")
    code, out, error = revt(capsys, "merge", *words, "--head", 2)
    assert code == 0, error
    assert f"head of {second}" in out
    entries = _record(tmp_path / "a")["members"]
    assert [entry.get("name") for entry in entries] == ["base", None, "night"]
    assert [entry["path"] for entry in entries] == [str(member) for member in members]
    assert _record(tmp_path / "a")["evaluation"] == {"max_size": None}
    code, out, error = revt(capsys, "inspect", tmp_path / "a", "--json", tmp_path / "i.json")
    assert code == 0, error
    assert "weighted_mean of 'stage1+head', weights [1.0, 2.0, 5.0]" in out
    assert f"same     base ({first})" in out
    assert f"same     {second}" in out
    told = json.loads((tmp_path / "i.json").read_text())
    assert [state["state"] for state in told["states"]] == ["same"] * 3
    assert told["weights"] == "same"
    repeat = ("merge", "--from", tmp_path / "a" / "merge.json", "--output", tmp_path / "b")
    code, _, error = revt(capsys, *repeat, "--json", tmp_path / "b.json")
    assert code == 0, error
    for name in ("model.safetensors", "merge.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert json.loads((tmp_path / "b.json").read_text()) == _record(tmp_path / "b")
    record = _record(tmp_path / "a")
    record["members"][1]["sha256"] = "1" * 64
    (tmp_path / "a" / "merge.json").write_text(json.dumps(record))
    code, out, _ = revt(capsys, "inspect", tmp_path / "a")
    assert code == 2
    assert f"changed  {second}" in out


def test_recalibrate_reports_what_it_does_on_source_val(capsys, members, tmp_path):
    revt(capsys, "merge", *members, "--output", tmp_path / "revt", "--quiet")
    size = ("--option", "size=[64, 128]", "--option", "images=4", "--option", "val_images=2")
    arguments = ("recalibrate", tmp_path / "revt", "--domain", "streets", *size, "--quiet")
    report = tmp_path / "r.json"
    code, out, error = revt(capsys, *arguments, "--output", tmp_path / "new", "--json", report)
    assert code == 0, error
    (score,) = json.loads(report.read_text())["val"]
    assert f"source/val: mIoU {score['before']:.2f} before, {score['after']:.2f} after" in out
    assert score["before"] != score["after"]
    weights = {}
    for name, more in (("again", ()), ("few", ("--images", 1)), ("small", ("--max-size", "64x32"))):
        output = tmp_path / name
        code, out, _ = revt(capsys, *arguments, "--output", output, "--skip-val", *more)
        assert (code, out) == (0, "")
        weights[name] = (output / "model.safetensors").read_bytes()
    assert weights["again"] == (tmp_path / "new" / "model.safetensors").read_bytes()
    assert len(set(weights.values())) == 3
    (change,) = _record(tmp_path / "new")["changes"]
    assert (change["images"], change["sources"][0]["domain"]) == (4, "streets")
    error = refused(capsys, "recalibrate", tmp_path / "revt", "--output", tmp_path / "x")
    assert "either --recipe FILE or --domain NAME" in error


def test_a_dry_run_says_what_would_be_done(capsys, members, tmp_path):
    arguments = ("--dry-run", "--json", tmp_path / "plan.json", "--select", "norm")
    code, out, error = revt(capsys, "merge", f"base={members[0]}", *members[1:], *arguments)
    assert code == 0, error
    plan = json.loads((tmp_path / "plan.json").read_text())
    merged = [tensor for tensor in plan["tensors"] if tensor["rule"] == 0]
    assert all("norm" in tensor["name"] for tensor in merged)
    assert f"mean of 'norm': {len(merged)} tensors" in out
    copied = len(plan["tensors"]) - len(merged)
    assert f"copied from base ({members[0]}): {copied} tensors" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json"]


def test_a_merge_recipe(capsys, members, tmp_path):
    values = {
        "members": [str(member) for member in members],
        "rules": [
            {"select": "backbone"},
            {"select": "stage4", "method": "weighted_mean", "weights": [0, 0, 1]},
        ],
        "head": 3,
    }
    path = tmp_path / "merge.yaml"
    path.write_text(yaml.safe_dump(values))
    arguments = ("merge", "--recipe", path, "--output")
    code, _, error = revt(capsys, *arguments, tmp_path / "out", "--quiet")
    assert code == 0, error
    merged, third = tensors_of(tmp_path / "out"), tensors_of(members[2])
    same = {name for name in merged if torch.equal(merged[name], third[name])}
    assert {name for name in merged if ".3." in name and "encoder" in name} <= same
    assert {name for name in merged if name.startswith("decode_head.")} <= same
    assert len(same) < len(merged)
    path.write_text(yaml.safe_dump({**values, "haed": 1}))
    assert "haed" in refused(capsys, *arguments, tmp_path / "x")
    again = values["members"][0]
    path.write_text(yaml.safe_dump({**values, "members": [*values["members"], again]}))
    error = refused(capsys, *arguments, tmp_path / "x")
    assert f"the model {again} is listed twice" in error
    assert f"list it once in {path}" in error


# A recipe and a record say all of this.
OPTIONS = {
    "select": "all",
    "method": "median",
    "weights": "1,2",
    "param": "t=1",
    "head": "2",
    "base": "start",
}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say what to merge"),
        (["MODELS"], "--output FOLDER"),
        (["MODELS", "--recipe", "x.yaml", "OUT"], "say what to merge"),
        (["MODELS", "--weights", "1,x,2", "OUT"], "--weights 1,x,2"),
        (["MODELS", "--param", "alpha", "OUT"], "--param alpha"),
        (["--from", "/nowhere/merge.json", "OUT"], "/nowhere/merge.json"),
        (["MODELS", "--method", "slerp", "OUT"], "slerp takes 2 members"),
        (["MODELS", "--method", "maen", "OUT"], "unknown merge method 'maen'"),
        (["MODELS", "--method", "ties", "OUT"], "ties needs a base"),
        (["MODELS", "--base", "x", "OUT"], "base is x, but mean uses none"),
        (["MODELS", "--weights", "1,2,3", "OUT"], "mean takes no weights"),
        (["MODELS", "--method", "power", "--weights", "1", "OUT"], "1 weights for 3 members"),
        (["MODELS", "--param", "q=1", "OUT"], "unknown parameter 'q'"),
        (["MODELS", "--select", "bakbone", "OUT"], "did you mean 'backbone'"),
        (["MODELS", "OUT", "--haed", "1"], "haed"),
        (["MODELS", "OUT", "--head", "one"], "head"),
        (["MODELS", "OUT", "--head", "0"], "head"),
        (["MODELS", "OUT", "--weights"], "weights"),
        (["MODELS", "--param", "t=1", "--param", "t=2", "OUT"], "t is given twice"),
        *(
            ([source, "plan.yaml", f"--{option}", value, "OUT"], f"--{option}: plan.yaml says")
            for option, value in OPTIONS.items()
            for source in ("--recipe", "--from")
        ),
        (["MODELS", "MODELS", "OUT"], "is listed twice: list it once"),
        (["a=x", "a=y", "OUT"], "the model a is listed twice"),
        (["a=", "MODELS", "OUT"], "write a model as PATH or NAME=PATH"),
    ],
)
def test_mistakes_are_one_sentence(capsys, members, tmp_path, arguments, words):
    words_of = {"MODELS": members, "OUT": ["--output", tmp_path / "out"]}
    error = refused(capsys, "merge", *(w for a in arguments for w in words_of.get(a, [a])))
    assert words in error
    assert not (tmp_path / "out").exists()


def test_members_of_all_kinds_in_one_merge(capsys, tmp_path):
    """The original's file, its folder by revt convert, and a bare state dict give one mean."""
    original = golden_file("mit_b0_mmseg.pth")
    code, out, error = revt(capsys, "convert", original, "--output", tmp_path / "folder")
    assert code == 0, error
    assert "SegFormer-B0, 19 classes" in out
    assert "decode_head.conv_seg.weight" in out
    state = torch.load(original, weights_only=True)["state_dict"]
    torch.save(state, tmp_path / "bare.pth")
    members = (original, tmp_path / "folder", tmp_path / "bare.pth")
    code, _, error = revt(capsys, "merge", *members, "--output", tmp_path / "out", "--quiet")
    assert code == 0, error
    merged, own = tensors_of(tmp_path / "out"), tensors_of(tmp_path / "folder")
    for name, tensor in own.items():
        torch.testing.assert_close(merged[name], tensor, atol=0, rtol=2e-7)
    assert len({row["sha256"] for row in _record(tmp_path / "out")["members"]}) == 3
    # The original gets its checkpoint back.
    arguments = ("--to", "mmseg", "--output", tmp_path / "back.pth", "--quiet")
    code, _, error = revt(capsys, "convert", tmp_path / "folder", *arguments)
    assert code == 0, error
    after = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    assert state.keys() == after.keys()
    for name, tensor in state.items():
        assert "conv_seg" in name or torch.equal(tensor, after[name]), name
    # Files alone make a folder that loads.
    code, _, error = revt(capsys, "merge", original, members[2], "--output", tmp_path / "files")
    assert code == 0, error
    _, report = SegformerForSemanticSegmentation.from_pretrained(
        tmp_path / "files", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
