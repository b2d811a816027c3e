"""KITTI 2015, semantics (Alhaija et al., IJCV 2018): 200 labelled images from Karlsruhe."""

from collections.abc import Sequence
from typing import Any

from revt_hf.data.domains.base import Facts, Sharing
from revt_hf.data.domains.layouts import Layout
from revt_hf.data.domains.paired import HIDDEN_TEST, PairedDomain
from revt_hf.data.labels import label_table


class Kitti2015Domain(PairedDomain):
    """See the module; one split, ``val``: all labelled images, as the field evaluates on them."""

    name = "kitti2015"
    facts = Facts(
        kind="real",
        license="CC BY-NC-SA 3.0",
        download="the KITTI site, semantics benchmark: data_semantics (the version of April 2018)",
        sharing=Sharing(
            "confirm", "its license is CC BY-NC-SA 3.0 at second hand", "cc-by-nc-sa-3.0"
        ),
        images={"val": 200},
    )
    split_names = ("val",)
    unlabelled = HIDDEN_TEST
    wrappers = ("", "data_semantics", "kitti")

    def layouts(self, config: str | None, options: Any) -> Sequence[Layout]:
        ids, train_ids = label_table("cityscapes_ids"), label_table("train_ids")
        # Of the original implementation's own copy nobody knows how many of the 200 it held.
        home_made = ("images/validation", "labels/validation", ".png", "_labelTrainIds.png")
        return [
            Layout("official", "training/image_2", "training/semantic", ".png", ".png", ids),
            Layout("converted", *home_made, train_ids, counted=False),
        ]
