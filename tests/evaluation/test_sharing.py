"""Two real processes (gloo) share the images of `revt evaluate` and score as one does."""

import os
import subprocess
import sys

import pytest

from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import DomainSpec
from revt_hf.evaluation.evaluate import EvaluateOptions, evaluate
from revt_hf.evaluation.result import SplitSpec, write_results
from tests.helpers.golden import ROOT
from tests.helpers.networks import tiny_model

OPTIONS = ("val_images=5", "size=[64, 128]")


def _together(folder, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", str(ROOT / "tests/helpers/counted_evaluation.py")]
    return subprocess.run(
        [*command, *map(str, [folder, *arguments])],
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folders = [tmp_path_factory.mktemp("models") / name for name in ("a", "b")]
    for seed, folder in enumerate(folders):
        tiny_model(seed).save_pretrained(folder)
    return folders


def test_two_processes_with_uneven_shares_score_as_one(models, tmp_path):
    arguments = [*models, "--domain", "streets", "--max-size", "native", "--ensemble", "logits"]
    arguments += [part for option in OPTIONS for part in ("--option", option)]
    result = tmp_path / "together.json"
    done = _together(tmp_path, *arguments, "--json", result)
    assert done.returncode == 0, done.stderr
    shares = {path.name: path.read_text() for path in tmp_path.glob("*-of-*")}
    assert shares == {"0-of-2": "0 2 4", "1-of-2": "1 3"}
    # Bad input before: both end, one says why.
    assert done.stdout.count("ended with 2") == 2
    assert done.stderr.count("error: cannot load the model '/nowhere'") == 1
    # One process prints, and shows its progress.
    assert done.stdout.count("mIoU") == 1
    assert "3/3" in done.stderr
    assert "2/2" not in done.stderr
    spec = DomainSpec(domain="streets", options={"val_images": 5, "size": [64, 128]})
    alone = evaluate(
        {str(model): model for model in models},
        [SplitSpec(spec, "val", is_source=False)],
        Protocol(max_size=None),
        EvaluateOptions(ensembles=("logits",), quiet=True),
    )
    assert [one.scores[0].images for one in alone] == [5] * 3
    write_results(tmp_path / "alone.json", alone)
    assert result.read_bytes() == (tmp_path / "alone.json").read_bytes()
