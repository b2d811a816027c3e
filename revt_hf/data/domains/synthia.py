"""SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016): 9,400 rendered images."""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from revt_hf.data.domains.base import Facts, Sharing
from revt_hf.data.domains.layouts import Layout, Match
from revt_hf.data.domains.paired import PairedDomain, PairedOptions
from revt_hf.data.labels import label_table

_TRAIN_SHARE = 0.7  # 6580 of 9400, the size of RobustNet's random division


class SynthiaOptions(PairedOptions):
    """Options of ``synthia``: ``split_seed`` decides which 70 % are ``train``."""

    split_seed: Annotated[int, Field(ge=0)] = 0


class SynthiaDomain(PairedDomain):
    """See the module; splits ``full``, and ``train`` and ``val`` by a seeded division.

    There is no official division. Labels are the first channel of 16-bit colours; terrain, truck
    and train do not occur.
    """

    name = "synthia"
    facts = Facts(
        kind="synthetic",
        license="CC BY-NC-SA 3.0",
        download="the SYNTHIA page of the CVC Barcelona: SYNTHIA_RAND_CITYSCAPES (one .rar)",
        sharing=Sharing(
            "confirm", "its license is CC BY-NC-SA 3.0 at second hand", "cc-by-nc-sa-3.0"
        ),
        images={"train": 6_580, "val": 2_820, "full": 9_400},
    )
    options_model = SynthiaOptions
    split_names = ("train", "val", "full")
    wrappers = ("", "RAND_CITYSCAPES", "SYNTHIA_RAND_CITYSCAPES")

    def layouts(self, config: str | None, options: Any) -> Sequence[Layout]:
        # Some archives hold the folder of labels twice, one in the other.
        labels = ("GT/LABELS", "GT/LABELS/LABELS")
        ours, theirs = label_table("synthia_ids"), label_table("train_ids")
        return [
            *(Layout("official", "RGB", folder, ".png", ".png", ours) for folder in labels),
            *(
                Layout("converted", "RGB", folder, ".png", "_labelTrainIds.png", theirs)
                for folder in labels
            ),
        ]

    def chosen(
        self, split: str, match: Match, data_dir: Path, options: Any
    ) -> Collection[str] | None:
        if split == "full":
            return None
        names = [*match.pairs, *match.unusable]

        def draw(name: str) -> bytes:
            return hashlib.sha256(f"{options.split_seed}:{name}".encode()).digest()

        shuffled = sorted(names, key=draw)
        train = round(_TRAIN_SHARE * len(names))
        return set(shuffled[:train] if split == "train" else shuffled[train:])
