"""Checkpoints as the original writes them, with random weights, in any size."""

from typing import Any

import torch

WIDTHS = {"narrow": (32, 64, 160, 256), "wide": (64, 128, 320, 512)}
REDUCTIONS = (8, 4, 2, 1)


def original_shapes(
    widths: tuple[int, ...], depths: tuple[int, ...], decoder: int | None, labels: int = 19
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the original's tensors; ``decoder`` None is an ImageNet encoder."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]

    channels = 3
    for stage, (width, depth, ratio) in enumerate(zip(widths, depths, REDUCTIONS, strict=True), 1):
        kernel = 7 if stage == 1 else 3
        layer(f"backbone.patch_embed{stage}.proj", width, channels, kernel, kernel)
        layer(f"backbone.patch_embed{stage}.norm", width)
        layer(f"backbone.norm{stage}", width)
        for block in range(depth):
            prefix = f"backbone.block{stage}.{block}"
            layer(f"{prefix}.norm1", width)
            layer(f"{prefix}.norm2", width)
            layer(f"{prefix}.attn.q", width, width)
            layer(f"{prefix}.attn.kv", 2 * width, width)
            layer(f"{prefix}.attn.proj", width, width)
            if ratio > 1:
                layer(f"{prefix}.attn.sr", width, width, ratio, ratio)
                layer(f"{prefix}.attn.norm", width)
            layer(f"{prefix}.mlp.fc1", 4 * width, width)
            layer(f"{prefix}.mlp.dwconv.dwconv", 4 * width, 1, 3, 3)
            layer(f"{prefix}.mlp.fc2", width, 4 * width)
        channels = width
    if decoder is None:
        layer("head", 1000, widths[-1])
        return {name.removeprefix("backbone."): shape for name, shape in shapes.items()}
    head = "decode_head"
    layer(f"{head}.conv_seg", labels, 128, 1, 1)
    for stage, width in enumerate(widths, 1):
        layer(f"{head}.linear_c{stage}.proj", decoder, width)
    shapes[f"{head}.linear_fuse.conv.weight"] = (decoder, 4 * decoder, 1, 1)
    layer(f"{head}.linear_fuse.bn", decoder)
    shapes[f"{head}.linear_fuse.bn.running_mean"] = (decoder,)
    shapes[f"{head}.linear_fuse.bn.running_var"] = (decoder,)
    shapes[f"{head}.linear_fuse.bn.num_batches_tracked"] = ()
    layer(f"{head}.linear_pred", labels, decoder, 1, 1)
    return shapes


def original_state(seed: int, *args: Any, **keywords: Any) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.tensor(seed + 1)
            if name.endswith("num_batches_tracked")
            else torch.rand(shape, generator=random) * 0.1
        )
        for name, shape in original_shapes(*args, **keywords).items()
    }


def check_same_state(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """The same names and, bit for bit, tensors; of the unused ``conv_seg``, zeros."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape, name
        if "conv_seg" in name:
            assert not found[name].any()
        else:
            assert found[name].dtype == tensor.dtype, name
            assert torch.equal(found[name], tensor), name
