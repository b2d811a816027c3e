"""The splits that are scored on. Nothing here imports torch: plans are made without it."""

from dataclasses import dataclass

from revt_hf.domains import domain_label
from revt_hf.recipe import DomainSpec, Recipe


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
    """Every source's val and all targets of a loaded recipe."""
    return [
        *(SplitSpec(source, source.val, is_source=True) for source in recipe.sources),
        *(SplitSpec(target, target.split, is_source=False) for target in recipe.targets),
    ]
