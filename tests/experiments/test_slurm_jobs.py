"""``revt submit``: what becomes a job, its script and settings, and Slurm's refusals."""

import json
import os
import shlex
import subprocess

import pytest
import yaml

from revt_hf.experiments.slurm_settings import load_settings
from tests.helpers.golden import ROOT
from tests.helpers.tiny_experiment import (
    MEMBERS_ONLY,
    code_of,
    folder_of,
    graph_of,
    printed,
    stages_of,
    submit,
    told,
    write_experiment,
)

# A Slurm that numbers jobs, refuses the script named in REFUSE, and writes down what it is told.
FAKE = """#!/usr/bin/env bash
echo "${0##*/} $*" >> "$CALLS"
case "${0##*/} $*" in
  sbatch*"$REFUSE".sh) echo "sbatch: error: invalid partition specified: gold" >&2; exit 1 ;;
  sbatch*) echo "$(($(grep -c ^sbatch "$CALLS") + 100));local" ;;
  squeue*) echo "$QUEUE" ;;
esac
"""
CHANGED = {"revt": {"members": ["base", "other"], "recalibrate": 2, "refit": 4}}


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scancel"):
        (folder / name).write_text(FAKE)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("REFUSE", "nothing")
    monkeypatch.setenv("QUEUE", "")
    return lambda: (tmp_path / "calls").read_text().splitlines()


def test_each_step_belongs_to_one_task_and_stages_come_after_what_they_need(tmp_path):
    path = write_experiment(tmp_path, merges=CHANGED)
    graph = graph_of(path)
    done = {}
    for number, stage in enumerate(stages_of(path, tmp_path / "out").values()):
        for task in stage.tasks:
            for step in graph.chosen(task, needs=False) if task else []:
                assert step.id not in done
                done[step.id] = number
    assert done.keys() == graph.steps.keys()
    for step in graph.steps.values():
        for need in step.inputs:
            # Recalibrations follow their merges in the same task.
            assert done[need] < done[step.id] or step.id.startswith("recalibrated/")


def test_members_that_start_from_others_are_trained_after_them(tmp_path):
    members = {
        "init": {"recipe": "member.yaml", "seeds": []},
        "base": {"recipe": "later.yaml", "init": "init"},
        "late": {"recipe": "later.yaml", "init": "base"},
        "free": {"recipe": "member.yaml"},
    }
    path = write_experiment(tmp_path, members=members, **MEMBERS_ONLY)
    recipe = yaml.safe_load((tmp_path / "member.yaml").read_text())
    (tmp_path / "later.yaml").write_text(yaml.safe_dump({**recipe, "model": {}}))
    found = stages_of(path, tmp_path / "out")
    trained = {name: [task[0] for task in found[name].tasks] for name in list(found)[:3]}
    assert trained == {
        "train-0": ["members/init", "members/free/0", "members/free/1"],
        "train-1": ["members/base/0", "members/base/1"],
        "train-2": ["members/late/0", "members/late/1"],
    }
    assert list(found)[3:] == ["score", "report"]


@pytest.mark.parametrize(
    ("merge", "seeds", "stages", "sizes"),
    [
        # 4 members, 12 merges and 2 ensembles, in equal parts.
        ({"select": "blocks:1..3"}, [0, 1], ["train-0", "merge", "score", "report"], [6, 6, 6]),
        # A merge that is not kept is made by one task: 2 members, 14 merges and an ensemble.
        (
            {"weights": {"steps": 6}, "method": "weighted_mean", "keep": False},
            *([0], ["train-0", "score", "report"], [5, 6, 6]),
        ),
    ],
    ids=["kept", "not-kept"],
)
def test_at_most_eight_networks_are_scored_together_in_equal_parts(
    tmp_path, merge, seeds, stages, sizes
):
    merges = {"revt": {"members": ["base", "other"], **merge}}
    evaluate = {"protocols": ["native", "slide"]}
    sections = {"seeds": seeds, "merges": merges, "evaluate": evaluate, "selections": None}
    found = stages_of(write_experiment(tmp_path, **sections), tmp_path / "out")
    assert list(found) == stages
    networks = [{step.split("/", 2)[2] for step in task} for task in found["score"].tasks]
    assert [len(part) for part in networks] == sizes
    assert len(set().union(*networks)) == sum(sizes)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """An experiment of which one member is trained and scored, and its folder."""
    root = tmp_path_factory.mktemp("begun")
    path, output = write_experiment(root, seeds=[0]), root / "out"
    only = ["--only", "results/recipe/members/base"]
    assert code_of("run", path, "--output", output, *only, "--quiet") == 0
    return path, output


