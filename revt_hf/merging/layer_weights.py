"""Weights of a merge that change with a layer's depth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from revt_hf.core.errors import UserError
from revt_hf.merging.selection import pyramid_step


@dataclass(frozen=True)
class LayerWeights:
    """Equal weights in early layers, leaning to one member in late ones.

    Up to depth ``start`` each of n members has the weight 1/n; from there the anchor's grows in
    proportion to the depth up to ``share``, and the others have equal parts of the rest.

    Reference: after Alcover-Couso et al., Layer-wise Model Merging for Unsupervised Domain
    Adaptation in Segmentation Tasks, 2024 (arXiv 2409.15813).

    Attributes:
        anchor: number (from 1) of the member.
        start: depth in 0..1 (exclusive), see :func:`depths`.
        share: the anchor's weight in the last layer, from 1/n to 1.
    """

    # A key that is not known here would change the weights.
    __pydantic_config__: ClassVar = {"strict": True, "allow_inf_nan": False, "extra": "forbid"}

    anchor: int
    start: float = 0.0
    share: float = 1.0

    def __str__(self) -> str:
        return f"leaning to member {self.anchor} (weight {self.share:g}) from depth {self.start:g}"

    def check(self, count: int) -> None:
        """Refuse what is no such weights of ``count`` members."""
        if not 1 <= self.anchor <= count:
            raise UserError(
                f"layer_weights.anchor is the number of a member, 1 to {count}: {self.anchor}"
            )
        if not 0 <= self.start < 1:
            raise UserError(f"layer_weights.start is a depth from 0 to below 1: {self.start:g}")
        if not 1 / count <= self.share <= 1:
            raise UserError(
                f"layer_weights.share is the anchor's last weight, 1/{count} to 1: {self.share:g}"
            )

    def at(self, depth: float, count: int) -> tuple[float, ...]:
        """The weights of ``count`` members, of sum 1, at a depth in 0..1."""
        way = max(0.0, (depth - self.start) / (1 - self.start))
        own = 1 / count + way * (self.share - 1 / count)
        other = (1 - own) / (count - 1)
        return tuple(own if number == self.anchor else other for number in range(1, count + 1))


def depths(names: Sequence[str]) -> dict[str, float]:
    """The depth of each tensor of a network: 0 in the encoder's first layer, 1 in its last.

    Layers (patch embeddings, blocks, norms of a stage) are equally spaced; the decode head has 1.
    """
    step_of = {name: pyramid_step(name) for name in names}
    steps = sorted({step for step in step_of.values() if step is not None})
    if len(steps) < 2:
        raise UserError("layer_weights: the order of this network's layers is not known here")
    depth = {step: number / (len(steps) - 1) for number, step in enumerate(steps)}
    return {name: 1.0 if step is None else depth[step] for name, step in step_of.items()}
