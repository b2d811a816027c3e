"""``revt submit`` against a real Slurm: jobs wait for each other, preempted trainings go on."""

import json
import subprocess
import time
from itertools import pairwise

import pytest

from revt_hf.training.run_folder import newest_checkpoint
from tests.helpers import one_node_slurm
from tests.helpers.tiny import run, tiny_recipe
from tests.helpers.tiny_experiment import code_of, folder_of, graph_of, write_experiment

# Enough to be caught in the act.
STEPS = 60
REASON = one_node_slurm.why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.slurm,
    pytest.mark.skipif(REASON is not None, reason=f"no Slurm here: {REASON}"),
]


@pytest.fixture(scope="module")
def slurm():
    with one_node_slurm.one_node_slurm() as config, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(config))
        yield


def wait_until(condition, what, seconds=400):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.1)


def said(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def submitted(output):
    return {row["stage"]: row for row in json.loads((output / "slurm/submitted.json").read_text())}


def fields(job):
    """What Slurm knows of a job, or of one of its tasks."""
    return dict(
        word.split("=", 1) for word in said("scontrol", "show", "job", job).split() if "=" in word
    )


def states(path, output):
    folder = folder_of(path, output)
    return {folder.status(step).state for step in graph_of(path).steps}


def all_logs(output):
    return "\n".join(path.read_text() for path in sorted(output.glob("slurm/*.log")))


def preempted_experiment(folder):
    """A member that trains long enough to be caught in the act, one that exists, a merge."""
    run(folder / "exists", tiny_recipe(train={"steps": 1}))
    steps = {"train.steps": STEPS, "train.checkpoint_every": 3}
    members = {
        "base": {"recipe": "member.yaml", "set": steps, "evaluate": False},
        "other": {"checkpoint": str(folder / "exists"), "evaluate": False},
    }
    return write_experiment(folder, seeds=[0], members=members, ensembles=None, selections=None)


def test_jobs_do_the_whole_experiment_and_a_requeued_training_goes_on(slurm, tmp_path, capsys):
    folder = tmp_path / "my experiments (100%)"
    path, output = preempted_experiment(folder), folder / "out"
    arguments = ("submit", path, "--output", output)
    assert code_of(*arguments, "--cpus", "1", "--time", "10") == 0
    jobs = submitted(output)
    assert list(jobs) == ["train-0", "merge", "score", "report"]
    assert f"merge: job {jobs['merge']['job']}, 1 task, after train-0" in capsys.readouterr().out
    waiting = fields(jobs["score"]["job"])["Dependency"]
    for before in jobs["score"]["after"]:
        assert f"afterany:{jobs[before]['job']}_*" in waiting

    # What is in the queue is not submitted again.
    assert code_of(*arguments) == 2
    assert f"scancel {jobs['train-0']['job']}" in capsys.readouterr().err

    member = output / "members/base/0"
    wait_until(lambda: newest_checkpoint(member) is not None, "no checkpoint is written")
    said("scontrol", "requeue", f"{jobs['train-0']['job']}_0")
    step = newest_checkpoint(member)[1]
    # With how fast it was, which no second run repeats.
    first = (member / "metrics.jsonl").read_text().splitlines()[0]

    wait_until(lambda: not said("squeue", "--noheader").strip(), "the queue does not empty")
    assert states(path, output) == {"done"}, all_logs(output)
    assert step < STEPS
    ended = {stage: fields(f"{row['job']}_0") for stage, row in jobs.items()}
    assert ended["train-0"]["Restarts"] == "1"
    assert (member / "metrics.jsonl").read_text().splitlines()[0] == first
    assert {job["ExitCode"] for job in ended.values()} == {"0:0"}, all_logs(output)
    for before, after in pairwise(ended.values()):
        assert before["EndTime"] <= after["StartTime"]
    assert code_of(*arguments) == 0
    assert "nothing is left to submit" in capsys.readouterr().out
