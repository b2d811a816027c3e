"""From an experiment file to its steps, and every mistake one sentence."""

import pytest

from revt_hf.core.errors import UserError
from revt_hf.experiments.steps import MergeStep, Score, Train
from tests.helpers.tiny_experiment import MEMBERS_ONLY, graph_of, write_experiment

SMALL = {"model.size": None, "model.depths": None, "model.hidden_sizes": None}


@pytest.fixture
def graph(tmp_path):
    def build(*overrides, **sections):
        return graph_of(write_experiment(tmp_path, **sections), *overrides)

    return build


def _steps(graph, kind):
    return [step for step in graph.steps.values() if isinstance(step, kind)]


def test_members_merges_ensembles_and_selections_become_steps(graph):
    built = graph()
    members = [f"members/{name}/{seed}" for name in ("base", "other") for seed in (0, 1)]
    assert list(built.steps)[:4] == members
    merges = [step.id for step in _steps(built, MergeStep)]
    assert merges == [
        f"merges/revt/{seed}/head-{head}" for seed in (0, 1) for head in ("base", "other")
    ]
    assert built.steps["merges/revt/1/head-other"].inputs == ("members/base/1", "members/other/1")
    assert built.steps["merges/revt/1/head-other"].head == 2
    assert built.networks["merges/revt/1/head-other"].group == "ReVT"
    assert built.networks["ensembles/both/0/logits"].parts == ("members/base/0", "members/other/0")
    scores = {step.network.id for step in _steps(built, Score)}
    assert scores == {name for name in built.networks if not name.startswith("selections")}
    assert len(scores) == 4 + 4 + 2
    assert built.networks["selections/best/1"].kind == "selection"
    assert set(built.steps["selections/best/1"].candidates) == {*members[1::2], *merges[2:]}
    assert [step.recipe.train.seed for step in _steps(built, Train)] == [0, 1, 0, 1]


def test_named_seeds_merge_across_seeds_once(graph):
    built = graph(
        merges={"revt": {"members": ["base/0", "base/1"], "heads": "first"}}, selections=None
    )
    assert [step.id for step in _steps(built, MergeStep)] == ["merges/revt/head-base-0"]
    assert built.networks["merges/revt/head-base-0"].seed is None


def test_init_comes_before_the_members_that_start_from_it(graph):
    members = {
        "base": {"recipe": "member.yaml", "init": "first", "set": SMALL},
        "first": {"recipe": "member.yaml", "seeds": []},
    }
    built = graph(members=members, **MEMBERS_ONLY)
    assert list(built.steps)[:3] == ["members/first", "members/base/0", "members/base/1"]
    assert built.steps["members/base/1"].inputs == ("members/first",)
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
    merges = [step.id for step in _steps(built, MergeStep)]
    assert len(merges) == count
    assert f"merges/m/0/{example}" in merges
    groups = {built.networks[name].group for name in merges}
    assert len(groups) == count


def test_protocols_by_name_and_named_ones(graph):
    own = {"name": "small", "max_size": [96, 48]}
    built = graph(evaluate={"protocols": ["recipe", "paper", own]}, selections=None)
    assert built.protocols["recipe"].max_size is None
    assert built.protocols["paper"].max_size == (1024, 512)
    assert built.protocols["small"].max_size == (96, 48)
    assert "results/small/members/base/0" in built.steps


def test_a_selection_on_a_target_is_refused_unless_allowed(graph):
    on_target = {"best": {"among": ["revt"], "on": "fog/val"}}
    with pytest.raises(UserError, match=r"selections\.best\.on.*allow_target_selection: true"):
        graph(selections=on_target)
    built = graph("allow_target_selection=true", selections=on_target)
    assert built.steps["selections/best/0"].on == ("fog/val",)
    assert built.steps["selections/best/0"].on_target
    assert built.networks["selections/best/0"].kind == "selection"


def _members(**members):
    return {"members": members, "merges": {}}


def _averages(**mean):
    """A member and what should be its average, which its recipe does not ask for."""
    return _members(base={"recipe": "member.yaml"}, mean={"average": "swad", **mean})


BOTH = {"members": ["base", "other"]}


def _merge(**values):
    return {"merges": {"m": {**BOTH, **values}}}


def _selection(**values):
    return {"selections": {"s": values}}


def _weighted(weights, **values):
    return _merge(method="weighted_mean", weights=weights, **values)


def _from(init):
    return {"recipe": "member.yaml", "init": init, "set": SMALL}


