"""Rendered datasets without an official division: SYNTHIA, UrbanSyn and Synscapes."""

import hashlib
from collections.abc import Collection
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import Field

from revt_hf.data.domains.base import Facts, Layout, Sharing
from revt_hf.data.domains.files import Match
from revt_hf.data.domains.opening import register_domain
from revt_hf.data.domains.paired import PairedDomain, PairedOptions
from revt_hf.data.labels import CITYSCAPES_IDS, label_table


class DrawnOptions(PairedOptions):
    split_seed: Annotated[int, Field(ge=0)] = 0  # decides which images are train


class DrawnDomain(PairedDomain):
    """A domain whose ``train`` and ``val`` are drawn from ``full`` by a seed."""

    options_model = DrawnOptions
    train_share: ClassVar[float] = 0.9

    def chosen(self, split: str, match: Match, options: Any) -> Collection[str] | None:
        if split == "full":
            return None

        def draw(name: str) -> bytes:
            return hashlib.sha256(f"{options.split_seed}:{name}".encode()).digest()

        shuffled = sorted(match.names, key=draw)
        train = round(self.train_share * len(shuffled))
        return set(shuffled[:train] if split == "train" else shuffled[train:])


# Some archives hold the folder of labels twice, one in the other.
_SYNTHIA = (("RGB", "GT/LABELS", ".png"), ("RGB", "GT/LABELS/LABELS", ".png"))


@register_domain
class Synthia(DrawnDomain):
    """SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016): 9,400 rendered images, divided by a seed."""

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
    train_share = 0.7  # 6580 of 9400, the size of RobustNet's random division
    wrappers = ("RAND_CITYSCAPES", "SYNTHIA_RAND_CITYSCAPES")
    layouts = (
        *(Layout("official", *place, ".png", label_table("synthia_ids")) for place in _SYNTHIA),
        *(Layout("converted", *place, "_labelTrainIds.png") for place in _SYNTHIA),
    )


_URBANSYN = label_table("urbansyn_ids")
_NAMES = ("rgb_", "ss_")


@register_domain
class UrbanSyn(DrawnDomain):
    """UrbanSyn (Gomez et al., 2023): 7,539 rendered images of streets, divided by a seed."""

    name = "urbansyn"
    facts = Facts(
        kind="synthetic",
        license="CC BY-SA 4.0",
        download="urbansyn.org, or the Hub dataset UrbanSyn/UrbanSyn: the folders rgb and ss",
        sharing=Sharing("yes", "its license is CC BY-SA 4.0", "cc-by-sa-4.0"),
        images={"train": 6_785, "val": 754, "full": 7_539},
        hub_id="UrbanSyn/UrbanSyn",
    )
    wrappers = ("UrbanSyn", "urbansyn")
    layouts = (
        Layout("official", "rgb", "ss", ".png", ".png", _URBANSYN, prefixes=_NAMES),
        # Each archive unpacked to a folder of its own name.
        Layout("official", "rgb/rgb", "ss/ss", ".png", ".png", _URBANSYN, prefixes=_NAMES),
        # Renamed for loaders that want an image and its label to have the same name.
        Layout("converted", "rgb", "ss", ".png", ".png", _URBANSYN),
    )


_SYNSCAPES = {"train": 22_500, "val": 2_500, "full": 25_000}
_CLASS = ("img/rgb", "img/class", ".png")
_RENDERED = (
    Layout("official", *_CLASS, ".png", CITYSCAPES_IDS, config="native"),
    *(
        Layout("converted", *_CLASS, suffix, config="native")
        for suffix in ("_labelTrainIds.png", "_gt_labelTrainIds.png")
    ),
)


@register_domain
class Synscapes(DrawnDomain):
    """Synscapes (Wrenninge and Unger, 2018): 25,000 rendered images, each of another scene."""

    name = "synscapes"
    facts = Facts(
        kind="synthetic",
        license="own terms, on request",
        download="the Synscapes page of Linkoping University (registration): img/rgb and img/class",
        sharing=Sharing("no", "its terms were not read at first hand"),
        images=_SYNSCAPES,
        images_of={"2k": _SYNSCAPES},
    )
    configs = ("native", "2k")
    wrappers = ("Synscapes", "synscapes")
    # Rendered at 1440x720; 2k: enlarged to 2048x1024 before its noise, with the same labels.
    layouts = (
        *_RENDERED,
        *(
            replace(layout, images="img/rgb-2k", config="2k", fit_labels=True)
            for layout in _RENDERED
        ),
    )
