"""What a report page is made from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from revt_hf.core.errors import UserError
from revt_hf.results.sheets import Panel
from revt_hf.results.summary import Score, ScoreBoard

Kind = Literal["init", "member", "revt"]


@dataclass(frozen=True)
class Model:
    """A row of the report.

    Args:
        name: as in the scores.
        kind: ``init`` (what the fine-tuning started from), ``member`` (a fine-tuned model whose
            encoder is averaged) or ``revt`` (averaged encoder with one decode head).
        note: a few words on it, e.g. its augmentations or whose head it has; may be empty.

    Raises:
        UserError: another kind.
    """

    name: str
    kind: Kind
    note: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UserError(
                f"model '{self.name}': kind '{self.kind}' is none of {', '.join(get_args(Kind))}"
            )


@dataclass(frozen=True)
class Scene:
    """One scene of a domain as a series of images: input, ground truth, models' overlays."""

    domain: str
    name: str
    panels: list[Panel]


@dataclass(frozen=True)
class Curve:
    """A value over training steps.

    Args:
        model: name of the model that was trained.
        name: what the value is, e.g. ``training loss``; curves of one name share a chart.
        points: (step, value) in order of the steps; values that are not finite are not drawn.
    """

    model: str
    name: str
    points: list[tuple[int, float]]


@dataclass(frozen=True)
class Report:
    """The contents of a report page.

    Args:
        title: the page's title.
        intro: one paragraph on what this is.
        models: the rows in their order; the first of kind ``revt`` is the one in the headline.
        sources: the domains trained on, at least one.
        targets: the unseen domains, at least one.
        scores: at most one per model and domain; combinations may be missing.
        scenes: images of the domains.
        curves: training curves.
        details: heading -> text on how this was made (commands, seeds, versions, protocol,
            durations); line breaks are kept.

    Raises:
        UserError: no target, a name that occurs twice, or a score of an unknown model or domain.
    """

    title: str
    intro: str
    models: list[Model]
    sources: list[str]
    targets: list[str]
    scores: list[Score]
    scenes: list[Scene] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.targets or not self.sources:
            raise UserError("a report needs at least one source and one unseen domain")
        domains = [*self.sources, *self.targets]
        for what, names in (("model", self.names()), ("domain", domains)):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise UserError(f"report: {what} '{twice[0]}' is listed twice")
        for score in self.scores:
            if score.model not in self.names():
                raise UserError(f"report: a score is of '{score.model}', which is not a model")
            if score.domain not in domains:
                raise UserError(f"report: a score is on '{score.domain}', which is not a domain")

    def names(self, kind: Kind | None = None) -> list[str]:
        """The names of the models, of one kind or of all."""
        return [model.name for model in self.models if kind in (None, model.kind)]

    def board(self) -> ScoreBoard:
        """The scores by model and domain."""
        return ScoreBoard(self.scores, self.sources, self.targets)


@dataclass(frozen=True)
class Headline:
    """The result in three numbers: mean mIoU over the unseen domains, 0..100.

    ``best_member`` is the member that does best on those very domains.
    """

    revt: str
    revt_miou: float
    members: int
    members_miou: float
    best_member: str
    best_miou: float


def headline(report: Report) -> Headline | None:
    """The headline's numbers; None without a ReVT, without members, or if a score is missing."""
    board = report.board()
    averaged, members = report.names("revt"), report.names("member")
    unseen = _all_present({name: board.unseen(name) for name in [*averaged[:1], *members]})
    if not averaged or not members or unseen is None:
        return None
    best = max(members, key=lambda name: unseen[name])
    return Headline(
        revt=averaged[0],
        revt_miou=unseen[averaged[0]],
        members=len(members),
        members_miou=sum(unseen[name] for name in members) / len(members),
        best_member=best,
        best_miou=unseen[best],
    )


def legend_classes(board: ScoreBoard, domain: str, order: Sequence[str]) -> list[str]:
    """The classes that some model has an IoU for on a domain, in the given order."""
    present = board.classes(domain)
    return [name for name in order if name in present]


def _all_present(values: dict[str, float | None]) -> dict[str, float] | None:
    present = {name: value for name, value in values.items() if value is not None}
    return present if len(present) == len(values) else None
