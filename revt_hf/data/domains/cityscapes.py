"""Cityscapes, fine annotations (Cordts et al., CVPR 2016): 50 German and Swiss cities."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from revt_hf.data.domains.base import Facts, Sharing
from revt_hf.data.domains.files import read_split_file
from revt_hf.data.domains.layouts import Layout, Match
from revt_hf.data.domains.paired import HIDDEN_TEST, PairedDomain
from revt_hf.data.labels import label_table

# Whole cities, so that no street is on both sides; about a sixth of the training images.
DEV_CITIES = ("darmstadt", "krefeld", "monchengladbach", "ulm", "zurich")
_DEV = "dev"
_REST = "train_without_dev"
_INSIDE = {_DEV: "train", _REST: "train"}


class CityscapesDomain(PairedDomain):
    """See the module; splits ``train``, ``val``, ``dev`` and ``train_without_dev``.

    ``dev`` is cut out of the official ``train``. The original implementation's list for it was
    never published: here it is five cities, or what ``split_files: {dev: ...}`` names.
    """

    name = "cityscapes"
    facts = Facts(
        kind="real",
        license="Cityscapes terms: non-commercial, no redistribution",
        download=(
            "the Cityscapes site (registration): leftImg8bit_trainvaltest and gtFine_trainvaltest"
        ),
        sharing=Sharing("no", "its terms forbid to pass it on, changed versions included"),
        images={"train": 2_975, "val": 500},
    )
    split_names = ("train", "val", _DEV, _REST)
    inside = _INSIDE
    unlabelled = HIDDEN_TEST
    wrappers = ("", "cityscapes")

    def layouts(self, config: str | None, options: Any) -> Sequence[Layout]:
        place = ("leftImg8bit/{split}", "gtFine/{split}", "_leftImg8bit.png")
        return [
            Layout("official", *place, "_gtFine_labelIds.png", label_table("cityscapes_ids")),
            Layout("converted", *place, "_gtFine_labelTrainIds.png", label_table("train_ids")),
        ]

    def chosen(
        self, split: str, match: Match, data_dir: Path, options: Any
    ) -> Collection[str] | None:
        if split not in (_DEV, _REST):
            return None
        names = {*match.pairs, *match.unusable}
        if _DEV in options.split_files:
            path = data_dir / options.split_files[_DEV]
            dev = set(read_split_file(path, names, match.layout.image_suffixes)[0])
        else:
            dev = {name for name in names if name.split("/")[0] in DEV_CITIES}
        return dev if split == _DEV else names - dev
