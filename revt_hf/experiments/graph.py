"""The steps of an experiment: what kinds there are, what decides their results, what is scored.

How an experiment becomes a graph of them: :mod:`revt_hf.experiments.steps`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from revt_hf.config.domain_spec import Source
from revt_hf.config.protocol import Protocol
from revt_hf.config.recipe import Recipe
from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import Kind, PaperKey
from revt_hf.evaluation.splits import SplitSpec
from revt_hf.experiments.recipe import Experiment
from revt_hf.merging.merge_spec import Rule

_MOST_STEPS = 20_000


@dataclass(frozen=True)
class Train:
    """Train a member; ``init`` is the step whose network it starts from."""

    recipe: Recipe
    init: str | None


@dataclass(frozen=True)
class Given:
    """A checkpoint that exists: a folder or Hub id."""

    checkpoint: str


@dataclass(frozen=True)
class Average:
    """What a training (a step) keeps besides its last weights; nothing is left to do."""

    training: str
    kind: str


@dataclass(frozen=True)
class MergeWork:
    """Merge ``members`` (steps); all that no rule selects comes from number ``head`` (from 1)."""

    members: tuple[str, ...]
    rules: tuple[Rule, ...]
    head: int
    base: str | None


@dataclass(frozen=True)
class Recalibrate:
    """Re-estimate the head's BatchNorm statistics of a merge on source images."""

    model: str
    sources: tuple[Source, ...]
    images: int


@dataclass(frozen=True)
class Score:
    """Score a network on all splits by one protocol."""

    network: str
    protocol: str


@dataclass(frozen=True)
class Choose:
    """Take the best of ``candidates`` (networks) by the mean mIoU on ``on`` (labels)."""

    candidates: tuple[str, ...]
    on: tuple[str, ...]


Work = Train | Given | Average | MergeWork | Recalibrate | Score | Choose


@dataclass(frozen=True)
class Step:
    """One step: ``needs`` are steps that must have finished."""

    id: str
    work: Work
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Network:
    """What is scored: one step's result, or with ``combine`` several that answer together.

    ``group`` is its row of the table; ``parts`` are steps.
    """

    id: str
    group: str
    kind: Kind
    seed: int | None
    parts: tuple[str, ...]
    head: str | None = None
    paper: PaperKey | None = None
    combine: str | None = None


@dataclass
class Graph:
    """All steps of an experiment, and what they are scored as.

    Attributes:
        experiment: where they come from.
        steps: each after those that it needs.
        passing: merges that are made when they are scored, and not kept.
        networks: what is scored, by name.
        protocols: by name.
        splits: what is scored on.
    """

    experiment: Experiment
    steps: dict[str, Step] = field(default_factory=dict)
    passing: dict[str, Step] = field(default_factory=dict)
    networks: dict[str, Network] = field(default_factory=dict)
    protocols: dict[str, Protocol] = field(default_factory=dict)
    splits: list[SplitSpec] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Add a step.

        Raises:
            UserError: there is one of that name, or there are too many.
        """
        if len(self.steps) + len(self.passing) >= _MOST_STEPS:
            raise UserError(f"the experiment has more than {_MOST_STEPS} steps: use fewer seeds")
        if step.id in self.steps or step.id in self.passing:
            raise UserError(f"two steps of the experiment would be called {step.id}: rename one")
        self.steps[step.id] = step

    def of_kind(self, *kinds: type) -> list[Step]:
        """The steps that do such work, in order."""
        return [step for step in self.steps.values() if isinstance(step.work, kinds)]


def settings_of(step: Step, graph: Graph) -> Mapping[str, Any]:
    """All that decides a step's result, but for what it needs, as JSON values.

    Values that are the defaults are left out: a new field changes nothing that has been done.
    """
    work = step.work
    if isinstance(work, Train):
        return {"recipe": _dumped(work.recipe)}
    if isinstance(work, Given):
        return {"checkpoint": work.checkpoint}
    if isinstance(work, Average):
        return {"average": work.kind}
    if isinstance(work, MergeWork):
        rules = [
            [rule.select, rule.method, rule.weights, dict(rule.parameters)] for rule in work.rules
        ]
        return {"rules": rules, "head": work.head, "base": work.base}
    if isinstance(work, Recalibrate):
        return {"sources": [_dumped(one) for one in work.sources], "images": work.images}
    if isinstance(work, Score):
        passing = graph.passing.get(work.network)
        return {
            "merge": settings_of(passing, graph) if passing else None,
            "protocol": _dumped(graph.protocols[work.protocol]),
            "splits": [[_dumped(one.spec), one.split, one.is_source] for one in graph.splits],
            "combine": graph.networks[work.network].combine,
            "cost": graph.experiment.evaluate.cost,
        }
    return {"candidates": work.candidates, "on": work.on}


def _dumped(section: BaseModel) -> dict[str, Any]:
    return section.model_dump(mode="json", exclude_defaults=True)
