"""The recipe of an experiment; :mod:`revt_hf.experiments.graph` turns its sections into steps."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from revt_hf.config.protocol import PROTOCOLS, Protocol
from revt_hf.config.recipe import Recipe, Target, load_recipe
from revt_hf.config.yaml_files import (
    BatchSize,
    ExpandedPath,
    Number,
    Positive,
    Section,
    Seed,
    Workers,
    read_with_parents,
    validated,
)
from revt_hf.core.errors import UserError
from revt_hf.evaluation.result import PaperKey
from revt_hf.merging.merge_recipe import LayerWeightsRecipe, RuleRecipe
from revt_hf.results.published import paper_row

Combine = Literal["logits", "product", "probabilities", "features"]
Weights = tuple[Number, ...]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_RANGE = re.compile(r"blocks:0*([0-9]{1,9})\.\.0*([0-9]{1,9})")
_LAST_BLOCK = 1000


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


_LISTED, _SOME = BeforeValidator(_listed), Field(min_length=1)
_Names = Annotated[tuple[str, ...], _SOME]


def _ranges_expanded(selections: tuple[str, ...]) -> tuple[str, ...]:
    """``blocks:1..3`` -> ``blocks:1``, ``blocks:2``, ``blocks:3``."""
    found: list[str] = []
    for text in selections:
        span = _RANGE.fullmatch(text)
        first, last = map(int, span.groups()) if span else (0, 0)
        if not first <= last <= _LAST_BLOCK:
            raise ValueError(f"'{text}' is no range of blocks up to {_LAST_BLOCK}")
        found += [f"blocks:{number}" for number in range(first, last + 1)] if span else [text]
    return tuple(found)


def _paper(value: Any) -> Any:
    """``gta5/b5/1-4-6`` -> a row of the paper's table."""
    if not isinstance(value, str):
        return value
    source, _, rest = value.partition("/")
    size, _, methods = rest.partition("/")
    if not re.fullmatch(r"\d(-\d)*", methods):
        raise ValueError(f"write it as source/size/methods, such as gta5/b5/1-4-6, not '{value}'")
    numbers = tuple(map(int, methods.split("-")))
    try:
        paper_row(source, size, numbers)
    except UserError as error:
        raise ValueError(str(error)) from error
    return {"source": source, "size": size, "methods": numbers}


class _Titled(Section):
    """``title`` names the table's row, ``paper`` the row of the paper's table to compare with."""

    title: str | None = None
    paper: Annotated[PaperKey | None, BeforeValidator(_paper)] = None


class Member(_Titled):
    """A network: trained by a recipe once per seed, an average of such a run, or a checkpoint.

    ``checkpoint`` has ``{seed}`` in its path if there are seeds; ``of`` names the trained member
    whose ``average`` this is. ``seeds: []`` trains once, with the recipe's own seed.
    """

    recipe: str | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    init: str | None = None
    checkpoint: ExpandedPath | None = None
    seeds: tuple[Seed, ...] | None = None
    of: str | None = None
    average: Literal["ema", "swad"] | None = None
    evaluate: bool = True

    @model_validator(mode="after")
    def _one_origin(self) -> "Member":
        if sum(origin is not None for origin in (self.recipe, self.checkpoint, self.of)) != 1:
            raise ValueError(
                "give either a recipe to train, an existing checkpoint, or the member that this "
                "is an average of"
            )
        if self.recipe is None and (self.set or self.init):
            raise ValueError("set and init belong to a recipe")
        if (self.of is None) != (self.average is None):
            raise ValueError("of and average go together: which member's average, and which one")
        if self.of is not None and ("/" in self.of or self.seeds is not None):
            raise ValueError("an average has the seeds of its member: name no seeds")
        if self.checkpoint is not None and self.seeds and "{seed}" not in self.checkpoint:
            raise ValueError("a checkpoint with seeds needs {seed} in its path")
        return self


class Grid(Section):
    """All weights that are multiples of 1/``steps``, at least 0, and sum to 1."""

    steps: Annotated[int, Field(ge=1, le=100)]


class MergeSection(_Titled):
    """Merges of the same members: one per seed, head, selection and set of weights.

    ``base/1`` is the member ``base`` of seed 1, ``base`` stands for all seeds in turn. With
    ``keep: false`` only scores are kept: hundreds of merges are many GiB.
    """

    members: Annotated[tuple[str, ...], Field(min_length=2)]
    heads: Literal["all", "first"] | tuple[str, ...] = "all"
    select: Annotated[_Names, AfterValidator(_ranges_expanded), _LISTED] = ("backbone",)
    method: str = "mean"
    weights: Weights | tuple[Weights, ...] | Grid | None = None
    parameters: dict[str, Number] = Field(default_factory=dict)
    layer_weights: LayerWeightsRecipe | None = None
    rules: tuple[RuleRecipe, ...] | None = None
    base: ExpandedPath | None = None
    recalibrate: Positive | None = None
    refit: Positive | None = None
    evaluate: bool = True
    keep: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> "MergeSection":
        if not self.keep and (not self.evaluate or self.recalibrate or self.refit):
            raise ValueError("keep: false goes with evaluate, and without recalibrate and refit")
        single = self.model_fields_set & {*RuleRecipe.model_fields}
        if self.rules is not None and single:
            raise ValueError(f"rules replace the other keys: remove {sorted(single)[0]}")
        return self


