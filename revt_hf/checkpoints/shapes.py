"""Names and shapes of the tensors that a SegFormer of a configuration has; no torch needed."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

CLASSIFIER = "decode_head.classifier"
_RGB = 3


@dataclass(frozen=True)
class Architecture:
    """The fields of a SegFormer's ``config.json`` that decide the network.

    The tuples have one number a stage. The defaults are transformers'.
    """

    depths: tuple[int, ...] = (2, 2, 2, 2)
    hidden_sizes: tuple[int, ...] = (32, 64, 160, 256)
    decoder_hidden_size: int = 256
    num_attention_heads: tuple[int, ...] = (1, 2, 5, 8)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    mlp_ratios: tuple[int, ...] = (4, 4, 4, 4)
    patch_sizes: tuple[int, ...] = (7, 3, 3, 3)
    strides: tuple[int, ...] = (4, 2, 2, 2)
    hidden_act: str = "gelu"

    def differences(self, other: "Architecture") -> dict[str, tuple[Any, Any]]:
        """Field -> this one's value and the other's, where they differ."""
        ours, theirs = asdict(self), asdict(other)
        return {key: (ours[key], theirs[key]) for key in ours if ours[key] != theirs[key]}


def tensor_shapes(architecture: Architecture, classes: int | None) -> dict[str, tuple[int, ...]]:
    """Every tensor that a SegFormer has: on-disk name -> shape.

    Args:
        architecture: its encoder, and its head's width.
        classes: of the decode head; None for the encoder alone, a ``SegformerModel`` (names as
            within a whole SegFormer).
    """
    shapes = dict(_encoder(architecture))
    if classes is not None:
        shapes.update(_head(architecture, classes))
    return shapes


def _encoder(of: Architecture) -> Iterator[tuple[str, tuple[int, ...]]]:
    before = _RGB
    for stage, width in enumerate(of.hidden_sizes):
        patches = f"segformer.encoder.patch_embeddings.{stage}"
        yield from _layer(f"{patches}.proj", width, before, *(2 * [of.patch_sizes[stage]]))
        yield from _layer(f"{patches}.layer_norm", width)
        yield from _layer(f"segformer.encoder.layer_norm.{stage}", width)
        for block in range(of.depths[stage]):
            yield from _block(of, stage, f"segformer.encoder.block.{stage}.{block}")
        before = width


def _block(of: Architecture, stage: int, block: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    width, ratio = of.hidden_sizes[stage], of.sr_ratios[stage]
    inner = width * of.mlp_ratios[stage]
    for part in ("self.query", "self.key", "self.value", "output.dense"):
        yield from _layer(f"{block}.attention.{part}", width, width)
    if ratio > 1:
        yield from _layer(f"{block}.attention.self.sr", width, width, ratio, ratio)
        yield from _layer(f"{block}.attention.self.layer_norm", width)
    for part in ("layer_norm_1", "layer_norm_2"):
        yield from _layer(f"{block}.{part}", width)
    yield from _layer(f"{block}.mlp.dense1", inner, width)
    yield from _layer(f"{block}.mlp.dwconv.dwconv", inner, 1, 3, 3)
    yield from _layer(f"{block}.mlp.dense2", width, inner)


def _head(of: Architecture, classes: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = of.decoder_hidden_size
    for stage, before in enumerate(of.hidden_sizes):
        yield from _layer(f"decode_head.linear_c.{stage}.proj", width, before)
    yield "decode_head.linear_fuse.weight", (width, width * len(of.hidden_sizes), 1, 1)
    yield from _layer("decode_head.batch_norm", width)
    for statistic in ("running_mean", "running_var"):
        yield f"decode_head.batch_norm.{statistic}", (width,)
    yield "decode_head.batch_norm.num_batches_tracked", ()
    yield from _layer(CLASSIFIER, classes, width, 1, 1)


def _layer(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]