def test_only_what_is_not_done_is_submitted(begun, tmp_path, capsys, fake_slurm):
    path, output = begun
    found = stages_of(path, output)
    assert found["train-0"].tasks == (("members/other/0",),)
    assert "results/recipe/members/base/0" not in found["score"].tasks[0]
    alone = {"members": {"base": {"recipe": "member.yaml"}}, **MEMBERS_ONLY}
    one = write_experiment(tmp_path, seeds=[0], **alone)
    assert submit(one, output) == 0
    assert "all steps are done, nothing is left to submit" in capsys.readouterr().out
    assert not (output / "slurm").exists()


def test_a_checkpoint_that_exists_is_no_job(tmp_path):
    sections = {
        "members": {name: {"checkpoint": f"owner/{name}"} for name in "ab"},
        "merges": {"ab": {"members": ["a", "b"]}},
        "evaluate": {"recipe": "member.yaml"},
    }
    path = write_experiment(tmp_path, ensembles=None, selections=None, **sections)
    found = stages_of(path, tmp_path / "out")
    assert list(found) == ["merge", "score", "report"]
    assert found["merge"].tasks == (("merges/ab",),)


def test_print_writes_nothing_and_its_commands_wait_for_each_other(tmp_path, capsys):
    path, output = write_experiment(tmp_path, seeds=[0]), tmp_path / "out"
    _, commands = printed(capsys, path, output, "--json", tmp_path / "jobs.json")
    folder = output / "slurm"
    assert commands[:3] == [
        f"train_0=$(sbatch --parsable {folder}/train-0.sh)",
        f"merge=$(sbatch --parsable --dependency=afterany:$train_0 {folder}/merge.sh)",
        f"score=$(sbatch --parsable --dependency=afterany:$train_0:$merge {folder}/score.sh)",
    ]
    assert not output.exists()
    row = {"stage": "merge", "job": None, "after": ["train-0"], "script": f"{folder}/merge.sh"}
    rows = json.loads((tmp_path / "jobs.json").read_text())
    assert rows[1] == {**row, "tasks": [["merges/revt"]]}


def test_jobs_are_submitted_in_order_put_on_record_and_not_submitted_twice(
    tmp_path, capsys, monkeypatch, fake_slurm
):
    path, output = write_experiment(tmp_path), tmp_path / "out"
    assert submit(path, output, "--json", tmp_path / "jobs.json") == 0
    folder = output / "slurm"
    names = ["train-0", "merge", "score", "select", "report"]
    waits = ["", "afterany:101 ", "afterany:101:102 ", "afterany:101:102:103 "]
    assert fake_slurm()[:4] == [
        f"sbatch --parsable {wait and '--dependency='}{wait}{folder}/{name}.sh"
        for name, wait in zip(names, waits, strict=False)
    ]
    rows = json.loads((folder / "submitted.json").read_text())
    numbers = {name: str(101 + number) for number, name in enumerate(names)}
    assert {row["stage"]: row["job"] for row in rows} == numbers
    assert json.loads((tmp_path / "jobs.json").read_text()) == rows
    said = ["train-0: job 101, 4 tasks", "merge: job 102, 1 task, after train-0"]
    assert capsys.readouterr().out.splitlines()[:2] == said
    monkeypatch.setenv("QUEUE", "7\n102\n102\n105")
    assert submit(path, output) == 2
    wait = "not over (102, 105): wait for them, or scancel 102 105"
    assert wait in capsys.readouterr().err
    monkeypatch.setenv("QUEUE", "7")
    assert submit(path, output, "--quiet") == 0
    assert capsys.readouterr().out == ""


