"""The built-in domain's gap is real: without augmentation, unseen looks cost 20 points."""

import numpy as np
import pytest

from revt_hf.cli.main import main
from revt_hf.evaluation.result import read_results
from tests.helpers.golden import ROOT


def _revt(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([*map(str, arguments), "--quiet"])
    assert not caught.value.code


@pytest.mark.slow
def test_no_augmentation_loses_twenty_points(tmp_path):
    recipe = ROOT / "recipes" / "streets" / "no-augmentation.yaml"
    short = ["train.steps=450", "train.validate_every=null", "source.options.images=200"]
    overrides = [part for value in short for part in ("--set", value)]
    _revt("train", recipe, "--output", tmp_path / "model", *overrides)
    results = tmp_path / "results.json"
    _revt("evaluate", tmp_path / "model", "--recipe", recipe, "--json", results)
    (result,) = read_results([results])
    source = next(score.miou for score in result.scores if score.is_source)
    unseen = [score.miou for score in result.scores if not score.is_source]
    assert len(unseen) == 4
    assert source - np.mean(unseen) >= 20
