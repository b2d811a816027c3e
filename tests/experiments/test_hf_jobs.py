"""``revt submit --to hf-jobs``: what a job is sent, what it waits for, and what is shown."""

import json

import pytest
import yaml
from huggingface_hub import JobHardware

from revt_hf.core.outputs import write_json
from revt_hf.experiments.hf_requests import without
from revt_hf.experiments.hf_settings import load_hf_settings
from tests.helpers.golden import ROOT
from tests.helpers.jobs_server import jobs_api
from tests.helpers.tiny_experiment import MEMBERS_ONLY, code_of, write_experiment

SETTINGS = {
    "image": "docker.io/me/revt:1",
    "results": "me/results",
    "flavor": "a10g-small",
    "timeout": "2h",
    "report": {"flavor": "cpu-basic", "timeout": "10m"},
}
SECRET = "wandb-0123456789"


@pytest.fixture
def jobs(monkeypatch):
    with jobs_api(monkeypatch) as found:
        yield found


@pytest.fixture
def submit(tmp_path, monkeypatch):
    """Submit the tiny experiment from its folder; settings are replaced by keyword."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    write_experiment(tmp_path, seeds=[0], selections=None)

    def code(*more, **settings):
        values = {
            key: value for key, value in {**SETTINGS, **settings}.items() if value is not None
        }
        (tmp_path / "jobs.yaml").write_text(yaml.safe_dump(values))
        where = ("--output", "runs/tiny", "--to", "hf-jobs", "--settings", "jobs.yaml")
        return code_of("submit", "experiment.yaml", *where, *more)

    return code


def record(tmp_path):
    rows = json.loads((tmp_path / "runs/tiny/hf_jobs/submitted.json").read_text()).values()
    return {row["name"]: row for row in rows}


def everything_below(folder):
    return "".join(path.read_text() for path in folder.rglob("*") if path.is_file())


def test_jobs_are_sent_in_order_with_all_that_they_need(submit, jobs, tmp_path, capsys):
    volume = {"type": "dataset", "source": "me/gta5", "mount_path": "/data/gta5"}
    more = {"volumes": [volume], "secrets": ["WANDB_API_KEY"], "env": {"WANDB_MODE": "online"}}
    assert submit("--json", "jobs.json", **more) == 0
    sent = jobs.submitted()
    assert sent[:3] == [
        "--no-needs --only members/base/0",
        "--no-needs --only members/other/0",
        "--no-needs --only merges/revt",
    ]
    assert sent[3].startswith("--no-needs --only results/recipe/")
    assert sent[4:] == ["--report-only"]
    first, report = jobs.bodies[0], jobs.bodies[-1]
    assert first["dockerImage"] == "docker.io/me/revt:1"
    assert (first["flavor"], first["timeoutSeconds"]) == ("a10g-small", 7200)
    assert (report["flavor"], report["timeoutSeconds"]) == ("cpu-basic", 600)
    assert first["environment"] == {"WANDB_MODE": "online"}
    assert first["secrets"] == {"WANDB_API_KEY": SECRET}
    assert first["volumes"] == [
        {"type": "bucket", "source": "me/results", "mountPath": "/results", "readOnly": False},
        {"type": "dataset", "source": "me/gta5", "mountPath": "/data/gta5", "readOnly": True},
    ]
    assert first["labels"]["name"] == "tiny-train-0-0"
    assert "--output /results/runs/tiny" in first["command"][2]
    # A merge is sent once both members are completed.
    posts = [number for number, request in enumerate(jobs.requests) if request.startswith("POST")]
    looked = [number for number, request in enumerate(jobs.requests) if "job2" in request]
    assert posts[1] < min(looked) < posts[2]
    said = capsys.readouterr().out
    assert "hf buckets sync hf://buckets/me/results/runs/tiny runs/tiny" in said
    rows = json.loads((tmp_path / "jobs.json").read_text())
    assert {row["state"] for row in rows} == {"COMPLETED"}
    assert rows[2]["after"] == ["train-0-0", "train-0-1"]
    assert SECRET not in said + everything_below(tmp_path)


def test_a_failed_job_stops_what_needs_it_and_is_done_again(submit, jobs, tmp_path, capsys):
    jobs.ends = {"members/other": ["RUNNING", "ERROR"]}
    jobs.log["job2"] = [f"line {number}" for number in range(20)] + [f"key {SECRET} is wrong"]
    assert submit(secrets=["WANDB_API_KEY"]) == 2
    out, err = capsys.readouterr()
    url = record(tmp_path)["train-0-1"]["url"]
    assert url.endswith("/jobs/me/job2")
    assert f"1 of 5 jobs failed: train-0-1 (members/other/0) is ERROR: {url}" in err
    assert "3 more need them and were not started" in err
    assert "line 19" in out + err
    assert "line 5" not in out + err
    assert "key (WANDB_API_KEY) is wrong" in out + err
    assert len(jobs.jobs) == 2
    jobs.ends = {"members/other": ["CANCELED"]}
    assert submit() == 2
    assert "is CANCELED" in capsys.readouterr().err
    jobs.ends = {}
    assert submit() == 0
    # The member that was completed is not trained again.
    assert [words.rpartition(" ")[2] for words in jobs.submitted()[:5]] == [
        *("members/base/0", "members/other/0", "members/other/0", "members/other/0"),
        "merges/revt",
    ]
    before = len(jobs.jobs)
    assert submit() == 0
    assert len(jobs.jobs) == before


def test_an_interrupted_command_waits_for_the_same_jobs(submit, jobs, monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("revt_hf.experiments.hf_jobs.time.sleep", interrupt)
        assert submit() == 130
    assert "2 jobs on the Hub go on" in capsys.readouterr().out
    # While they run, a changed experiment is another one.
    assert submit("--set", "members.other.set.train.steps=3") == 2
    assert "hf jobs cancel me/job2" in capsys.readouterr().err
    assert len(jobs.jobs) == 2
    assert submit() == 0
    assert len(jobs.jobs) == 5
    # Only what depends on the change is done again.
    assert submit("--set", "members.other.set.train.steps=3") == 0
    assert [words.rpartition(" ")[2] for words in jobs.submitted()[5:7]] == [
        *("members/other/0", "merges/revt"),
    ]


def test_a_lost_answer_leads_to_no_second_job(submit, jobs):
    jobs.refusals = [("POST", "lost", ""), ("POST", 503, "busy"), ("POST", 429, "later")]
    assert submit() == 0
    assert len(jobs.jobs) == 5


class Killed(BaseException):
    pass


@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize("number", [3, 4])
def test_a_killed_command_leads_to_no_second_job(submit, jobs, monkeypatch, number, writes):
    """Killed around the record before the second job is sent, and the one after the answer."""
    calls = []

    def write(*given):
        calls.append(given)
        if writes or len(calls) < number:
            write_json(*given)
        if len(calls) == number:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("revt_hf.experiments.hf_jobs.write_json", write)
        with pytest.raises(Killed):
            submit()
    assert submit() == 0
    assert len(jobs.jobs) == len(set(jobs.submitted())) == 5


def test_a_job_of_another_folder_is_not_taken_for_this_one(submit, jobs, tmp_path):
    assert submit() == 0
    # As if killed before the first job was sent: the same experiment was done elsewhere.
    path = tmp_path / "runs/tiny/hf_jobs/submitted.json"
    (digest, row), *_ = json.loads(path.read_text()).items()
    path.write_text(json.dumps({digest: row | {"job": None, "attempt": "f", "state": "waiting"}}))
    assert submit() == 0
    assert len(jobs.jobs) == 10
    # Another bucket has no results yet.
    assert submit(results="me/others") == 0
    assert len(jobs.jobs) == 15


def test_jobs_that_write_to_the_same_folder_without_a_record_are_waited_for(
    submit, jobs, tmp_path, capsys
):
    jobs.ends = {"members/other": ["RUNNING"] * 3 + ["ERROR"]}
    assert submit() == 2
    capsys.readouterr()
    (tmp_path / "runs/tiny/hf_jobs/submitted.json").unlink()
    jobs.jobs["job2"]["status"]["stage"] = "RUNNING"
    assert submit() == 2
    assert "job job2 is RUNNING and writes to the same folder of me/results, but is not in" in (
        capsys.readouterr().err
    )
    assert len(jobs.jobs) == 2


def test_a_job_that_failed_meanwhile_is_shown_before_it_is_done_again(
    submit, jobs, monkeypatch, capsys
):
    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("revt_hf.experiments.hf_jobs.time.sleep", interrupt)
        assert submit() == 130
    jobs.jobs["job1"]["next"] = ["ERROR"]
    jobs.log["job1"] = ["out of memory"]
    assert submit() == 0
    said = "".join(capsys.readouterr())
    assert "train-0-0 (members/base/0): ERROR" in said
    assert "out of memory" in said
    assert len(jobs.jobs) == 6


def test_results_that_another_version_replaced_are_made_again(submit, jobs):
    assert submit() == 0
    assert submit("--set", "members.other.set.train.steps=3") == 0
    assert len(jobs.jobs) == 9
    # The first version is in the record, but its results are no longer in the bucket.
    assert submit() == 0
    assert len(jobs.jobs) == 13
    assert submit() == 0
    assert len(jobs.jobs) == 13


def test_at_most_so_many_at_a_time(submit, jobs):
    most = []
    jobs.after = lambda _: most.append(sum(bool(job["next"]) for job in jobs.jobs.values()))
    assert submit(at_once=1) == 0
    assert max(most) == 1


def test_refusals_of_the_hub_are_one_sentence_without_secrets(submit, jobs, tmp_path, capsys):
    said = f"flavor a10g-small is gone; secret {SECRET}, hf_tokentokentoken"
    jobs.refusals = [("POST", 400, said)]
    assert submit(secrets=["WANDB_API_KEY"]) == 2
    err = capsys.readouterr().err
    assert (
        "answered with status 400: flavor a10g-small is gone; secret (WANDB_API_KEY), (HF_TOKEN)"
        in err
    )
    assert record(tmp_path) == {}
    # The network may fail for a while.
    jobs.refusals = [("GET /api/jobs/me/job1", 503, "busy")] * 3
    assert submit() == 0


def test_every_part_of_a_secret_is_replaced():
    secrets = {"A": "abc", "B": "abcdef", "C": "first line\n  second line\n"}
    assert without("abcdef abc: second line", secrets) == "(B) (A): (C)"


@pytest.mark.parametrize(
    ("what", "status", "sentence"),
    [
        ("whoami", 401, "cannot ask the Hub for your name: the Hub answered with status 401"),
        ("whoami", 401, "hf auth login"),
        ("GET /api/jobs/me?", 403, "cannot list your jobs: the Hub answered with status 403: no"),
        ("POST", 404, "was not submitted: the Hub answered with status 404: no"),
        ("GET /api/jobs/me/job1", 404, "if it is gone, remove runs/tiny/hf_jobs/submitted.json"),
        ("GET /api/jobs/me/job1", 404, "jobs go on: the same command waits again"),
    ],
)
def test_a_final_refusal_ends_the_command(submit, jobs, what, status, sentence, capsys):
    jobs.refusals = [(what, status, "no")]
    assert submit() == 2
    assert sentence in capsys.readouterr().err


def test_print_shows_what_would_be_sent_and_sends_nothing(submit, jobs, tmp_path, capsys):
    more = {"secrets": ["WANDB_API_KEY"], "namespace": "team", "setup": ["pip install revt_hf"]}
    assert submit("--print", "--set", "members.other.set.train.steps=3", **more) == 0
    out = capsys.readouterr().out
    script, *parts = out.split("\n# train-0-0 (members/base/0)\n")
    assert "pip install revt_hf\ncd /\nexec python -m revt_hf.cli.main run " in script
    assert "steps: 3" in script
    printed = yaml.safe_load(parts[0].split("\n#")[0])
    assert printed["secrets"] == ["WANDB_API_KEY"]
    assert printed["command"][3:] == ["revt", "--no-needs", "--only", "members/base/0"]
    assert "# merge (merges/revt), after train-0-0, train-0-1" in out
    assert "5 jobs, run and paid by team" in out
    assert SECRET not in out
    assert jobs.requests == []
    assert not (tmp_path / "runs").exists()


def test_jobs_see_their_own_environment_only(submit, jobs, tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "member.yaml"
    values = yaml.safe_load(recipe.read_text())
    values["targets"] = [{"domain": "cityscapes", "data_dir": "${TOWNS}"}]
    recipe.write_text(yaml.safe_dump(values))
    monkeypatch.setenv("TOWNS", str(tmp_path))
    assert submit("--print") == 2
    assert "TOWNS is not set: jobs get those under env" in capsys.readouterr().err
    assert submit("--print", env={"TOWNS": "/data/towns"}) == 0
    out, err = capsys.readouterr()
    # As written: the job expands it.
    assert "data_dir: ${TOWNS}" in out
    assert "/data/towns is on no volume: the image must have it" in out + err
    assert str(tmp_path) not in out
    # It reads like a model of the Hub, but is a folder.
    values["targets"] = [{"domain": "cityscapes", "data_dir": "data/towns"}]
    recipe.write_text(yaml.safe_dump(values))
    assert submit("--print") == 0
    assert "data/towns is on no volume: the image must have it, as /data/towns" in "".join(
        capsys.readouterr()
    )


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"image": None}, "image: required"),
        ({"timeout": "2 hours"}, "timeout"),
        ({"env": {"HF_TOKEN": "x"}}, "HF_TOKEN looks like a secret"),
        ({"env": {"A": "hf_abcdefghijkl"}}, "A looks like a secret"),
        ({"env": {"A": "https://me:hf_abcdefghijkl@hf.co"}}, "A looks like a secret"),
        ({"env": {"WANDB_APIKEY": "x"}}, "WANDB_APIKEY looks like a secret"),
        ({"setup": ["export WANDB_API_KEY='abc'"]}, "WANDB_API_KEY looks like a secret"),
        ({"setup": ["hf auth login --token hf_abcdefghijkl"]}, "a word of setup or launcher looks"),
        ({"train": {"flavor": None}}, "train.flavor is null"),
        ({"results": "../x"}, "results"),
        ({"secrets": ["NOBODY_SETS_THIS"]}, "NOBODY_SETS_THIS is not set here"),
        ({"flavor": "a100x8"}, "a100x8 has 8 GPUs, but a training would use one"),
        ({"env": {"A": "1"}, "secrets": ["A"]}, "both in env and in secrets"),
        (
            {"volumes": [{"type": "bucket", "source": "me/a", "mount_path": "/results"}]},
            "two volumes are mounted at /results",
        ),
        (
            {"volumes": [{"type": "bucket", "source": "me/a", "mount_path": "/a/../results"}]},
            "/a/../results: mount it outside /results",
        ),
        (
            {"volumes": [{"type": "bucket", "source": "me/a", "mount_path": "/results/runs"}]},
            "/results/runs: mount it outside /results",
        ),
    ],
)
def test_wrong_settings_are_one_sentence(submit, jobs, settings, sentence, capsys):
    assert submit(**settings) == 2
    assert sentence in capsys.readouterr().err
    assert jobs.requests == []


def test_what_is_no_secret_is_not_refused(submit, jobs):
    env = {"MODE": "primary_key", "TOKENIZERS_PARALLELISM": "false"}
    assert submit("--print", env=env, setup=["export HF_TOKEN=$OTHER", "pip install --key=a"]) == 0


def test_wrong_options_are_one_sentence(submit, jobs, tmp_path, capsys):
    assert submit("--gpus", "2") == 2
    assert "--gpus is of Slurm" in capsys.readouterr().err
    where = ("submit", "experiment.yaml", "--to", "hf-jobs")
    assert code_of(*where, "--output", "runs/tiny") == 2
    assert "needs --settings FILE" in capsys.readouterr().err
    assert code_of(*where, "--output", tmp_path / "out", "--settings", "jobs.yaml") == 2
    assert "give a relative one" in capsys.readouterr().err
    assert code_of("submit", "experiment.yaml", "--to", "moon", "--output", "out") == 2
    assert "use slurm or hf-jobs" in capsys.readouterr().err


def test_an_old_huggingface_hub_is_refused(submit, jobs, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.HfApi.list_jobs", lambda self, namespace=None: [])
    assert submit() == 2
    assert "list_jobs has no labels" in capsys.readouterr().err


def test_one_training_with_many_gpus_needs_a_launcher(submit, jobs):
    launcher = "accelerate launch --num_processes 8"
    train = {"flavor": "a100x8", "timeout": "1d"}
    assert submit(launcher=launcher, train=train) == 0
    assert jobs.bodies[0]["command"][-2:] == ["--launcher", launcher]
    assert jobs.bodies[0]["timeoutSeconds"] == 86400
    assert "--launcher" not in jobs.bodies[2]["command"]


@pytest.mark.parametrize("path", sorted((ROOT / "recipes/hf_jobs").glob("*.yaml")), ids=str)
def test_the_settings_that_are_shipped_are_valid_and_in_the_readme(path):
    settings = load_hf_settings(path, None)
    assert settings.of("report").flavor == "cpu-basic"
    flavors = {settings.of(kind).flavor for kind in ("train", "merge", "score", "report")}
    assert flavors <= {flavor.value for flavor in JobHardware}
    assert f"`{path.name}`" in (path.parent / "README.md").read_text()


@pytest.mark.slow
def test_jobs_that_really_run_do_the_whole_experiment(tmp_path, monkeypatch, capsys):
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    monkeypatch.chdir(tmp_path)
    members = {"base": {"recipe": "member.yaml"}}
    path = write_experiment(tmp_path, seeds=[0], members=members, **MEMBERS_ONLY)
    (tmp_path / "jobs.yaml").write_text(yaml.safe_dump(SETTINGS))
    with jobs_api(monkeypatch, bucket) as jobs:
        where = ("--output", "runs/tiny", "--to", "hf-jobs", "--settings", "jobs.yaml")
        assert code_of("submit", path, *where) == 0, jobs.log
    made = bucket / "runs/tiny"
    assert (made / "members/base/0/model.safetensors").is_file()
    assert "| base |" in (made / "tables/experiment.md").read_text()
