"""The splits to score on. Nothing here imports torch: plans are made without it."""

from collections.abc import Sequence
from dataclasses import dataclass

from revt_hf.config.recipe import DomainSpec, Recipe, Source
from revt_hf.core.errors import UserError
from revt_hf.data.domains import domain_label


@dataclass(frozen=True)
class SplitSpec:
    """A split to score on, and whether it belongs to the models' training domain."""

    spec: DomainSpec
    split: str
    is_source: bool

    @property
    def label(self) -> str:
        """A short name for tables."""
        return domain_label(self.spec, self.split)


def splits_of(recipe: Recipe) -> list[SplitSpec]:
    """Every source's val and all targets of a recipe."""
    targets = [SplitSpec(target, target.split, is_source=False) for target in recipe.targets]
    return check_labels([*source_splits(recipe.sources), *targets])


def source_splits(sources: Sequence[Source]) -> list[SplitSpec]:
    """The val splits of training domains."""
    return check_labels([SplitSpec(source, source.val, is_source=True) for source in sources])


def check_labels(splits: Sequence[SplitSpec]) -> list[SplitSpec]:
    """The splits, if each has a label of its own: results and tables name them by it alone."""
    known: dict[str, SplitSpec] = {}
    for split in splits:
        other = known.setdefault(split.label, split)
        if other is not split:
            raise UserError(
                f"two splits are called '{split.label}', so their results could not be told apart: "
                f"{_described(other)} and {_described(split)}; name only one of them, or give "
                "their folders other names"
            )
    return list(splits)


def _described(split: SplitSpec) -> str:
    spec = split.spec
    parts = [spec.domain, spec.config, spec.data_dir]
    parts += [f"{key}={value}" for key, value in spec.options.items()]
    kind = "source" if split.is_source else "target"
    return f"the {kind} {' '.join(str(part) for part in parts if part)}"
