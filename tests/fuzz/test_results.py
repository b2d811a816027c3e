"""Mutated evaluations and records: tables, curves and protocols are made of them or refused."""

import json
import sys

import yaml

from revt_hf.models.recorded import recorded_protocol, recorded_recipe
from revt_hf.results.collect import compact_text, read_measurements
from revt_hf.results.curves import build_curves
from revt_hf.results.formats import TableFormat, formatted
from revt_hf.results.matrix import build_tables
from revt_hf.results.rows import TableOptions
from tests.helpers.golden import ROOT
from tests.helpers.mutate import cases, mutated_bytes, mutated_json, reads_or_refuses

sys.path.append(str(ROOT / "tests" / "reporting"))
from tests.helpers.evaluations import evaluation

SCORES = {"town/val": 70.0, "fog-1/val": 40.0}
EVALUATIONS = [
    evaluation("members/base/0", SCORES, seed=0),
    evaluation("merges/revt/0", SCORES, kind="merge", seed=0, head="base"),
]
FORMATS = (TableFormat.markdown, TableFormat.latex, TableFormat.csv, TableFormat.html)


def _written(value, path, rng):
    """A file that is damaged in what it says, or in its bytes."""
    if rng.random() < 0.7:
        path.write_text(json.dumps(mutated_json(value, rng)))
    else:
        path.write_bytes(mutated_bytes(json.dumps(value).encode(), rng))


def _tables(path):
    measurements = read_measurements([path])
    compact_text(measurements)
    tables = build_tables(measurements, TableOptions())
    for one in FORMATS:
        formatted(tables, one)


def test_mutated_evaluations(tmp_path):
    path = tmp_path / "evaluations.json"
    path.write_text(json.dumps(EVALUATIONS))
    _tables(path)
    for rng, where in cases("evaluations"):
        _written(EVALUATIONS, path, rng)
        reads_or_refuses(lambda: _tables(path), where)


def test_mutated_curves(tmp_path):
    scores = {f"camvid-fog-{severity}/val": 50.0 - severity for severity in range(1, 6)}
    value = [evaluation("members/base/0", {"camvid/val": 60.0, **scores})]
    for row in value[0]["results"][1:]:
        row["domain"] = "corruptions"
    path = tmp_path / "curves.json"
    path.write_text(json.dumps(value))
    build_curves(read_measurements([path]), None, None)
    for rng, where in cases("curves"):
        _written(value, path, rng)
        reads_or_refuses(lambda: build_curves(read_measurements([path]), None, None), where)


def test_mutated_records_of_results(tmp_path):
    record = {
        "evaluation": {"max_size": [64, 32], "window": 64, "stride": 32, "scales": [1.0, 0.5]}
    }
    recipe = {"model": {"size": "b0"}, "source": {"domain": "streets"}}
    for rng, where in cases("records"):
        _written(record, tmp_path / "merge.json", rng)
        reads_or_refuses(lambda: recorded_protocol([tmp_path]), where)
    for rng, where in cases("recorded recipes"):
        text = yaml.safe_dump(mutated_json(recipe, rng)).encode("utf-8", "surrogatepass")
        (tmp_path / "recipe.yaml").write_bytes(mutated_bytes(text, rng))
        reads_or_refuses(lambda: recorded_recipe(tmp_path), where)
