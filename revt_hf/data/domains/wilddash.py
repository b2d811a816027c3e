"""WildDash 1 (Zendel et al., ECCV 2018): hard road scenes from all over the world."""

from collections.abc import Sequence
from typing import Any

from revt_hf.data.domains.base import Facts, Sharing
from revt_hf.data.domains.layouts import Layout
from revt_hf.data.domains.paired import HIDDEN_TEST, PairedDomain
from revt_hf.data.labels import label_table


class WilddashDomain(PairedDomain):
    """See the module; one split, ``val``. (WildDash 2 has panoptic labels and is not covered.)"""

    name = "wilddash"
    facts = Facts(
        kind="real",
        license="CC BY-NC at second hand, version not known",
        download="the WildDash site (registration): wd_val_01",
        sharing=Sharing("no", "its license was not read at first hand"),
        images={"val": 70},
    )
    split_names = ("val",)
    unlabelled = HIDDEN_TEST

    def layouts(self, config: str | None, options: Any) -> Sequence[Layout]:
        place = ("wd_val_01", "wd_val_01", "_100000.png")
        ids, train_ids = label_table("cityscapes_ids"), label_table("train_ids")
        return [
            Layout("official", *place, "_100000_labelIds.png", ids),
            Layout("converted", *place, "_100000_labelTrainIds.png", train_ids),
        ]
