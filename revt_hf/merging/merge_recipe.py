"""Merge recipes: a merge written down as YAML."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from revt_hf.config.yaml_files import (
    ExpandedPath,
    Number,
    Positive,
    Section,
    read_with_parents,
    validated,
)
from revt_hf.core.output_folders import check_once
from revt_hf.merging.layer_weights import LayerWeights
from revt_hf.merging.registry import MergeSpec, Rule


class LayerWeightsRecipe(Section):
    """Weights by layer; see ``revt_hf.merging.layer_weights.LayerWeights``."""

    anchor: Positive
    start: Number = 0.0
    share: Number = 1.0


class RuleRecipe(Section):
    """One rule; see ``revt_hf.merging.registry.Rule``."""

    select: str = "backbone"
    method: str = "mean"
    weights: tuple[Number, ...] | None = None
    parameters: dict[str, Number] = Field(default_factory=dict)
    layer_weights: LayerWeightsRecipe | None = None

    def rule(self) -> Rule:
        by_layer = self.layer_weights and LayerWeights(**dict(self.layer_weights))
        return Rule(**{**dict(self), "layer_weights": by_layer})


class MergeRecipe(Section):
    """A merge recipe; see ``revt_hf.merging.registry.MergeSpec``."""

    members: Annotated[tuple[ExpandedPath, ...], Field(min_length=2)]
    rules: Annotated[tuple[RuleRecipe, ...], Field(min_length=1)] = (RuleRecipe(),)
    head: Annotated[int, Field(ge=1)] = 1
    base: ExpandedPath | None = None


def load_merge_recipe(path: Path) -> MergeSpec:
    """Read a merge recipe."""
    recipe = validated(MergeRecipe, read_with_parents(path), path)
    check_once(recipe.members, f"list it once in {path}, and give it a weight")
    rules = tuple(rule.rule() for rule in recipe.rules)
    return MergeSpec(recipe.members, rules, recipe.head, recipe.base)
