"""IDD, the India Driving Dataset, segmentation part I (Varma et al., WACV 2019)."""

from collections.abc import Sequence
from typing import Any

from revt_hf.data.domains.base import Facts, Sharing
from revt_hf.data.domains.layouts import Layout
from revt_hf.data.domains.paired import HIDDEN_TEST, PairedDomain
from revt_hf.data.labels import label_table


class IddDomain(PairedDomain):
    """See the module; splits ``train`` and ``val``.

    The download holds polygons, which are drawn while reading; labels made by IDD's own tool are
    taken where there are no polygons. There is no terrain class.
    """

    name = "idd"
    facts = Facts(
        kind="real",
        license="IDD terms of use (registration)",
        download="the IDD site of IIIT Hyderabad (registration): IDD Segmentation, part I",
        sharing=Sharing("no", "its terms of use were not read at first hand"),
        images={"train": 6_993, "val": 981},
    )
    split_names = ("train", "val")
    unlabelled = HIDDEN_TEST
    wrappers = ("", "IDD_Segmentation")

    def layouts(self, config: str | None, options: Any) -> Sequence[Layout]:
        ids, train_ids = label_table("idd_ids"), label_table("train_ids")
        images = tuple(f"_leftImg8bit{suffix}" for suffix in (".png", ".jpg"))  # parts I and II
        place = ("leftImg8bit/{split}", "gtFine/{split}", images)
        return [
            Layout("official", *place, "_gtFine_polygons.json", ids),
            Layout("official", *place, "_gtFine_labelids.png", ids),
            Layout("converted", *place, "_gtFine_labelTrainIds.png", train_ids),
        ]