def test_when_slurm_refuses_a_job_those_before_it_are_cancelled(
    tmp_path, capsys, monkeypatch, fake_slurm
):
    monkeypatch.setenv("REFUSE", "score")
    assert submit(write_experiment(tmp_path), tmp_path / "out") == 2
    assert fake_slurm()[-1] == "scancel 101 102"
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: Slurm refused score: sbatch: error: invalid partition specified: gold; the jobs "
        "before it are cancelled (101, 102)"
    )
    assert not (tmp_path / "out/slurm/submitted.json").exists()


def test_without_slurm_one_sentence_says_where_to_go(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert submit(write_experiment(tmp_path), tmp_path / "out") == 2
    assert "there is no sbatch here: run it on a login node" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_data_that_only_the_nodes_see_is_a_remark(tmp_path, capsys):
    members = {"base": {"recipe": "member.yaml", "set": {"source.domain": "gta5"}}}
    path = write_experiment(tmp_path, seeds=[0], members=members, **MEMBERS_ONLY)
    where = "members.base.set={source: {domain: gta5, data_dir: /node/gta5}}"
    assert submit(path, tmp_path / "out", "--print", "--set", where) == 0
    assert "2 steps lack their data: " in capsys.readouterr().err


def test_some_steps_write_no_table_and_report_only_does_no_step(begun, capsys):
    path, output = begun
    assert (output / "results/recipe/members/base/0.json").is_file()
    assert not list(output.rglob("*.md"))
    assert code_of("run", path, "--output", output, "--report-only", "--quiet") == 0
    assert list(output.rglob("*.md"))
    folder = folder_of(path, output)
    done = ["members/base/0", "results/recipe/members/base/0"]
    assert [step for step in graph_of(path).steps if folder.done(step)] == done


def test_scripts_are_bash_and_tell_run_what_to_do_whatever_the_folders_are_called(
    tmp_path, capsys, monkeypatch
):
    home = tmp_path / "it's 100% $HOME"
    path, output = write_experiment(home, seeds=[0]), home / "out; exit 1"
    monkeypatch.chdir(home)
    override = "title=tiny $(date) 'x'"
    launcher = ["--launcher", "accelerate launch --cpu"]
    scripts, commands = printed(capsys, path, output, "--set", override, *launcher)
    stages = ("train-0", "merge", "score", "select", "report")
    assert list(scripts) == [f"date-x-{stage}" for stage in stages]
    for script in [*scripts.values(), "\n".join(commands)]:
        check = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
        assert check.stderr == ""
    same = ["-m", "revt_hf.cli.main", "run", str(path), "--output", str(output), "--set", override]
    launched = [*same, *launcher, "--no-needs"]
    told_first, _ = told(scripts["date-x-train-0"], 1, tmp_path)
    assert told_first == [str(home), "6", *launched, "--only", "members/other/0"]
    told_score, _ = told(scripts["date-x-score"], 0, tmp_path)
    assert told_score[2:12] == [*same, "--no-needs", "--only"]
    assert "results/recipe/ensembles/both/0/logits" in told_score
    assert told(scripts["date-x-report"], 0, tmp_path)[0][2:] == [*same, "--report-only"]
    assert told(scripts["date-x-train-0"], 2, tmp_path) == ([], 2)
    log = next(line for line in scripts["date-x-merge"].splitlines() if "--output=" in line)
    assert shlex.split(log.replace("#SBATCH ", "")) == [
        f"--output={home}/out; exit 1/slurm/merge-%a.log".replace("100%", "100%%")
    ]


def directives(script):
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if "#SBATCH" in line]


def test_settings_are_common_of_a_stage_and_from_flags(tmp_path, capsys):
    path = write_experiment(tmp_path / "experiment")
    (tmp_path / "site.yaml").write_text(
        "partition: gpu\naccount: vision\ntime: '12:00:00'\ngpus: a100:1\nmemory: 32G\n"
        "setup: |\n  echo one\n  unset_is_fine=$NOT_THERE\nextra: [--qos=low]\nat_once: 2\n"
        "merge: {gpus: 0, partition: cpu, setup: [], requeue: false, time: null}\n"
    )
    settings = tmp_path / "mine.yaml"
    settings.write_text(yaml.safe_dump({"extends": "site.yaml", "train": {"cpus": 8}}))
    flags = ["--settings", settings, "--account", "mine", "--time", "1-00:00:00"]
    scripts, _ = printed(capsys, path, tmp_path / "out", *flags)
    folder = tmp_path / "out" / "slurm"
    assert directives(scripts["train-0"]) == [
        *("--job-name=tiny-train-0", "--array=0-3%2", f"--output={folder}/train-0-%a.log"),
        *("--open-mode=append", "--partition=gpu", "--account=mine", "--time=1-00:00:00"),
        *("--gres=gpu:a100:1", "--cpus-per-task=8", "--mem=32G", "--requeue", "--qos=low"),
    ]
    others = "--partition=cpu --account=mine --mem=32G --no-requeue --qos=low"
    assert directives(scripts["merge"])[4:] == others.split()
    assert told(scripts["train-0"], 0, tmp_path)[0][0] == "one"
    assert "echo one" not in scripts["merge"]


