"""Row of converting the original's SegFormer-B5 checkpoint."""

import tempfile
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from benchmarks.runner import Pair, row
from revt_hf.checkpoints.architecture import SIZES
from revt_hf.checkpoints.built import quiet_transformers
from revt_hf.data.label_space import NUM_CLASSES
from revt_hf.models.convert import convert, convert_to_mmseg


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that lasts as long as the process."""
    return tempfile.TemporaryDirectory()


@row("convert-b5", peer="torch.load + save_file, names as they are", goal=0.67)
def convert_b5() -> Pair:
    """At most one and a half times the peer, which neither renames nor checks anything."""
    place = Path(_folder().name)
    size = SIZES["b5"]
    config = SegformerConfig(
        depths=list(size.depths),
        hidden_sizes=list(size.hidden_sizes),
        decoder_hidden_size=size.decoder_hidden_size,
        num_labels=NUM_CLASSES,  # type: ignore[call-arg]
    )
    with quiet_transformers():
        SegformerForSemanticSegmentation(config).save_pretrained(place / "b5")
    original = convert_to_mmseg(place / "b5", place / "b5.pth").output

    def peer() -> Path:
        state = torch.load(original, weights_only=True)["state_dict"]
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, place / "peer")
        return place / "peer"

    def ours() -> Path:
        output = convert(original, place / "converted", overwrite=True).output
        return output / "model.safetensors"

    def difference(_: Path, converted: Path) -> float:
        before = load_file(place / "b5" / "model.safetensors")
        after = load_file(converted)
        return float(sum(not torch.equal(before[name], after[name]) for name in before))

    return Pair(peer, ours, difference)
