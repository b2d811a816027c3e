"""The content of a report page: models, their results, images, training curves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import DomainScore, Result
from revt_hf.results.sheets import Panel
from revt_hf.results.summary import mean_or_none

ModelKind = Literal["init", "member", "merge"]


@dataclass(frozen=True)
class ReportModel:
    """A row of the report."""

    name: str
    kind: ModelKind
    folder: str | Path = ""
    note: str = ""

    def __post_init__(self) -> None:
        known = get_args(ModelKind)
        if self.kind not in known:
            raise UserError(
                f"model '{self.name}': kind '{self.kind}' is none of {', '.join(known)}"
            )


@dataclass(frozen=True)
class Example:
    """One image of a domain as a series of panels: input, ground truth, models' overlays."""

    domain: str
    name: str
    panels: list[Panel]


@dataclass(frozen=True)
class TrainingCurve:
    """A value over training steps."""

    model: str
    name: str
    points: list[tuple[int, float]]


@dataclass(frozen=True)
class Report:
    """The content of a report page."""

    title: str
    intro: str
    models: list[ReportModel]
    sources: list[str]
    targets: list[str]
    results: list[Result]
    examples: list[Example] = field(default_factory=list)
    curves: list[TrainingCurve] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.targets or not self.sources:
            raise UserError("a report needs at least one source and one unseen domain")
        for what, names in (("model", self.names()), ("domain", self.domains)):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise UserError(f"report: {what} '{twice[0]}' is listed twice")
        for model, domain in self._scores:
            if model not in self.names():
                raise UserError(f"report: a score is of '{model}', which is not a model")
            if domain not in self.domains:
                raise UserError(f"report: a score is on '{domain}', which is not a domain")

    @property
    def domains(self) -> list[str]:
        """The labels of all domains, sources first."""
        return [*self.sources, *self.targets]

    @cached_property
    def _scores(self) -> dict[tuple[str, str], DomainScore]:
        scores: dict[tuple[str, str], DomainScore] = {}
        for result in self.results:
            for score in result.scores:
                if (result.model, score.label) in scores:
                    raise UserError(f"two scores of {result.model} on {score.label}: keep one")
                scores[result.model, score.label] = score
        return scores

    def names(self, kind: ModelKind | None = None) -> list[str]:
        """The names of the models, of one kind or of all."""
        return [model.name for model in self.models if kind in (None, model.kind)]

    def score(self, model: str, domain: str) -> DomainScore | None:
        """The score of a model on a domain, or None."""
        return self._scores.get((model, domain))

    def miou(self, model: str, domain: str) -> float | None:
        """The mIoU of a model on a domain, 0..100, or None."""
        score = self.score(model, domain)
        return None if score is None else score.miou

    def source(self, model: str) -> float | None:
        """The mean mIoU over the source domains, 0..100; None if the model lacks one of them."""
        return mean_or_none([self.miou(model, domain) for domain in self.sources])

    def unseen(self, model: str) -> float | None:
        """The mean mIoU over all unseen domains, 0..100; None if the model lacks one of them."""
        return mean_or_none([self.miou(model, domain) for domain in self.targets])

    def images(self, domain: str) -> list[int]:
        """The numbers of images that the scores on a domain are computed from, sorted."""
        return sorted({s.images for (_, where), s in self._scores.items() if where == domain})

    def classes(self, domain: str) -> set[str]:
        """The classes for which some model has an IoU on a domain."""
        on_domain = [score for (_, where), score in self._scores.items() if where == domain]
        return {
            name for score in on_domain for name, value in score.iou.items() if value is not None
        }

    def class_means(self, models: Sequence[str]) -> dict[str, dict[str, float]]:
        """Class -> model -> mean IoU (0..100) over unseen domains.

        A domain counts for a class only if every model has a value there, so that all means of
        a class are over the same domains. Classes without such a domain are left out.
        """
        names = {name for score in self._scores.values() for name in score.iou}
        means = {}
        for name in names if models else ():
            columns = []
            for domain in self.targets:
                scores = [self.score(model, domain) for model in models]
                column = [None if score is None else score.iou.get(name) for score in scores]
                if None not in column:
                    columns.append(column)
            if columns:
                means[name] = {
                    model: math.fsum(column[row] or 0.0 for column in columns) / len(columns)
                    for row, model in enumerate(models)
                }
        return means


@dataclass(frozen=True)
class Headline:
    """The result in three numbers: mean mIoU over the unseen domains, 0..100.

    ``best_member`` is the member that does best on those very domains.
    """

    merge: str
    merge_miou: float
    members: int
    members_miou: float
    best_member: str
    best_miou: float


def headline(report: Report) -> Headline | None:
    """The headline's numbers; None without a merge, without members, or if a score is missing."""
    merges, members = report.names("merge")[:1], report.names("member")
    unseen = {name: report.unseen(name) for name in [*merges, *members]}
    known = {name: value for name, value in unseen.items() if value is not None}
    if not merges or not members or len(known) < len(unseen):
        return None
    best = max(members, key=lambda name: known[name])
    return Headline(
        merge=merges[0],
        merge_miou=known[merges[0]],
        members=len(members),
        members_miou=sum(known[name] for name in members) / len(members),
        best_member=best,
        best_miou=known[best],
    )