FROM_AN_AVERAGE = {
    "base": {
        "recipe": "member.yaml",
        "set": {"train.swad": {"patience": 1}, "train.validate_every": 1},
    },
    "mean": {"of": "base", "average": "swad"},
    "late": _from("mean"),
}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"titel": "x"}, ("titel", "did you mean 'title'")),
        (_members(a={"recipee": "member.yaml"}), ("members.a.recipee", "recipe")),
        (_members(a={}), ("members.a", "recipe", "checkpoint")),
        (_members(**{"a b": {"recipe": "member.yaml"}}), ("'a b'",)),
        (_members(a={"checkpoint": "x", "seeds": [1]}), ("members.a", "{seed}")),
        (_members(a={"recipe": "none.yaml"}), ("none.yaml",)),
        (_members(a={"recipe": "member.yaml", "of": "b"}), ("members.a", "either")),
        (_members(a={"of": "b"}), ("members.a", "average")),
        (_members(a={"of": "b", "average": "mean"}), ("members.a.average", "'mean'")),
        (_averages(of="nobody"), ("members.mean.of", "nobody", "base")),
        (_averages(of="base"), ("members.mean.of", "'base'", "train.swad")),
        (_averages(of="mean"), ("members.mean", "each other")),
        (_averages(of="base/0"), ("members.mean", "no seeds")),
        (_averages(of="base", init="base"), ("members.mean", "set and init")),
        (_members(**FROM_AN_AVERAGE), ("members.late.init", "'mean'", "average")),
        (_members(base=_from("other"), other=_from("base")), ("start from each other",)),
        (_merge(members=["base", "nobody"]), ("merges.m", "nobody", "base, other")),
        (_merge(members=["base", "other/7"]), ("merges.m", "'7'")),
        (_merge(members=["base", "base"]), ("merges.m", "twice")),
        (_merge(heads=["x"]), ("merges.m.heads", "'x'")),
        (_merge(rules=[{}], method="min"), ("method",)),
        (_merge(rules=[{}], layer_weights={"anchor": 1}), ("remove layer_weights",)),
        (_merge(paper="gta5"), ("merges.m.paper", "gta5/b5/1-4-6")),
        (_merge(method="mode"), ("merges.m", "'mode'", "mean")),
        (_weighted([1, 2, 3]), ("merges.m", "3 weights for 2 members")),
        (_merge(method="ties"), ("merges.m", "needs a base")),
        (_merge(select="blocks:1..999999999"), ("no range of blocks",)),
        (_merge(select="blocks:9..1"), ("no range of blocks",)),
        (_weighted([float("inf"), 1.0]), ("weights",)),
        (_merge(method="power", parameters={"p": float("nan")}), ("parameters",)),
        ({"ensembles": {"e": {**BOTH, "combine": "vote"}}}, ("ensembles.e.combine", "vote")),
        (_selection(among=["nothing"]), ("selections.s.among", "nothing")),
        (_selection(among=["base"], on="moon/val"), ("moon/val", "source/val", "fog/val")),
        ({"evaluate": {"protocols": ["papr"]}}, ("evaluate", "papr", "paper")),
        ({"evaluate": {"source": False}}, ("selections.best.on", "evaluate.source")),
        ({"seeds": [-1]}, ("seeds.0",)),
    ],
)
def test_mistakes_are_named(graph, sections, words):
    with pytest.raises(UserError) as caught:
        graph(**sections)
    message = str(caught.value)
    for word in words:
        assert word in message
    assert "\n" not in message


def test_grids_cover_the_simplex_and_are_counted_first(graph):
    none = {"ensembles": None, "selections": None}
    grid = _weighted({"steps": 5}, members=["base/0", "base/1", "other/0"], heads="first")
    weights = [step.rules[0].weights for step in _steps(graph(**none, **grid), MergeStep)]
    assert len(weights) == len(set(weights)) == 21
    assert all(abs(sum(row) - 1) < 1e-9 for row in weights)
    members = {f"m{number}": {"recipe": "member.yaml"} for number in range(8)}
    with pytest.raises(UserError, match="merges, more than 10000"):
        graph(members=members, **none, **_weighted({"steps": 100}, members=list(members)))


def test_recipes_lie_beside_the_file_that_names_them(tmp_path):
    write_experiment(tmp_path / "a")
    child = tmp_path / "b" / "child.yaml"
    child.parent.mkdir()
    child.write_text("extends: ../a/experiment.yaml\nseeds: [5]\n")
    built = graph_of(child)
    assert "members/base/5" in built.steps


def test_weights_by_layer_are_part_of_a_merges_settings(graph):
    def settings(beside_a_method=False, **more):
        rule = {"method": "weighted_mean", **more}
        sections = _merge(**rule) if beside_a_method else _merge(rules=[rule])
        built = graph("seeds=[0]", ensembles=None, selections=None, **sections)
        step, *_ = _steps(built, MergeStep)
        return step.settings()["rules"]

    assert settings() == [["backbone", "weighted_mean", {}]]
    found = [settings(layer_weights={"anchor": 1, "start": start}) for start in (0, 0.5)]
    assert found[0] != found[1]
    assert found[1][0][-1] == {"layer_weights": {"anchor": 1, "start": 0.5, "share": 1.0}}
    assert settings(True, layer_weights={"anchor": 1, "start": 0.5}) == found[1]
    with pytest.raises(UserError, match=r"merges\.m: layer_weights\.anchor is the number"):
        settings(layer_weights={"anchor": 3})
