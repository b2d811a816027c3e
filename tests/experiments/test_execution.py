"""``revt run``: what is done stays, what changed is done again, what fails stops only its own."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from revt_hf.core.errors import UserError
from revt_hf.core.outputs import write_json
from revt_hf.evaluation.result import Cost, Selected, read_results
from revt_hf.experiments import experiment_results
from revt_hf.experiments.execution import ExperimentOptions, run_experiment
from revt_hf.experiments.experiment_folder import ExperimentFolder
from revt_hf.experiments.steps import read_result
from revt_hf.merging.record import read_merge_record
from revt_hf.merging.refit import RefitOptions, refit
from revt_hf.models.recorded import read_metrics
from revt_hf.training.run_folder import refit_run
from tests.helpers.command_line import SECONDS, alive, until
from tests.helpers.networks import tiny_model
from tests.helpers.tiny_experiment import (
    MEMBERS_ONLY,
    code_of,
    folder_of,
    graph_of,
    write_experiment,
)

MEMBERS = ("members",)
BASE, OTHER = "merges/revt/0/head-base", "merges/revt/0/head-other"
# Sections of experiments on models that exist.
GIVEN = {"evaluate": {"recipe": "member.yaml"}, "seeds": None}
GIVEN |= {"ensembles": None, "selections": None}


def outcome(path, output, *overrides, **options):
    """Run an experiment."""
    return run_experiment(path, output, overrides, ExperimentOptions(quiet=True, **options))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An experiment of one seed that has run, with what came of it."""
    root = tmp_path_factory.mktemp("finished")
    path = write_experiment(root, seeds=[0])
    return path, root / "out", outcome(path, root / "out")


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of it to change."""
    path, output, _ = finished
    shutil.copytree(path.parent, tmp_path / "copy", copy_function=shutil.copy2)
    return tmp_path / "copy" / path.name, tmp_path / "copy" / output.name


def evaluation(output, name):
    return read_result(output / "results" / "recipe" / f"{name}.json")


def test_everything_is_done_once(finished):
    path, output, first = finished
    steps = sorted(graph_of(path).steps)
    assert (first.problem(), sorted(first.done)) == (None, steps)
    again = outcome(path, output)
    assert (again.done, sorted(again.kept)) == ([], steps)


def test_a_folder_of_somebody_elses_is_no_experiments(tmp_path, monkeypatch):
    path, own = write_experiment(tmp_path, seeds=[0]), tmp_path / "own"
    own.mkdir()
    (own / "thesis.tex").write_text("years")
    (tmp_path / "link").symlink_to(own)
    for output in (own, tmp_path / "link"):
        with pytest.raises(UserError, match="no experiment's folder"):
            outcome(path, output)
    monkeypatch.chdir(own)
    with pytest.raises(UserError, match="the working directory"):
        outcome(path, tmp_path)
    assert [entry.name for entry in own.iterdir()] == ["thesis.tex"]


def test_a_result_records_what_it_is_of(finished):
    _, output, _ = finished
    merged = evaluation(output, OTHER)
    assert (merged.kind, merged.group, merged.seed, merged.head) == ("merge", "ReVT", 0, "other")
    labels = {score.label: score.is_source for score in merged.scores}
    assert labels == {"source/val": True, "fog/val": False}
    digests = [entry["sha256"] for entry in merged.provenance.merge["members"]]
    members = [evaluation(output, f"members/{name}/0") for name in ("base", "other")]
    assert digests == [member.checkpoints[0].sha256 for member in members]
    assert members[1].provenance.recipe["augmentation"]["method"] == 1
    assert merged.provenance.versions["torch"]
    both = evaluation(output, "ensembles/both/0/logits")
    assert [checkpoint.sha256 for checkpoint in both.checkpoints] == digests
    assert both.network_sha256 == sum((member.network_sha256 for member in members), ())
    assert (both.ensemble.members, both.ensemble.combine) == (2, "logits")


def test_a_selection_takes_the_best_on_source_val(finished):
    _, output, _ = finished
    choice = json.loads((output / "selections/best/0.json").read_text())
    among = ("members/base/0", "members/other/0", BASE, OTHER)
    scores = {name: evaluation(output, name).scores[0].miou for name in among}
    assert choice["scores"] == scores
    assert scores[choice["chosen"]] == max(scores.values())
    best = evaluation(output, "selections/best/0")
    assert best.scores == evaluation(output, choice["chosen"]).scores
    chosen = Selected(on=("source/val",), target=False, candidates=4, chosen=choice["chosen"])
    assert (best.selected, best.kind) == (chosen, "selection")


def test_only_what_depends_on_a_change_is_done_again(copied):
    path, output = copied
    on_target = ("selections.best.on=fog/val", "allow_target_selection=true")
    assert outcome(path, output, *on_target).done == ["selections/best/0"]
    assert evaluation(output, "selections/best/0").selected.target is True
    assert outcome(path, output).done == ["selections/best/0"]
    for _ in range(2):
        assert outcome(path, output, "merges.revt.title=averaged").done == []
        assert evaluation(output, BASE).group == "averaged"
    done = outcome(path, output, "members.other.set={'augmentation.method': 2}")
    assert {"members/base/0", "results/recipe/members/base/0"} <= set(done.kept)
    changed = ("members/other/0", BASE, OTHER)
    assert set(done.done) == {
        *(*changed, *(f"results/recipe/{one}" for one in changed)),
        *("results/recipe/ensembles/both/0/logits", "selections/best/0"),
    }


def test_lost_and_changed_results_are_made_again(copied):
    path, output = copied
    # A merge's record names the members' paths: the copy's own bytes are made first.
    shutil.rmtree(output / "merges")
    outcome(path, output)
    before = evaluation(output, BASE)
    os.utime(output / "members/other/0/model.safetensors", (1, 1))
    (output / f"results/recipe/{BASE}.json").unlink()
    (output / "members/base/0/config.json").unlink()
    (output / BASE / "preprocessor_config.json").write_text("{}")
    weights = output / OTHER / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    done = outcome(path, output)
    # The same bytes again: what needs them is still right.
    assert sorted(done.done) == ["members/base/0", BASE, OTHER, f"results/recipe/{BASE}"]
    assert evaluation(output, BASE).scores == before.scores
    assert outcome(path, output).done == []


@pytest.mark.parametrize("changed", ["preprocessor_config.json", "config.json"])
def test_models_from_outside_are_more_than_their_weights(finished, tmp_path, changed):
    _, output, _ = finished
    outside, out = tmp_path / "outside", tmp_path / "out"
    shutil.copytree(output / "members/base/0", outside)
    given, same = {"checkpoint": str(outside)}, {"checkpoint": str(output / "members/other/0")}
    trained = {"recipe": "member.yaml", "set": {"model": {"init": str(outside)}}}
    members = {"given": given, "twin": given, "same": same, "again": same, "trained": trained}
    on_base = {"members": ["same", "again"], "method": "task_arithmetic", "base": str(outside)}
    merges = {"on": on_base, "of": {"members": ["given", "twin"]}}
    path = write_experiment(tmp_path, members=members, merges=merges, **GIVEN)
    steps = graph_of(path).steps
    scored = ("members/given", "merges/of/head-given")
    used = ("merges/of/head-given", *(f"results/recipe/{name}" for name in scored))
    assert outcome(path, out, only=used).done == [*used]
    before = [evaluation(out, name).scores for name in scored]

    def inputs():
        folder = folder_of(path, out)
        names = ("members/trained", "merges/on/head-same", *used)
        return [folder.input_hash(steps[one]) for one in names]

    hashes = inputs()
    assert None not in hashes
    assert inputs() == hashes
    values = json.loads((outside / changed).read_text())
    (outside / changed).write_text(json.dumps({**values, "image_mean": [0.1, 0.2, 0.3]}))
    assert not set(inputs()) & set(hashes)
    # The given models themselves are no work, and the merge ignores what only config.json says.
    brighter = changed == "preprocessor_config.json"
    assert outcome(path, out, only=used).done == [*used[: 3 if brighter else 2]]
    for name, scores in zip(scored, before, strict=True):
        assert (evaluation(out, name).scores != scores) is brighter


def test_what_fails_is_named_and_the_rest_goes_on(copied, capsys):
    path, output = copied
    bad = "members.other.set={'optimizer.lr': 1.0e+30}"
    done = outcome(path, output, bad)
    assert list(done.failed) == ["members/other/0"]
    assert "the loss is" in done.failed["members/other/0"]
    assert done.blocked[BASE] == "members/other/0"
    assert "results/recipe/members/base/0" in done.kept
    assert code_of("run", path, "--output", output, "--set", bad, "--quiet") == 2
    error = capsys.readouterr().err
    for words in ("error: 1 of", "members/other/0: the loss is", "more need them"):
        assert words in error


def test_parts_of_an_experiment(tmp_path):
    path, output = write_experiment(tmp_path, seeds=[0]), tmp_path / "out"
    done = outcome(path, output, only=("merges/revt",), needs=False)
    assert (done.done, set(done.blocked)) == ([], {BASE, OTHER})
    done = outcome(path, output, only=("merges/*/head-other",))
    assert done.done[-1] == OTHER
    assert set(done.done[:-1]) == {"members/base/0", "members/other/0"}
    assert not (output / "results").exists()


def test_the_plan_says_what_is_done_and_writes_nothing(copied, capsys, tmp_path):
    path, output = copied
    shutil.rmtree(output / OTHER)
    before = sorted(output.rglob("*"))
    plan = tmp_path / "plan.json"
    assert code_of("run", path, "--output", output, "--dry-run", "--json", plan) == 0
    states = {row["step"]: row["state"] for row in json.loads(plan.read_text())}
    known = {"members/base/0": "done", OTHER: "missing", f"results/recipe/{OTHER}": "stale"}
    assert states.items() >= known.items()
    assert "10 steps: " in capsys.readouterr().out
    missing = "members.base.set={source: {domain: gta5, data_dir: /nowhere/gta5, options: {}}}"
    assert code_of("run", path, "--output", output, "--dry-run", "--set", missing) == 0
    assert "/nowhere/gta5" in capsys.readouterr().out.replace("\n", "")
    assert sorted(output.rglob("*")) == before


def test_a_checkpoint_can_be_a_member(finished, tmp_path):
    _, output, _ = finished
    members = {
        "old": {"checkpoint": f"{output}/members/base/{{seed}}", "seeds": [0]},
        "other": {"checkpoint": f"{output}/members/other/0"},
    }
    changes = {"recalibrate": 2, "refit": 3}
    merges = {"revt": {"members": ["old", "other"], "heads": "first", **changes}}
    path = write_experiment(tmp_path, members=members, merges=merges, **GIVEN)
    done = outcome(path, tmp_path / "out")
    assert done.problem() is None
    assert "recalibrated/revt/0/head-old" in done.done
    # Each change is of what the one before left.
    record = read_merge_record(tmp_path / "out/refit/revt/0/head-old/merge.json")
    assert [change.kind for change in record.changes] == ["recalibrated", "refit"]
    assert record.changes[1].recipe["train"]["seed"] == 0
    assert evaluation(tmp_path / "out", "refit/revt/0/head-old").kind == "refit"
    assert (tmp_path / "out/merges/revt/0/head-old/model.safetensors").is_file()
    done = outcome(path, tmp_path / "out", f"members.other.checkpoint={tmp_path}/nothing")
    assert f"there is no checkpoint {tmp_path}/nothing" in done.failed["members/other"]


def test_merges_that_are_not_kept_leave_their_scores(copied):
    path, output = copied
    kept, score = evaluation(output, OTHER), f"results/recipe/{OTHER}"
    shutil.rmtree(output / "merges")
    assert score in outcome(path, output, "merges.revt.keep=false").done
    assert not [found for found in (output / "merges").rglob("*") if found.is_file()]
    now = evaluation(output, OTHER)
    assert (now.scores, now.provenance.merge["head"]) == (kept.scores, 2)
    assert outcome(path, output, "merges.revt.keep=false").done == []
    again = outcome(path, output, "merges.revt.keep=false", "merges.revt.select=stage1")
    assert score in again.done


def test_a_training_goes_on_from_its_checkpoint(tmp_path):
    values = {"train.steps": 4, "train.checkpoint_every": 2, "train.keep_checkpoints": 2}
    members = {"base": {"recipe": "member.yaml", "set": values}}
    path = write_experiment(tmp_path, members=members, seeds=[0], **MEMBERS_ONLY)
    assert outcome(path, tmp_path / "whole", only=MEMBERS).done == ["members/base/0"]
    # As an interruption after step 2 leaves it.
    shutil.copytree(tmp_path / "whole/members", tmp_path / "half/members")
    (tmp_path / "half/.steps").mkdir()
    whole, half = (tmp_path / name / "members/base/0" for name in ("whole", "half"))
    shutil.rmtree(half / "checkpoints/step-00000004")
    (half / "model.safetensors").unlink()
    status = folder_of(path, tmp_path / "half").status("members/base/0")
    assert (status.state, status.note) == ("begun", "step 2 of 4")
    outcome(path, tmp_path / "half", only=MEMBERS)
    assert [row["step"] for row in read_metrics(half)] == [1, 2, 3, 4]
    weights = "model.safetensors"
    assert (whole / weights).read_bytes() == (half / weights).read_bytes()


def test_an_interrupted_refit_goes_on(copied, monkeypatch):
    path, output = copied
    refits, name = ("merges.revt.refit=8",), "refit/revt/0/head-base"
    folder = ExperimentFolder(output, graph_of(path, *refits).steps)
    step = graph_of(path, *refits).steps[name]
    job = step.job(folder)
    assert not job.resume
    weights = "model.safetensors"
    refit(job.model, output / "whole", job.recipe, RefitOptions(8, score_val=False))

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("revt_hf.merging.refit._write", interrupt)
        refit(job.model, job.output, job.recipe, RefitOptions(8, score_val=False))
    status = step.status(folder)
    assert (status.state, status.note) == ("begun", "step 8 of 8")
    assert step.job(folder).resume
    assert outcome(path, output, *refits, only=(name,)).done == [name]
    assert (output / name / weights).read_bytes() == (output / "whole" / weights).read_bytes()
    # Another merge is not refit by what was begun with this one.
    refit_run(output / name).mkdir(parents=True)
    (refit_run(output / name) / "recipe.yaml").write_text(job.recipe.to_yaml())
    write_json(refit_run(output / name).parent / "begun.json", {"model": "another"})
    assert not step.job(folder).resume


def test_tables_and_a_page_are_left(copied):
    path, output = copied
    assert code_of("run", path, "--output", output, "--quiet", "--set", "report=true") == 0
    markdown = (output / "tables/experiment.md").read_text()
    rows = {line.split("|")[1].strip(): line for line in markdown.splitlines() if "|" in line}
    score = evaluation(output, "members/base/0").scores[1].miou
    assert f"{score:.1f}" in rows["1 base"]
    assert rows["ReVT"].split("|")[2].strip() == "2"
    assert [row for row in rows if row.startswith("best")]
    for suffix in (".tex", ".csv", ".html"):
        assert "ReVT" in (output / f"tables/experiment{suffix}").read_text()
    page = (output / "reports/experiment.html").read_text()
    assert "ReVT, head base" in page
    assert "both, logits" in page


def test_another_experiment_in_the_folder_stays_out_of_the_table(copied):
    path, output = copied
    smaller = path.with_name("smaller.yaml")
    smaller.write_text(
        "title: smaller\nseeds: [0]\nmembers: {base: {recipe: member.yaml, title: 1 base}}\n"
    )
    assert code_of("run", smaller, "--output", output, "--quiet") == 0
    markdown = (output / "tables/smaller.md").read_text()
    assert "1 base" in markdown and "ReVT" not in markdown
    assert not (output / "reports").exists()


def test_averages_of_a_run_are_members_without_a_training(tmp_path):
    kept = {"train.ema": 0.5, "train.swad": {"patience": 1}, "train.validate_every": 1}
    members = {
        "base-swad": {"of": "base", "average": "swad"},
        "base": {"recipe": "member.yaml", "set": kept},
        "base-ema": {"of": "base", "average": "ema", "title": "moving"},
    }
    merges = {"all": {"members": ["base", "base-ema", "base-swad"], "heads": "first"}}
    sections = {"members": members, "merges": merges, "ensembles": None, "selections": None}
    path, output = write_experiment(tmp_path, **sections), tmp_path / "out"
    done = outcome(path, output)
    assert done.problem() is None
    trained = sorted(step for step in done.done if step.startswith("members/"))
    assert trained == ["members/base/0", "members/base/1"]
    rows = [evaluation(output, f"members/{name}/1") for name in ("base", "base-ema", "base-swad")]
    digests = [row.checkpoints[0].sha256 for row in rows]
    assert len(set(digests)) == 3
    assert [row.seed for row in rows] == [1, 1, 1]
    assert rows[1].group == "moving"
    merged = evaluation(output, "merges/all/1/head-base")
    assert [one["sha256"] for one in merged.provenance.merge["members"]] == digests
    assert outcome(path, output).done == []
    # Without the average, only what is made of it fails, and says why.
    shutil.rmtree(output / "members/base/1/swad")
    lost = outcome(path, output)
    assert "members/base/1 left no swad/" in lost.problem()
    assert set(lost.failed) == {"members/base-swad/1"}


WHOLE = {"size": 1, "modified_ns": 1, "sha256": "", "beside": {}}
DAMAGES = [
    *(b"", b"{", b"[]", b"\xff\0", b"[" * 100_000, b'{"inputs": 3, "result": null}'),
    *({"inputs": 3}, {"seconds": ""}, {"result": {**WHOLE, "size": []}}),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_no_entry(copied, caplog, damage):
    path, output = copied
    step, entry = graph_of(path).steps[BASE], output / ".steps" / f"{BASE}.json"
    if isinstance(damage, dict):
        values = {"step": step.id, "inputs": "", "seconds": 1, "result": WHOLE, **damage}
        damage = json.dumps(values).encode()
    entry.write_bytes(damage)
    with caplog.at_level("INFO", logger="revt_hf"):
        folder = folder_of(path, output)
        assert not folder.done(step.id)
        assert folder.record(step) is None
    assert f"{entry} is damaged: the step is done again" in caplog.text


@pytest.mark.parametrize("damage", ["{}", '{"results": [{"label": "x"}]}', "[1]", "nonsense"])
def test_a_damaged_evaluation_is_named(tmp_path, damage):
    (tmp_path / "e.json").write_text(damage)
    with pytest.raises(UserError, match=r"e\.json"):
        read_result(tmp_path / "e.json")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"only": ("mergers/*",)}, r"--only mergers/\*: it matches no step"),
        ({"launcher": "no-such-launcher x"}, "no-such-launcher"),
        ({"launcher": "a 'b"}, "quotation"),
        ({"report_only": True, "only": ("members",)}, "leave --only out"),
    ],
)
def test_options_are_checked_before_the_work(finished, tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        outcome(finished[0], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_training_that_goes_on_elsewhere_is_left_alone(copied):
    path, output = copied
    folder = output / "members" / "base" / "0"
    shutil.rmtree(folder)
    log = folder.with_name("0.log")
    log.write_text("of the other one")
    code = "import sys, time; from pathlib import Path; "
    code += "from revt_hf.core.output_folders import locked\n"
    code += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    other = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE)
    other.stdout.readline()
    try:
        done = outcome(path, output, only=MEMBERS)
    finally:
        other.kill()
        other.communicate()
    assert "written by another process" in done.failed["members/base/0"]
    assert log.read_text() == "of the other one"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_trainings_end_with_their_run(tmp_path, number, code):
    path = write_experiment(tmp_path, seeds=[0], **MEMBERS_ONLY)
    output = tmp_path / "out"
    command = [sys.executable, "-m", "revt_hf.cli.main", "run", str(path), "--output", str(output)]
    command += ["--quiet", "--jobs", "1", "--set", "members.base.set={train.steps: 1000000}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    metrics = output / "members" / "base" / "0" / "metrics.jsonl"
    until(lambda: metrics.exists() and metrics.read_text())
    (training,) = _trainings_of(output)
    process.send_signal(number)
    _, error = process.communicate(timeout=SECONDS)
    assert (process.returncode, error) == (code, "")
    if number == signal.SIGTERM:
        assert not alive(training)
    until(lambda: not alive(training))


def _trainings_of(output):
    """Numbers of the processes that train into an experiment's folder."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_text().split("\0")
            if words[1:4] == ["-m", "revt_hf.cli.main", "train"] and str(output) in " ".join(words):
                yield int(folder.name)


