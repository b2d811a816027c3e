"""The scripts of ``revt submit`` and the settings that shape them."""

import shlex
import subprocess

import pytest
import yaml

from revt_hf.core.errors import UserError
from revt_hf.experiments.slurm_settings import load_settings
from tests.helpers.golden import ROOT
from tests.helpers.submitting import printed, submit, told
from tests.helpers.tiny_experiment import write_experiment


def test_scripts_are_bash_and_tell_run_what_to_do_whatever_the_folders_are_called(
    tmp_path, capsys, monkeypatch
):
    home = tmp_path / "it's 100% $HOME"
    path, output = write_experiment(home, seeds=[0]), home / "out; exit 1"
    monkeypatch.chdir(home)
    override = "title=tiny $(date) 'x'"
    scripts, commands = printed(
        capsys, path, output, "--set", override, "--launcher", "accelerate launch --cpu"
    )
    assert list(scripts) == ["date-x-train-0", "date-x-merge", "date-x-score", "date-x-select",
                             "date-x-report"]  # fmt: skip
    for script in [*scripts.values(), "\n".join(commands)]:
        check = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
        assert check.stderr == ""
    same = ["-m", "revt_hf.cli.main", "run", str(path), "--output", str(output), "--set", override]
    launched = [*same, "--launcher", "accelerate launch --cpu", "--no-needs"]
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


def test_a_launcher_is_for_trainings_only(tmp_path, capsys):
    path = write_experiment(tmp_path)
    scripts, _ = printed(capsys, path, tmp_path / "out", "--launcher", "torchrun")
    assert [name for name, script in scripts.items() if "torchrun" in script] == ["train-0"]


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
    flags = ["--slurm", settings, "--account", "mine", "--time", "1-00:00:00"]
    scripts, _ = printed(capsys, path, tmp_path / "out", *flags)
    folder = tmp_path / "out" / "slurm"
    assert directives(scripts["train-0"]) == [
        "--job-name=tiny-train-0",
        "--array=0-3%2",
        f"--output={folder}/train-0-%a.log",
        "--open-mode=append",
        "--partition=gpu",
        "--account=mine",
        "--time=1-00:00:00",
        "--gres=gpu:a100:1",
        "--cpus-per-task=8",
        "--mem=32G",
        "--requeue",
        "--qos=low",
    ]
    assert directives(scripts["merge"])[4:] == [
        "--partition=cpu",
        "--account=mine",
        "--mem=32G",
        "--no-requeue",
        "--qos=low",
    ]
    assert told(scripts["train-0"], 0, tmp_path)[0][0] == "one"
    assert "echo one" not in scripts["merge"]


def test_what_is_not_given_is_not_written(tmp_path, capsys):
    scripts, _ = printed(capsys, write_experiment(tmp_path), tmp_path / "out")
    options = [line.partition("=")[0] for line in directives(scripts["train-0"])]
    assert options == ["--job-name", "--array", "--output", "--open-mode", "--requeue"]


def test_the_processes_of_a_launcher_share_the_cores(tmp_path, capsys):
    launched = ["--gpus", "4", "--launcher", "accelerate launch --num_processes 4"]
    scripts, _ = printed(capsys, write_experiment(tmp_path), tmp_path / "out", *launched)
    assert told(scripts["train-0"], 0, tmp_path)[0][1] == "2"
    assert told(scripts["score"], 0, tmp_path)[0][1] == "6"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("partion: gpu", "partion: unknown key (did you mean 'partition'?)"),
        ("merge: {gpu: 1}", "merge.gpu: unknown key (did you mean 'gpus'?)"),
        ("time: 12:00:00", 'time: write it as "12:00:00" or "2-00:00:00", in quotes, not 43200'),
        ("memory: 32", "memory: write it as 32G, not 32"),
        ("gpus: many", "gpus: write it as 2 or a100:2, not 'many'"),
        ("cpus: 0", "cpus: input should be greater than or equal to 1, not 0"),
        ("partition: a b", "partition: write it as one word, not 'a b'"),
        ("extra: [qos=low]", "extra: 'qos=low' is no option of sbatch, such as --qos=low"),
        ("extra: --array=1", "extra: revt submit itself sets --array: remove it"),
        ('launcher: "it\'s"', "launcher: No closing quotation"),
    ],
)
def test_wrong_settings_are_one_sentence(tmp_path, capsys, text, sentence):
    path, settings = write_experiment(tmp_path), tmp_path / "slurm.yaml"
    settings.write_text(text)
    assert submit(path, tmp_path / "out", "--slurm", settings, "--print") == 2
    assert capsys.readouterr().err == f"error: {settings}: {sentence}\n"


def test_wrong_flags_are_one_sentence(tmp_path, capsys):
    path, output = write_experiment(tmp_path), tmp_path / "out"
    assert submit(path, output, "--gpus", "many", "--print") == 2
    assert "error: options: gpus: write it as 2 or a100:2" in capsys.readouterr().err
    assert submit(path, output, "--gpus", "h100:4", "--print") == 2
    assert "4 GPUs for each training, but it would use one" in capsys.readouterr().err
    assert submit(path, output, "--slurm", tmp_path / "none.yaml") == 2
    assert "cannot read" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(ROOT.glob("recipes/slurm/*.yaml")), ids=lambda p: p.stem)
def test_the_settings_that_are_shipped_are_valid(path):
    settings = load_settings(path, {})
    assert settings.of("train").options() != settings.of("report").options()


def test_folders_that_would_break_lines_of_a_script_are_refused(tmp_path, capsys):
    path = write_experiment(tmp_path, seeds=[0])
    assert submit(path, tmp_path / "a\nrm -rf x", "--print") == 2
    said = capsys.readouterr()
    assert "control characters" in said.err
    assert "#SBATCH" not in said.out


@pytest.mark.parametrize(
    "settings",
    [
        'extra: ["--qos=low\\nrm -rf x"]',
        'partition: "a\\nb"',
        'account: "a\\e[31m"',
        "cpus: 99999999999",
        "time: '1\u0663:00'",
        'launcher: "a\\nb"',
        'launcher: "\'"',
    ],
)
def test_settings_are_one_line_each(tmp_path, settings):
    (tmp_path / "slurm.yaml").write_text(settings)
    with pytest.raises(UserError):
        load_settings(tmp_path / "slurm.yaml", {})
