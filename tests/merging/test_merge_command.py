"""``revt merge``, ``inspect`` and ``convert`` on the command line, and original checkpoints."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import SegformerForSemanticSegmentation

from revt_hf.cli.main import main
from tests.helpers.golden import golden_file
from tests.helpers.tiny import run, tiny_recipe


@pytest.fixture
def revt(capsys):
    """Run a command in this process: exit code, standard output, standard error."""

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return caught.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    root = tmp_path_factory.mktemp("members")
    for seed in range(3):
        run(root / str(seed), tiny_recipe(train={"seed": seed, "steps": 1}))
    return [root / str(seed) for seed in range(3)]


def test_merge_inspect_repeat(revt, members, tmp_path):
    arguments = ("--select", "stage1+head", "--method", "weighted_mean", "--weights", "1,2,5")
    code, out, error = revt("merge", *members, "--output", tmp_path / "a", *arguments, "--head", 2)
    assert code == 0, error
    assert f"head of {members[1]}" in out
    code, out, error = revt("inspect", tmp_path / "a", "--json", tmp_path / "i.json")
    assert code == 0, error
    assert "weighted_mean of 'stage1+head', weights [1.0, 2.0, 5.0]" in out
    assert out.count("same ") == 4
    states = json.loads((tmp_path / "i.json").read_text())["states"]
    assert [state["state"] for state in states] == ["same"] * 3
    code, _, error = revt(
        "merge", "--from", tmp_path / "a" / "merge.json", "--output", tmp_path / "b"
    )
    assert code == 0, error
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]


def test_recalibrate_reports_what_it_does_on_source_val(revt, members, tmp_path):
    revt("merge", *members, "--output", tmp_path / "revt", "--quiet")
    size = ("--option", "size=[64, 128]", "--option", "images=4", "--option", "val_images=2")
    arguments = ("recalibrate", tmp_path / "revt", "--domain", "streets", *size, "--quiet")
    report = tmp_path / "r.json"
    code, out, error = revt(*arguments, "--output", tmp_path / "new", "--json", report)
    assert code == 0, error
    (score,) = json.loads(report.read_text())["val"]
    assert f"source/val: mIoU {score['before']:.2f} before, {score['after']:.2f} after" in out
    assert score["before"] != score["after"]
    code, out, _ = revt(*arguments, "--output", tmp_path / "again", "--skip-val")
    assert (code, out) == (0, "")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("new", "again")]
    assert files[0] == files[1]
    few = revt(*arguments, "--output", tmp_path / "few", "--skip-val", "--images", "1")
    assert few[0] == 0
    assert (tmp_path / "few" / "model.safetensors").read_bytes() != files[0]
    code, _, error = revt("recalibrate", tmp_path / "revt", "--output", tmp_path / "x")
    assert code == 2
    assert "either --recipe FILE or --domain NAME" in error


def test_a_changed_member_is_an_exit_code(revt, members, tmp_path):
    revt("merge", *members, "--output", tmp_path / "a", "--quiet")
    record = json.loads((tmp_path / "a" / "merge.json").read_text())
    record["members"][1]["sha256"] = "1" * 64
    (tmp_path / "a" / "merge.json").write_text(json.dumps(record))
    code, out, _ = revt("inspect", tmp_path / "a")
    assert code == 2
    assert f"changed  {members[1]}" in out


def test_a_dry_run_says_what_would_be_done(revt, members, tmp_path):
    arguments = ("--dry-run", "--json", tmp_path / "plan.json", "--select", "norm")
    code, out, error = revt("merge", *members, *arguments)
    assert code == 0, error
    plan = json.loads((tmp_path / "plan.json").read_text())
    merged = [tensor for tensor in plan["tensors"] if tensor["rule"] == 0]
    assert all("norm" in tensor["name"] for tensor in merged)
    assert f"mean of 'norm': {len(merged)} tensors" in out
    assert f"copied from {members[0]}: {len(plan['tensors']) - len(merged)} tensors" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json"]


def test_a_merge_recipe(revt, members, tmp_path):
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
    code, _, error = revt("merge", "--recipe", path, "--output", tmp_path / "out", "--quiet")
    assert code == 0, error
    merged = load_file(tmp_path / "out" / "model.safetensors")
    third = load_file(members[2] / "model.safetensors")
    same = {name for name in merged if torch.equal(merged[name], third[name])}
    assert {name for name in merged if ".3." in name and "encoder" in name} <= same
    assert {name for name in merged if name.startswith("decode_head.")} <= same
    assert len(same) < len(merged)
    path.write_text(yaml.safe_dump({**values, "haed": 1}))
    code, _, error = revt("merge", "--recipe", path, "--output", tmp_path / "x")
    assert code == 2
    assert "haed" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say what to merge"),
        (["MEMBERS"], "--output FOLDER"),
        (["MEMBERS", "--recipe", "x.yaml", "--output", "OUT"], "say what to merge"),
        (["MEMBERS", "--weights", "1,x,2", "--output", "OUT"], "--weights 1,x,2"),
        (["MEMBERS", "--param", "alpha", "--output", "OUT"], "--param alpha"),
        (["--from", "/nowhere/merge.json", "--output", "OUT"], "/nowhere/merge.json"),
        (["MEMBERS", "--method", "slerp", "--output", "OUT"], "slerp takes 2 members"),
    ],
)
def test_mistakes_are_one_sentence(revt, members, tmp_path, arguments, words):
    words_of = {"MEMBERS": members, "OUT": [tmp_path / "out"]}
    code, _, error = revt("merge", *(w for a in arguments for w in words_of.get(a, [a])))
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error
    assert not (tmp_path / "out").exists()


def test_members_of_all_kinds_in_one_merge(revt, tmp_path):
    """The original's file, its folder by revt convert, and a bare state dict give one mean."""
    original = golden_file("mit_b0_mmseg.pth")
    code, out, error = revt("convert", original, "--output", tmp_path / "folder")
    assert code == 0, error
    assert "SegFormer-B0, 19 classes" in out
    assert "decode_head.conv_seg.weight" in out
    state = torch.load(original, weights_only=True)["state_dict"]
    torch.save(state, tmp_path / "bare.pth")
    members = (original, tmp_path / "folder", tmp_path / "bare.pth")
    code, _, error = revt("merge", *members, "--output", tmp_path / "out", "--quiet")
    assert code == 0, error
    merged = load_file(tmp_path / "out" / "model.safetensors")
    own = load_file(tmp_path / "folder" / "model.safetensors")
    for name, tensor in own.items():
        torch.testing.assert_close(merged[name], tensor, atol=0, rtol=2e-7)
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert len({row["sha256"] for row in record["members"]}) == 3