def test_the_processes_of_a_launcher_share_the_cores(tmp_path, capsys):
    scripts, _ = printed(capsys, write_experiment(tmp_path), tmp_path / "out")
    # What is not given is not written.
    options = [line.partition("=")[0] for line in directives(scripts["train-0"])]
    assert options == ["--job-name", "--array", "--output", "--open-mode", "--requeue"]
    launched = ["--gpus", "4", "--launcher", "accelerate launch --num_processes 4"]
    scripts, _ = printed(capsys, write_experiment(tmp_path), tmp_path / "out", *launched)
    assert told(scripts["train-0"], 0, tmp_path)[0][1] == "2"
    assert told(scripts["score"], 0, tmp_path)[0][1] == "6"
    assert [name for name, script in scripts.items() if "--launcher" in script] == ["train-0"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("partion: gpu", "partion: unknown key (did you mean 'partition'?)"),
        ("merge: {gpu: 1}", "merge.gpu: unknown key (did you mean 'gpus'?)"),
        ("time: 12:00:00", 'time: write it as "12:00:00" or "2-00:00:00", in quotes, not 43200'),
        ("time: '1\u0663:00'", "time: write it as"),
        ("memory: 32", "memory: write it as 32G, not 32"),
        ("gpus: many", "gpus: write it as 2 or a100:2, not 'many'"),
        ("cpus: 0", "cpus: input should be greater than or equal to 1, not 0"),
        ("cpus: 99999999999", "cpus: input should be less than"),
        ("partition: a b", "partition: write it as one word, not 'a b'"),
        ('partition: "a\\nb"', "partition: write it as one word"),
        ('account: "a\\e[31m"', "account: write it as one word"),
        ("extra: [qos=low]", "extra: 'qos=low' is no option of sbatch, such as --qos=low"),
        ('extra: ["--qos=low\\nrm -rf x"]', "extra: '--qos=low"),
        ("extra: --array=1", "extra: revt submit itself sets --array: remove it"),
        ('launcher: "it\'s"', "launcher: No closing quotation"),
        ('launcher: "a\\nb"', "launcher: a launcher is one line"),
    ],
)
def test_wrong_settings_are_one_sentence(tmp_path, capsys, text, sentence):
    path, settings = write_experiment(tmp_path), tmp_path / "slurm.yaml"
    settings.write_text(text)
    assert submit(path, tmp_path / "out", "--settings", settings, "--print") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {settings}: {sentence}")


@pytest.mark.parametrize(
    ("output", "flags", "words"),
    [
        ("out", ["--gpus", "many", "--print"], "error: options: gpus: write it as 2 or a100:2"),
        ("out", ["--gpus", "h100:4", "--print"], "4 GPUs for each training, but it would use one"),
        ("out", ["--settings", "/none.yaml"], "cannot read"),
        # Nor may a folder break a line of the script.
        ("a\nrm -rf x", ["--print"], "control characters"),
    ],
    ids=["gpus", "launcher", "file", "folder"],
)
def test_wrong_flags_are_one_sentence(tmp_path, capsys, output, flags, words):
    assert submit(write_experiment(tmp_path), tmp_path / output, *flags) == 2
    said = capsys.readouterr()
    assert words in said.err and "#SBATCH" not in said.out


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/slurm/*.yaml")), ids=lambda p: p.stem)
def test_the_settings_that_are_shipped_are_valid(path):
    settings = load_settings(path, {})
    assert settings.of("train").options() != settings.of("report").options()
