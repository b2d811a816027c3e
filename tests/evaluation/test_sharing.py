"""Two real processes (gloo) share the images of `revt evaluate` and score as one does."""

import pytest

from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import DomainSpec
from revt_hf.evaluation.evaluate import EvaluateOptions, evaluate
from revt_hf.evaluation.result import SplitSpec, read_results
from tests.helpers.command_line import in_two_processes
from tests.helpers.networks import saved

OPTIONS = ("val_images=5", "size=[64, 128]")


def test_two_processes_with_uneven_shares_score_as_one(tmp_path):
    models = [saved(tmp_path / name, seed) for seed, name in enumerate("ab")]
    arguments = [*models, "--domain", "streets", "--max-size", "native", "--ensemble", "logits"]
    arguments.append("--calibration")
    arguments += [part for option in OPTIONS for part in ("--option", option)]
    result = tmp_path / "together.json"
    script = "tests.helpers.counted_evaluation"
    done = in_two_processes(script, tmp_path, *arguments, "--json", result)
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
        EvaluateOptions(ensembles=("logits",), quiet=True, calibration=True),
    )
    assert [one.scores[0].images for one in alone] == [5] * 3
    together = read_results([result])
    for one, other in zip(together, alone, strict=True):
        values, wanted = (each.model_dump() for each in (one, other))
        found, own = (each["scores"][0].pop("calibration") for each in (values, wanted))
        assert values == wanted
        bins, own_bins = found.pop("bins"), own.pop("bins")
        assert [held["pixels"] for held in bins] == [held["pixels"] for held in own_bins]
        # Sums of floats are rounded in the order of the images.
        assert found == pytest.approx(own)