COST = Cost(
    parameters=1, flops=2, images_per_second=3.5, peak_mib=None, image_size=(64, 128), device="cpu"
)


@pytest.mark.parametrize(
    ("evaluate", "sections", "options", "cost", "page"),
    [
        ({"cost": True, "batch_size": 2, "workers": 1}, {"intro": "Why."}, (2, 1), COST, True),
        ({}, {}, (1, 0), None, False),
    ],
    ids=["asked", "unasked"],
)
def test_scoring_and_report(monkeypatch, tmp_path, evaluate, sections, options, cost, page):
    received, really = [], experiment_results.evaluate

    def spy(segmenters, splits, protocol, given, on_image):
        received.append((given.batch_size, given.workers))
        return really(segmenters, splits, protocol, given, on_image)

    monkeypatch.setattr(experiment_results, "evaluate", spy)
    monkeypatch.setattr(experiment_results, "cost_of", lambda *_: COST)
    for name in "ab":
        tiny_model(ord(name)).save_pretrained(tmp_path / name)
    members = {name: {"checkpoint": str(tmp_path / name)} for name in "ab"}
    revt = {"members": ["a", "b"], "heads": "first"}
    sections |= {"merges": {"revt": revt, "silent": {**revt, "evaluate": False}}, "report": page}
    sections |= {**GIVEN, "evaluate": {"recipe": "member.yaml", **evaluate}}
    out = tmp_path / "out"
    outcome(write_experiment(tmp_path, members=members, **sections), out)
    assert received == [options]
    results = read_results([out / "results"])
    assert {one.cost for one in results} == {cost}
    assert sorted({one.model.split("/")[1] for one in results}) == ["a", "b", "revt"]
    assert list((out / "merges" / "silent").rglob("model.safetensors"))
    pages = [found.read_text() for found in out.glob("reports/*")]
    assert ["Why." in text for text in pages] == [True] * page


