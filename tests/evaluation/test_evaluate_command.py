"""``revt evaluate``: the protocol it takes, ensembles and costs, refusals."""

import shutil

import numpy as np
import pytest
import yaml

from revt_hf.cli.options import ProtocolOptions
from revt_hf.config.protocol import PROTOCOLS, Protocol
from revt_hf.core.errors import DataWarning, UserError
from revt_hf.core.output_folders import mark_output
from revt_hf.evaluation.result import EnsembleInfo, read_results
from tests.helpers.command_line import refused, revt
from tests.helpers.image_files import write_pairs
from tests.helpers.networks import saved
from tests.helpers.tiny import tiny_recipe

STREETS = ["--domain", "streets", "--option", "val_images=2", "--option", "size=[64, 128]"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return [saved(tmp_path_factory.mktemp("models") / name, ord(name)) for name in "ab"]


@pytest.fixture
def recorded(tmp_path):
    """A folder whose recipe names a sliding window."""
    folder = tmp_path / "sliding"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(tiny_recipe(evaluation="slide").to_yaml())
    return folder


def test_a_recipes_section_is_a_name_or_fields():
    assert tiny_recipe(evaluation="slide").evaluation == PROTOCOLS["slide"]
    fields = {"max_size": None, "window": 1024, "stride": 768}
    assert tiny_recipe(evaluation=fields).evaluation == PROTOCOLS["slide"]
    # What is saved beside a result reads back as the same.
    resolved = yaml.safe_load(tiny_recipe(evaluation="multi-scale").to_yaml())["evaluation"]
    assert tiny_recipe(evaluation=resolved).evaluation == PROTOCOLS["multi-scale"]
    assert PROTOCOLS["paper"] == Protocol()


@pytest.mark.parametrize(
    ("evaluation", "words"),
    [
        ("sliding", "unknown protocol 'sliding': use one of paper, native, slide"),
        ({"window": 512}, "evaluation: give window and stride together"),
        ({"stride": 512}, "evaluation: give window and stride together"),
        ({"window": 512, "stride": 600}, "stride 600 is larger than window 512"),
        ({"window": 0, "stride": 1}, "evaluation.window: .* greater than or equal to 32"),
        ({"scales": [1.0, 0]}, "evaluation.scales.1: .* greater than or equal to 0.01"),
        ({"scales": []}, "evaluation.scales"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(evaluation, words):
    with pytest.raises(UserError, match=words):
        tiny_recipe(evaluation=evaluation)


def test_the_protocol_is_the_named_one_or_what_the_models_name(recorded, models, monkeypatch):
    smaller = PROTOCOLS["slide"].model_copy(update={"max_size": (96, 48)})
    native = PROTOCOLS["multi-scale"].model_copy(update={"max_size": None})
    for choice, folder, expected in (
        (ProtocolOptions(), recorded, PROTOCOLS["slide"]),
        (ProtocolOptions(max_size="96x48"), recorded, smaller),
        (ProtocolOptions("native"), recorded, PROTOCOLS["native"]),
        (ProtocolOptions(), models[0], PROTOCOLS["paper"]),
        (ProtocolOptions("multi-scale", "native"), models[0], native),
    ):
        assert choice.resolve([folder]) == expected
    with pytest.raises(UserError, match=r"sliding: slide, .*a: paper\): pass --protocol"):
        ProtocolOptions().resolve([recorded, models[0]])
    with pytest.raises(UserError, match="--protocol: unknown protocol 'sliding'"):
        ProtocolOptions("sliding").resolve([recorded])
    # A mistyped folder is named before protocols are compared.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for absent in ("nosuch/folder", "nosuch/folder/deeper", "nosuch"):
        with pytest.raises(UserError, match=f"load the model '{absent}': there is no such f"):
            ProtocolOptions().resolve([recorded, absent])


STRANGERS = b"model_name_or_path: x/y\ndataset_mixer: {a: 1.0}\nevaluation: {steps: 5}\n"


@pytest.mark.parametrize(
    "text", [STRANGERS, b"", b"- a list", b"!!python/object:os.x {}", b"\xff: 1"]
)
def test_a_recipe_of_another_program_is_passed_over(models, tmp_path, text):
    folder = shutil.copytree(models[0], tmp_path / "theirs")
    (folder / "recipe.yaml").write_bytes(text)
    with pytest.warns(DataWarning, match=r"theirs/recipe\.yaml is not a revt recipe"):
        assert ProtocolOptions().resolve([folder]) == Protocol()


@pytest.mark.parametrize("marked", [False, True])
def test_a_damaged_recipe_of_ours_is_an_error(recorded, marked):
    path = recorded / "recipe.yaml"
    path.write_text(path.read_text().replace("window: 1024", "window: [10"))
    if marked:
        mark_output(recorded)
        path.write_text("schedule")
    with pytest.raises(UserError, match=r"sliding/recipe\.yaml"):
        ProtocolOptions().resolve([recorded])


def test_ensembles_and_costs_stand_beside_the_models(capsys, models, tmp_path):
    arguments = [f"first={models[0]}", models[1], *STREETS, "--protocol", "native"]
    arguments += ["--batch-size", "2", "--workers", "1", "--cost", "--quiet"]
    arguments += ["--ensemble", "logits", "--ensemble", "features", "--head", "2"]
    code, out, error = revt(capsys, "evaluate", *arguments, "--json", tmp_path / "r.json")
    assert code == 0, error
    results = read_results([tmp_path / "r.json"])
    ensembles = ["ensemble of 2 (logits)", "ensemble of 2 (features, head 2)"]
    assert [one.model for one in results] == ["first", str(models[1]), *ensembles]
    assert results[3].ensemble == EnsembleInfo(members=2, combine="features", head=2)
    for one in results:
        assert one.protocol.max_size is None
        assert (one.cost.image_size, one.cost.peak_mib) == ((64, 128), None)
        assert one.cost.flops > one.cost.parameters > 0
        assert one.cost.images_per_second > 0
    assert results[2].cost.flops == 2 * results[0].cost.flops
    assert "Cost of a 128x64 image" in out
    assert "GFLOPs" in out


VOID = ["--domain", "folder", "--data-dir", "void", "--option", "encoding=train_ids"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*STREETS, "--ensemble", "logits"], "at least two models"),
        ([*STREETS, "--protocol", "sliding"], "unknown protocol 'sliding'"),
        ([*STREETS, "--classes", "synthia12"], "unknown classes 'synthia12'"),
        (VOID, "no labelled pixel in"),
        *(
            (["--recipe", "quick.yaml", flag, value], f"{flag} goes with --domain")
            for flag, value in {
                "--config": "fog",
                "--split": "nope",
                "--data-dir": "elsewhere",
                "--option": "a=b",
            }.items()
        ),
    ],
)
def test_mistakes_are_one_sentence(capsys, models, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    pair = np.zeros((64, 96, 3), np.uint8), np.full((64, 96), 255, np.uint8)
    write_pairs(tmp_path / "void", "val", {"a": pair})
    assert words in refused(capsys, "evaluate", models[0], *arguments)
