"""The stages of an experiment that runs as jobs elsewhere, and the tasks of each."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from revt_hf.config.yaml_files import Section
from revt_hf.experiments.experiment_folder import Step
from revt_hf.experiments.graph import Graph
from revt_hf.experiments.steps import Score

Kind = Literal["train", "merge", "score", "report"]
_Settings = TypeVar("_Settings", bound=Section)
_Tasks = tuple[tuple[str, ...], ...]
_MOST_NETWORKS = 8


@dataclass(frozen=True)
class Stage:
    """Tasks that can run side by side; each is the ids of its steps, empty for the report."""

    name: str
    kind: Kind
    tasks: _Tasks


def stages(graph: Graph, done: Callable[[str], bool]) -> list[Stage]:
    """The steps that are not done, in the order of work; empty if all are done.

    A task is a training, the merges of one name, or the scores of up to 8 networks.
    """
    left = [step for step in graph.steps.values() if step.stage and not done(step.id)]
    if not left:
        return []
    chosen = tuple(step.id for step in left if step.stage == "select")
    found: list[tuple[str, Kind, _Tasks]] = [
        *((f"train-{n}", "train", tasks) for n, tasks in enumerate(_trainings(left))),
        ("merge", "merge", _merges(left)),
        ("refit", "train", tuple((step.id,) for step in left if step.stage == "refit")),
        ("score", "score", _scores([step for step in left if isinstance(step, Score)])),
        ("select", "report", (chosen,) if chosen else ()),
        ("report", "report", ((),)),
    ]
    return [Stage(name, kind, tasks) for name, kind, tasks in found if tasks]


def settings_of(kind: Kind, settings: Section, model: type[_Settings]) -> _Settings:
    """The settings of a kind of stage: its own values, else the common ones."""
    own = getattr(settings, kind)
    common = {name: getattr(settings, name) for name in model.model_fields}
    return model(**common | {name: getattr(own, name) for name in own.model_fields_set})


def word_of(title: str) -> str:
    """A title as one short word of letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-") or "experiment"


def _trainings(left: Sequence[Step]) -> list[_Tasks]:
    """First the trainings without missing inputs, then those that start from them, ..."""
    levels: dict[str, int] = {}
    for step in left:
        if step.stage == "train":
            before = [levels[one] + 1 for one in step.inputs if one in levels]
            levels[step.id] = max(before, default=0)
    return [
        tuple((step_id,) for step_id, at in levels.items() if at == level)
        for level in sorted(set(levels.values()))
    ]


def _merges(left: Sequence[Step]) -> _Tasks:
    names: dict[str, dict[str, None]] = {}
    for step in left:
        if step.stage == "merge":
            kind, name, *_ = step.id.split("/")
            names.setdefault(name, {})[f"{kind}/{name}"] = None
    return tuple(map(tuple, names.values()))


def _scores(steps: Sequence[Score]) -> _Tasks:
    """Networks with all their protocols: no two tasks make the same temporary merge."""
    networks: dict[str, list[str]] = {}
    for step in steps:
        networks.setdefault(step.network.id, []).append(step.id)
    left = list(networks.values())
    count = -(-len(left) // _MOST_NETWORKS)
    # As equal as possible: the longest task determines when the stage ends.
    parts = [left[n * len(left) // count : (n + 1) * len(left) // count] for n in range(count)]
    return tuple(tuple(step_id for ids in part for step_id in ids) for part in parts)
