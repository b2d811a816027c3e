"""Weights of a merge that change with a layer's depth."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from revt_hf.checkpoints.families import SEGFORMER, Family
from revt_hf.core.errors import UserError
from revt_hf.merging.selection import pyramid_step

# Names within an encoder, as transformers has them: what comes before the numbered stages or
# layers, a part of one of them, and what comes behind the last.
_BEFORE = re.compile(r"(embeddings?|embedder|patch_embed\w*|(conv_)?stem|relative_position_bias)\.")
_INSIDE = re.compile(r"(?:stages?|layers?|blocks?)\.(\d+)\.(.*)")
_BEHIND = re.compile(r"(\w+\.)?(layer_?norm|norm|conv_1x1(_exp)?\.\w+)\.\w+$")
# Within a stage: what comes before its layers, a layer, the norm of its output for the head.
_STAGE_START = re.compile(r"downsampl(ing|e)_layers?\.|conv_(kxk|1x1)\.")
_STAGE_LAYER = re.compile(r"(?:transformer\.)?(?:layers?|blocks?)\.(\d+)\.")
_STAGE_NORM = re.compile(r"hidden_states_norms\.stage(\d+)\.")


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


def depths(names: Sequence[str], wanted: Sequence[str], family: Family) -> dict[str, float]:
    """The depth of each ``wanted`` tensor: 0 in the encoder's first layer, 1 in its last.

    ``names`` are all of the network's. Layers (patch embeddings, blocks, what lies between stages,
    norms) are equally spaced; the decode head has 1.

    Raises:
        UserError: a wanted tensor is in the encoder, but in no layer that is known here.
    """
    layer_of = {name: _layer(name, family) for name in names if family.in_encoder(name)}
    layers = sorted({layer for layer in layer_of.values() if layer is not None})
    unknown = [name for name in wanted if layer_of.get(name, ()) is None]
    if unknown:
        raise UserError(
            f"layer_weights: which layer of the encoder {unknown[0]} is in is not "
            "known here: leave it out of the rule's selection, or give weights"
        )
    depth: dict[tuple[int, ...] | None, float] = {None: 1.0}
    depth |= {layer: number / max(1, len(layers) - 1) for number, layer in enumerate(layers)}
    return {name: depth[layer_of.get(name)] for name in wanted}


def _layer(name: str, family: Family) -> tuple[int, ...] | None:
    """A layer's place in the order of the encoder's; None where it is not known."""
    if family is SEGFORMER:
        return pyramid_step(name)
    inner = name.removeprefix(family.prefix).removeprefix("encoder.")
    if _BEFORE.match(inner):
        return (-1,)
    if norm := _STAGE_NORM.match(inner):
        return (int(norm[1]) - 1, 2)
    if found := _INSIDE.match(inner):
        layer = _STAGE_LAYER.match(found[2])
        first = bool(_STAGE_START.match(found[2]))
        place = (0,) if first else (1, int(layer[1])) if layer else (3,)
        return (int(found[1]), *place)
    # Behind any stage of any network.
    return (2**31,) if _BEHIND.match(inner) else None
