"""From an experiment file to its steps, and every mistake one sentence."""

import pytest

from revt_hf.core.errors import UserError
from revt_hf.experiments.graph import MergeWork, Score, Train
from revt_hf.experiments.recipe import load_experiment
from revt_hf.experiments.steps import build_graph
from tests.helpers.tiny_experiment import write_experiment


@pytest.fixture
def graph(tmp_path):
    def build(*overrides, **sections):
        return build_graph(load_experiment(write_experiment(tmp_path, **sections), overrides))

    return build


@pytest.fixture
def problem(graph):
    def message(*overrides, **sections):
        with pytest.raises(UserError) as caught:
            graph(*overrides, **sections)
        return str(caught.value)

    return message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"select": "blocks:1..999999999"}, "no range of blocks"),
        ({"select": "blocks:9..1"}, "no range of blocks"),
        ({"method": "weighted_mean", "weights": [float("inf"), 1.0]}, "weights"),
        ({"method": "power", "parameters": {"p": float("nan")}}, "parameters"),
    ],
)
def test_merges_of_impossible_numbers_are_refused(tmp_path, change, words):
    merges = {"revt": {"members": ["base", "other"], **change}}
    path = write_experiment(tmp_path, merges=merges, ensembles=None, selections=None)
    with pytest.raises(UserError, match=words):
        build_graph(load_experiment(path))


def test_grids_of_many_members_are_counted_first(tmp_path):
    members = {f"m{number}": {"recipe": "member.yaml"} for number in range(8)}
    grid = {"members": list(members), "method": "weighted_mean", "weights": {"steps": 100}}
    sections = {"members": members, "ensembles": None, "selections": None}
    path = write_experiment(tmp_path, merges={"all": grid}, **sections)
    with pytest.raises(UserError, match="merges, more than 10000"):
        build_graph(load_experiment(path))


def test_members_merges_ensembles_and_selections_become_steps(graph):
    built = graph()
    assert list(built.steps)[:4] == [
        "members/base/0",
        "members/base/1",
        "members/other/0",
        "members/other/1",
    ]
    merges = [step.id for step in built.of_kind(MergeWork)]
    assert merges == [
        f"merges/revt/{seed}/head-{head}" for seed in (0, 1) for head in ("base", "other")
    ]
    assert built.steps["merges/revt/1/head-other"].needs == ("members/base/1", "members/other/1")
    assert built.steps["merges/revt/1/head-other"].work.head == 2
    assert built.networks["merges/revt/1/head-other"].group == "ReVT"
    assert built.networks["ensembles/both/0/logits"].parts == ("members/base/0", "members/other/0")
    scores = {step.work.network for step in built.of_kind(Score)}
    assert scores == {name for name in built.networks if not name.startswith("selections")}
    assert len(scores) == 4 + 4 + 2
    assert built.networks["selections/best/1"].kind == "selection"
    assert set(built.steps["selections/best/1"].work.candidates) == {
        "members/base/1",
        "members/other/1",
        "merges/revt/1/head-base",
        "merges/revt/1/head-other",
    }
    assert [step.work.recipe.train.seed for step in built.of_kind(Train)] == [0, 1, 0, 1]


def test_named_seeds_merge_across_seeds_once(graph):
    built = graph(
        merges={"revt": {"members": ["base/0", "base/1"], "heads": "first"}}, selections=None
    )
    assert [step.id for step in built.of_kind(MergeWork)] == ["merges/revt/head-base-0"]
    assert built.networks["merges/revt/head-base-0"].seed is None


def test_a_start_comes_before_who_starts_from_it(graph):
    members = {
        "base": {
            "recipe": "member.yaml",
            "init": "first",
            "set": {"model.size": None, "model.depths": None, "model.hidden_sizes": None},
        },
        "first": {"recipe": "member.yaml", "seeds": []},
    }
    built = graph(members=members, merges=None, ensembles=None, selections=None)
    assert list(built.steps)[:3] == ["members/first", "members/base/0", "members/base/1"]
    assert built.steps["members/base/1"].needs == ("members/first",)
    assert built.networks["members/first"].kind == "init"


@pytest.mark.parametrize(
    ("merge", "count", "example"),
    [
        ({"select": ["stage1", "norm"]}, 2, "stage1/head-base"),
        ({"select": "blocks:1..3"}, 3, "blocks-2/head-base"),
        ({"weights": [[1, 2], [2, 1]], "method": "weighted_mean"}, 2, "w-2-1/head-base"),
        ({"weights": {"steps": 4}, "method": "weighted_mean"}, 5, "w-0.25-0.75/head-base"),
        ({"weights": [1, 3], "method": "weighted_mean"}, 1, "head-base"),
        ({"rules": [{"select": "stage1"}, {"select": "norm", "method": "min"}]}, 1, "head-base"),
    ],
)
def test_variants_of_a_merge(graph, merge, count, example):
    sections = {"merges": {"m": {"members": ["base", "other"], "heads": "first", **merge}}}
    built = graph("seeds=[0]", ensembles=None, selections=None, **sections)
    merges = [step.id for step in built.of_kind(MergeWork)]
    assert len(merges) == count
    assert f"merges/m/0/{example}" in merges
    groups = {built.networks[name].group for name in merges}
    assert len(groups) == count


def test_the_grid_covers_the_simplex(graph):
    sections = {
        "merges": {
            "m": {
                "members": ["base/0", "base/1", "other/0"],
                "heads": "first",
                "method": "weighted_mean",
                "weights": {"steps": 5},
            }
        }
    }
    built = graph(ensembles=None, selections=None, **sections)
    weights = [step.work.rules[0].weights for step in built.of_kind(MergeWork)]
    assert len(weights) == len(set(weights)) == 21
    assert all(abs(sum(row) - 1) < 1e-9 for row in weights)