def test_calibration_of_members_merges_and_ensembles(tmp_path):
    for name in "abc":
        tiny_model(ord(name)).save_pretrained(tmp_path / name)
    members = {name: {"checkpoint": str(tmp_path / name)} for name in "abc"}
    sections = {
        **GIVEN,
        "merges": {"revt": {"members": ["a", "b"], "heads": "first"}},
        "ensembles": {"pair": {"members": ["a", "b"]}, "three": {"members": ["a", "b", "c"]}},
        "report": True,
    }
    path, out = write_experiment(tmp_path, members=members, **sections), tmp_path / "out"
    plain = graph_of(path).steps["results/recipe/members/a"].settings()
    assert outcome(path, out).problem() is None
    assert all(one.scores[0].calibration is None for one in read_results([out / "results"]))
    # Asked for later it is measured, and nothing else is made again.
    asked = outcome(path, out, "evaluate.calibration=true")
    assert {step.split("/")[0] for step in asked.done} == {"results"}
    assert len(asked.done) == 6
    results = read_results([out / "results"])
    assert all(score.calibration.bins for one in results for score in one.scores)
    assert "AUROC (%)" in (out / "tables" / "experiment.md").read_text()
    (page,) = out.glob("reports/*")
    (_, section) = page.read_text().split('<h2 id="calibration">')
    shown = section.split("</section>")[0]
    # The ensemble of the merge's members stands beside them, the other one does not.
    assert ["pair, logits" in shown, "three, logits" in shown] == [True, False]
    graph = graph_of(path, "evaluate.calibration=true")
    with_it = graph.steps["results/recipe/members/a"].settings()
    assert with_it == {**plain, "calibration": True}