class Ensemble(_Titled):
    """Networks that predict together, one row for each way to ``combine`` them.

    ``features`` uses one decode head, that of each member in turn.
    """

    members: Annotated[tuple[str, ...], Field(min_length=2)]
    combine: Annotated[tuple[Combine, ...], _SOME, _LISTED] = ("logits",)


class Selection(_Titled):
    """The best of several models of a seed, by the mean mIoU over ``on``: ``source`` or labels."""

    among: _Names
    on: Annotated[_Names, _LISTED] = ("source",)


class NamedProtocol(Protocol):
    name: Annotated[str, Field(pattern=_NAME.pattern)]


class Evaluate(Section):
    """The splits and test protocols that networks are scored on.

    ``recipe`` is by default that of the first trained member, ``targets`` replaces its targets.
    """

    recipe: str | None = None
    targets: tuple[Target, ...] | None = None
    source: bool = True
    protocols: Annotated[tuple[str | NamedProtocol, ...], _SOME, _LISTED] = ("recipe",)
    cost: bool = False
    calibration: bool = False
    batch_size: BatchSize = 1
    workers: Workers = 0

    @model_validator(mode="after")
    def _known(self) -> "Evaluate":
        names = [p if isinstance(p, str) else p.name for p in self.protocols]
        known = ("recipe", *PROTOCOLS)
        for one in self.protocols:
            if isinstance(one, str) and one not in known:
                raise ValueError(f"unknown protocol '{one}': use {', '.join(known)} or a mapping")
        if len(set(names)) < len(names):
            raise ValueError("two protocols have the same name")
        return self


class Experiment(Section):
    """A whole experiment; ``seeds`` apply to all members without their own."""

    title: str
    intro: str = ""
    seeds: tuple[Seed, ...] = ()
    members: Annotated[dict[str, Member], Field(min_length=1)]
    merges: dict[str, MergeSection] = Field(default_factory=dict)
    ensembles: dict[str, Ensemble] = Field(default_factory=dict)
    selections: dict[str, Selection] = Field(default_factory=dict)
    evaluate: Evaluate = Evaluate()
    allow_target_selection: bool = False
    report: bool = True

    @model_validator(mode="after")
    def _names(self) -> "Experiment":
        for name in (*self.members, *self.merges, *self.ensembles, *self.selections):
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"the name '{name}' is not a word of letters, digits, '.', '_', '+', '-'"
                )
        return self

    def seeds_of(self, member: str) -> tuple[int, ...]:
        """The seeds of a member; empty if it is trained once, with its recipe's own."""
        named = self.members[member]
        if named.of is not None and named.of in self.members:
            return self.seeds_of(named.of)
        if named.seeds is not None:
            return named.seeds
        if named.checkpoint is not None and "{seed}" not in named.checkpoint:
            return ()
        return self.seeds


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read and validate an experiment."""
    return validated(Experiment, experiment_values(path, overrides), path)


def experiment_values(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The keys of an experiment, not validated; recipes are resolved against the file."""
    values = read_with_parents(Path(path), overrides, _recipes_beside)
    if "source" in values:
        raise UserError(f"{path} is a training recipe, not an experiment: use revt train")
    return values


def member_recipe(experiment: Experiment, name: str, seed: int | None) -> Recipe:
    """The training recipe of a member; ``model.init`` names a member, not yet its folder."""
    member = experiment.members[name]
    overrides = [f"{key}={json.dumps(value)}" for key, value in member.set.items()]
    if member.init is not None:
        overrides.append(f"model.init=members/{member.init}")
    if seed is not None:
        overrides.append(f"train.seed={seed}")
    return load_recipe(str(member.recipe), overrides)


def _recipes_beside(values: dict[str, Any], folder: Path) -> None:
    """Resolve recipes against the file that names them, also if another file extends it."""
    members = values.get("members")
    sections = list(members.values()) if isinstance(members, dict) else []
    for section in [*sections, values.get("evaluate")]:
        if isinstance(section, dict) and isinstance(section.get("recipe"), str):
            section["recipe"] = str(folder / section["recipe"])
