"""An experiment of seconds: two members, a merge, an ensemble, a selection."""

import copy

import yaml

from revt_hf.experiments.build_graph import build_graph
from revt_hf.experiments.experiment_folder import ExperimentFolder
from revt_hf.experiments.experiment_recipe import load_experiment
from tests.helpers.tiny import TINY

EXPERIMENT = {
    "title": "tiny",
    "seeds": [0, 1],
    "members": {
        "base": {"recipe": "member.yaml", "title": "1 base"},
        "other": {"recipe": "member.yaml", "set": {"augmentation.method": 1}},
    },
    "merges": {"revt": {"title": "ReVT", "members": ["base", "other"]}},
    "ensembles": {"both": {"members": ["base", "other"]}},
    "selections": {"best": {"among": ["base", "other", "revt"]}},
    "report": False,
}
# Sections that leave members and their scores only.
MEMBERS_ONLY = {"merges": None, "ensembles": None, "selections": None}


def write_experiment(folder, **sections):
    """Write an experiment and its members' recipe; sections are replaced, None removes one."""
    values = {**copy.deepcopy(EXPERIMENT), **sections}
    values = {key: value for key, value in values.items() if value is not None}
    member = copy.deepcopy(TINY)
    member["source"]["options"]["val_images"] = 2
    target = {"domain": "streets", "config": "fog"}
    target["options"] = {"val_images": 2, "size": [64, 128]}
    member["targets"] = [target]
    member["train"]["steps"] = 2
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "member.yaml").write_text(yaml.safe_dump(member))
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def graph_of(path, *overrides):
    """The graph of an experiment's steps."""
    return build_graph(load_experiment(path, overrides))


def folder_of(path, output):
    """An experiment's folder as it is now."""
    return ExperimentFolder(output, graph_of(path).steps)
