import json
import time

import pytest
from benchmarks import runner

from revt_hf.core.errors import UserError


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.setattr(runner, "ROWS", {})
    monkeypatch.setattr(runner.pkgutil, "iter_modules", lambda path: [])

    def pair(difference):
        return runner.Pair(lambda: time.sleep(0.01), lambda: time.sleep(0.002), difference)

    runner.row("good", peer="a slow one", goal=2.0, repeats=3)(lambda: pair(lambda a, b: 0.0))
    runner.row("wrong", peer="a slow one", goal=100.0, repeats=1)(lambda: pair(lambda a, b: 0.5))


def test_table_json_and_agreement(rows, tmp_path, capsys):
    assert runner.run(["good"], tmp_path / "results.json")
    (result,) = json.loads((tmp_path / "results.json").read_text())
    assert result["runs"] == 3
    assert result["ratio"] > 2
    assert result["ratio"] == pytest.approx(result["peer_ms"] / result["ours_ms"])
    assert "missed" not in capsys.readouterr().out
    assert not runner.run()
    output = capsys.readouterr().out
    assert "100 missed" in output
    assert "0.5 TOO LARGE" in output
    with pytest.raises(UserError, match="good, wrong"):
        runner.run(["other"])


def test_rows_of_the_package_are_found():
    names = {entry.name for entry in runner.load_rows()}
    assert {"pixmix", "photometric", "bilateral", "crop-search"} <= names
    assert [entry.name for entry in runner.load_rows(["pixmix"])] == ["pixmix"]


def test_memory_of_a_side_is_measured_in_its_own_process():
    entry = runner.load_rows(["crop-search"])[0]
    assert 0 <= runner._peak_of(entry, "ours") < 50