def test_protocols_by_name_and_of_ones_own(graph):
    own = {"name": "small", "max_size": [96, 48]}
    built = graph(evaluate={"protocols": ["recipe", "paper", own]}, selections=None)
    assert built.protocols["recipe"].max_size is None
    assert built.protocols["paper"].max_size == (1024, 512)
    assert built.protocols["small"].max_size == (96, 48)
    assert "results/small/members/base/0" in built.steps


def test_a_selection_on_a_target_is_refused_unless_allowed(graph, problem):
    on_target = {"best": {"among": ["revt"], "on": "fog/val"}}
    message = problem(selections=on_target)
    assert "selections.best.on" in message
    assert "allow_target_selection: true" in message
    built = graph("allow_target_selection=true", selections=on_target)
    assert built.steps["selections/best/0"].work.on == ("fog/val",)
    assert built.networks["selections/best/0"].kind == "selection"


def _averages(**mean):
    """A member and what should be its average, which its recipe does not ask for."""
    members = {"base": {"recipe": "member.yaml"}, "mean": {"average": "swad", **mean}}
    return {"members": members, "merges": {}}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"titel": "x"}, ("titel", "did you mean 'title'")),
        ({"members": {"a": {"recipee": "member.yaml"}}}, ("members.a.recipee", "recipe")),
        ({"members": {"a": {}}}, ("members.a", "recipe", "checkpoint")),
        ({"members": {"a b": {"recipe": "member.yaml"}}}, ("'a b'",)),
        ({"members": {"a": {"checkpoint": "x", "seeds": [1]}}}, ("members.a", "{seed}")),
        ({"members": {"a": {"recipe": "none.yaml"}}, "merges": {}}, ("none.yaml",)),
        ({"members": {"a": {"recipe": "member.yaml", "of": "b"}}}, ("members.a", "either")),
        ({"members": {"a": {"of": "b"}}}, ("members.a", "average")),
        ({"members": {"a": {"of": "b", "average": "mean"}}}, ("members.a.average", "'mean'")),
        (_averages(of="nobody"), ("members.mean.of", "nobody", "base")),
        (_averages(of="base"), ("members.mean.of", "'base'", "train.swad")),
        (_averages(of="mean"), ("members.mean", "each other")),
        (_averages(of="base/0"), ("members.mean", "no seeds")),
        (_averages(of="base", init="base"), ("members.mean", "set and init")),
        (
            {
                "members": {
                    "base": {
                        "recipe": "member.yaml",
                        "set": {"train.swad": {"patience": 1}, "train.validate_every": 1},
                    },
                    "mean": {"of": "base", "average": "swad"},
                    "late": {"recipe": "member.yaml", "init": "mean", "set": {"model": {}}},
                },
                "merges": {},
            },
            ("members.late.init", "'mean'", "average"),
        ),
        ({"merges": {"m": {"members": ["base", "nobody"]}}}, ("merges.m", "nobody", "base, other")),
        ({"merges": {"m": {"members": ["base", "other/7"]}}}, ("merges.m", "'7'")),
        ({"merges": {"m": {"members": ["base", "base"]}}}, ("merges.m", "twice")),
        (
            {"merges": {"m": {"members": ["base", "other"], "heads": ["x"]}}},
            ("merges.m.heads", "'x'"),
        ),
        (
            {"merges": {"m": {"members": ["base", "other"], "rules": [{}], "method": "min"}}},
            ("method",),
        ),
        (
            {"merges": {"m": {"members": ["base", "other"], "paper": "gta5"}}},
            ("merges.m.paper", "gta5/b5/1-4-6"),
        ),
        (
            {"merges": {"m": {"members": ["base", "other"], "method": "mode"}}},
            ("merges.m", "'mode'", "mean"),
        ),
        (
            {
                "merges": {
                    "m": {
                        "members": ["base", "other"],
                        "weights": [1, 2, 3],
                        "method": "weighted_mean",
                    }
                }
            },
            ("merges.m", "3 weights for 2 members"),
        ),
        (
            {"merges": {"m": {"members": ["base", "other"], "method": "ties"}}},
            ("merges.m", "needs a base"),
        ),
        (
            {"ensembles": {"e": {"members": ["base", "other"], "combine": "vote"}}},
            ("ensembles.e.combine", "vote"),
        ),
        ({"selections": {"s": {"among": ["nothing"]}}}, ("selections.s.among", "nothing")),
        (
            {"selections": {"s": {"among": ["base"], "on": "moon/val"}}},
            ("moon/val", "source/val", "fog/val"),
        ),
        ({"evaluate": {"protocols": ["papr"]}}, ("evaluate", "papr", "paper")),
        ({"evaluate": {"source": False}}, ("selections.best.on", "evaluate.source")),
        ({"seeds": [-1]}, ("seeds.0",)),
    ],
)
def test_mistakes_are_named(problem, sections, words):
    message = problem(**sections)
    for word in words:
        assert word in message
    assert "\n" not in message


def test_members_that_start_from_each_other_are_refused(problem):
    sizes = {"model.size": None, "model.depths": None, "model.hidden_sizes": None}
    members = {
        name: {"recipe": "member.yaml", "init": other, "set": sizes}
        for name, other in (("base", "other"), ("other", "base"))
    }
    assert "start from each other" in problem(members=members)


def test_recipes_lie_beside_the_file_that_names_them(tmp_path):
    write_experiment(tmp_path / "a")
    child = tmp_path / "b" / "child.yaml"
    child.parent.mkdir()
    child.write_text("extends: ../a/experiment.yaml\nseeds: [5]\n")
    built = build_graph(load_experiment(child))
    assert "members/base/5" in built.steps
