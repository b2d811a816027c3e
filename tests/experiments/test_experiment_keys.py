"""Keys of an experiment that are passed on: intro, report, and how networks are scored."""

import pytest

from revt_hf.evaluation.result import Cost, read_results
from revt_hf.experiments import network_scores
from revt_hf.experiments.execution import ExperimentOptions, run_experiment
from tests.helpers.networks import tiny_model
from tests.helpers.tiny_experiment import write_experiment

COST = Cost(
    parameters=1, flops=2, images_per_second=3.5, peak_mib=None, image_size=(64, 128), device="cpu"
)


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """Write an experiment of two checkpoints and a merge; the options of its scoring."""
    options, really = [], network_scores.evaluate

    def evaluate(segmenters, splits, protocol, given, on_image):
        options.append(given)
        return really(segmenters, splits, protocol, given, on_image)

    monkeypatch.setattr(network_scores, "evaluate", evaluate)
    monkeypatch.setattr(network_scores, "cost_of", lambda *_: COST)
    for name in "ab":
        tiny_model(ord(name)).save_pretrained(tmp_path / name)
    return options


def _run(folder, merges=None, **sections):
    revt = {"members": ["a", "b"], "heads": "first"}
    path = write_experiment(
        folder,
        seeds=[],
        members={name: {"checkpoint": str(folder / name)} for name in "ab"},
        merges={"revt": revt, **{name: {**revt, **more} for name, more in (merges or {}).items()}},
        ensembles=None,
        selections=None,
        evaluate={"recipe": "member.yaml", **sections.pop("evaluate", {})},
        **sections,
    )
    run_experiment(path, folder / "out", [], ExperimentOptions(quiet=True))
    return folder / "out"


def test_scoring_and_intro(scored, tmp_path):
    evaluate = {"cost": True, "batch_size": 2, "workers": 1}
    merges = {"silent": {"evaluate": False}}
    out = _run(tmp_path, merges, evaluate=evaluate, intro="Why this matters.", report=True)
    assert [(one.batch_size, one.workers) for one in scored] == [(2, 1)]
    results = read_results([out / "results"])
    assert {one.cost for one in results} == {COST}
    assert sorted({one.model.split("/")[1] for one in results}) == ["a", "b", "revt"]
    assert list((out / "merges" / "silent").rglob("model.safetensors"))
    (page,) = (out / "reports").iterdir()
    assert "Why this matters." in page.read_text()


def test_nothing_is_measured_or_reported_unasked(scored, tmp_path):
    out = _run(tmp_path, report=False)
    assert [(one.batch_size, one.workers) for one in scored] == [(1, 0)]
    assert {one.cost for one in read_results([out / "results"])} == {None}
    assert not (out / "reports").exists()