def test_files_alone_make_a_folder_that_loads(revt, tmp_path):
    original = golden_file("mit_b0_mmseg.pth")
    code, _, error = revt("merge", original, original, "--output", tmp_path / "out", "--quiet")
    assert code == 0, error
    model, report = SegformerForSemanticSegmentation.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.id2label[0] == "road"


def test_and_back_to_the_original(revt, tmp_path):
    original = golden_file("mit_b0_mmseg.pth")
    revt("convert", original, "--output", tmp_path / "folder", "--quiet")
    code, _, error = revt(
        "convert", tmp_path / "folder", "--to", "mmseg", "--output", tmp_path / "back.pth"
    )
    assert code == 0, error
    before = torch.load(original, weights_only=True)["state_dict"]
    after = torch.load(tmp_path / "back.pth", weights_only=True)["state_dict"]
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if "conv_seg" not in name:
            assert torch.equal(tensor, after[name]), name


def test_options_may_stand_anywhere_and_wrong_ones_are_one_sentence(revt, members, tmp_path):
    first, second, third = members
    code, _, error = revt("merge", first, "--output", tmp_path / "a", second, "--quiet", third)
    assert code == 0, error
    record = json.loads((tmp_path / "a" / "merge.json").read_text())
    assert [entry["path"] for entry in record["members"]] == [str(member) for member in members]
    for wrong in (("--haed", "1"), ("--head", "one"), ("--head", "0"), ("--weights",)):
        code, _, error = revt("merge", first, second, "--output", tmp_path / "b", *wrong)
        assert code == 2
        assert error.startswith("error: ")
        assert len(error.splitlines()) == 1
        assert wrong[0].strip("-") in error
    assert not (tmp_path / "b").exists()
