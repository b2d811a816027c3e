"""Mutated evaluations and records: tables, curves and protocols are made of them or refused."""

import json

import yaml

from revt_hf.evaluation.result import FORMAT, read_results, write_results
from revt_hf.models.recorded import recorded_protocol, recorded_recipe
from revt_hf.results.figures import build_curves
from revt_hf.results.formats import TableFormat, formatted
from revt_hf.results.tables import TableOptions, build_tables
from tests.helpers.made_up_results import result
from tests.helpers.mutate import cases, mutated_bytes, mutated_json, reads_or_refuses

SCORES = {"town/val": 70.0, "fog-1/val": 40.0}
EVALUATIONS = [
    result("members/base/0", SCORES, seed=0),
    result("merges/revt/0", SCORES, kind="merge", seed=0, head="base"),
]
FILE = {"format": FORMAT, "results": EVALUATIONS}
FORMATS = (TableFormat.markdown, TableFormat.latex, TableFormat.csv, TableFormat.html)


def _written(value, path, rng):
    """A file that is damaged in what it says, or in its bytes."""
    if rng.random() < 0.7:
        path.write_text(json.dumps(mutated_json(value, rng)))
    else:
        path.write_bytes(mutated_bytes(json.dumps(value).encode(), rng))


def _tables(path):
    found = read_results([path])
    write_results(path.with_suffix(".copy"), [one.compact() for one in found])
    tables = build_tables(found, TableOptions())
    for one in FORMATS:
        formatted(tables, one)


def test_mutated_evaluations(tmp_path):
    path = tmp_path / "evaluations.json"
    path.write_text(json.dumps(FILE))
    _tables(path)
    for rng, where in cases("evaluations"):
        _written(FILE, path, rng)
        reads_or_refuses(lambda: _tables(path), where)


def test_mutated_curves(tmp_path):
    scores = {f"camvid-fog-{severity}/val": 50.0 - severity for severity in range(1, 6)}
    one = result("members/base/0", {"camvid/val": 60.0, **scores})
    for row in one["scores"][1:]:
        row["domain"] = "corruptions"
    value = {"format": FORMAT, "results": [one]}
    path = tmp_path / "curves.json"
    path.write_text(json.dumps(value))
    build_curves(read_results([path]), None, None)
    for rng, where in cases("curves"):
        _written(value, path, rng)
        reads_or_refuses(lambda: build_curves(read_results([path]), None, None), where)


def test_mutated_records_of_results(tmp_path):
    protocol = {"max_size": [64, 32], "window": 64, "stride": 32, "scales": [1.0, 0.5]}
    record = {"evaluation": protocol}
    recipe = {"model": {"size": "b0"}, "source": {"domain": "streets"}}
    for rng, where in cases("records"):
        _written(record, tmp_path / "merge.json", rng)
        reads_or_refuses(lambda: recorded_protocol([tmp_path]), where)
    for rng, where in cases("recorded recipes"):
        text = yaml.safe_dump(mutated_json(recipe, rng)).encode("utf-8", "surrogatepass")
        (tmp_path / "recipe.yaml").write_bytes(mutated_bytes(text, rng))
        reads_or_refuses(lambda: recorded_recipe(tmp_path), where)
