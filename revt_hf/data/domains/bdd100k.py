"""BDD100K, semantic segmentation (Yu et al., CVPR 2020): the 10k images, from US dash cams."""

from collections.abc import Sequence
from typing import Any

from revt_hf.data.domains.base import Facts, Sharing
from revt_hf.data.domains.layouts import Layout
from revt_hf.data.domains.paired import HIDDEN_TEST, PairedDomain
from revt_hf.data.labels import label_table

_OLD, _NEW = "_train_id.png", ".png"


class Bdd100kDomain(PairedDomain):
    """See the module; splits ``train`` and ``val``. The files hold train ids already.

    The 10k images of the segmentation task are not a part of the 100k images.
    """

    name = "bdd100k"
    facts = Facts(
        kind="real",
        license="BDD100K license (educational, research and not-for-profit use)",
        download="the BDD100K portal (registration): 10K Images and Segmentation",
        sharing=Sharing(
            "confirm",
            "its license allows not-for-profit redistribution with its notice kept, so its notice "
            "must go into the repository",
        ),
        images={"train": 7_000, "val": 1_000},
    )
    split_names = ("train", "val")
    unlabelled = HIDDEN_TEST
    wrappers = ("", "bdd100k")

    def layouts(self, config: str | None, options: Any) -> Sequence[Layout]:
        table = label_table("train_ids")
        new, old = "images/10k/{split}", "images/{split}"
        return [
            Layout("official", new, "labels/sem_seg/masks/{split}", ".jpg", _NEW, table),
            Layout("official", f"seg/{old}", "seg/labels/{split}", ".jpg", _OLD, table),
            Layout("converted", old, "labels/{split}", ".jpg", _OLD, table),
            Layout("converted", new, "labels/semseg/masks/{split}", ".jpg", _NEW, table),
            Layout("converted", old, "labels/{split}", ".jpg", _NEW, table),
        ]
